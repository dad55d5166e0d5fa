"""Translation invariance: the authors' kernel, and what a blurred gradient stands for."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from antivenom.attacks import SPENT
from antivenom.attacks.input_diversity import input_diversity
from antivenom.attacks.mim import mim
from antivenom.attacks.translation import blur, kernel, translation
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from toys import Plane, small_network


@pytest.fixture
def scene():
    model = small_network(3)
    x = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(5))


@pytest.mark.parametrize("side", [224, 299, 512])
def test_the_kernel_is_the_authors_from_224_pixels_on(side):
    weights = norm.pdf(np.linspace(-3, 3, 15))
    np.testing.assert_allclose(kernel(15, side).numpy(), weights / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize(("side", "width"), [(4, 1), (28, 3), (64, 5), (128, 9), (200, 13)])
def test_a_smaller_image_gets_a_smaller_kernel_of_the_same_share(side, width):
    weights = kernel(15, side)
    assert len(weights) == width
    assert weights.sum() == pytest.approx(1)
    assert torch.equal(weights, weights.flip(0))
    places = torch.arange(width) - width // 2
    spread = (weights * places**2).sum().sqrt().item()
    if width > 3:  # in a kernel of three pixels hardly any of the Gaussian is left beside the middle
        assert spread == pytest.approx(7 / 3 * side / 224, rel=0.1)


def test_a_single_value_is_spread_over_the_kernel():
    weights = kernel(15, 64)
    point = torch.zeros(2, 3, 9, 9)
    point[0, 1, 4, 4] = 1
    spread = blur(point, weights)
    torch.testing.assert_close(spread[0, 1, 2:7, 2:7], torch.outer(weights, weights))
    assert spread[1].abs().sum() == spread[0, 0].abs().sum() == 0


def test_a_blurred_gradient_is_the_mean_over_translated_images():
    """What the paper rests on, where a network sees every place alike: here a sum of squares, away from the edge."""
    weights = kernel(15, 64)
    x = torch.zeros(1, 1, 21, 21)
    x[..., 6:15, 6:15] = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
    slope = torch.randn(21, 21, generator=torch.Generator().manual_seed(1))
    slope[:4] = slope[-4:] = slope[:, :4] = slope[:, -4:] = 0

    def gradient(z):
        return slope.expand_as(z)  # of a plane: the same wherever the image lies

    mean = sum(
        weights[i] * weights[j] * gradient(x.roll((i - 2, j - 2), (2, 3))).roll((2 - i, 2 - j), (2, 3))
        for i in range(5)
        for j in range(5)
    )
    torch.testing.assert_close(blur(gradient(x), weights), mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Linf, L2])
def test_on_a_plane_it_goes_along_the_blurred_normal(kind):
    model = Plane(64 * 64).eval()
    x, draws = torch.full((1, 1, 64, 64), 0.5), Draws.of(0, torch.arange(1))
    ball = kind(0.01)
    goal = Targeted(torch.tensor([1]))
    delta = translation(model, x, goal, ball, steps=12, until=SPENT, generator=draws).x_adv - x
    normal = blur(model.w.detach().view_as(x), kernel(15, 64))
    expected = normal.sign() if kind is Linf else normal / normal.norm()
    torch.testing.assert_close(delta, 0.01 * expected, rtol=0, atol=1e-6)
    assert (delta.sign() != model.w.detach().view_as(x).sign()).any()


def test_a_kernel_of_one_pixel_is_momentum_alone(scene):
    model, x, goal, draws = scene
    common = {"until": SPENT, "generator": draws}
    one = translation(model, x, goal, Linf(0.02), width=1, **common)
    assert torch.equal(one.x_adv, mim(model, x, goal, Linf(0.02), **common).x_adv)
    diverse = translation(model, x, goal, Linf(0.02), width=1, diversity=0.7, **common)
    views = input_diversity(model, x, goal, Linf(0.02), probability=0.7, **common)
    torch.testing.assert_close(diverse.x_adv, views.x_adv, rtol=0, atol=1e-6)
    assert torch.equal(diverse.queries, views.queries)


def test_what_it_finds_is_smoother_than_what_momentum_finds(scene):
    model, x, goal, draws = scene

    def roughness(attack):
        delta = attack(model, x, goal, L2(1.0), until=SPENT, generator=draws).x_adv - x
        return (delta.diff(dim=3).square().sum() / delta.square().sum()).item()

    assert roughness(translation) < 0.8 * roughness(mim)


def test_blurring_costs_no_query(scene):
    model, x, goal, draws = scene
    found = translation(model, x, goal, Linf(1e-6), steps=4, until=SPENT, generator=draws)
    assert found.gradients.tolist() == [4] * 5
    assert found.queries.tolist() == [5] * 5


@pytest.mark.parametrize("width", [0, 4, -3])
def test_a_kernel_without_a_middle_is_refused(width):
    with pytest.raises(SettingsError, match="odd"):
        kernel(width, 224)
