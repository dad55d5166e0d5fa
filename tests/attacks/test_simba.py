"""SimBA where the best point is known, its directions, and the order in which it tries them."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget
from antivenom.attacks.simba import _Descent, ring, simba
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import FREE, Plane, small_network

BASES = pytest.mark.parametrize("basis", ["dct-low", "dct", "pixel"])
KINDS = pytest.mark.parametrize("kind", [Linf, L2])


@pytest.fixture
def plane():
    model = Plane().eval()
    x = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(8))


def descent(x, ball, *, basis="pixel", step_size=1.0, queries=1000):
    model = small_network(x.shape[1])
    goal = Untargeted(model(x).argmax(1))
    problem = Problem.of(model, x, goal, ball, Draws.of(0, torch.arange(len(x))), takes=(Linf, L2))
    return problem, _Descent(Budget(queries, 0), step_size, basis, log_odds)


def test_one_pass_over_the_pixels_of_a_plane_reaches_the_corner(plane):
    model, x, goal, draws = plane
    found = simba(model, x, goal, Linf(0.05), queries=2 + 2 * 48, step_size=1.0, basis="pixel", until=SPENT, generator=draws)
    rise = goal.margin(model(found.x_adv)) - goal.margin(model(x))
    torch.testing.assert_close(rise, (2 * 0.05 * model.w.abs().sum()).expand(8))


def test_succeeds_on_a_plane_exactly_where_the_ball_reaches_it(plane):
    model, x, goal, draws = plane
    distance = model.distance(x, Linf)
    epsilon = distance.median().item() * 1.001
    found = simba(model, x, goal, Linf(epsilon), queries=200, step_size=1.0, basis="pixel", generator=draws)
    assert torch.equal(found.success, distance <= epsilon)
    assert 0 < found.success.sum() < 8


@BASES
@KINDS
def test_ends_near_the_best_point_of_a_plane(plane, basis, kind):
    model, x, goal, draws = plane
    ball = kind(0.1 if kind is Linf else 0.5)
    found = simba(model, x, goal, ball, queries=400, basis=basis, until=SPENT, generator=draws)
    rise = (goal.margin(model(found.x_adv)) - goal.margin(model(x))).detach()
    near = 0.8 if kind is Linf and basis != "pixel" else 0.9  # the corners of a cube are no sums of few cosines
    assert (rise > near * 2 * ball.epsilon * ball.dual(model.w.detach().reshape(1, 3, 4, 4))).all()


# -- the directions ----------------------------------------------------------------------------------------------------


@BASES
@pytest.mark.parametrize("tied", [False, True])
def test_the_directions_are_an_orthonormal_basis(basis, tied):
    number = 20 if tied else 40
    problem, climber = descent(torch.full((number, 2, 5, 4), 0.5), L2(1.0, Pixels(tied=tied)), basis=basis)
    way = climber._direction(problem, torch.arange(number)).flatten(1)
    torch.testing.assert_close(way @ way.T, torch.eye(number), rtol=0, atol=1e-5)


@BASES
def test_directions_have_unit_size_in_linf_too_and_stay_in_the_region(basis):
    region = torch.zeros(20, 1, 5, 4)
    region[:, :, 1:3] = 1
    problem, climber = descent(torch.full((20, 1, 5, 4), 0.5), Linf(1.0, Pixels(region=region)), basis=basis)
    way = climber._direction(problem, torch.arange(20))
    assert (way * (1 - region) == 0).all()
    size = way.flatten(1).abs().amax(1)
    inside = (way != 0).flatten(1).any(1)
    assert inside.sum() == (8 if basis == "pixel" else 20)
    torch.testing.assert_close(size[inside], torch.ones(int(inside.sum())))


def test_the_lowest_frequencies_come_first_and_widen_as_published():
    rings = ring(224, 224)
    assert (rings[:28, :28] == 0).all()
    assert (rings == 0).sum() == 28 * 28
    assert [int(rings[28, 0]), int(rings[0, 34]), int(rings[35, 3]), int(rings[223, 223])] == [1, 1, 2, 28]


def test_low_frequencies_come_in_random_order_within_each_widening():
    problem, climber = descent(torch.rand(30, 2, 32, 32), Linf(0.1), basis="dct-low", queries=50)
    order, many = climber._order(problem)
    assert order.shape == (30, 50)
    assert (many == 50).all()
    rings = ring(32, 32).flatten()[order % 1024]
    assert (rings[:, :32] == 0).all()  # 4 x 4 of each channel
    assert (rings[:, 32:] == 1).all()  # 9 more of each
    assert (order.sort(1).values.diff(dim=1) > 0).all()
    assert len(order[:, 0].unique()) > 10


@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_the_order_is_a_permutation_of_its_own_for_each_image(basis):
    problem, climber = descent(torch.rand(5, 2, 4, 4), Linf(0.1), basis=basis)
    order, _ = climber._order(problem)
    assert torch.equal(order.sort(1).values, torch.arange(32).expand(5, 32))
    assert len(order.unique(dim=0)) == 5


def test_pixels_outside_the_region_are_not_tried():
    region = torch.zeros(5, 1, 4, 4)
    for image in range(5):
        region[image, 0, 0, : image % 4 + 1] = 1
    problem, climber = descent(torch.rand(5, 2, 4, 4), Linf(0.1, Pixels(region=region)))
    order, many = climber._order(problem)
    assert many.tolist() == [2, 4, 6, 8, 2]
    for image in range(5):
        assert (region[image].flatten()[order[image, : many[image]] % 16] == 1).all()


# -- the search --------------------------------------------------------------------------------------------------------


def shown(model, x, **settings):
    """The points that the search shows a model, one image at a time."""
    points = []

    def watched(z):
        points.append(z.clone())
        return model(z)

    found = simba(watched, x, Untargeted(torch.zeros(1, dtype=torch.long)), generator=torch.Generator(), **settings)
    return torch.cat(points[2:]), found  # the door asks twice


def test_a_step_forth_then_back_then_none():
    model = Plane(12).eval()
    x = torch.full((1, 3, 2, 2), 0.5) - 0.3 * model.w.detach().sign().reshape(1, 3, 2, 2)
    points, found = shown(model, x, allowed=Linf(0.1), queries=25, step_size=0.5, basis="pixel", until=SPENT)
    kept, at = points[0], 1
    assert torch.equal(kept, x[0])
    weights = model.w.detach()
    for _ in range(12):  # each value moves forth, and back where that did not help
        moved = (points[at] - kept).flatten()
        where = int(moved.nonzero())
        assert moved[where].item() == pytest.approx(0.05)
        if weights[where] < 0:
            at += 1
            assert (points[at] - kept).flatten()[where].item() == pytest.approx(-0.05)
        kept, at = points[at], at + 1
    assert torch.equal(found.x_adv[0], points[model(points)[:, 1].argmax()])


def test_a_model_that_never_answers_otherwise_is_left_with_the_image_itself():
    x = torch.full((1, 1, 3, 3), 0.5)
    constant = torch.tensor([[1.0, 0.0]])
    points, found = shown(lambda z: constant.expand(len(z), 2), x, allowed=L2(0.5), queries=30, until=SPENT)
    assert torch.equal(found.x_adv, x)
    assert found.queries.tolist() == [30]
    delta = (points - x).flatten(1)
    torch.testing.assert_close(delta[1:19].sum(0), torch.zeros(9), rtol=0, atol=1e-5)  # forth and back along nine directions
    torch.testing.assert_close(delta[1:19:2], -delta[2:20:2])
    torch.testing.assert_close(delta[1:12], delta[19:30])  # and again, in the same order


def test_no_query_is_spent_where_an_image_cannot_move():
    x = torch.zeros(1, 3, 4, 4)  # a black surround only rises
    constant = torch.tensor([[1.0, 0.0]])
    points, found = shown(lambda z: constant.expand(len(z), 2), x, allowed=Linf(0.1), queries=49, basis="pixel", until=SPENT)
    assert found.queries.tolist() == [49]
    moved = (points[1:] != 0).flatten(1)
    assert (moved.sum(1) == 1).all()
    assert (moved.sum(0) == 1).all()


@pytest.mark.parametrize("queries", [2, 3, 50])
def test_the_budget_is_kept(plane, queries):
    model, x, goal, draws = plane
    assert simba(model, x, goal, Linf(1e-6), queries=queries + 1, generator=draws).queries.tolist() == [queries + 1] * 8
    spent = simba(model, x, goal, Linf(1e-6), queries=queries, until=SPENT, generator=draws)
    assert spent.queries.tolist() == [queries] * 8


def test_steps_finer_than_the_grid_add_up():
    model = small_network(1)
    x = (255 * torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))).round() / 255
    goal = Untargeted(model(x).argmax(1))
    found = simba(
        model,
        x,
        goal,
        Linf(4 / 255, Pixels(grid=1 / 255)),
        queries=300,
        step_size=0.2,
        until=SPENT,
        generator=torch.Generator(),
    )
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert (goal.margin(model(found.x_adv)) > goal.margin(model(x))).all()


@KINDS
def test_the_ball_of_each_image_is_its_own(kind):
    model = small_network(1)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ball = kind(torch.tensor([0.0, 0.01, 0.02, 0.05, 0.1, 0.2]), FREE)
    goal = Untargeted(model(x).argmax(1))
    found = simba(model, x, goal, ball, queries=120, until=SPENT, generator=Draws.of(0, torch.arange(6)))
    size = ball.size(found.x_adv - x)
    assert (size <= ball.epsilon * (1 + 1e-5)).all()
    assert (size[1:] > 0.5 * ball.epsilon[1:]).all()


def test_a_basis_of_another_name_is_refused(plane):
    model, x, goal, draws = plane
    with pytest.raises(SettingsError, match="wavelet"):
        simba(model, x, goal, Linf(0.1), basis="wavelet", generator=draws)
