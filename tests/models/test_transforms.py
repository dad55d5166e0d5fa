"""Transforms whose outcome is known by hand, by SciPy or by a bound; each with its gradient and its card."""

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import nn

from antivenom.errors import ImageError, ModelError, SettingsError, WeightsError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.models.presentation import Presented
from antivenom.models.transforms import BitDepth, Jpeg, Median, TotalVariation
from antivenom.models.views import ViewEnsemble
from antivenom.models.weights import load, save
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))
FINDINGS = Task(("mass", "nodule"), multilabel=True)
FACTS = {"data_digest": "d" * 64, "seed": 3, "metrics": {}}
EVERY = pytest.mark.parametrize(
    "step", [Jpeg(60), BitDepth(3), Median(2), Median(3), TotalVariation(0.05, 5)], ids=lambda step: str(step)
)


@pytest.fixture
def images():
    return torch.rand(3, 1, 12, 10, generator=torch.Generator().manual_seed(0))


def smooth(channels=1):
    across, down = torch.linspace(0.1, 0.8, 16), torch.linspace(0, 0.15, 16)
    return (across + down[:, None]).expand(2, channels, 16, 16)


def classifier(task=TASK):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(120, 8), nn.Tanh(), nn.Linear(8, 2))
    return Classifier(network, task, channels=1, mean=0.5, std=0.25).eval()


@EVERY
def test_what_comes_out_is_an_image_of_the_same_shape_and_always_the_same(step, images):
    out = step(images)
    assert out.shape == images.shape
    assert ((out >= 0) & (out <= 1)).all()
    assert torch.equal(step(images), out)
    assert torch.equal(step(images[1:2]), out[1:2])  # alone as in company
    assert step(images[..., :1, :1]).shape == (3, 1, 1, 1)


@EVERY
def test_a_flat_image_stays_as_it_is(step):
    images = torch.full((1, 3, 9, 7), 3 / 7)
    torch.testing.assert_close(step(images), images, atol=0.5 / 255, rtol=0)  # a JPEG has 8 bits


def test_a_classifier_behind_them_comes_back_from_disk(tmp_path):
    steps = [Median(2), TotalVariation(0.05, 5), BitDepth(3), Jpeg(60)]
    model = Presented(build("resnet18", TASK, channels=1, size=(16, 16), seed=1).eval(), steps)
    save(model, tmp_path / "a.safetensors", **FACTS)
    again, images = load(tmp_path / "a.safetensors"), torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.digest() == model.digest()
    assert [step.differentiable for step in again.own_steps] == [True, True, False, False]


@pytest.mark.parametrize("step", [Jpeg(30), BitDepth(1)], ids=str)
def test_a_step_that_rounds_lends_the_identitys_gradient(step, images):
    x, weights = images.clone().requires_grad_(), torch.rand(images.shape)
    assert not step.differentiable
    (gradient,) = torch.autograd.grad((weights * step(x)).sum(), x)
    assert torch.equal(gradient, weights)


@pytest.mark.parametrize("step", [Median(2), Median(3), TotalVariation(0.1, 4)], ids=str)
def test_a_step_that_is_differentiable_has_the_gradient_of_small_differences(step, images):
    x = 0.2 + 0.6 * images[:1].double()
    assert step.differentiable
    assert torch.autograd.gradcheck(step, (x.requires_grad_(),))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_the_best_quality_is_nearly_the_image(channels):
    images = (255 * smooth(channels)).round() / 255
    once = Jpeg(100)(images)
    assert (once - images).abs().max() <= 2 / 255
    assert (Jpeg(100)(once) - once).abs().max() <= 1 / 255  # once done, little is left to do
    torch.testing.assert_close(255 * once, (255 * once).round(), rtol=0, atol=1e-4)


def test_a_jpeg_of_less_quality_takes_more_away(images):
    lost = [float((Jpeg(quality)(images) - images).abs().mean()) for quality in (100, 75, 20)]
    assert lost[0] < 1 / 255 < 0.03 < lost[1] < lost[2]


def test_a_jpeg_has_one_channel_or_three():
    with pytest.raises(ImageError, match="1 or 3 channels"):
        Jpeg()(torch.rand(1, 2, 8, 8))


def test_a_bit_depth_leaves_as_many_levels(images):
    assert (BitDepth(2)(images) * 3).unique().tolist() == [0, 1, 2, 3]
    assert (BitDepth(3)(images) - images).abs().max() <= 0.5 / 7 + 1e-6
    assert torch.equal(BitDepth(2)(BitDepth(2)(images)), BitDepth(2)(images))


def test_the_median_of_a_known_patch():
    patch = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.4, 0.5, 0.6]])[None, None]
    assert Median(3)(patch)[0, 0, 1, 1] == 0.5
    speck = torch.full((1, 1, 5, 5), 0.4)
    speck[..., 2, 2] = 1.0
    assert torch.equal(Median(3)(speck), torch.full_like(speck, 0.4))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_scipys(images, size):
    expected = np.stack([median_filter(x[0].numpy(), size=size, mode="nearest") for x in images])
    assert torch.equal(Median(size)(images)[:, 0], torch.from_numpy(expected))


def variation(images):
    down, across = images.diff(dim=-2)[..., :-1], images.diff(dim=-1)[..., :-1, :]
    return (down.square() + across.square()).sqrt().sum()


def test_total_variation_falls_and_the_more_the_more_it_weighs(images):
    left = [float(variation(TotalVariation(weight)(images))) for weight in (0.01, 0.05, 0.2)]
    assert float(variation(images)) > left[0] > left[1] > left[2]


def test_two_flat_halves_move_towards_each_other_as_the_closed_form_says():
    # A step of n columns a side, far apart: each half moves by weight / n, no more.
    images = torch.zeros(1, 1, 6, 10)
    images[..., 5:] = 1.0
    out = TotalVariation(0.1, 400)(images)
    expected = (images - 0.5) * (1 - 2 * 0.1 / 5) + 0.5
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_twenty_iterations_come_near_the_minimum():
    images = (smooth() + 0.1 * torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)

    def objective(out):
        return float((out - images).square().sum() / 2 + 0.03 * variation_of_all(out))

    reached, least = (objective(TotalVariation(0.03, n)(images)) for n in (20, 1000))
    assert least <= reached <= 1.01 * least


def variation_of_all(images):
    down = nn.functional.pad(images.diff(dim=-2), (0, 0, 0, 1))
    across = nn.functional.pad(images.diff(dim=-1), (0, 1))
    return (down.square() + across.square()).sqrt().sum()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Jpeg(0),
        lambda: Jpeg(101),
        lambda: BitDepth(0),
        lambda: Median(1),
        lambda: TotalVariation(0.0),
        lambda: TotalVariation(float("nan")),
        lambda: TotalVariation(0.1, 0),
        lambda: ViewEnsemble(classifier(), views=0),
        lambda: ViewEnsemble(classifier(), crop=0.0),
        lambda: ViewEnsemble(classifier(), rotation=181),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(SettingsError, match="got"):
        make()


# -- views ---------------------------------------------------------------------------------------------------------------


def test_one_view_is_the_image_itself(images):
    inner = classifier()
    model = ViewEnsemble(inner, views=1)
    assert torch.equal(model(images), inner(images))
    assert torch.equal(model.features(images), inner.features(images))


def test_views_that_neither_crop_nor_turn_are_the_image_again(images):
    inner = classifier()
    torch.testing.assert_close(ViewEnsemble(inner, views=4, crop=1.0, rotation=0.0)(images), inner(images))


def test_the_answer_is_the_mean_over_views_and_means_the_mean_of_log_probabilities(images):
    inner = classifier()
    model = ViewEnsemble(inner, views=5, crop=0.7, rotation=20, seed=4)
    seen = []
    inner.backbone[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    answer = model(images)
    assert len(seen) == 5
    assert len({view.sum().item() for view in seen}) == 5
    logits = torch.stack([inner.backbone(view) for view in list(seen)])
    torch.testing.assert_close(answer, logits.mean(0))
    torch.testing.assert_close(answer.softmax(1), logits.log_softmax(2).mean(0).softmax(1))
    assert torch.equal(model.features(images), inner.features(images))  # of the image itself


def test_a_crop_looks_at_a_part_of_the_image():
    inner = Classifier(
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 2)), TASK, channels=1, mean=0.0, std=1.0
    )
    images, seen = torch.zeros(1, 1, 20, 20), []
    images[..., 0, 0] = 1.0  # in the corner, which only the image itself shows
    inner.eval().backbone[0].register_forward_hook(lambda _, given, __: seen.append(float(given[0].max())))
    ViewEnsemble(inner, views=6, crop=0.5, rotation=0.0)(images)
    assert seen[-1] == 1.0
    assert max(seen[:-1]) < 1.0


@pytest.mark.parametrize(("crop", "rotation"), [(0.7, 0.0), (1.0, 20.0), (0.6, 30.0)])
def test_a_view_of_a_slope_is_a_slope_as_steep_as_the_crop_enlarges(crop, rotation):
    inner, seen = classifier(), []
    inner.backbone[0].register_forward_hook(lambda _, given, __: seen.append(given[0][0, 0] * 0.25 + 0.5))
    slope = torch.linspace(0.2, 0.8, 10).expand(1, 1, 12, 10)  # oblong: a turn must not shear it
    ViewEnsemble(inner, views=5, crop=crop, rotation=rotation, seed=1)(slope)
    middles, turned = set(), set()
    for view in seen[:-1]:
        down, across = (view[6, 5] - view[5, 5]).item(), (view[5, 5] - view[5, 4]).item()
        assert (down**2 + across**2) ** 0.5 == pytest.approx(crop * 0.6 / 9, rel=1e-3)
        middles.add(round(view[5:7, 4:6].mean().item(), 4))
        turned.add(round(down, 5))
    assert len(middles) == (1 if crop == 1 else 4)
    assert len(turned) == (4 if rotation else 1)


def test_an_ensemble_of_views_is_deterministic_and_its_seed_tells(images):
    one, again, other = (ViewEnsemble(classifier(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one(images), again(images))
    torch.testing.assert_close(one(images)[1:2], one(images[1:2]))
    assert not torch.equal(one(images), other(images))
    assert one.digest() == again.digest() != other.digest()


def test_an_ensemble_of_views_is_a_classifier_with_an_exact_gradient(images):
    model = ViewEnsemble(classifier(FINDINGS), views=3, rotation=30).double()
    assert (model.task, model.channels, model.training, model.differentiable) == (FINDINGS, 1, False, True)
    assert torch.autograd.gradcheck(model, ((0.2 + 0.6 * images[:1].double()).requires_grad_(),))
    rounded = ViewEnsemble(Presented(classifier(), [BitDepth(2)]), views=3)
    assert not rounded.differentiable
    assert not Presented(rounded, [Median(3)]).differentiable


def test_what_answers_within_is_told_by_the_digest():
    plain, presented = classifier(), Presented(classifier(), [Median(3)])
    assert ViewEnsemble(plain).digest() != ViewEnsemble(presented).digest()
    assert Presented(ViewEnsemble(plain), [Median(2)]).digest() != Presented(ViewEnsemble(presented), [Median(2)]).digest()


def test_a_classifier_in_training_stays_so_and_is_refused(images):
    inner = classifier().train()
    model = ViewEnsemble(inner)
    assert inner.training
    with torch.no_grad(), pytest.raises(ModelError, match="training mode"):
        model(images)


def test_an_ensemble_of_views_is_saved_and_loaded_with_its_classifier(tmp_path):
    inner = Presented(build("resnet18", TASK, channels=1, size=(16, 16), seed=1).eval(), [Median(3)])
    model = ViewEnsemble(inner, views=3, crop=0.8, seed=5)
    card = save(model, tmp_path / "a.safetensors", **FACTS)
    assert card["views"] == {"views": 3, "crop": 0.8, "rotation": 10.0, "seed": 5}
    again = load(tmp_path / "a.safetensors")
    images = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
        assert not torch.equal(again(images), inner(images))
    assert isinstance(again, ViewEnsemble)
    assert again.digest() == model.digest()
    assert again.notes == model.notes
    with pytest.raises(WeightsError, match="views of views"):
        save(ViewEnsemble(model), tmp_path / "b.safetensors", **FACTS)
    with pytest.raises(WeightsError, match="module of your own"):
        save(ViewEnsemble(classifier()), tmp_path / "b.safetensors", **FACTS)
