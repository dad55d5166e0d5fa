"""The climb along views: with views that change nothing it is momentum's own, and what views cost is counted."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.ascent import climb
from antivenom.attacks.mim import accumulated, mim
from antivenom.attacks.problem import Problem
from antivenom.attacks.views import ViewClimber
from antivenom.errors import SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.sparse import L1
from toys import Plane, small_network


@pytest.fixture
def scene():
    model = small_network(3, classes=4)
    x = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(6))


def run(model, x, goal, ball, draws, view, *, steps=5, copies=1, until=SPENT):
    problem = Problem.of(model, x, goal, ball, draws, takes=(Linf, L2, L1))
    climber = ViewClimber(steps, copies, view, accumulated(1.0, 0.1), log_odds)
    return climb(problem, climber, restarts=1, until=until).result


def unchanged(problem, z):  # noqa: ARG001 - whatever is drawn
    return z


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.4), L1(3.0)])
def test_views_that_change_nothing_lead_where_momentum_does(scene, ball, copies):
    model, x, goal, draws = scene
    found = run(model, x, goal, ball, draws, unchanged, copies=copies)
    plain = mim(model, x, goal, ball, steps=5, until=SPENT, generator=draws)
    torch.testing.assert_close(found.x_adv, plain.x_adv, rtol=0, atol=1e-5)
    assert torch.equal(found.success, plain.success)


def test_every_view_is_paid_for_and_so_is_the_point_itself(scene):
    model, x, goal, draws = scene
    found = run(model, x, goal, Linf(1e-6), draws, unchanged, steps=5, copies=7)
    assert found.gradients.tolist() == [5 * 7] * 6
    assert found.queries.tolist() == [5 * 8] * 6


@pytest.mark.parametrize("batch", [1, 6, 17, 64])
def test_how_many_views_share_a_batch_changes_nothing(scene, batch):
    model, x, goal, draws = scene
    largest = []

    def watched(z):
        largest.append(len(z))
        return model(z)

    def jittered(problem, z):
        return z + 0.1 * problem.draws.normal(*z.shape[1:])

    victim = Victim(watched, watched, batch=batch)
    found = run(victim, x, goal, L2(0.5), draws, jittered, copies=5)
    torch.testing.assert_close(found.x_adv, run(model, x, goal, L2(0.5), draws, jittered, copies=5).x_adv, rtol=0, atol=1e-5)
    assert max(largest) <= max(batch, 2)


def test_every_image_step_and_copy_draws_a_view_of_its_own(scene):
    model, x, goal, draws = scene
    seen = []

    def watched(problem, z):
        seen.append(problem.draws.key)
        return z

    run(model, x, goal, Linf(0.01), draws, watched, steps=4, copies=5)
    keys = torch.cat(seen)
    assert len(keys) == 4 * 5 * 6
    assert len(keys.unique()) == len(keys)


def test_the_gradient_is_the_mean_over_views():
    """On a plane, views that keep one half of the image each: the mean gradient is half the plane's normal."""
    model = Plane().eval()
    x, goal, draws = torch.full((2, 3, 4, 4), 0.5), Untargeted(torch.tensor([0, 1])), Draws.of(0, torch.arange(2))
    halves = iter([slice(0, 2), slice(2, 4)])

    def half(problem, z):  # noqa: ARG001 - one half after the other
        kept = torch.zeros_like(z)
        kept[..., next(halves)] = 1
        return 0.5 + kept * (z - 0.5)

    problem = Problem.of(Victim(model, model, batch=2), x, goal, Linf(0.1), draws, takes=(Linf,))
    climber = ViewClimber(1, 2, half, accumulated(1.0, 0.1), log_odds)
    gradient, broken = climber._mean_gradient(problem, x, torch.zeros(2, dtype=torch.long))
    # The log-odds of two classes are the difference of their logits, 2 w.x.
    torch.testing.assert_close(gradient[0].flatten(), model.w.detach())
    torch.testing.assert_close(gradient[1].flatten(), -model.w.detach())
    assert not broken.any()


def test_a_view_that_breaks_is_flagged_and_does_not_stop_the_others(scene):
    model, x, goal, draws = scene

    def broken(problem, z):
        lost = problem.draws.uniform() < 0.3
        return z * torch.ones(len(z)).masked_fill(lost, torch.nan).reshape(-1, 1, 1, 1)

    found = run(Victim(model, model, batch=6), x, goal, Linf(0.05), draws, broken, copies=6)
    assert found.flags["non-finite-gradient"].any()
    assert found.x_adv.isfinite().all()
    assert (found.x_adv != x).any()


def test_points_are_looked_at_and_not_their_views(scene):
    """A view that always fools claims no success for the point."""
    model, x, goal, draws = scene
    found = run(model, x, goal, Linf(1e-6), draws, lambda _, z: 1 - z, copies=2)
    assert not found.success.any()
    assert torch.equal(found.success, goal.reached(model(found.x_adv)))


def test_no_view_is_refused():
    with pytest.raises(SettingsError, match="copies=0"):
        ViewClimber(5, 0, unchanged, accumulated(1.0, 0.1), log_odds)


def test_a_goal_and_a_set_that_differ_by_image_go_with_their_views(scene):
    model, x, goal, draws = scene
    sizes = torch.linspace(0.01, 0.06, 6)
    found = run(model, x, goal, Linf(sizes), draws, unchanged, copies=3)
    for image in range(6):
        one = torch.tensor([image])
        alone = run(model, x[one], goal.take(one), Linf(sizes[image].item()), draws.take(one), unchanged, copies=3)
        torch.testing.assert_close(found.x_adv[one], alone.x_adv, rtol=0, atol=1e-5)
    assert (Linf(1.0).size(found.x_adv - x) <= sizes * (1 + 1e-5)).all()
