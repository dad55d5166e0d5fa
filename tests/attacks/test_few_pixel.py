"""Few pixels: where one pixel or two are the best is known on a plane; the evolution is the paper's."""

import math

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.few_pixel import _Evolution, few_pixel, others
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import margin
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0
from toys import Plane, small_network


@pytest.fixture
def grey():
    model = Plane(16).eval()
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(12))


@pytest.fixture
def colour():
    model = small_network(3)
    x = torch.rand(6, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(6))


def changed(x_adv, x):
    """Pixels that changed in each image."""
    return (x_adv != x).any(1).flatten(1).sum(1)


@pytest.mark.parametrize("pixels", [1, 2])
def test_finds_the_best_pixels_of_a_plane(grey, pixels):
    model, x, goal, draws = grey
    w, low = model.w.detach(), -goal.margin(model(x)).detach()
    away = -w * ((x - 0.5).flatten(1) @ w).sign()[:, None]  # twice what a value adds to the margin, per unit
    gains = 2 * (away * torch.where(away > 0, 1 - x.flatten(1), -x.flatten(1))).sort(1, descending=True).values
    best = gains[:, :pixels].sum(1) - low
    found = few_pixel(model, x, goal, L0(pixels), queries=2000, population=60, until=SPENT, generator=draws)
    reached = goal.margin(model(found.x_adv)).detach()
    assert (reached <= best + 1e-6).all()
    share = (reached + low) / (best + low)
    assert share.median() > 0.98
    assert share.min() > 0.85  # a population that agrees too early stays where it is


def test_succeeds_where_so_many_pixels_can(grey):
    model, x, goal, draws = grey
    enough = model.distance(x, L0)
    for pixels in (1, 2, 3):
        found = few_pixel(model, x, goal, L0(pixels), queries=3000, population=60, generator=draws)
        assert (found.success <= (enough <= pixels)).all()
        assert found.success.sum() >= (enough <= pixels).sum() - 1  # a search by chance may miss one
        assert (changed(found.x_adv, x) <= pixels).all()


@pytest.mark.parametrize(("epsilon", "pixels"), [(3, 1), (5.9, 1), (6, 2), (15, 5)])
def test_a_pixel_is_all_its_values(colour, epsilon, pixels):
    model, x, goal, draws = colour
    found = few_pixel(model, x, goal, L0(epsilon), queries=200, population=20, until=SPENT, generator=draws)
    assert (changed(found.x_adv, x) <= pixels).all()
    assert (changed(found.x_adv, x) == pixels).any()
    assert (L0(epsilon).size(found.x_adv - x) <= epsilon).all()


def test_an_epsilon_without_a_whole_pixel_is_refused(colour):
    model, x, goal, draws = colour
    for epsilon in (1, 2.9, torch.tensor([3.0, 3, 3, 1, 3, 3])):
        with pytest.raises(SettingsError, match="no pixel of 3 values"):
            few_pixel(model, x, goal, L0(epsilon), generator=draws)
    for wrong in ({"population": 3}, {"block": 0}):
        with pytest.raises(SettingsError, match="at least 4"):
            few_pixel(model, x, goal, L0(3), generator=draws, **wrong)


def test_each_image_changes_as_many_pixels_as_it_may(colour):
    model, x, goal, draws = colour
    epsilon = torch.tensor([3.0, 6, 9, 0, 3, 12])
    found = few_pixel(model, x, goal, L0(epsilon), queries=150, population=20, until=SPENT, generator=draws)
    assert (changed(found.x_adv, x) <= epsilon // 3).all()
    alone = few_pixel(
        model,
        x[:1],
        Untargeted(goal.labels[:1]),
        L0(3.0),
        queries=150,
        population=20,
        until=SPENT,
        generator=Draws(draws.key[:1]),
    )
    torch.testing.assert_close(alone.x_adv, found.x_adv[:1])  # draws do not depend on what another may change


def test_region_ties_and_grid_are_kept(colour):
    model, x, goal, draws = colour
    x = (255 * x[:, :1]).round().expand(-1, 3, -1, -1) / 255
    goal = Untargeted(model(x).argmax(1))
    region = torch.zeros(6, 1, 12, 10)
    region[..., 2:5, 3:6] = 1
    pixels = Pixels(region=region, tied=True, grid=1 / 255)
    found = few_pixel(model, x, goal, L0(9.0, pixels), queries=150, population=20, until=SPENT, generator=draws)
    delta = found.x_adv - x
    assert (delta * (1 - region) == 0).all()
    assert (delta[:, 0] == delta[:, 2]).all()
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert (changed(found.x_adv, x) > 0).all()


# -- the evolution -----------------------------------------------------------------------------------------------------


def evolution(colour, *, pixels=Pixels(), number=2, population=300, queries=1000):  # noqa: B008 - frozen
    model, x, goal, draws = colour
    problem = Problem.of(model, x, goal, L0(3.0 * number, pixels), draws, takes=(L0,))
    return problem, _Evolution(Budget(queries, 0), population, 20, number, margin)


def test_the_first_members_lie_anywhere_with_normal_values(colour):
    problem, climber = evolution(colour)
    members = climber.start(problem, torch.zeros(6))[0]
    assert members.shape == (6, 300, 2, 5)
    where = members[..., :2]
    assert torch.equal(where, where.floor() + 0.5)  # the middle of a pixel
    counts = (where[..., 0].floor() * 10 + where[..., 1].floor()).flatten().long().bincount(minlength=120)
    assert (counts > 0).all()
    assert counts.max() < 3 * counts.float().mean()
    value = members[..., 2:]
    assert abs(value.mean() - 128 / 255) < 0.01
    edge = 0.5 * math.erfc(128 / 127 / math.sqrt(2))  # of the normal law below the range
    assert abs((value == 0).float().mean() - edge) < 0.02
    assert abs((value == 1).float().mean() - edge) < 0.02


def test_the_first_members_lie_in_the_region(colour):
    region = torch.zeros(6, 1, 12, 10)
    for image in range(6):
        region[image, :, image : image + 4, 3:5] = 1
    problem, climber = evolution(colour, pixels=Pixels(region=region))
    row, column = climber.start(problem, torch.zeros(6))[0][..., :2].long().unbind(-1)
    assert (region[torch.arange(6)[:, None, None], 0, row, column] == 1).all()
    assert (row.flatten(1).amin(1) == torch.arange(6)).all()
    assert (row.flatten(1).amax(1) == torch.arange(6) + 3).all()


def test_a_child_is_a_member_plus_half_the_difference_of_two_others(colour):
    problem, climber = evolution(colour, number=1, population=4)
    members = torch.tensor([[8.0, 5.0, 0.5, 0.2, 0.9], [11.5, 2.5, 1, 0, 0.5], [1.5, 8.5, 0, 1, 0.5], [0.5, 0.5, 0, 0, 0]])
    members = members.reshape(1, 4, 1, 5).expand(6, 4, 1, 5)
    luck = torch.zeros(1, 3)  # of the other three the first, the second and the third
    child = climber._children(problem, members, torch.tensor([0]), torch.tensor([3]), luck)[0, 0]
    # 8 + 5 = 13 lies 1 beyond the edge at 12; 5 - 3 = 2; values 1, -0.3 and 0.9, the second cut off
    torch.testing.assert_close(child, torch.tensor([11.0, 2.0, 1.0, 0.0, 0.9]))


def test_the_three_others_differ_and_are_drawn_alike():
    luck = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    member = torch.arange(20_000) % 5
    drawn = torch.stack([member, *others(luck, member, 5)], 1)
    assert (drawn.sort(1).values.diff(dim=1) > 0).all()
    assert (drawn >= 0).all()
    assert (drawn < 5).all()
    for column in (1, 2, 3):
        shares = torch.stack([(drawn[member == 0, column] == other).float().mean() for other in range(1, 5)])
        torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_a_child_replaces_only_its_parent_and_only_when_the_generation_ends(colour):
    problem, climber = evolution(colour, number=1, population=30)
    state, seen = climber.start(problem, torch.zeros(6)), []
    for step in range(8):
        seen.append((state[0], state[2]))
        look = climber.look(problem, state, torch.full((6,), step))
        assert look.queries.tolist() == [20 if step % 2 == 0 else 10] * 6
        state = look.state
    seen.append((state[0], state[2]))
    for step in range(8):
        same = (seen[step][0] == seen[step + 1][0]).flatten(2).all(2)
        risen = seen[step + 1][1] > seen[step][1]
        assert (seen[step + 1][1] >= seen[step][1]).all()
        if step % 2 == 0:
            assert same.all()  # the generation is not over
        elif step > 1:
            whole = seen[step + 1][1] > seen[step - 1][1]
            assert torch.equal(~same, whole)
        assert not risen[:, 20:].any() if step % 2 == 0 else not risen[:, :20].any()


def test_a_child_that_is_only_as_good_does_not_replace_its_parent(colour):
    _, x, _, draws = colour

    def constant(z):
        return torch.tensor([1.0, 0.0]).expand(len(z), 2)

    problem = Problem.of(constant, x, Untargeted(torch.zeros(6, dtype=torch.long)), L0(3.0), draws, takes=(L0,))
    climber = _Evolution(Budget(100, 0), 20, 20, 1, margin)
    first = state = climber.start(problem, torch.zeros(6))
    for step in range(3):
        state = climber.look(problem, state, torch.full((6,), step)).state
    assert torch.equal(state[0], first[0])


@pytest.mark.parametrize("queries", [5, 21, 60, 61, 75, 130])
def test_the_budget_is_spent_to_the_last_query(colour, queries):
    model, x, _, draws = colour
    constant = few_pixel(
        lambda z: model(z) * 0 + torch.tensor([1.0, 0, 0]),
        x,
        Untargeted(torch.zeros(6, dtype=torch.long)),
        L0(3.0),
        queries=queries,
        population=30,
        generator=draws,
    )
    assert constant.queries.tolist() == [queries] * 6


def test_an_image_leaves_with_the_block_that_fools(colour):
    model, x, goal, draws = colour
    found = few_pixel(model, x, goal, L0(60.0), queries=800, population=100, block=10, generator=draws)
    assert found.success.any()
    assert (found.queries[found.success] % 10 == 1).all()  # the clean image and whole blocks
    assert found.queries[found.success].min() < 800
