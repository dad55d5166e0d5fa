"""SPSA: what its pairs tell is exact on a plane and on a sphere; its steps, and what they cost."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget
from antivenom.attacks.spsa import _Estimated, spsa
from antivenom.errors import SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import margin
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import FREE, Plane, Sphere, small_network

KINDS = pytest.mark.parametrize("kind", [Linf, L2])
WAYS = pytest.mark.parametrize("directions", ["rademacher", "gaussian"])


@pytest.fixture
def plane():
    model = Plane().eval()
    x = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(8))


def estimator(model, x, *, pixels=FREE, samples=1, directions="rademacher", queries=10_000, batch=64):
    goal, draws = Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(len(x)))
    problem = Problem.of(Victim(model, model, batch), x, goal, Linf(0.1, pixels), draws, takes=(Linf,))
    return problem, _Estimated(Budget(queries, 0), samples, 0.01, 0.3, "adam", directions, margin)


def slopes(model, problem, x):
    """The margin's own gradients."""
    z = x.clone().requires_grad_()
    return torch.autograd.grad(problem.goal.margin(model(z)).sum(), z)[0]


@WAYS
@pytest.mark.parametrize("world", [Plane, Sphere])
def test_a_pair_tells_the_slope_along_its_direction_exactly(world, directions):
    """Of a quadratic too: what is even in the direction falls out of the difference."""
    model = (Plane() if world is Plane else Sphere((3, 4, 4), 0.1)).eval()
    x = 0.4 + 0.2 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    problem, climber = estimator(model, x, directions=directions)
    step, one = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    found = climber._estimate(problem, x, step, one)
    way = climber._directions(problem, step, torch.zeros(6, dtype=torch.long))
    slope = (slopes(model, problem, x) * way).flatten(1).sum(1)
    torch.testing.assert_close(found, slope.reshape(-1, 1, 1, 1) * way, rtol=2e-3, atol=2e-4)


@WAYS
def test_many_pairs_show_the_gradient(plane, directions):
    model, x, _, _ = plane
    problem, climber = estimator(model, x, directions=directions)
    found = climber._estimate(problem, x, torch.zeros(8, dtype=torch.long), torch.full((8,), 2000))
    truth = slopes(model, problem, x).flatten(1)
    alike = torch.cosine_similarity(found.flatten(1), truth)
    assert (alike > 0.97).all()  # 1 / sqrt(1 + 47 / 2000) = 0.99 is to be expected
    torch.testing.assert_close(found.flatten(1).norm(dim=1), truth.norm(dim=1), rtol=0.1, atol=0)


def test_an_image_s_pairs_do_not_depend_on_how_they_are_shown(plane):
    model, x, _, _ = plane
    step, pairs = torch.arange(8), torch.tensor([3, 0, 5, 1, 4, 2, 7, 6])
    estimates = []
    for batch in (2, 5, 64):
        problem, climber = estimator(model, x, samples=7, batch=batch)
        estimates.append(climber._estimate(problem, x, step, pairs))
    for other in estimates[1:]:
        torch.testing.assert_close(other, estimates[0], rtol=1e-4, atol=1e-6)
    assert (estimates[0][1] == 0).all()


def test_pairs_move_only_what_may_move_and_stay_in_range():
    shown, model = [], small_network(3)
    x = torch.zeros(2, 3, 6, 6)
    region = torch.zeros(2, 1, 6, 6)
    region[..., :2] = 1

    def watched(z):
        shown.append(z)
        return model(z)

    spsa(
        watched, x, Untargeted(model(x).argmax(1)), Linf(0.1, Pixels(region=region, tied=True)), queries=60, samples=5,
        until=SPENT, generator=torch.Generator(),
    )  # fmt: skip
    points = torch.cat(shown)
    assert points.min() == 0
    assert (points[:, :, :, 2:] == 0).all()
    assert torch.equal(points[:, 0], points[:, 2])
    assert points.max() > 0.1


@KINDS
@WAYS
@pytest.mark.parametrize("update", ["adam", "steepest"])
def test_ends_near_the_best_point_of_a_plane(plane, kind, directions, update):
    model, x, goal, draws = plane
    ball = kind(0.1 if kind is Linf else 0.5)
    found = spsa(
        model, x, goal, ball, queries=2500, samples=24, update=update, directions=directions, until=SPENT, generator=draws
    )
    rise = (goal.margin(model(found.x_adv)) - goal.margin(model(x))).detach()
    best = 2 * ball.epsilon * ball.dual(model.w.detach().reshape(1, 3, 4, 4))
    assert (rise <= best * (1 + 1e-4)).all()
    assert (rise > (0.9 if update == "adam" else 0.8) * best).all()  # steps of one size come no nearer


@KINDS
@pytest.mark.parametrize("update", ["adam", "steepest"])
def test_the_first_step_has_the_size_that_was_said(plane, kind, update):
    model, x, _, _ = plane
    shown = []

    def watched(z):
        shown.append(z)
        return model(z)

    ball = kind(0.1, FREE)
    spsa(
        watched, x[:1], Untargeted(model(x[:1]).argmax(1)), ball, queries=12, samples=5, step_size=0.25, update=update,
        until=SPENT, generator=torch.Generator(),
    )  # fmt: skip
    points = torch.cat(shown[2:])
    assert len(points) == 11  # one left over: too little for a pair
    assert ball.size(points[-1:] - x[:1]).item() == pytest.approx(0.025, rel=1e-3)


def test_adam_remembers():
    """Two steps, by hand."""
    model = Plane(12).eval()
    x = torch.full((1, 3, 2, 2), 0.5)
    problem, climber = estimator(model, x, samples=3)
    point, first, second, left = climber.start(problem, torch.zeros(1))
    for step in range(3):
        gradient = climber._estimate(problem, point, torch.tensor([step]), torch.tensor([3]))
        mean, square = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        expected = point + 0.3 * 0.1 * (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        expected = x + (expected - x).clamp(-0.1, 0.1)
        look = climber.look(problem, (point, first, second, left), torch.tensor([step]))
        point, first, second, left = look.state
        torch.testing.assert_close(point, expected)
        assert torch.equal(look.point, point)
        assert left.tolist() == [10_000 - 7 * (step + 1)]


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "spent"),
    [
        (3, [3]),  # one pair, and a look at where it leads
        (4, [3]),  # what is left is too little for a pair
        (7, [7]),
        (9, [7]),
        (13, [7, 5]),  # the last estimate makes do with two pairs
        (14, [7, 7]),
        (17, [7, 7, 3]),
    ],
)
def test_each_step_costs_its_pairs_and_a_look(plane, queries, spent):
    model, x, _, _ = plane
    problem, climber = estimator(model, x, samples=3, queries=queries)
    state, found = climber.start(problem, torch.zeros(8)), []
    for step in range(climber.looks):
        look = climber.look(problem, state, torch.full((8,), step))
        state = look.state
        assert len(look.queries.unique()) == 1
        found.append(int(look.queries[0]))
    assert found == spent
    assert (state[-1] == queries - sum(spent)).all()


@pytest.mark.parametrize("queries", [5, 20, 33, 100])
def test_the_budget_is_kept(plane, queries):
    model, x, goal, draws = plane
    found = spsa(model, x, goal, Linf(1e-6), queries=queries, samples=4, generator=draws)
    assert (found.queries <= queries).all()
    assert (found.queries >= queries - 2).all()


def test_an_image_that_is_fooled_spends_no_more(plane):
    model, x, goal, draws = plane
    found = spsa(model, x, goal, Linf(0.3), queries=1000, samples=10, generator=draws)
    assert found.success.all()
    assert ((found.queries - 1) % 21 == 0).all()  # the clean image and whole steps, the last one's look at its point included
    assert found.queries.max() < 200


def test_an_answer_that_is_no_number_moves_nothing(plane):
    model, x, goal, draws = plane

    def broken(z):
        answer = model(z)
        return torch.where((z.flatten(1)[:, :1] > x[0, 0, 0, 0] + 0.005), torch.nan, answer)

    found = spsa(broken, x[:1], Untargeted(goal.labels[:1]), Linf(0.1), queries=200, generator=Draws(draws.key[:1]))
    assert found.x_adv.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "1 sample"),
        ({"delta": 0.0}, "delta"),
        ({"update": "newton"}, "newton"),
        ({"directions": "cauchy"}, "cauchy"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(plane, wrong, said):
    model, x, goal, draws = plane
    with pytest.raises(SettingsError, match=said):
        spsa(model, x, goal, Linf(0.1), generator=draws, **wrong)
