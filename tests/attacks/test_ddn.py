"""DDN where the smallest perturbation is known: it comes within a percent of it, and never below."""

import math

import pytest
import torch

from antivenom.attacks import FOOLED
from antivenom.attacks.ddn import ddn
from antivenom.attacks.deepfool import deepfool
from antivenom.attacks.fmn import fmn
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.objectives import margin
from antivenom.threat.perturbations import L2
from antivenom.threat.pixels import Pixels
from toys import FREE, Affine, Plane, Sphere, small_network

ANY = L2(math.inf)


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(16))


def test_the_affine_case():
    model, x = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)
    found = ddn(model, x, Untargeted(torch.tensor([0])), L2(math.inf, FREE), steps=1000, generator=Draws.of(0, torch.arange(1)))
    size = ANY.size(found.x_adv - x).item()
    assert 0.4737364 <= size <= 1.01 * 0.4737364557517151


@pytest.mark.parametrize("model", [Plane(), Sphere((3, 4, 4))])
def test_ends_just_beyond_a_known_boundary(model, draws):
    model = model.eval()
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    truth = model.distance(x, L2) if isinstance(model, Plane) else model.distance(x)
    found = ddn(model, x, Untargeted(model(x).argmax(1)), ANY, steps=300, generator=draws)
    size = ANY.size(found.x_adv - x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-5)).all()
    assert (size <= 1.01 * truth + 1e-3).all()


def test_the_first_point_that_fools_is_farther_than_the_last(draws):
    model = small_network(3, classes=5)
    x = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    first, last = (ddn(model, x, goal, ANY, generator=draws, **until) for until in ({"until": FOOLED}, {}))
    assert first.success.all()
    assert last.success.all()
    assert (ANY.size(last.x_adv - x) <= ANY.size(first.x_adv - x) + 1e-6).all()
    assert first.gradients.sum() < last.gradients.sum()
    near = deepfool(model, x, goal, ANY, generator=draws)
    assert ANY.size(last.x_adv - x).median() <= ANY.size(near.x_adv - x).median()


def test_what_lies_farther_than_counts_is_no_success(draws):
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    radius = model.distance(x, L2)
    limit = 1.02 * radius.median().item()
    found = ddn(model, x, Untargeted(model(x).argmax(1)), L2(limit), steps=300, generator=draws)
    assert torch.equal(found.success, radius < limit)


def test_the_point_that_is_stored_is_the_one_that_is_judged(draws):
    model = small_network(3, classes=5)
    x = (255 * torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))).round() / 255
    found = ddn(model, x, Untargeted(model(x).argmax(1)), L2(math.inf, Pixels(grid=1 / 255)), generator=draws)
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert found.success.any()
    assert torch.equal(found.success, model(found.x_adv).argmax(1) != model(x).argmax(1))


@pytest.mark.parametrize("attack", [ddn, fmn])
def test_the_class_that_gives_way_first_is_found_though_another_seems_nearer(attack, draws):
    def model(x):
        flat = x.flatten(1)
        return torch.stack([0 * flat[:, 0], 1.2 * flat[:, 0] - 1, 4 * flat[:, 1] - 1.2], 1)  # boundaries at 0.83 and at 0.3

    x, goal, alone = torch.zeros(1, 1, 1, 2), Untargeted(torch.tensor([0])), draws.take(torch.tensor([0]))

    def distance(**settings):
        found = attack(model, x, goal, L2(math.inf), steps=200, generator=alone, **settings)
        assert bool(found.success)
        return float((found.x_adv - x).norm())

    assert distance() == pytest.approx(0.3, abs=0.01)
    assert distance(objective=margin) == pytest.approx(1 / 1.2, abs=0.02)
