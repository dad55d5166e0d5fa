"""Hardening puts defences together as their rows say, refuses what does not go together, and continues."""

from pathlib import Path

import pytest
import torch
from torch import nn

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import ImageError, SettingsError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier, Step
from antivenom.models.inversion import DefenseGan, Encoder, Generator, InvGan
from antivenom.models.parameters import count
from antivenom.models.presentation import Presented
from antivenom.models.views import ViewEnsemble
from antivenom.models.weights import load, load_weights_file, read_card
from antivenom.provenance import digest_tensors
from antivenom.task import Task
from antivenom.training import fronts
from antivenom.training.fronts import FRONTS, Making
from antivenom.training.hardening import DEFENCES, combined, defence, harden, tuned
from antivenom.training.presets import Recipe

TASK = Task(("dark", "bright"))
SMALL = {"channels": 1, "side": 32, "latent": 2, "width": 1, "steps": 0, "rate": 0.05}
RECIPE = Recipe(name="test", side=32, epochs=1, batch=8, learning_rate=0.01, precision="float32")


pytestmark = pytest.mark.usefixtures("thin_backbones")


@pytest.fixture(autouse=True)
def _fronts_learn_little(monkeypatch):
    monkeypatch.setattr(fronts, "STEPS", 2)
    monkeypatch.setattr(fronts, "WIDTH", 2)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = 0.3 * torch.rand(30, 1, 32, 32, generator=generator)
    targets = (torch.arange(30) % 3 == 0).long()
    pixels[targets == 1, :, 8:24, 8:24] += 0.6
    splits = ["val" if i % 5 == 4 else "train" for i in range(30)]
    index = Index.of([f"square-{i}" for i in range(30)], targets.numpy(), splits=splits)
    return ImageSet("squares", TASK, index, pixels.__getitem__, channels=1)


def own_module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    return Classifier(layers, TASK, channels=1, mean=0.5, std=0.25).eval()


def of(*names, epsilon=0.1):
    return combined(RECIPE, [defence(name) for name in names], epsilon)


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_every_defence_of_the_table_makes_a_recipe(name):
    recipe, row = of(name), defence(name)
    assert recipe.architecture == ("resnet18" if not row.part else f"resnet18+{row.part}")
    assert (recipe.adversary is None) == (row.adversary is None)
    if recipe.adversary is not None:
        assert recipe.adversary.epsilon == 0.1
    assert "https://" in row.reference or name == "plain" or "Med. Phys." in row.reference


def test_every_defence_has_its_line_in_the_documents():
    page = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
    assert not [name for name in DEFENCES if f"| `{name}` |" not in page]


def test_defences_add_up_and_those_that_cannot_are_refused():
    both = of("cbam", "adversarial", "block-shuffle")
    assert (both.architecture, both.adversary.steps, both.augmentation.blocks) == ("resnet18+cbam", 3, 3)
    with pytest.raises(SettingsError, match="TRADES and another defence both set adversary"):
        of("adversarial", "trades")
    with pytest.raises(SettingsError, match="no defence 'hope'; there are plain, cbam"):
        of("hope")


def test_a_number_after_the_name_sets_the_share():
    assert defence("prune:0.4").share == 0.4
    assert defence("prune").share == 0.2
    assert of("kwta:0.3").architecture == "resnet18+kwta:0.3"
    for name, match in (("prune:1", "below 1"), ("prune:x", "'x'"), ("kwta:-0.1", "above 0"), ("cbam:0.5", "takes no number")):
        with pytest.raises(SettingsError, match=match):
            defence(name)


def test_fine_tuning_is_shorter_gentler_and_keeps_zeros():
    recipe = Recipe.model_validate(of("adversarial").model_dump() | {"epochs": 20})
    after = tuned(recipe)
    assert (after.epochs, after.learning_rate, after.keep_zeros) == (5, pytest.approx(0.001), True)
    assert after.adversary.warm_up == 0
    assert recipe.adversary.warm_up > 0


def test_attention_pruning_and_a_denoiser_come_together_and_load_again(images, tmp_path):
    found = harden(images, ["eca", "prune", "denoiser"], RECIPE, tmp_path, seed=0, tell=len)
    assert found.checkpoint == tmp_path / "model.safetensors"
    again = load(found.checkpoint)
    x = torch.stack([images[i].image for i in range(4)])
    assert torch.equal(again(x), found.classifier(x))
    convolutions = [layer for layer in again.backbone.modules() if isinstance(layer, nn.Conv2d)]
    zeros = sum(int((layer.weight == 0).sum()) for layer in convolutions)
    assert zeros == pytest.approx(0.2 * sum(layer.weight.numel() for layer in convolutions), rel=1e-3)
    assert count(again.backbone).zeros >= zeros
    assert again.architecture == "resnet18+eca"
    assert [type(step).__name__ for step in again.own_steps] == ["Denoiser"]
    assert read_card(found.checkpoint)["metrics"]["defences"] == ["eca", "prune", "denoiser"]


def test_a_finished_hardening_is_not_done_again(images, tmp_path):
    told, names = [], ["adversarial", "prune", "median"]

    def hear(stage):
        return lambda done, total, text: told.append((stage, done, total, text))

    first = harden(images, names, RECIPE, tmp_path, seed=0, start=own_module(), tell=len, told=hear)
    assert {stage for stage, *_ in told} == {"training", "pruning", "tuning"}
    told.clear()
    again = harden(images, names, RECIPE, tmp_path, seed=0, start=own_module(), tell=len, told=hear)
    assert not told
    assert digest_tensors(again.classifier.state_dict()) == digest_tensors(first.classifier.state_dict())
    assert [type(step).__name__ for step in again.classifier.own_steps] == ["Median"]


def test_a_given_checkpoint_is_begun_from_and_left_as_it_is(images, tmp_path):
    start = build("resnet18", TASK, channels=1, seed=3, size=(32, 32)).eval()
    before, said = digest_tensors(start.state_dict()), []
    found = harden(images, ["eca"], RECIPE, tmp_path, seed=0, start=start, tell=said.append)
    assert digest_tensors(start.state_dict()) == before
    assert "128 of 136" in said[0]
    assert found.classifier.architecture == "resnet18+eca"
    assert any("the given model" in note for note in found.classifier.notes)


def test_a_module_of_one_s_own_is_hardened_as_it_is(images, tmp_path):
    found = harden(images, ["adversarial"], RECIPE, tmp_path / "a", seed=0, epsilon=0.1, start=own_module(), tell=len)
    assert found.checkpoint == tmp_path / "a" / "training" / "model.safetensors"
    assert found.training.score_name == "robust balanced accuracy"
    with pytest.raises(SettingsError, match="a module of your own"):
        harden(images, ["cbam"], RECIPE, tmp_path / "b", seed=0, start=own_module(), tell=len)


def test_a_distilled_pupil_learns_from_a_teacher_at_the_same_temperature(images, tmp_path):
    found = harden(images, ["distillation"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    assert (tmp_path / "teacher" / "state.safetensors").is_file()
    assert found.classifier(images[0].image[None]).isfinite().all()


# -- in front ----------------------------------------------------------------------------------------------------------


def test_a_front_learns_for_a_least_number_of_steps_whatever_the_epochs(images, tmp_path, monkeypatch):
    monkeypatch.setattr(fronts, "STEPS", 1500)
    few, train = Making(images, 6, 0, tmp_path), images.split("train")
    assert few.enough == 1500  # of one step
    assert Making(train, 2000, 0, tmp_path).enough == 2000
    monkeypatch.setattr(fronts, "BATCH", 7)
    assert Making(train, 6, 0, tmp_path).enough == 375  # of four


@pytest.mark.parametrize("name", ["denoiser", "invgan", "jpeg"])
def test_a_classifier_is_tuned_on_what_its_front_makes_and_the_front_is_not(images, tmp_path, name):
    found = harden(images, [name], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    (front,) = found.classifier.own_steps
    with torch.no_grad():
        assert found.classifier.answers(torch.stack([images[0].image])).isfinite().all()
    before = FRONTS[name].make(Making(images.split("train"), 1, 0, tmp_path / "front" / name))
    assert digest_tensors(front.state_dict()) == digest_tensors(before.state_dict())
    assert not any(parameter.requires_grad for parameter in front.parameters())
    untuned = load_weights_file(tmp_path / "training" / "model.safetensors")
    assert found.checkpoint == tmp_path / "tuning" / "model.safetensors"
    assert digest_tensors(found.classifier.backbone.state_dict()) != digest_tensors(untuned)


def test_the_epoch_is_chosen_by_what_is_seen_through_the_front(images, tmp_path, monkeypatch):
    class Blind(Step):
        def forward(self, images):
            return torch.zeros_like(images)

        def settings(self):
            return {}

    monkeypatch.setitem(FRONTS, "jpeg", fronts.Front(lambda _: Blind()))
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"epochs": 8, "learning_rate": 0.1})
    found = harden(images, ["jpeg"], recipe, tmp_path, seed=0, start=own_module(), tell=len)
    assert found.training.score == 0.5
    before = harden(images, ["plain"], recipe, tmp_path / "plain", seed=0, start=own_module(), tell=len)
    assert before.training.score > 0.5


def test_a_search_is_not_tuned_behind_and_that_is_said(images, tmp_path):
    found = harden(images, ["defense-gan"], RECIPE, tmp_path, seed=0, tell=len)
    assert not (tmp_path / "tuning").exists()
    assert isinstance(found.classifier.own_steps[0], DefenseGan)
    card = read_card(found.checkpoint)
    assert card["metrics"]["validation without"] == ["defense-gan"]
    assert any("takes too long for the classifier behind it to be tuned" in note for note in card["notes"])


def test_behind_a_front_the_zeros_of_a_pruning_stay_and_without_one_none_are_asked_for(images, tmp_path):
    found = harden(images, ["prune", "median"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    assert int((found.classifier.backbone[0].weight == 0).sum()) == 7  # a fifth of 36
    assert not tuned(RECIPE, keep_zeros=False).keep_zeros


def test_views_look_through_what_stands_in_front_and_come_back_with_the_checkpoint(images, tmp_path):
    found = harden(images, ["views", "median"], RECIPE, tmp_path, seed=0, tell=len)
    again, x = load(found.checkpoint), images[0].image[None].requires_grad_()
    assert isinstance(again, ViewEnsemble)
    assert [type(step).__name__ for step in again.classifier.own_steps] == ["Median"]
    assert torch.equal(again(x), found.classifier(x))
    assert not torch.equal(again(x), again.classifier(x))
    assert again.differentiable
    assert torch.autograd.grad(again(x)[0, 0], x)[0].abs().sum() > 0
    assert read_card(found.checkpoint)["metrics"]["validation without"] == ["views"]
    with pytest.raises(SettingsError, match="8 views of resnet18: a mean over views is not trained; begin from"):
        harden(images, ["plain"], RECIPE, tmp_path / "again", seed=0, start=again, tell=len)


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "architecture", "said"),
    [
        (["se"], "densenet121", "se does not go into densenet121; it goes into resnet18"),
        (["bam"], "vgg19", "bam does not go into vgg19"),
        (["prune:1"], "resnet18", "prune:1.* below 1, got '1'"),
        (["prune:-0.1"], "resnet18", "got '-0.1'"),
        (["kwta:0"], "resnet18", "kwta:0.* above 0"),
        (["kwta:1.5"], "resnet18", "got '1.5'"),
        (["kwta:half"], "resnet18", "got 'half'"),
        (["invgan", "defense-gan"], "resnet18", "invgan and defense-gan each put a generator's image"),
        (["jpeg", "median", "jpeg"], "resnet18", "jpeg is asked for twice in jpeg,median,jpeg"),
        (["prune", "prune:0.4"], "resnet18", "prune is asked for twice"),
        (["hope"], "resnet18", "no defence 'hope'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_trained(images, tmp_path, names, architecture, said):
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"architecture": architecture})
    with pytest.raises(SettingsError, match=said):
        harden(images, names, recipe, tmp_path, seed=0, tell=len)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "said"), [((32, 30), "square images"), ((30, 30), "a generator's side is 8, 16, 32")])
def test_images_that_no_generator_makes_are_refused_before_anything_is_trained(images, tmp_path, size, said):
    height, width = size
    cut = ImageSet("cut", TASK, images.index, lambda i: images[i].image[:, :height, :width], channels=1)
    with pytest.raises(SettingsError, match=said):
        harden(cut, ["invgan"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    assert not list(tmp_path.iterdir())


def test_a_start_whose_purifier_is_of_another_size_is_refused(images, tmp_path):
    start = Presented(own_module(), [InvGan(Generator(1, 16, 4, 2), Encoder(1, 16, 4, 2))]).eval()
    with pytest.raises(ImageError, match=r"takes images \(B, 1, 16, 16\).*put Resize\(\(16, 16\)\) in front"):
        harden(images, ["plain"], RECIPE, tmp_path, seed=0, start=start, tell=len)


def test_another_hardening_in_the_folder_is_refused(images, tmp_path):
    harden(images, ["median"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    longer = Recipe.model_validate(RECIPE.model_dump() | {"epochs": 2})
    for names, recipe, seed, said in (
        (["jpeg"], RECIPE, 0, "defences: .*median.* there, .*jpeg.* here"),
        (["median"], longer, 0, "recipe.epochs: 1 there, 2 here"),
        (["median"], RECIPE, 1, "seed: 0 there, 1 here"),
    ):
        with pytest.raises(SettingsError, match=f"another hardening .*{said}"):
            harden(images, names, recipe, tmp_path, seed=seed, start=own_module(), tell=len)
    with pytest.raises(SettingsError, match="begun from"):
        harden(images, ["median"], RECIPE, tmp_path, seed=0, start=Presented(own_module(), [InvGan.blank(**SMALL)]), tell=len)
    (tmp_path / "hardening.json").write_text("[")
    with pytest.raises(SettingsError, match="damaged"):
        harden(images, ["median"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
