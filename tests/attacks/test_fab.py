"""FAB where the smallest perturbation is known: it comes within a percent of it, and never below."""

import math

import pytest
import torch

from antivenom.attacks import FOOLED
from antivenom.attacks.ascent import Gathered, nearest
from antivenom.attacks.fab import SEARCHES, _draw_in, _Walk, fab
from antivenom.attacks.fmn import fmn
from antivenom.attacks.problem import Problem
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L1
from toys import FREE, Affine, Counting, Plane, Sphere, small_network

KINDS = pytest.mark.parametrize("kind", [Linf, L2, L1])
TRUTHS = [(L2, 0.4737364557517151, 0.5879747), (Linf, 0.2846153846, 0.3666667), (L1, 1.85 / 3, 2.2 / 3)]


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(16))


@pytest.fixture
def network():
    model = small_network(3, classes=5)
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1))


@pytest.mark.parametrize(("kind", "truth", "other"), TRUTHS)
def test_the_affine_case(kind, truth, other):
    model, x, draws = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1), Draws.of(0, torch.arange(1))
    ball = kind(math.inf, FREE)
    for targets in (0, 1):  # the likeliest class has the nearest boundary too
        found = fab(model, x, Untargeted(torch.tensor([0])), ball, targets=targets, generator=draws)
        assert truth * (1 - 1e-5) <= ball.size(found.x_adv - x).item() <= 1.01 * truth
        assert model(found.x_adv).argmax(1).item() == 2
        aimed = fab(model, x, Targeted(torch.tensor([1])), ball, targets=targets, generator=draws)
        assert model(aimed.x_adv).argmax(1).item() == 1
        assert other * (1 - 1e-5) <= ball.size(aimed.x_adv - x).item()


@KINDS
def test_ends_just_beyond_a_plane(kind, draws):
    model = Plane().eval()
    x = 0.5 + 0.1 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    truth = model.distance(x, kind)
    pixels = Pixels(low=-9, high=9)
    found = fab(model, x, Untargeted(model(x).argmax(1)), kind(math.inf, pixels), generator=draws)
    size = kind(1.0).size(found.x_adv - x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4)).all()
    assert (size <= 1.001 * truth + 1e-6).all()


@KINDS
def test_black_and_white_pixels_move_only_where_they_can(kind, draws):
    """In a range, the nearest point beyond a plane is known from the geometry; half of these pixels stand at its ends."""
    model = Plane().eval()
    x = 0.5 + 0.1 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x[:, :, 0], x[:, :, -1] = 0, 1
    margin = Untargeted(model(x).argmax(1)).margin(model(x)).detach()
    slope = (2 * model.w.detach()).expand(16, -1).view_as(x) * model(x).diff(dim=1).sign().neg()[..., None, None]
    ball = kind(math.inf)
    truth = ball.size(ball.reach(slope, -margin, *ball.pixels.limits(x)))
    found = fab(model, x, Untargeted(model(x).argmax(1)), ball, generator=draws)
    size = ball.size(found.x_adv - x)
    assert (truth > 1.02 * margin.abs() / ball.dual(slope)).any()  # the ends are felt
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4)).all()
    assert (size <= 1.01 * truth + 1e-6).all()


def test_ends_just_beyond_a_sphere(draws):
    model = Sphere((3, 4, 4)).eval()
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = fab(model, x, Untargeted(model(x).argmax(1)), L2(math.inf), generator=draws)
    size, truth = L2(1.0).size(found.x_adv - x), model.distance(x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4)).all()
    assert (size <= 1.01 * truth + 1e-4).all()


@KINDS
def test_stays_near_fmn_on_a_network(kind, network, draws):
    model, x, goal = network
    ball = kind(math.inf)
    found = [walk(model, x, goal, ball, steps=60, generator=draws) for walk in (fab, fmn)]
    assert found[0].success.all()
    assert ball.size(found[0].x_adv - x).median() <= 1.05 * ball.size(found[1].x_adv - x).median()


def test_one_step_is_drawn_towards_the_image_and_taken_back_once_it_fools(draws):
    """The paper's step, with the projections of L2 written out, from a point on either side of the boundary."""
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, w = Untargeted(model(x).argmax(1)), model.w.detach()
    problem = Problem.of(model, x, goal, L2(math.inf), draws.take(torch.arange(4)), takes=(L2,), endless=True)
    walk, step = _Walk(10, 0.1, 1.05, 0.9, 10), torch.zeros(4, dtype=torch.int64)

    def to_the_plane(z):
        return -((z - 0.5).flatten(1) @ w / w.norm() ** 2)[:, None] * w

    for share in (0.0, 0.7, 1.3):
        point = x + share * to_the_plane(x).view_as(x)
        look = walk.look(problem, (point, step), step + 1)
        near, far = to_the_plane(point), to_the_plane(x)
        alpha = (near.norm(dim=1) / (near.norm(dim=1) + far.norm(dim=1))).clamp_max(0.1)[:, None]
        moved = (1 - alpha) * (point.flatten(1) + 1.05 * near) + alpha * (x.flatten(1) + 1.05 * far)
        back = goal.margin(model(moved.view_as(x))) > 0
        expected = torch.where(back[:, None], x.flatten(1) + 0.9 * (moved - x.flatten(1)), moved)
        assert back.all() or share > 1
        torch.testing.assert_close(look.state[0].flatten(1), expected, rtol=0, atol=1e-5)
        assert look.queries == 2
        assert look.gradients == 1


def test_towards_each_class_in_turn_what_the_nearest_boundary_hides():
    """A decoy: its boundary is the nearest all along, and never reached."""

    def model(z):
        far = (z - 0.5).flatten(1)
        decoy = 0.099 - 0.05 * (far[:, 0] - 0.1).abs()
        honest = 1.2 * far.mean(1) - 0.05
        return torch.stack([torch.full_like(decoy, 0.1), decoy, honest], 1)

    x, goal, draws = torch.full((4, 1, 4, 4), 0.5), Untargeted(torch.zeros(4, dtype=torch.long)), Draws.of(0, torch.arange(4))
    assert not fab(model, x, goal, Linf(math.inf), steps=30, generator=draws).success.any()
    found = fab(model, x, goal, Linf(math.inf), steps=30, targets=9, generator=draws)
    assert (model(found.x_adv).argmax(1) == 2).all()
    torch.testing.assert_close((found.x_adv - x).abs().amax((1, 2, 3)), torch.full((4,), 0.125), rtol=0.01, atol=0)
    assert (found.gradients == 2 * 30).all()  # one gradient a step, for each of two targets


@KINDS
def test_findings_wanted_at_once_are_all_crossed(kind):
    """As near as FMN comes at least: the boundaries are crossed together, not one after the other."""
    model = small_network(3, classes=5)
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    answer = model(x).detach()
    goal = Findings.against((answer > answer.median(0).values).long(), answer.median(0).values)
    ball, draws = kind(math.inf), Draws.of(0, torch.arange(16))
    found, other = (walk(model, x, goal, ball, steps=40, generator=draws) for walk in (fab, fmn))
    assert found.success.all()
    assert torch.equal(found.success, goal.reached(model(found.x_adv)))
    assert ball.size(found.x_adv - x).median() <= 1.05 * ball.size(other.x_adv - x).median()


@pytest.mark.parametrize(("kind", "truth"), [(Linf, 0.2), (L2, 0.4), (L1, 0.8)])
def test_two_conditions_that_pull_apart_are_met_at_their_nearest_corner(kind, truth):
    """Both sums of pairs of values must grow by 0.4: each by its own two values, of which one cannot carry all."""
    ways = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])

    def model(z):
        return (z - 0.5).flatten(1) @ ways.T - 0.4

    x, goal = torch.full((1, 1, 2, 2), 0.5), Findings(torch.tensor([[1, 1]]), torch.zeros(2))
    ball = kind(math.inf, Pixels(high=0.8))
    found = fab(model, x, goal, ball, generator=Draws.of(0, torch.arange(1)))
    assert found.success.all()
    assert truth * (1 - 1e-5) <= ball.size(found.x_adv - x).item() <= 1.02 * truth


def test_values_that_reach_the_end_of_their_range_on_the_way_are_not_forgotten():
    """A slope without them is another plane, seen from the image: walks in L1 would miss two of these."""
    model = small_network(3, classes=5, seed=1)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    goal = Untargeted(model(x).argmax(1))
    assert fab(model, x, goal, L1(math.inf), steps=30, generator=Draws.of(0, torch.arange(8))).success.all()


@KINDS
def test_an_image_that_is_wrong_anyway_is_its_own_nearest(kind, draws):
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, first = Untargeted(1 - model(x).argmax(1)), torch.zeros(16, dtype=torch.int64)
    problem = Problem.of(model, x, goal, kind(math.inf), draws, takes=(kind,), endless=True)
    assert torch.equal(_Walk(3, 0.1, 1.05, 0.9, 10).look(problem, (x, first), first).point, x)
    found = fab(model, x, goal, kind(math.inf), steps=3, generator=draws)
    assert found.success.all()
    assert torch.equal(found.x_adv, x)
    assert (found.queries == 6).all()  # nothing is left to search


@KINDS
def test_restarts_find_a_nearer_boundary_that_the_image_does_not_show(kind, draws):
    def model(z):
        one, other = (z - 0.5).flatten(1).unbind(1)
        rise = torch.maximum(one - 0.3, 1.6 * other.abs() - 0.35)  # at the image only the first has a slope
        return torch.stack([torch.zeros_like(rise), rise], 1)

    x, goal, ball = torch.full((16, 1, 1, 2), 0.5), Untargeted(torch.zeros(16, dtype=torch.long)), kind(math.inf)
    once, often = (ball.size(fab(model, x, goal, ball, steps=15, restarts=n, generator=draws).x_adv - x) for n in (1, 4))
    torch.testing.assert_close(once, torch.full((16,), 0.3), rtol=0.01, atol=0)
    assert (often <= once * (1 + 1e-5)).all()
    assert (often > 0.35 / 1.6).all()
    assert (often < 0.23).float().mean() > 0.7


@KINDS
def test_restarts_begin_within_half_of_epsilon_or_of_the_distance_to_a_boundary(kind, draws):
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, walk, first = Untargeted(model(x).argmax(1)), _Walk(10, 0.1, 1.05, 0.9, 10), torch.zeros(16, dtype=torch.int64)
    for epsilon, most in ((0.01, torch.full((16,), 0.005)), (math.inf, 0.5 * model.distance(x, kind))):
        problem = Problem.of(model, x, goal, kind(epsilon), draws, takes=(kind,), endless=True)
        begun = kind(1.0).size(walk.look(problem, walk.start(problem, first + 1), first).state[0] - x)
        assert (begun <= most * (1 + 1e-4)).all()
        assert (begun > 0.8 * most).all()  # in 48 values nearly all of a ball lies near its surface


def test_the_final_search_lands_on_the_boundary_and_is_paid_for(draws):
    model = Counting(Plane()).eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    problem = Problem.of(model, x, Untargeted(y), L2(math.inf), draws, takes=(L2,), endless=True)
    found = Gathered(problem, nearest)
    _draw_in(problem, found)  # nothing fools yet, so there is nothing to search
    assert not found.queries.any()
    normal = (model.model.w / model.model.w.norm()).detach().view(1, 3, 4, 4) * (1 - 2 * y)[:, None, None, None]
    far = x + 3 * model.model.distance(x, L2)[:, None, None, None] * normal
    found.judge(problem, torch.arange(16), far, None)
    assert (found.margin > 0).all()
    model.images = 0
    _draw_in(problem, found)
    torch.testing.assert_close(L2(1.0).size(found.x_adv - x), model.model.distance(x, L2), rtol=1e-3, atol=0)
    assert (found.margin > 0).all()
    assert model.images == 16 * (1 + SEARCHES)
    assert (found.queries == 1 + 1 + SEARCHES).all()


@KINDS
def test_the_first_point_that_fools_is_farther_than_the_last(kind, network, draws):
    model, x, goal = network
    ball = kind(math.inf)
    first, last = (fab(model, x, goal, ball, steps=40, generator=draws, **until) for until in ({"until": FOOLED}, {}))
    assert first.success.all()
    assert (ball.size(last.x_adv - x) <= ball.size(first.x_adv - x) + 1e-6).all()
    assert first.gradients.sum() < 0.2 * last.gradients.sum()
    assert (last.gradients == 4 * 40).all()  # the other classes, a gradient each
    assert (last.queries == 2 * 40 + 1 + SEARCHES).all()


@KINDS
def test_what_lies_farther_than_counts_is_no_success(kind, draws):
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    radius = model.distance(x, kind)
    limit = 1.01 * radius.median()
    found = fab(model, x, Untargeted(model(x).argmax(1)), kind(limit.item()), generator=draws)
    assert torch.equal(found.success, radius < limit)
    assert (kind(1.0).size(found.x_adv - x) <= limit * (1 + 1e-5)).all()


@KINDS
def test_the_point_that_is_stored_is_the_one_that_is_judged(kind):
    model = small_network(3, classes=5)
    x = (255 * torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))).round().expand(-1, 3, -1, -1) / 255
    region = torch.ones(8, 1, 8, 8)
    region[..., :3] = 0
    goal = Untargeted(model(x).argmax(1))
    ball = kind(math.inf, Pixels(region=region, tied=True, grid=1 / 255))
    draws = Draws.of(0, torch.arange(8))
    found = fab(model, x, goal, ball, steps=50, generator=draws)
    delta = found.x_adv - x
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert torch.equal(delta[:, 0], delta[:, 2])
    assert not (delta * (1 - region)).any()
    assert found.success.all()
    assert torch.equal(found.success, goal.reached(model(found.x_adv)))
    free = fab(model, x, goal, kind(math.inf, Pixels(region=region, tied=True)), steps=50, generator=draws)
    assert ball.size(delta).median() <= 1.1 * ball.size(free.x_adv - x).median()


@KINDS
def test_a_grid_far_coarser_than_the_distance_is_walked_to(kind, draws):
    """A walk that believed the unrounded point would step back before it reaches the first value that can be stored."""
    model = Plane().eval()
    x = (0.5 + 0.1 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))).mul(8).round() / 8
    x = x[model.distance(x, Linf) > 1e-3]  # a hundredth of what can be stored is as far as 100 steps carry
    some = draws.take(torch.arange(len(x)))
    found = fab(model, x, Untargeted(model(x).argmax(1)), kind(math.inf, Pixels(grid=1 / 8)), generator=some)
    assert found.success.all()
    torch.testing.assert_close(8 * found.x_adv, (8 * found.x_adv).round())


def test_a_condition_without_a_slope_does_not_hold_up_the_others():
    def model(z):
        one, other = (z - 0.5).flatten(1).unbind(1)
        return torch.stack([one + other - 0.4, (one - 0.15).relu() - 0.02], 1)

    x, goal = torch.full((1, 1, 1, 2), 0.5), Findings(torch.tensor([[1, 1]]), torch.zeros(2))
    found = fab(model, x, goal, L2(math.inf), generator=Draws.of(0, torch.arange(1)))
    assert found.success.all()
    assert L2(1.0).size(found.x_adv - x).item() == pytest.approx(0.4 / math.sqrt(2), rel=0.01)


def test_a_boundary_that_only_the_proposer_sees_is_passed():
    """A twin whose boundary lies a little nearer claims success too early; the search at the end asks the model itself."""
    model, x = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)

    def eager(z):
        return model(z) + torch.tensor([-0.03, 0.0, 0.0])

    found = fab(
        Victim(model, eager), x, Untargeted(torch.tensor([0])), L2(math.inf, FREE), generator=Draws.of(0, torch.arange(1))
    )
    assert found.success.all()
    assert L2(1.0).size(found.x_adv - x).item() == pytest.approx(0.4737364557517151, rel=0.01)
