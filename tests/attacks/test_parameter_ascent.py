"""Ascent over parameters where the best ones are known."""

import math

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.parameter_ascent import parameter_ascent
from antivenom.attacks.pgd import pgd
from antivenom.attacks.worst_of import worst_of
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.transforms import BiasField, Exposure, Placement, Stripes
from toys import Plane


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(8))


@pytest.fixture
def scan():
    x = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = Plane().eval()
    return model, x, Untargeted(model(x).argmax(1))


def brighter(z):
    """The brighter, the surer that the answer is 1."""
    total = z.flatten(1).mean(1)
    return torch.stack([-total, total], 1)


def test_stripes_against_a_plane_gain_the_sums_of_its_columns_and_no_more(scan, draws):
    model, x, goal = scan
    found = parameter_ascent(model, x, goal, Stripes(0.05), until=SPENT, generator=draws)
    columns = model.w.detach().reshape(3, 4, 4).sum(1)
    gain = 2 * 0.05 * columns.abs().sum()  # the two logits part by twice what the plane rises
    torch.testing.assert_close(goal.margin(model(found.x_adv)), goal.margin(model(x)) + gain)
    delta = found.x_adv - x
    torch.testing.assert_close(delta.amax(2), delta.amin(2), rtol=0, atol=1e-6)
    free = pgd(model, x, goal, Linf(0.05), until=SPENT, generator=draws)
    chance = worst_of(model, x, goal, Stripes(0.05), tries=100, until=SPENT, generator=draws)
    height = [goal.margin(model(each.x_adv)) for each in (chance, found, free)]
    assert (height[0] <= height[1] + 1e-6).all()
    assert (height[1] < height[2]).all()


def test_tied_stripes_gain_the_sums_over_channels_too(scan, draws):
    model, x, goal = scan
    found = parameter_ascent(model, x, goal, Stripes(0.05, Pixels(tied=True)), until=SPENT, generator=draws)
    gain = 2 * 0.05 * model.w.detach().reshape(3, 4, 4).sum((0, 1)).abs().sum()
    torch.testing.assert_close(goal.margin(model(found.x_adv)), goal.margin(model(x)) + gain)


def test_a_field_is_raised_to_its_limit_everywhere_where_brighter_is_better(draws):
    x = 0.1 + 0.3 * torch.rand(8, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(torch.zeros(8, dtype=torch.long))
    found = parameter_ascent(brighter, x, goal, BiasField(0.5), until=SPENT, generator=draws)
    torch.testing.assert_close(found.x_adv, math.exp(0.15) * x)


def test_an_exposure_is_raised_to_its_limit_where_brighter_is_better(draws):
    x = 0.1 + 0.3 * torch.rand(8, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(torch.zeros(8, dtype=torch.long))
    found = parameter_ascent(brighter, x, goal, Exposure(0.5, contrast=0.0), until=SPENT, generator=draws)
    torch.testing.assert_close(found.x_adv, 1.125 * x ** math.exp(-0.175))


def test_a_placement_is_found_where_the_way_to_it_is_smooth(draws):
    """A blob is moved to the place that the model likes best, a known turn and shift away."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    blob = (-4 * (down**2 + 3 * (across - 0.2) ** 2)).exp()[None, None]
    liked = Placement(1.0).apply(blob, torch.tensor([[0.6, -0.5, 0.7]]))

    def model(z):
        miss = (z - liked).square().flatten(1).sum(1)
        return torch.stack([miss, torch.full_like(miss, 0.02)], 1)

    x, goal = blob.expand(8, -1, -1, -1), Targeted(torch.ones(8, dtype=torch.long))
    found = parameter_ascent(model, x, goal, Placement(1.0), step_size=0.05, until=SPENT, generator=draws)
    assert (model(x)[:, 0] > 2).all()
    assert found.success.all()


def test_a_step_is_a_fraction_of_the_limits_and_every_one_is_counted(draws):
    x = torch.full((8, 1, 6, 6), 0.5)
    goal = Untargeted(torch.zeros(8, dtype=torch.long))
    ascent = {"steps": 3, "step_size": 0.2, "random_start": False, "until": SPENT, "generator": draws}
    found = parameter_ascent(brighter, x, goal, Stripes(0.1), **ascent)
    torch.testing.assert_close(found.x_adv, x + 0.06)
    assert (found.queries == 4).all()
    assert (found.gradients == 3).all()
    again = parameter_ascent(brighter, x, goal, Stripes(0.1), restarts=2, **ascent)
    assert (again.gradients == 6).all()


def test_restarts_begin_elsewhere_and_lose_nothing(scan, draws):
    model, x, goal = scan
    short = {"steps": 1, "until": SPENT, "generator": draws}
    once, often = (
        goal.margin(model(parameter_ascent(model, x, goal, Stripes(0.05), restarts=n, **short).x_adv)) for n in (1, 8)
    )
    assert (often >= once - 1e-6).all()
    assert (often > once + 1e-6).any()


def test_columns_at_the_end_of_their_range_go_one_way_only(draws):
    x = torch.full((8, 1, 4, 6), 0.5)
    x[..., :3] = 1
    dark = Untargeted(torch.zeros(8, dtype=torch.long))
    found = parameter_ascent(brighter, x, dark, Stripes(0.1), until=SPENT, generator=draws)
    torch.testing.assert_close(found.x_adv[..., 3:], x[..., 3:] + 0.1)
    assert (found.x_adv[..., :3] <= 1).all()
