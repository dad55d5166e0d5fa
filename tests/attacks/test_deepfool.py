"""DeepFool on models whose nearest boundary is known."""

import math

import pytest
import torch
from torch import nn

from antivenom.attacks.deepfool import deepfool
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from toys import FREE, Affine, Counting, Plane, Sphere

DRAWS = Draws.of(0, torch.arange(1))


@pytest.fixture
def affine():
    return Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(("kind", "nearest", "other"), [(L2, 0.4737364557517151, 0.5879747), (Linf, 0.2846153846, 0.3666667)])
def test_the_affine_case(affine, kind, nearest, other):
    model, x = affine
    assert model(x)[0].tolist() == pytest.approx([1.7, -0.5, -0.15])
    ball = kind(math.inf, FREE)
    found = deepfool(model, x, Untargeted(torch.tensor([0])), ball, generator=DRAWS)
    assert found.success.all()
    assert model(found.x_adv).argmax(1).item() == 2
    assert ball.size(found.x_adv - x).item() == pytest.approx(1.02 * nearest, rel=3e-4)
    aimed = deepfool(model, x, Targeted(torch.tensor([1])), ball, generator=DRAWS)
    assert model(aimed.x_adv).argmax(1).item() == 1
    assert ball.size(aimed.x_adv - x).item() >= other
    far = deepfool(model, x, Untargeted(torch.tensor([0])), ball, overshoot=9, generator=DRAWS)
    assert ball.size(far.x_adv - x).item() == pytest.approx(10 * nearest, rel=3e-4)
    assert far.gradients.item() == 4  # one step: both slopes at the image, and where it landed


@pytest.mark.parametrize("kind", [L2, Linf])
def test_one_step_crosses_a_plane_and_no_more_is_spent(kind):
    model = Counting(Plane()).eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    found = deepfool(model, x, Untargeted(y), kind(math.inf), generator=torch.Generator().manual_seed(0))
    size = kind(math.inf).size(found.x_adv - x)
    torch.testing.assert_close(size, 1.02 * model.model.distance(x, kind), rtol=1e-3, atol=1e-7)


def test_a_curved_boundary_takes_more_steps_and_stays_near():
    model = Sphere().eval()
    x = 0.5 + 0.2 * torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = deepfool(model, x, Untargeted(model(x).argmax(1)), L2(math.inf), generator=Draws.of(0, torch.arange(16)))
    size, truth = L2(math.inf).size(found.x_adv - x), model.distance(x)
    assert found.success.all()
    assert (size >= truth).all()
    assert (size <= 1.05 * truth + 1e-4).all()
    assert found.gradients.max() > 2


def test_what_lies_farther_than_counts_is_no_success():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    radius = model.distance(x, L2)
    limit = 1.03 * radius.median()
    found = deepfool(model, x, Untargeted(model(x).argmax(1)), L2(limit.item()), generator=Draws.of(0, torch.arange(16)))
    assert torch.equal(found.success, radius < limit)
    assert (L2(1.0).size(found.x_adv - x) <= limit * (1 + 1e-5)).all()


def test_only_the_nearest_candidates_are_linearised():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 9)).eval()
    x = torch.rand(8, 3, 4, 4)
    goal = Untargeted(model(x).argmax(1))
    few, all_of_them = (
        deepfool(model, x, goal, L2(math.inf), steps=1, candidates=k, generator=Draws.of(0, torch.arange(8))) for k in (3, 9)
    )
    assert (few.gradients == 3).all()
    assert (all_of_them.gradients == 8).all()
    size = L2(math.inf).size
    assert (size(few.x_adv - x) >= size(all_of_them.x_adv - x) - 1e-6).all()


def test_findings_wanted_at_once_are_all_crossed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = 0.3 + 0.4 * torch.rand(8, 3, 4, 4)
    goal = Findings.against((model(x) > 0).long(), torch.zeros(3))
    found = deepfool(model, x, goal, L2(math.inf), generator=Draws.of(0, torch.arange(8)))
    assert found.success.all()
    assert ((model(found.x_adv) > 0) != (model(x) > 0)).all()


@pytest.mark.parametrize("goal", [Untargeted(torch.tensor([0])), Targeted(torch.tensor([1]))])
def test_a_boundary_that_only_the_proposer_sees_is_passed(affine, goal):
    """A twin whose boundary lies a little nearer claims success too early: the walk goes on until the model agrees."""
    model, x = affine

    def eager(z):
        return model(z) + torch.tensor([-0.2, 0.1, 0.1])

    found = deepfool(Victim(model, eager), x, goal, L2(math.inf, FREE), generator=DRAWS)
    assert found.success.all()
    honest = deepfool(model, x, goal, L2(math.inf, FREE), generator=DRAWS)
    assert L2(1.0).size(found.x_adv - x) < 2 * L2(1.0).size(honest.x_adv - x)


def test_rounding_does_not_hold_it_up_before_the_boundary():
    model = Plane().eval()
    x = 0.5 + 0.1 * torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = x[model.distance(x, L2) > 0.01]
    y = model(x).argmax(1)
    # Logits so large that float32 tells margins apart in steps of 8e-6 only.
    found = deepfool(
        lambda z: 100 + model(z),
        x,
        Untargeted(y),
        L2(math.inf, FREE),
        overshoot=0.0,
        generator=Draws.of(0, torch.arange(len(x))),
    )
    assert found.success.all()
    torch.testing.assert_close(L2(1).size(found.x_adv - x), model.distance(x, L2), rtol=0.01, atol=1e-3)
