"""The smallest perturbation in a range by which a linear function changes so far: against solvers and trying them all."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1

KINDS = [Linf, L2, L1, L0]


def scene(seed, values=6):
    """One image with a black and a white value, a gradient with a zero, and the most that it can rise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 1, values, generator=generator).double()
    x[..., 0], x[..., 1] = 0, 1
    gradient = torch.randn(x.shape, generator=generator).double()
    gradient[..., 2] = 0
    most = torch.where(gradient > 0, gradient * (1 - x), -gradient * x).sum()
    return x, gradient, most


def solved(kind, x, gradient, rise):
    """Size of the smallest perturbation, by a solver."""
    g, low, high = gradient.flatten().numpy(), (-x).flatten().numpy(), (1 - x).flatten().numpy()
    n = len(g)
    if kind is L2:
        found = minimize(
            lambda v: np.square(v).sum(),
            np.zeros(n),
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda v: g @ v - rise},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        return np.sqrt(found.fun)
    if kind is Linf:  # the size itself is a further unknown
        side = np.concatenate([np.block([[s * np.eye(n), -np.ones((n, 1))]]) for s in (1, -1)])
        cost, equal, bounds = np.r_[np.zeros(n), 1], np.r_[g, 0], [*zip(low, high, strict=True), (0, None)]
        return linprog(cost, side, np.zeros(2 * n), equal[None], [rise], bounds).fun
    bounds = [(0, h) for h in high] + [(0, -w) for w in low]  # each value as a rise minus a fall
    if kind is L1:
        return linprog(np.ones(2 * n), A_eq=np.r_[g, -g][None], b_eq=[rise], bounds=bounds).fun
    gains = np.maximum(g * low, g * high)
    return next(k for k in range(n + 1) if any(sum(some) >= rise for some in itertools.combinations(gains, k)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_smaller_goes_so_far(kind, share, seed):
    x, gradient, most = scene(seed)
    allowed = kind(0.01)  # epsilon has no say
    delta = allowed.reach(gradient, (share * most)[None], *allowed.pixels.limits(x))
    assert ((x + delta >= -1e-12) & (x + delta <= 1 + 1e-12)).all()
    assert float((gradient * delta).sum()) == pytest.approx(float(share * most), rel=1e-9)
    assert float(allowed.size(delta)) == pytest.approx(solved(kind, x, gradient, float(share * most)), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_range_does_not_allow_is_gone_as_far_as_it_does(kind):
    x, gradient, most = scene(0)
    allowed = kind(1.0)
    delta = allowed.reach(gradient, (2 * most)[None], *allowed.pixels.limits(x))
    torch.testing.assert_close((gradient * delta).sum(), most)
    assert (x + delta)[gradient != 0].frac().eq(0).all()  # every value stands at an end of its range
    assert delta[..., 2] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_fall_is_a_rise_of_the_negative(kind):
    x, gradient, _ = scene(1)
    allowed, rise = kind(1.0), torch.tensor([0.3]).double()
    limits = allowed.pixels.limits(x)
    assert torch.equal(allowed.reach(gradient, -rise, *limits), allowed.reach(-gradient, rise, *limits))
    assert not allowed.reach(gradient, 0 * rise, *limits).any()
    assert not allowed.reach(0 * gradient, rise, *limits).any()


@pytest.mark.parametrize("kind", KINDS)
def test_region_tied_channels_and_each_image_s_own_range_are_kept(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 6, 6, generator=generator)
    high = torch.linspace(1, 2, 16)
    pixels = Pixels(high=high, region=(x[:, :1] > 0.3).float(), tied=True)
    allowed, gradient = kind(1.0, pixels), torch.randn(x.shape, generator=generator)
    rise = torch.linspace(-3, 3, 16)
    delta = allowed.reach(gradient, rise, *pixels.limits(x))
    torch.testing.assert_close((gradient * delta).flatten(1).sum(1), rise, rtol=1e-4, atol=1e-5)
    assert torch.equal(delta[:, 0], delta[:, 2])
    assert not (delta * (1 - pixels.region)).any()
    assert ((x + delta >= -1e-6) & (x + delta <= high[:, None, None, None] + 1e-6)).all()
    for i in (3, 12):
        alone, some = allowed.take(torch.tensor([i])), slice(i, i + 1)
        torch.testing.assert_close(alone.reach(gradient[some], rise[some], *alone.pixels.limits(x[some])), delta[some])


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_where_the_range_is_far_the_size_is_rise_by_dual_norm(kind):
    gradient = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    allowed, rise = kind(1.0), torch.linspace(0.1, 2, 8)
    size = allowed.size(allowed.reach(gradient, rise, torch.tensor(-9.0), torch.tensor(9.0)))
    torch.testing.assert_close(size, rise / allowed.dual(gradient))
