"""The nearest point of an L1 or L0 ball and the range at once, against a solver and against trying them all."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1


@pytest.mark.parametrize("seed", range(5))
def test_l1_goes_to_the_nearest_point_of_ball_and_range(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 1, 6, generator=generator).double()
    x[..., 0], x[..., 1] = 0, 1
    far = x + torch.randn(x.shape, generator=generator)
    found = L1(0.7).project(far, x) - x
    wanted = (far - x).flatten().numpy()
    low, high = (-x).flatten().numpy(), (1 - x).flatten().numpy()
    # Each value is written as a rise minus a fall, so that the ball has flat sides.
    solved = minimize(
        lambda v: np.square(v[:6] - v[6:] - wanted).sum(),
        np.zeros(12),
        bounds=[(0, h) for h in high] + [(0, -w) for w in low],
        constraints={"type": "ineq", "fun": lambda v: 0.7 - v.sum()},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    np.testing.assert_allclose(found.flatten().numpy(), solved.x[:6] - solved.x[6:], atol=1e-5)
    clipped_after = L1(0.7).shrink(far - x).clamp(-x, 1 - x)
    assert (found - (far - x)).norm() <= (clipped_after - (far - x)).norm() + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_l0_keeps_the_values_that_bring_it_nearest(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 2, 3, generator=generator)
    delta = torch.randn(x.shape, generator=generator)
    found = L0(2).project(x + delta, x) - x
    assert (found != 0).sum() == 2
    clipped = delta.clamp(-x, 1 - x).flatten()
    distances = []
    for kept in itertools.combinations(range(6), 2):
        tried = torch.zeros(6)
        tried[list(kept)] = clipped[list(kept)]
        distances.append(float((tried - delta.flatten()).norm()))
    assert float((found - delta).norm()) == pytest.approx(min(distances))


def test_tied_channels_change_whole_pixels_only():
    x = torch.full((2, 3, 4, 4), 0.5)
    delta = L0(7, Pixels(tied=True)).project(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)), x) - x
    assert ((delta != 0).sum((1, 2, 3)) == 6).all()  # two pixels of three channels; a third would be nine values
    assert torch.equal(delta[:, 0], delta[:, 1])


def test_a_budget_of_less_than_one_value_moves_nothing():
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(L0(0.4).project(1 - x, x), x)


def test_without_a_limit_tied_channels_keep_every_change():
    x, change = torch.full((2, 3, 4, 4), 0.5), 0.1 * torch.ones(2, 1, 4, 4)
    assert torch.equal(L0(float("inf"), Pixels(tied=True)).project(x + change, x), x + change)
