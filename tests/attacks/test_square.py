import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.square import side, square
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from toys import small_network


@pytest.fixture
def scene():
    model = small_network(3)
    x = 0.3 + 0.4 * torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(12))


def test_squares_shrink_on_the_published_schedule():
    steps = torch.tensor([0, 6, 30, 120, 300, 700, 1500, 2500, 3500, 4500])
    assert side(steps, 5000, 0.8, 224, 224).tolist() == [200, 142, 100, 71, 50, 35, 25, 18, 13, 9]


def test_the_first_query_shows_vertical_stripes(scene):
    model, x, goal, draws = scene
    delta = square(model, x, goal, Linf(0.1), queries=2, until=SPENT, generator=draws).x_adv - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
    torch.testing.assert_close(delta.amax(2), delta.amin(2))
    assert (delta.amax(3) > delta.amin(3)).all()


def test_more_queries_never_lower_the_margin(scene):
    model, x, goal, draws = scene
    heights = []
    for queries in (2, 5, 20, 80):  # the schedule follows the budget, so each is another search; stripes are shared
        result = square(model, x, goal, Linf(0.01), queries=queries, until=SPENT, generator=draws)
        heights.append(goal.margin(model(result.x_adv)))
    assert all((later >= heights[0] - 1e-6).all() for later in heights[1:])
    assert heights[-1].mean() > heights[0].mean()


def test_every_value_stands_at_an_edge_of_the_ball(scene):
    model, x, goal, draws = scene
    delta = square(model, x, goal, Linf(0.05), queries=50, until=SPENT, generator=draws).x_adv - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.05))


@pytest.mark.parametrize("queries", [2, 7, 100])
def test_the_budget_is_kept(scene, queries):
    model, x, goal, draws = scene
    assert square(model, x, goal, Linf(1e-4), queries=queries, generator=draws).queries.tolist() == [queries] * 12


def test_a_budget_without_a_query_is_refused(scene):
    model, x, goal, draws = scene
    with pytest.raises(SettingsError, match="at least 2"):
        square(model, x, goal, Linf(0.1), queries=1, generator=draws)
