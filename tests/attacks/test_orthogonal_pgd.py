import pytest
import torch
from torch import nn

from antivenom.attacks.bim import bim
from antivenom.attacks.orthogonal_pgd import orthogonal_pgd
from antivenom.attacks.pgd import pgd
from antivenom.attacks.result import SPENT
from antivenom.errors import SettingsError
from antivenom.threat.evading import Evading
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import log_odds, selective
from antivenom.threat.perturbations import L2


class TwoPlanes(nn.Module):
    """Two logits that read the first pixel, and a score that reads the second and, where it leaks, the first."""

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.leak = leak
        self.eval()

    def forward(self, x):
        first, second = (x - 0.5).flatten(1)[:, :2].unbind(1)
        return torch.stack([-first, first, 10 * (second + self.leak * first)], 1)


X = torch.full((4, 1, 1, 2), 0.5) - torch.tensor([0.1, 0.0])


def goal():
    return Evading(Untargeted(torch.zeros(4, dtype=torch.int64)), torch.tensor([0.0]), torch.tensor([1.0]))


def run(attack, model, allowed, **settings):
    return attack(model, X, goal(), allowed, generator=torch.Generator().manual_seed(0), **settings)


def test_it_fools_unnoticed_where_the_way_there_is_noticed():
    model = TwoPlanes(leak=0.5)
    naive = bim(model, X, Untargeted(goal().goal.labels), L2(0.2), until=SPENT, generator=torch.Generator())
    assert not goal().reached(model(naive.x_adv)).any()
    assert run(orthogonal_pgd, model, L2(0.2)).success.all()
    assert run(pgd, model, L2(0.2), objective=selective).success.all()
    assert run(pgd, model, L2(0.2), objective=log_odds).success.all()


def test_it_fails_where_no_image_in_reach_does_both():
    assert not run(orthogonal_pgd, TwoPlanes(leak=20.0), L2(0.11)).success.any()
    assert not run(orthogonal_pgd, TwoPlanes(), L2(0.09)).success.any()


def test_a_step_costs_two_gradients():
    found = run(orthogonal_pgd, TwoPlanes(), L2(0.05), steps=5)
    assert (found.gradients == 10).all()


def test_another_goal_is_refused():
    with pytest.raises(SettingsError, match="needs the goal Evading"):
        orthogonal_pgd(TwoPlanes(), X, Untargeted(torch.zeros(4, dtype=torch.int64)), L2(0.1), generator=torch.Generator())
