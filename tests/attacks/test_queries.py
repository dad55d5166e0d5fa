"""The budget of attacks on scores: no image is shown more often than was said, whoever claims success."""

from itertools import pairwise

import pytest
import torch

from antivenom.attacks import FOOLED, SPENT
from antivenom.attacks.few_pixel import few_pixel
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget, answered
from antivenom.attacks.simba import simba
from antivenom.attacks.spsa import spsa
from antivenom.errors import SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import margin
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0
from toys import Counting, Plane, small_network

ATTACKS = [(few_pixel, L0, {"population": 12, "block": 5}), (simba, Linf, {}), (spsa, Linf, {"samples": 4})]
EACH = pytest.mark.parametrize(("attack", "kind", "few"), ATTACKS, ids=[row[0].__name__ for row in ATTACKS])
UNTIL = pytest.mark.parametrize("until", [FOOLED, SPENT])
LITTLE = {Linf: 1e-3, L0: 3.0}  # too little to fool the networks here


def an_image(seed=0):
    model = small_network(3)
    x = (255 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).round() / 255
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(1))


class Boasting(Counting):
    """A twin that always claims success; it counts too."""

    def forward(self, x):
        answer = super().forward(x)
        return answer.scatter(1, self.model(x).argmax(1, keepdim=True), -9.0)


@EACH
@UNTIL
@pytest.mark.parametrize("queries", [7, 8, 9, 20, 61])
@pytest.mark.parametrize("grid", [None, 1 / 255])
def test_no_image_is_shown_more_often_than_was_said(attack, kind, few, until, queries, grid):
    model, x, goal, draws = an_image()
    counting = Counting(model).eval()
    ball = kind(LITTLE[kind] if grid is None else {Linf: grid, L0: 3.0}[kind], Pixels(grid=grid))
    result = attack(counting, x, goal, ball, queries=queries, until=until, generator=draws, **few)
    assert counting.images - 2 == result.queries.sum()  # the door asks twice
    assert result.queries.item() <= queries
    if not result.success.any():
        assert result.queries.item() >= queries - 3


@EACH
@UNTIL
@pytest.mark.parametrize("queries", [9, 30])
def test_nor_where_a_twin_claims_what_the_model_refuses(attack, kind, few, until, queries):
    model, x, goal, draws = an_image()
    judge, twin = Counting(model).eval(), Boasting(model).eval()
    ball = kind(LITTLE[kind], Pixels(grid=1 / 4095))
    result = attack(Victim(judge, twin), x, goal, ball, queries=queries, until=until, generator=draws, **few)
    assert not result.success.any()
    assert judge.images + twin.images - 2 == result.queries.sum()
    assert result.queries.item() <= queries


@EACH
def test_no_more_than_the_batch_is_in_memory_at_a_time(attack, kind, few):
    sizes, model = [], Plane().eval()

    def watched(z):
        sizes.append(len(z))
        return model(z)

    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    attack(Victim(watched, watched, batch=6), x, goal, kind(LITTLE[kind]), queries=40, generator=torch.Generator(), **few)
    assert max(sizes) == 6


@EACH
def test_gradients_are_neither_taken_nor_possible(attack, kind, few):
    model, x, goal, draws = an_image()
    grads = []

    def watched(z):
        grads.append(torch.is_grad_enabled() or z.requires_grad)
        return model(z)

    attack(watched, x, goal, kind(LITTLE[kind]), queries=30, generator=draws, **few)
    assert not any(grads)


@EACH
@UNTIL
def test_more_queries_never_end_lower(attack, kind, few, until):
    model, x, goal, draws = an_image()
    ends = []
    for queries in (10, 22, 34, 58):  # where a budget ends, spsa estimates with fewer pairs: a step more, so a little else
        result = attack(model, x, goal, kind(LITTLE[kind]), queries=queries, until=until, generator=draws, **few)
        ends.append(goal.margin(model(result.x_adv)).item())
    assert ends[-1] > goal.margin(model(x)).item()
    assert all(later >= earlier - 0.02 * (ends[-1] - ends[0]) - 1e-6 for earlier, later in pairwise(ends))


@EACH
def test_a_budget_that_cannot_do_is_refused(attack, kind, few):
    model, x, goal, draws = an_image()
    with pytest.raises(SettingsError, match="at least"):
        attack(model, x, goal, kind(3.0), queries=1, generator=draws, **few)


def problem_of(model, pixels=Pixels()):  # noqa: B008 - frozen
    x = torch.full((5, 3, 4, 4), 0.5)
    goal, draws = Untargeted(torch.tensor([0, 1, 0, 1, 0])), Draws.of(0, torch.arange(5))
    return Problem.of(model, x, goal, Linf(0.1, pixels), draws, takes=(Linf,))


@pytest.mark.parametrize(
    ("twin", "grid", "until", "aside", "claim"),
    [
        (False, None, SPENT, 0, 0),
        (False, None, FOOLED, 1, 0),  # the clean image
        (False, 1 / 255, SPENT, 1, 0),  # the judge at the end
        (False, 1 / 255, FOOLED, 3, 1),  # both, and a last claim that is refused
        (True, None, SPENT, 1, 0),
        (True, None, FOOLED, 3, 1),
    ],
)
def test_what_the_loop_asks_is_set_aside(twin, grid, until, aside, claim):
    model = Plane().eval()
    problem = problem_of(Victim(model, (lambda z: model(z)) if twin else model), Pixels(grid=grid))
    assert Budget.of(problem, 100, until, least=1) == Budget(100 - aside, claim)
    assert Budget.of(problem, aside + 2, until, least=2).looks == 2
    with pytest.raises(SettingsError, match=f"at least {aside + 2} queries"):
        Budget.of(problem, aside + 1, until, least=2)


def test_a_claim_costs_what_the_judge_is_asked():
    left, met = torch.tensor([9, 9, 9]), torch.tensor([-1.0, 1.0, torch.nan])
    assert Budget(9, 1).after(left, torch.tensor([2, 2, 0]), met).tolist() == [7, 6, 9]
    assert Budget(9, 0).after(left, torch.tensor(2), met).tolist() == [7, 7, 7]


def test_every_point_gets_the_answer_for_its_own_image():
    model = Plane().eval()
    problem = problem_of(Victim(model, model, batch=2))
    points = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    owner = torch.tensor([3, 0, 0, 4, 4, 4, 1])
    rise, met = answered(problem, owner, lambda _, rows: points[rows], margin)
    expected = problem.goal.take(owner).margin(model(points))
    torch.testing.assert_close(rise, expected.detach())
    torch.testing.assert_close(met, expected.detach())
    assert [len(part) for part in answered(problem, owner[:0], lambda _, rows: points[rows], margin)] == [0, 0]
