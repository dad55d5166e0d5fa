"""Speckle: as strong as the signal, nothing where it is black, and as large as the ball allows."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.pgd import pgd
from antivenom.attacks.speckle import speckle
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import Plane


def constant(z):
    """A model that nothing fools."""
    return torch.stack([torch.ones(len(z)), torch.zeros(len(z))], 1) + 0 * z.flatten(1)[:, :2]


def added(x, ball, **settings):
    goal = Untargeted(torch.zeros(len(x), dtype=torch.long))
    draws = Draws.of(0, torch.arange(len(x)))
    return speckle(constant, x, goal, ball, until=SPENT, generator=draws, **settings).x_adv - x


@pytest.fixture
def steps():
    """Three strips: black, half as bright as the brightest, and that, with room above it."""
    x = torch.zeros(4, 1, 60, 60)
    x[..., 20:40], x[..., 40:] = 0.3, 0.6
    return x


@pytest.mark.parametrize("ball", [Linf(0.05), L2(1.0)])
def test_black_stays_black(steps, ball):
    delta = added(steps, ball)
    assert not delta[..., :20].any()
    assert (delta[..., 20:] != 0).float().mean() > 0.99


@pytest.mark.parametrize("ball", [Linf(0.05), Linf(torch.tensor([0.01, 0.02, 0.0, 0.1])), L2(1.0), L2(0.01)])
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_it_touches_the_ball(steps, ball, spread):
    size = ball.size(added(steps, ball, spread=spread))
    torch.testing.assert_close(size, torch.as_tensor(ball.epsilon).expand(4), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("ball", [Linf(0.05), L2(1.0)])
def test_it_is_as_strong_as_the_signal(steps, ball):
    delta = added(steps, ball, spread=0.4)  # so little that Linf cuts hardly anything off
    strips = [delta[..., a:b].std().item() for a, b in ((20, 40), (40, 60))]
    assert strips[1] / strips[0] == pytest.approx(2, rel=0.05)
    if isinstance(ball, Linf):
        assert strips[1] == pytest.approx(0.4 * 0.05, rel=0.05)


def test_in_linf_bright_values_stand_at_the_edge(steps):
    at_edge = added(steps, Linf(0.05)).abs() > 0.05 * (1 - 1e-5)
    assert at_edge[..., 40:].float().mean().item() == pytest.approx(0.317, abs=0.02)  # beyond one standard deviation
    assert at_edge[..., 20:40].float().mean().item() == pytest.approx(0.046, abs=0.01)  # beyond two


def test_values_count_from_the_lower_end_of_their_range(steps):
    shifted = added(2 * steps - 1, Linf(0.1, Pixels(low=-1.0, high=1.0)))
    torch.testing.assert_close(shifted, 2 * added(steps, Linf(0.05)), rtol=0, atol=1e-6)


def test_white_grows_no_whiter():
    x = torch.ones(2, 1, 20, 20)
    delta = added(x, Linf(0.1))
    assert (delta <= 0).all()
    assert (delta < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_grey_image_in_three_channels_has_the_noise_of_one(steps):
    grey = steps.expand(-1, 3, -1, -1)
    for ball, one in ((L2(0.5 * 3**0.5, Pixels(tied=True)), L2(0.5)), (Linf(0.05, Pixels(tied=True)), Linf(0.05))):
        torch.testing.assert_close(added(grey, ball), added(steps, one).expand_as(grey), rtol=1e-4, atol=1e-6)


def test_an_image_without_signal_stays_as_it_is():
    assert not added(torch.zeros(2, 1, 8, 8), Linf(0.1)).any()


def test_it_is_no_attack_and_looks_at_nothing():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, draws = Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(32))
    ball = Linf(1.05 * model.distance(x, Linf).max().item())
    assert pgd(model, x, goal, ball, steps=60, generator=draws).success.all()

    def never(z):
        raise AssertionError(f"asked of {len(z)} images")

    found = speckle(Victim(model, never), x, goal, ball, generator=draws)
    assert found.success.float().mean() < 0.5
    assert not found.gradients.any()


def test_more_tries_find_more(steps):
    model = Plane(3600).eval()
    goal, draws = Untargeted(model(steps).argmax(1)), Draws.of(0, torch.arange(4))
    heights = [
        goal.margin(model(speckle(model, steps, goal, Linf(0.01), tries=n, until=SPENT, generator=draws).x_adv))
        for n in (1, 10)
    ]
    assert (heights[1] >= heights[0]).all()
    assert (heights[1] > heights[0]).any()
