"""The worst of some tries: what is tried, how often, and what a grid is sure to find."""

from itertools import pairwise

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.square import square
from antivenom.attacks.worst_of import grid_point, worst_of
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.transforms import TRANSFORMS, BiasField, Exposure, Placement, Stripes
from toys import small_network


@pytest.fixture
def scene():
    x = 0.2 + 0.6 * torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = small_network(3, classes=5)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(24))


@pytest.mark.parametrize("pixels", [Pixels(), Pixels(tied=True)])
def test_one_draw_of_stripes_is_what_square_begins_with(scene, pixels):
    model, x, goal, draws = scene
    stripes = worst_of(model, x, goal, Stripes(0.1, pixels), tries=1, until=SPENT, generator=draws)
    first = square(model, x, goal, Linf(0.1, pixels), queries=2, until=SPENT, generator=draws)
    torch.testing.assert_close(stripes.x_adv, first.x_adv, rtol=0, atol=1e-7)
    delta = stripes.x_adv - x
    torch.testing.assert_close(delta.amax(2), delta.amin(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))


@pytest.mark.parametrize("epsilon", [0.01, 0.02, 0.04])
def test_one_draw_of_stripes_does_no_more_than_square_with_queries_left(scene, epsilon):
    """The published order: accuracy under vertical perturbation above that under Square."""
    model, x, goal, draws = scene
    vertical = worst_of(model, x, goal, Stripes(epsilon), tries=1, generator=draws)
    searched = square(model, x, goal, Linf(epsilon), queries=100, generator=draws)
    assert vertical.success.sum() < searched.success.sum()
    assert searched.success[vertical.success].all()  # its first query is that draw


@pytest.mark.parametrize("kind", TRANSFORMS.values())
def test_more_tries_hold_those_of_fewer(scene, kind):
    model, x, goal, draws = scene
    allowed = kind(0.05 if kind is Stripes else 1.0)
    heights = []
    for tries in (1, 5, 20):
        result = worst_of(model, x, goal, allowed, tries=tries, until=SPENT, generator=draws)
        assert (result.queries == tries).all()
        heights.append(goal.margin(model(result.x_adv)).detach())
    assert all((later >= earlier - 1e-6).all() for earlier, later in pairwise(heights))
    assert heights[-1].mean() > heights[0].mean()


def test_an_image_that_falls_is_tried_no_further(scene):
    model, x, goal, draws = scene
    result = worst_of(model, x, goal, Placement(0.3), tries=20, generator=draws)
    assert (result.queries[~result.success] == 21).all()  # the clean image is looked at first
    assert result.success.any()
    assert not result.success.all()
    assert result.queries[result.success].float().mean() < 21
    assert (result.gradients == 0).all()


def test_a_grid_looks_at_every_combination_once():
    theta = grid_point(torch.arange(5**3), (3,), 5)
    assert theta.unique(dim=0).shape == (125, 3)
    assert theta.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert (theta == 0).all(1).sum() == 1  # an odd number of points holds the image itself


def test_a_grid_finds_what_lies_on_it():
    """A model that is fooled by one exposure alone, which chance never meets."""
    x = 0.2 + 0.3 * torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = Exposure(1.0).apply(x, torch.tensor([[1.0, -1.0, 1.0]]).expand(3, 3))

    def model(z):
        near = 1e-4 - (z[:, None] - wanted).abs().flatten(2).amax(2).amin(1)
        return torch.stack([torch.zeros_like(near), near], 1)

    goal, draws = Untargeted(torch.zeros(3, dtype=torch.long)), Draws.of(0, torch.arange(3))
    found = worst_of(model, x, goal, Exposure(1.0), points=3, generator=draws)
    assert found.success.all()
    torch.testing.assert_close(found.x_adv, wanted)
    spent = worst_of(model, x, goal, Exposure(1.0), points=3, until=SPENT, generator=draws)
    assert (spent.queries == 27).all()
    assert not worst_of(model, x, goal, Exposure(1.0), tries=27, generator=draws).success.any()


@pytest.mark.parametrize(
    ("allowed", "points", "said"),
    [(Placement(1.0), 22, "22 points for each of 3"), (BiasField(1.0), 2, "16 parameters"), (Stripes(0.1), 2, "48 parameters")],
)
def test_a_grid_over_too_many_parameters_is_refused(scene, allowed, points, said):
    model, x, goal, draws = scene
    with pytest.raises(SettingsError, match=said):
        worst_of(model, x, goal, allowed, points=points, generator=draws)


@pytest.mark.parametrize("settings", [{"tries": 0}, {"points": 1}, {"points": -3}])
def test_nothing_to_try_is_refused(scene, settings):
    model, x, goal, draws = scene
    with pytest.raises(SettingsError, match="worst_of needs"):
        worst_of(model, x, goal, Placement(1.0), generator=draws, **settings)
