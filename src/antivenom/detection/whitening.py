"""A covariance made invertible, and the linear map under which it is the identity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antivenom.detection.detector import finite
from antivenom.detection.moments import Moments
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError

# Shrinkages tried, in units of the mean variance: below the first rounding is felt, at the last all directions are alike.
GRID = tuple(10.0**power for power in range(-8, 3))
UNTUNED = 1e-2  # where there are no held-out images to choose by: too large costs some power, too small all honesty


def whiten(covariance: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Give the inverse of the Cholesky factor of `covariance + shrinkage * I`, and the logarithm of its determinant.

    Args:
        covariance: `(D, D)`, symmetric, float64.
        shrinkage: absolute, at least 0.

    Returns:
        `(D, D)` lower triangular W with `W (covariance + shrinkage * I) W^T = I`, and a scalar; float64.

    Raises:
        SettingsError: a shrinkage below 0 or not finite.
        InputError: what results is singular, as far as float64 can tell.

    >>> matrix, log_determinant = whiten(torch.diag(torch.tensor([3.0, 15.0], dtype=torch.float64)), 1.0)
    >>> matrix.diagonal().tolist(), round(log_determinant.exp().item(), 9)
    ([0.5, 0.25], 64.0)
    """
    if not 0 <= shrinkage < math.inf:
        raise SettingsError(f"shrinkage must be at least 0 and finite, got {shrinkage}")
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    ridged = covariance + shrinkage * identity
    factor, failed = torch.linalg.cholesky_ex(ridged)
    pivots, largest = factor.diagonal(), float(ridged.diagonal().max())
    # Of a singular matrix rounding can make a regular one; its pivots are then no larger than this.
    noise = len(covariance) * torch.finfo(covariance.dtype).eps * largest
    if bool(failed) or not bool((pivots.square() > noise).all()):
        raise InputError(
            f"with shrinkage {shrinkage:g} the covariance is singular: there are too few images, or values that do not vary; "
            f"give a larger one (the largest variance is {largest:g}), or held-out images to choose it by"
        )
    # As it is read back from a file: a product may differ in its last bit by the order in which a matrix lies.
    # In rows, as a file gives it back: a product's last bit depends on how a matrix lies.
    return torch.linalg.solve_triangular(factor, identity, upper=False).contiguous(), 2 * pivots.log().sum()


def choose_shrinkage(covariance: Tensor, held_out: Tensor | None, shrinkage: float | None) -> tuple[float, list[str]]:
    """Take the shrinkage asked for, or that of `GRID` under which held-out images are most likely, with its notes.

    One eigendecomposition serves the whole grid: shrinkage moves the eigenvalues alone.

    Args:
        covariance: `(D, D)`, float64.
        held_out: deviations `(N, D)` of held-out images from the mean, float64; None: there are none.
        shrinkage: absolute; None: choose it.

    Raises:
        InputError: nothing varies, so that no shrinkage has a scale.
    """
    if shrinkage is not None:
        return shrinkage, []
    variances = covariance.diagonal()
    if not bool((variances > 0).any()):
        raise InputError(
            "all clean images give the same values, so nothing tells how far apart others are; fit on other images"
        )
    unit = float(variances[variances > 0].mean())
    if held_out is None:
        return UNTUNED * unit, [
            f"without held-out images the shrinkage was not chosen: it is {UNTUNED:g} of the mean variance, whatever the data"
        ]
    tried = unit * torch.tensor(GRID, dtype=covariance.dtype, device=covariance.device)
    best = int(held_out_likelihood(covariance, held_out, tried).argmax())
    if best == len(GRID) - 1:
        return float(tried[best]), [
            "held-out images are most likely under the largest shrinkage tried: the covariance of the fitting images does not "
            "describe them, and the score is little more than the distance from the mean"
        ]
    return float(tried[best]), []


def held_out_likelihood(covariance: Tensor, held_out: Tensor, shrinkages: Tensor) -> Tensor:
    """Mean log-likelihood `(S,)`, less a constant, of deviations `(N, D)` under the covariance with shrinkages `(S,)`."""
    values, vectors = torch.linalg.eigh(covariance)
    spread = (held_out @ vectors).square().mean(0)
    variances = values.clamp_min(0) + shrinkages[:, None]
    likelihood: Tensor = -0.5 * (variances.log() + spread / variances).sum(1)
    return likelihood


def mapped(values: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Values `(B, D)`, less the mean `(D,)`, under a matrix `(R, D)`: `(B, R)`, in the finer of both precisions."""
    kind = torch.promote_types(values.dtype, mean.dtype)
    return (values.to(kind) - mean.to(kind)) @ matrix.to(kind).T


def as_score(score: Tensor, values: Tensor) -> Tensor:
    """A score in the precision that detectors answer in: float64 where the values read were, else float32."""
    return score.to(torch.float64 if values.dtype == torch.float64 else torch.float32)


def enough(moments: Moments, layer: str) -> Moments:
    """The moments, where they are of several images.

    Raises:
        InputError: of one.
    """
    if moments.n < 2:
        raise InputError(f"layer {layer!r}: one image has no spread; fit on many more than its {len(moments.mean)} values")
    return moments


def held_out_values(tune: Reading, layer: str, like: Tensor) -> Tensor:
    """Activations `(N, D)` of held-out images, in the type and on the device of the mean `(D,)`.

    Raises:
        InputError: there are none, of another width, or not finite.
    """
    values = tune.layer(layer)
    if not len(values) or values.shape[1:] != like.shape:
        raise InputError(
            f"held-out images give {tuple(values.shape)} at layer {layer!r}, expected (N, {len(like)}) with N at least 1: "
            "read them with the same model"
        )
    return finite(values.detach(), f"held-out images at layer {layer!r}").to(like)
