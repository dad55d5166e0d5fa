import copy

import pytest
import torch

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, ImageError, ModelError, SettingsError, SplitError, WeightsError
from antivenom.models.architectures import build, known
from antivenom.models.autoencoder import Denoiser
from antivenom.models.classifier import Classifier
from antivenom.models.inversion import Discriminator, Encoder, Generator, InvGan
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.provenance import digest_tensors
from antivenom.task import Task
from antivenom.training import purifiers
from antivenom.training.adversary import Adversary
from antivenom.training.precision import Precision
from antivenom.training.purifiers import Attacked, pretrain_backbone, train_denoiser, train_encoder, train_gan

TASK = Task(("dark", "bright"))


def squares(n=24, side=8, split="train"):
    """A bright square on a dark ground, at a place and of a brightness of its own."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.full((n, 1, side, side), 0.1), torch.arange(n) % 2
    for image, target in zip(images, targets.tolist(), strict=True):
        top, left = torch.randint(side // 2, (2,), generator=generator).tolist()
        image[:, top : top + side // 2, left : left + side // 2] = 0.5 + 0.4 * target
    index = Index.of([f"square-{i}" for i in range(n)], targets.numpy(), splits=[split] * n)
    return ImageSet("squares", TASK, index, images.__getitem__, channels=1)


def stacked(images):
    return torch.stack([sample.image for sample in images])


def flat_classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), TASK, channels=1, mean=0.5, std=0.25
        ).eval()


# Each teaches fresh networks and returns the history and the digest of what they have learnt.


def denoiser(folder, images=None, **settings):
    step = Denoiser(1, width=4, levels=1)
    settings = {"epochs": 2, "seed": 0, "batch": 8} | settings
    return train_denoiser(step, images or squares(), folder=folder, **settings), digest_tensors(step.state_dict())


def gan(folder, images=None, **settings):
    generator, discriminator = Generator(1, 8, 4, 4), Discriminator(1, 8, 4)
    settings = {"epochs": 2, "seed": 0, "batch": 8} | settings
    history = train_gan(generator, discriminator, images or squares(), folder=folder, **settings)
    return history, digest_tensors(generator.state_dict())


def encoder(folder, images=None, **settings):
    generator, discriminator, network = Generator(1, 8, 4, 4), Discriminator(1, 8, 4), Encoder(1, 8, 4, 4)
    settings = {"epochs": 2, "seed": 0, "batch": 8} | settings
    history = train_encoder(network, generator, discriminator, images or squares(), folder=folder, **settings)
    return history, digest_tensors(network.state_dict())


def encoder_and_generator(folder, images=None, **settings):
    generator, discriminator, network = Generator(1, 8, 4, 4), Discriminator(1, 8, 4), Encoder(1, 8, 4, 4)
    settings = {"epochs": 2, "seed": 0, "batch": 8} | settings
    history = train_encoder(network, generator, discriminator, images or squares(), together=True, folder=folder, **settings)
    return history, digest_tensors({**network.state_dict(), **{f"g.{k}": v for k, v in generator.state_dict().items()}})


class Tiny(torch.nn.Module):
    """A backbone as timm makes them, with drop-out and batch-norm."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 4, 2, 1), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.2))
        self.fc = torch.nn.Linear(4, 2)

    def forward_features(self, images):
        return self.body(images)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


def backbone(folder, images=None, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(Tiny(), TASK, channels=1, mean=0.5, std=0.25)
    settings = {"epochs": 2, "seed": 0, "batch": 8, "noise": 0.1} | settings
    return pretrain_backbone(model, images or squares(), folder=folder, **settings), digest_tensors(model.state_dict())


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch):
    monkeypatch.setattr(purifiers, "known", lambda name: name == "Tiny" or known(name))


SMALL = pytest.mark.parametrize("teach", [denoiser, gan, encoder, encoder_and_generator, backbone])


class Kill(Exception):  # noqa: N818
    """The process dies here."""


def killed_after(steps):
    def progress(done, total, text):  # noqa: ARG001
        if done == steps:
            raise Kill

    return progress


@SMALL
@pytest.mark.parametrize("every", [0, 1e9])
def test_what_was_killed_at_any_step_ends_in_the_same_tensors(tmp_path, teach, every):
    whole = teach(tmp_path / "whole")
    for steps in (2, 4):
        with pytest.raises(Kill):
            teach(tmp_path / "killed", every=every, progress=killed_after(steps))
    torch.rand(1)  # where the global generator stands must not matter
    assert teach(tmp_path / "killed") == whole
    assert len(whole[0]) == 2


@SMALL
def test_the_global_generator_is_left_alone_and_the_seed_decides(tmp_path, teach):
    before = torch.random.get_rng_state()
    one, again, other = (teach(tmp_path / str(place), seed=seed, epochs=1) for place, seed in enumerate((1, 1, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one == again
    assert one[1] != other[1]


@SMALL
def test_what_is_finished_is_not_done_again(tmp_path, teach):
    first, told = teach(tmp_path), []
    assert teach(tmp_path, progress=lambda *news: told.append(news)) == first
    assert told == []


def test_progress_is_told_after_each_step(tmp_path):
    told = []
    denoiser(tmp_path, progress=lambda *news: told.append(news))
    assert [news[:2] for news in told] == [(done, 6) for done in range(1, 7)]
    assert told[-1][2].startswith("denoiser: epoch 2 of 2, error 0.")


def test_a_folder_of_other_learning_is_refused(tmp_path):
    denoiser(tmp_path)
    for change, named in (({"noise": 0.2}, "settings"), ({"seed": 1}, "seed"), ({"images": squares(22)}, "images")):
        with pytest.raises(SettingsError, match=rf"other terms \({named}"):
            denoiser(tmp_path, **change)
    with pytest.raises(SettingsError, match="lesson"):
        gan(tmp_path)
    path = tmp_path / "state.safetensors"
    write_safetensors(path, read_safetensors(path)[0], {"state": "{"})
    with pytest.raises(WeightsError, match="damaged"):
        denoiser(tmp_path)


def test_a_denoiser_learns_to_take_noise_away(tmp_path):
    images, step = squares(64), Denoiser(1, width=8, levels=1)
    clean = stacked(images)
    noisy = (clean + 0.15 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    history = train_denoiser(step, images, noise=0.2, epochs=40, seed=0, folder=tmp_path, batch=16, rate=3e-3)
    with torch.no_grad():
        left, harm = (step(noisy) - clean).abs().mean(), (step(clean) - clean).abs().mean()
    assert left < 0.6 * (noisy - clean).abs().mean()
    assert harm < 0.03
    assert history[-1]["error"] < 0.7 * history[0]["error"]


def test_each_epoch_has_noise_of_its_own(tmp_path):
    class Watched(Denoiser):
        def restored(self, images):
            seen.append(images)
            return super().restored(images)

    seen = []
    train_denoiser(Watched(1, width=2, levels=1), squares(), noise=0.3, epochs=2, seed=0, folder=tmp_path, batch=24)
    away = [sorted((images - 0.1).square().flatten(1).mean(1).tolist()) for images in seen]
    assert len(away) == 2
    assert not set(away[0]) & set(away[1])
    assert all(((images >= 0) & (images <= 1)).all() for images in seen)


def test_a_denoiser_learns_from_an_adversary_too(tmp_path):
    classifier, images = flat_classifier(), squares()
    before = digest_tensors(classifier.state_dict())
    attacked = Attacked(classifier, Adversary(epsilon="16/255", steps=1, step_size=2, warm_up=0))
    history, weights = denoiser(tmp_path / "attacked", images, noise=0.0, adversarial=attacked)
    assert digest_tensors(classifier.state_dict()) == before
    assert all(parameter.grad is None for parameter in classifier.parameters())
    # Without noise half of the images are shown as they are; the other half differ by almost epsilon.
    assert 0.4 * 16 / 255 < history[0]["error"] < 16 / 255
    assert weights != denoiser(tmp_path / "clean", images, noise=0.0)[1]
    everything = Attacked(classifier, attacked.adversary, share=1.0)
    assert denoiser(tmp_path / "all", images, adversarial=everything)[0][0]["error"] > history[0]["error"]


def test_a_classifier_that_is_attacked_is_ready_and_the_share_a_share(tmp_path):
    adversary = Adversary(epsilon=0.1)
    with pytest.raises(ModelError, match="training mode"):
        denoiser(tmp_path, adversarial=Attacked(flat_classifier().train(), adversary))
    with pytest.raises(SettingsError, match="share"):
        denoiser(tmp_path, adversarial=Attacked(flat_classifier(), adversary, share=0.0))


def test_a_generator_comes_nearer_to_the_images(tmp_path):
    images, generator = squares(64), Generator(1, 8, 4, 8)
    codes, real = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), stacked(images)
    train_gan(
        generator,
        Discriminator(1, 8, 8),
        images,
        epochs=40,
        seed=0,
        folder=tmp_path,
        batch=16,
        rate=2e-3,
        discriminator_rate=4e-3,
    )
    with torch.no_grad():
        made, blank = generator(codes), Generator(1, 8, 4, 8).eval()(codes)
    assert not any(module.training for module in generator.modules())

    def away(pictures):
        """How far mean and spread over pictures are from the real ones."""
        return float((pictures.mean(0) - real.mean(0)).abs().mean() + (pictures.std(0) - real.std(0)).abs().mean())

    assert away(made) < 0.6 * away(blank)


def test_what_is_kept_of_a_generator_is_its_average(tmp_path):
    _, kept = gan(tmp_path)
    tensors, _ = read_safetensors(tmp_path / "state.safetensors")
    last, mean = (
        digest_tensors({name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)})
        for start in ("network.generator.", "network.average.")
    )
    assert kept == mean != last


def test_an_error_within_the_margin_costs_an_encoder_nothing(tmp_path):
    generator, network = Generator(1, 8, 4, 4).eval(), Encoder(1, 8, 4, 4).train()
    torch.nn.init.zeros_(generator.layers[-2].weight)
    torch.nn.init.zeros_(generator.layers[-2].bias)  # so that it makes nothing but mid-grey
    for grey, lacking in ((0.51, 0.0), (0.6, 100 * (0.1 - 0.02))):
        images = torch.full((8, 1, 8, 8), grey)
        index = Index.of([f"grey-{i}" for i in range(8)], (torch.arange(8) % 2).numpy())
        flat, fresh = ImageSet("grey", TASK, index, images.__getitem__, channels=1), copy.deepcopy(network)
        told = float(Discriminator(1, 8, 4)(torch.full((1, 1, 8, 8), 0.5)).detach())
        history = train_encoder(
            fresh,
            generator,
            Discriminator(1, 8, 4),
            flat,
            epochs=1,
            seed=0,
            folder=tmp_path / str(grey),
            discriminator_rate=0.0,
        )
        codes = network(images).detach()
        assert history[0]["encoder"] == pytest.approx(lacking - told + 0.5 * float(codes.square().mean()), abs=0.1)
        assert history[0]["error"] == pytest.approx(grey - 0.5, abs=1e-3)


def test_an_encoder_finds_codes_that_a_generator_makes_the_images_of(tmp_path):
    generator = Generator(1, 8, 4, 4, seed=1).eval()
    with torch.no_grad():
        generator.layers[-2].weight.mul_(20)
        made = generator(2 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    index = Index.of([f"made-{i}" for i in range(64)], (torch.arange(64) % 2).numpy())
    images = ImageSet("made", TASK, index, made.__getitem__, channels=1)
    network, before = Encoder(1, 8, 4, 8), digest_tensors(generator.state_dict())
    history = train_encoder(
        network, generator, Discriminator(1, 8, 4), images, epochs=20, seed=0, folder=tmp_path, batch=16, rate=5e-3
    )
    assert history[-1]["error"] < 0.3 * history[0]["error"]
    assert digest_tensors(generator.state_dict()) == before
    assert all(parameter.grad is None for parameter in generator.parameters())
    with torch.no_grad():
        found = (InvGan(generator, network)(made) - made).abs().mean()
    assert found < 0.3 * (made.mean(0) - made).abs().mean()  # nearer than the mean image is


def test_a_generator_that_learns_with_its_encoder_makes_the_images_better(tmp_path):
    images, errors = squares(32), []
    for together in (False, True):
        generator, network = Generator(1, 8, 4, 4), Encoder(1, 8, 4, 4)
        folder, settings = tmp_path / str(together), {"epochs": 10, "seed": 0, "batch": 16, "rate": 5e-3}
        before = digest_tensors(generator.state_dict())
        history = train_encoder(
            network, generator, Discriminator(1, 8, 4), images, together=together, folder=folder, **settings
        )
        assert (digest_tensors(generator.state_dict()) != before) == together
        assert not generator.training
        errors.append(history[-1]["error"])
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("teach", [denoiser, gan, encoder])
def test_in_bfloat16_it_learns_nearly_the_same_and_is_kept_in_float32(tmp_path, teach):
    half = Precision("bfloat16")
    (plain, _), (rounded, kept) = teach(tmp_path / "float32"), teach(tmp_path / "bfloat16", precision=half)
    assert rounded != plain
    for name, loss in plain[-1].items():
        assert rounded[-1][name] == pytest.approx(loss, abs=0.1 * max(1.0, abs(loss)))
    assert teach(tmp_path / "bfloat16", precision=half) == (rounded, kept)
    state, _ = read_safetensors(tmp_path / "bfloat16" / "state.safetensors")
    assert not [name for name, tensor in state.items() if tensor.dtype not in {torch.float32, torch.int64}]
    with pytest.raises(SettingsError, match=r"other terms \(precision"):
        teach(tmp_path / "bfloat16")


def test_a_generator_that_was_frozen_in_a_purifier_learns_again(tmp_path):
    generator = Generator(1, 8, 4, 4)
    InvGan(generator, Encoder(1, 8, 4, 4))
    before = digest_tensors(dict(generator.named_parameters()))
    train_gan(generator, Discriminator(1, 8, 4), squares(), epochs=1, seed=0, folder=tmp_path)
    assert digest_tensors(dict(generator.named_parameters())) != before


def test_a_backbone_learns_to_keep_the_image(tmp_path):
    history, _ = backbone(tmp_path, epochs=15, noise=0.0, rate=5e-3)
    assert history[-1]["error"] < 0.3 * history[0]["error"]


@pytest.mark.usefixtures("thin_backbones")
def test_a_backbone_of_the_table_learns_and_its_last_layer_is_left_alone(tmp_path):
    model = build("resnet18-fine", TASK, channels=1, seed=0)
    head, stem = model.backbone.fc.weight.clone(), model.backbone.conv1.weight.clone()
    pretrain_backbone(model, squares(4, 16), epochs=1, seed=0, folder=tmp_path, every=1e9)
    assert torch.equal(model.backbone.fc.weight, head)
    assert not torch.equal(model.backbone.conv1.weight, stem)
    assert model.training
    with pytest.raises(ModelError, match="module of your own"):
        pretrain_backbone(flat_classifier(), squares(), epochs=1, seed=0, folder=tmp_path)


@SMALL
def test_images_that_do_not_suit_are_refused(tmp_path, teach):
    with pytest.raises(SplitError, match=r"holds some of test; give images\.split"):
        teach(tmp_path, squares(split="test"))
    with pytest.raises(DataError, match="too few"):
        teach(tmp_path, squares(1))
    for settings in ({"epochs": 0}, {"batch": 1}):
        with pytest.raises(SettingsError, match="got epochs"):
            teach(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_images_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"images \(1, 16, 16\).* takes \(1, 8, 8\)"):
        gan(tmp_path, squares(side=16))
    with pytest.raises(ImageError, match=r"takes 3 channel"):
        train_denoiser(Denoiser(3), squares(), epochs=1, seed=0, folder=tmp_path)


def test_a_loss_that_is_no_longer_finite_ends_it(tmp_path):
    with pytest.raises(SettingsError, match="lower the rate"):
        denoiser(tmp_path, rate=1e30)
    for settings in ({"noise": -0.1}, {"noise": float("nan")}):
        with pytest.raises(SettingsError, match="standard deviation"):
            denoiser(tmp_path, **settings)
    with pytest.raises(SettingsError, match="running average"):
        gan(tmp_path, average=1.0)
