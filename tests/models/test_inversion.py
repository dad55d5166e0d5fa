"""Purifiers by projection: what a generator has made it finds again, and the gradient it lends is the one that it says."""

import pytest
import torch

from antivenom.errors import ImageError, SettingsError
from antivenom.models.architectures import build
from antivenom.models.inversion import DefenseGan, Discriminator, Encoder, Generator, InvGan, project
from antivenom.models.presentation import Presented, Resize
from antivenom.models.weights import load, save
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))
FACTS = {"data_digest": "d" * 64, "seed": 3, "metrics": {}}
SMALL = {"channels": 1, "side": 16, "latent": 6, "width": 4}


@pytest.fixture
def generator():
    """Untrained, with batch-norm statistics under which codes matter."""
    generator = Generator(**SMALL, seed=2).train()
    for _ in range(20):
        generator(2 * torch.randn(32, 6, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        generator.layers[-2].weight.mul_(20)
    return generator.eval()


@pytest.fixture
def made(generator):
    with torch.no_grad():
        return generator(torch.randn(3, 6, generator=torch.Generator().manual_seed(7)))


def steps(generator):
    encoder = Encoder(**SMALL, seed=3)
    return [InvGan(generator, encoder), InvGan(generator, encoder, steps=5), DefenseGan(generator, restarts=2, steps=4)]


@pytest.mark.parametrize("side", [8, 64, 128])
def test_networks_fit_each_other_at_every_side(side):
    generator, encoder = Generator(3, side, 5, 4).eval(), Encoder(3, side, 5, 4).eval()
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, side, side)
    assert ((images >= 0) & (images <= 1)).all()
    assert encoder(images).shape == (2, 5)
    assert Discriminator(3, side, 4)(images).shape == (2,)


def test_no_layer_of_a_discriminator_stretches():
    discriminator = Discriminator(1, 16, 4)
    for _ in range(30):
        discriminator(torch.rand(2, 1, 16, 16))  # each pass brings its estimate of the norm nearer
    for layer in discriminator.eval().layers:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_the_seed_alone_decides_the_start():
    before = torch.random.get_rng_state()
    one, again, other = (Generator(**SMALL, seed=seed).first.weight for seed in (1, 1, 2))
    Encoder(**SMALL, seed=1)
    Discriminator(1, 16, 4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("which", range(3))
def test_what_comes_out_is_an_image_and_always_the_same(generator, made, which):
    step = steps(generator)[which]
    out = step(made)
    assert out.shape == made.shape
    assert ((out >= 0) & (out <= 1)).all()
    assert torch.equal(step(made), out)
    torch.testing.assert_close(step(made[1:2]), out[1:2], atol=1e-4, rtol=0)  # alone as in company, up to rounding
    with torch.inference_mode():
        torch.testing.assert_close(step(made.clone()), out.detach())


def test_more_steps_bring_a_projection_nearer(generator, made):
    start = torch.zeros(3, 6)
    distances = []
    for count in (0, 10, 200):
        codes = project(generator, made, start, count, 0.05)
        distances.append((generator(codes) - made).square().mean().item())
    assert torch.equal(start, torch.zeros(3, 6))
    assert not codes.requires_grad
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.1 * distances[0]


def test_each_purifier_comes_nearer_with_more_work(generator, made):
    def distance(step):
        return float((step(made) - made).detach().square().mean())

    encoder = Encoder(**SMALL, seed=3)
    assert distance(InvGan(generator, encoder, steps=60)) < 0.5 * distance(InvGan(generator, encoder))
    once, often = (distance(DefenseGan(generator, restarts=restarts, steps=20)) for restarts in (1, 6))
    assert often < once < distance(DefenseGan(generator, restarts=1, steps=1))


def test_of_several_starts_the_nearest_counts_for_each_image(generator, made):
    step = DefenseGan(generator, restarts=4, steps=10, seed=5)
    starts = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    ends = torch.stack([generator(project(generator, made, start.expand(3, -1), 10, step.rate)) for start in starts])
    best = (ends - made).square().flatten(2).mean(2).argmin(0)
    assert len(set(best.tolist())) > 1
    torch.testing.assert_close(step(made), ends[best, torch.arange(3)])


def test_the_encoders_image_has_an_exact_gradient(generator):
    step = InvGan(generator, Encoder(**SMALL, seed=3)).double()
    assert step.differentiable
    images = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(step, (images.requires_grad_(),), fast_mode=True)


def test_a_refined_image_lends_the_gradient_of_the_unrefined(generator, made):
    encoder, weights, x = Encoder(**SMALL, seed=3), torch.rand(made.shape), made.clone().requires_grad_()
    refined, direct = InvGan(generator, encoder, steps=5), InvGan(generator, encoder)
    assert not refined.differentiable
    assert not torch.equal(refined(made), direct(made))
    lent, exact = (torch.autograd.grad((weights * step(x)).sum(), x)[0] for step in (refined, direct))
    assert torch.equal(lent, exact)
    assert lent.abs().sum() > 0


def test_a_projection_lends_the_identitys_gradient(generator, made):
    step, weights, x = DefenseGan(generator, restarts=1, steps=2), torch.rand(made.shape), made.clone().requires_grad_()
    assert not step.differentiable
    assert torch.equal(torch.autograd.grad((weights * step(x)).sum(), x)[0], weights)


def test_a_purifier_is_not_trained_with_what_stands_behind_it(generator):
    for step in steps(generator):
        assert not any(module.training for module in step.train().modules())
        assert not any(parameter.requires_grad for parameter in step.parameters())


@pytest.mark.parametrize("which", range(3))
def test_what_it_has_learnt_travels_with_the_classifier(generator, tmp_path, which):
    inner = build("resnet18", TASK, channels=1, size=(16, 16), seed=1).eval()
    model = Presented(inner, [Resize((16, 16)), steps(generator)[which]])
    save(model, tmp_path / "a.safetensors", **FACTS)
    again, images = load(tmp_path / "a.safetensors"), torch.rand(2, 1, 20, 24)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.digest() == model.digest()
    assert again.differentiable is model.differentiable is (which == 0)
    assert "\n" not in again.describe()["steps"][1]
    assert all(parameter.requires_grad for parameter in again.backbone.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32), (2, 1, 16, 12), (1, 16, 16)])
def test_images_that_the_generator_cannot_make_are_refused(generator, shape):
    for step in steps(generator):
        with pytest.raises(ImageError, match=r"put Resize\(\(16, 16\)\) in front"):
            step(torch.rand(shape))


def test_settings_that_cannot_be_are_refused(generator):
    for side in (0, 4, 63, 96):
        with pytest.raises(SettingsError, match=f"got {side}"):
            Generator(1, side)
    with pytest.raises(SettingsError, match="a code"):
        Encoder(1, 16, latent=0)
    for settings in ({"steps": 0}, {"restarts": 0}, {"rate": 0.0}, {"rate": float("nan")}):
        with pytest.raises(SettingsError, match="projection"):
            DefenseGan(generator, **settings)
    with pytest.raises(SettingsError, match="projection"):
        InvGan(generator, Encoder(**SMALL), steps=-1)
