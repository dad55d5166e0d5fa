"""Input diversity: what a view is, and that without views it is momentum's own climb."""

from dataclasses import replace

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.input_diversity import input_diversity, resized
from antivenom.attacks.mim import mim
from antivenom.attacks.problem import Problem
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from toys import small_network


def problem_of(x, pixels=None):
    goal, draws = Untargeted(torch.zeros(len(x), dtype=torch.long)), Draws.of(0, torch.arange(len(x)))
    return Problem.of(lambda z: z.flatten(1)[:, :2], x, goal, Linf(0.1, pixels or Pixels()), draws, takes=(Linf,))


def test_without_a_view_it_is_momentum_alone():
    model = small_network(3)
    x = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal, draws = Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(5))
    never = input_diversity(model, x, goal, Linf(0.05), probability=0.0, until=SPENT, generator=draws)
    torch.testing.assert_close(
        never.x_adv, mim(model, x, goal, Linf(0.05), until=SPENT, generator=draws).x_adv, rtol=0, atol=1e-6
    )
    always = input_diversity(model, x, goal, Linf(0.05), probability=1.0, until=SPENT, generator=draws)
    assert (always.x_adv != never.x_adv).any()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_as_many_views_are_resized_as_the_probability_says(probability):
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = (resized(1.1, probability)(problem_of(x), x) != x).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(probability, abs=0.08)


@pytest.mark.parametrize("resize", [1.1, 1.5])
def test_the_image_takes_up_a_random_share_of_the_view_at_a_random_place(resize):
    """Of a ramp, a view is a steeper ramp: its slope tells the share, where it begins the place."""
    side, count = 64, 300
    ramp = ((torch.arange(side) + 0.5) / side).expand(count, 1, side, side)
    places = []
    for x in (ramp, ramp.transpose(2, 3)):
        view = resized(resize, 1.0)(problem_of(x), x)
        line = view[:, 0, side // 2] if x is ramp else view[:, 0, :, side // 2]
        inner = line[:, side // 2 - 8 : side // 2 + 8].double()
        slopes = inner.diff(dim=1)
        torch.testing.assert_close(slopes, slopes.mean(1, keepdim=True).expand_as(slopes), rtol=0, atol=1e-5)
        share = 1 / (slopes.mean(1) * side)
        assert share.min() >= 1 / resize - 1e-4
        assert share.max() <= 1 + 1e-4
        assert (1 / share).std() > 0.25 * (resize - 1)  # of a uniform draw: 0.29
        middle = (side / 2 - 8 + torch.arange(16) + 0.5) / side
        begin = (middle - inner * share[:, None]).mean(1)  # where the ramp is 0
        loose = share < 1 - 0.3 * (1 - 1 / resize)
        places.append((begin / (1 - share))[loose])
    for place in places:
        assert -1e-2 < place.min() < 0.1
        assert 0.9 < place.max() < 1 + 1e-2
    assert abs(torch.corrcoef(torch.stack(places))[0, 1]) < 0.2


def test_what_lies_outside_is_black():
    dark = Pixels(low=-1.0, high=1.0)
    x = torch.ones(50, 3, 20, 14)
    view = resized(1.5, 1.0)(problem_of(x, dark), x)
    assert view.shape == x.shape
    assert view.amin() == -1
    assert view.amax() == pytest.approx(1)
    white = (view[:, 0] > 0).float().mean((1, 2))
    assert white.min() > 1 / 1.5**2 - 0.1
    assert white.max() > 0.9


def test_a_view_can_be_differentiated_and_weighs_all_of_the_image():
    x = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(resized(1.1, 1.0)(problem_of(x.detach()), x).sum(), x)
    assert (gradient > 0).float().mean() > 0.95
    assert (gradient.sum((1, 2, 3)) <= 2 * 16 * 16 + 1e-3).all()


def test_views_follow_their_image():
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    problem, some = problem_of(x), torch.tensor([4, 1])
    view = resized(1.1, 0.5)
    torch.testing.assert_close(view(problem, x)[some], view(problem.take(some), x[some]))
    again = replace(problem, draws=problem.draws.at(1))
    assert (view(problem, x) != view(again, x)).any()


@pytest.mark.parametrize("settings", [{"resize": 1.0}, {"resize": 0.9}, {"probability": 1.5}, {"copies": 0}])
def test_settings_that_cannot_be_are_refused(settings):
    model, x = small_network(), torch.rand(2, 1, 8, 8)
    with pytest.raises(SettingsError):
        input_diversity(
            model, x, Untargeted(model(x).argmax(1)), Linf(0.1), generator=torch.Generator().manual_seed(0), **settings
        )
