"""APGD: the paper's checkpoints, its halving, and what its larger first steps are good for."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.apgd import _Adaptive, apgd, checkpoints
from antivenom.attacks.pgd import pgd
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import dlr, log_odds, margin
from antivenom.threat.perturbations import L2, Linf
from toys import small_network


@pytest.fixture
def network():
    model = small_network(3, classes=5)
    x = torch.rand(48, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(48))


@pytest.mark.parametrize(
    ("steps", "places"),
    [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (10, [3, 5, 6, 7, 8, 9, 10, 10]), (1, [1] * 8)],
)
def test_the_paper_s_checkpoints(steps, places):
    assert checkpoints(steps) == places


def test_steps_begin_at_twice_epsilon_and_are_halved_at_checkpoints_only(network, monkeypatch):
    model, x, y, draws = network
    strides = []
    look = _Adaptive.look

    def watched(self, problem, state, step):
        found = look(self, problem, state, step)
        strides.append(found.state[5].clone())
        return found

    monkeypatch.setattr(_Adaptive, "look", watched)
    apgd(model, x, Untargeted(y), Linf(0.02), steps=50, until=SPENT, generator=draws)
    halvings = torch.stack(strides).log2().diff(dim=0)
    assert (strides[0] == 2).all()
    assert set(halvings.unique().tolist()) == {-1.0, 0.0}
    halved_after = (halvings < 0).any(1).nonzero()[:, 0] + 1
    assert set(halved_after.tolist()) <= set(checkpoints(50))


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("objective", [log_odds, dlr])
def test_climbs_at_least_as_high_as_pgd_for_as_many_gradients(network, kind, objective):
    model, x, y, draws = network
    ball, goal = kind(0.02 if kind is Linf else 0.3), Untargeted(y)
    common = {"steps": 40, "objective": objective, "until": SPENT, "generator": draws}
    reached = [
        goal.margin(model(found.x_adv)).detach()
        for found in (apgd(model, x, goal, ball, **common), pgd(model, x, goal, ball, **common))
    ]
    slack = 0.02 * (reached[1] - goal.margin(model(x))).detach()
    assert (reached[0] >= reached[1] - slack).float().mean() >= 0.95


def test_what_was_not_reached_by_the_end_is_not_claimed(network):
    model, x, y, draws = network
    result = apgd(model, x, Untargeted(y), Linf(1e-6), steps=5, generator=draws)
    assert not result.success.any()
    assert (result.gradients == 5).all()


def test_climbing_towards_each_class_in_turn_finds_what_climbing_away_does_not():
    """Against a model with a decoy: the class that comes nearest to the true one never wins, another would."""

    def model(z):
        far = (z - 0.5).flatten(1)
        decoy = 0.099 - 0.02 * (far[:, 0] - 0.1).abs()
        honest = 1.2 * far.mean(1) - 0.05
        return torch.stack([torch.full_like(decoy, 0.1), decoy, honest], 1)

    x, goal = torch.full((4, 1, 4, 4), 0.5), Untargeted(torch.zeros(4, dtype=torch.long))
    common = {"steps": 20, "objective": margin, "generator": Draws.of(0, torch.arange(4))}
    assert not apgd(model, x, goal, Linf(0.2), **common).success.any()
    found = apgd(model, x, goal, Linf(0.2), targets=9, **common)
    assert found.success.all()
    assert (model(found.x_adv).argmax(1) == 2).all()


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_targets_are_tried_in_turn_and_paid_for(classes):
    model = small_network(3, classes=classes)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    y, draws = model(x).argmax(1), Draws.of(0, torch.arange(8))
    found = apgd(model, x, Untargeted(y), Linf(1e-6), steps=4, targets=9, objective=dlr, generator=draws)
    assert (found.gradients == 4 * (classes - 1)).all()  # none falls, so every other class is tried
