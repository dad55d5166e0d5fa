"""FMN where the smallest perturbation is known: it comes within a percent of it, and never below."""

import math

import pytest
import torch

from antivenom.attacks import FOOLED
from antivenom.attacks.ddn import ddn
from antivenom.attacks.fmn import _Walk, fmn
from antivenom.attacks.problem import Problem
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import margin
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0
from toys import FREE, Affine, Plane, Sphere, small_network

KINDS = pytest.mark.parametrize("kind", [Linf, L2])


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(16))


@pytest.mark.parametrize(("kind", "truth"), [(L2, 0.4737364557517151), (Linf, 0.2846153846)])
def test_the_affine_case(kind, truth):
    model, x = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)
    ball = kind(math.inf, FREE)
    found = fmn(model, x, Untargeted(torch.tensor([0])), ball, steps=300, generator=Draws.of(0, torch.arange(1)))
    assert truth * (1 - 1e-5) <= ball.size(found.x_adv - x).item() <= 1.01 * truth


@KINDS
def test_ends_just_beyond_a_plane(kind, draws):
    model = Plane().eval()
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    truth = model.distance(x, kind)
    found = fmn(model, x, Untargeted(model(x).argmax(1)), kind(math.inf), steps=300, generator=draws)
    size = kind(math.inf).size(found.x_adv - x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4) - 1e-7).all()
    assert (size <= 1.01 * truth + 2e-4).all()


def test_ends_just_beyond_a_sphere(draws):
    model = Sphere((3, 4, 4)).eval()
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = fmn(model, x, Untargeted(model(x).argmax(1)), L2(math.inf), steps=300, generator=draws)
    assert found.success.all()
    assert (L2(1.0).size(found.x_adv - x) <= 1.01 * model.distance(x) + 1e-3).all()


@KINDS
def test_the_first_point_that_fools_is_farther_than_the_last(kind, draws):
    model, ball = small_network(3, classes=5), kind(math.inf)
    x = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    first, last = (fmn(model, x, goal, ball, generator=draws, **until) for until in ({"until": FOOLED}, {}))
    assert first.success.all()
    assert (ball.size(last.x_adv - x) <= ball.size(first.x_adv - x) + 1e-6).all()
    assert first.gradients.sum() < last.gradients.sum()


def test_is_no_worse_than_ddn_in_its_norm(draws):
    model, ball = small_network(3, classes=5), L2(math.inf)
    x = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    sizes = [ball.size(walk(model, x, goal, ball, generator=draws).x_adv - x).median() for walk in (fmn, ddn)]
    assert sizes[0] <= 1.01 * sizes[1]


@KINDS
def test_the_point_that_is_stored_is_the_one_that_is_judged(kind, draws):
    model = small_network(3, classes=5)
    x = (255 * torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))).round() / 255
    goal = Untargeted(model(x).argmax(1))
    found = fmn(model, x, goal, kind(math.inf, Pixels(grid=1 / 255)), generator=draws)
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert found.success.all()
    assert torch.equal(found.success, goal.reached(model(found.x_adv)))


@pytest.mark.parametrize(("label", "expected"), [(0, 4.0), (1, 6.0)])
def test_of_few_values_at_least_one_is_given_up_or_gained(draws, label, expected):
    model, x = Plane().eval(), torch.full((16, 3, 4, 4), 0.5)
    first = (torch.arange(48) < 5).reshape(3, 4, 4)
    point = x + 0.3 * model.w.detach().sign().reshape(3, 4, 4) * first
    assert (model(point).argmax(1) == 1).all()
    problem = Problem.of(model, x, Untargeted(torch.full((16,), label)), L0(math.inf), draws, takes=(L0,), endless=True)
    radius = torch.full((16,), 5.0)
    state = point, radius, torch.where(torch.tensor(label == 0), radius, 7.0)
    after = _Walk(100, 1.0, 0.05, margin).look(problem, state, torch.full((16,), 3)).state[1]
    assert (after == expected).all()
