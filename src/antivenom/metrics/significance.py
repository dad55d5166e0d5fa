"""Whether a difference could be luck.

McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika 12 (1947).
Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988); by patient: Obuchowski, Biometrics 53 (1997).

A difference of two shares with its interval by patient is `intervals.paired_difference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from antivenom.errors import InputError
from antivenom.metrics.intervals import group_codes, variance_between
from antivenom.metrics.ranking import auroc, auroc_influence, rarer_groups

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """A difference of two figures on the same images, its interval, and the chance of one so large were there none."""

    value: float
    low: float
    high: float
    p: float


def mcnemar(first: Array, second: Array) -> float:
    """Give the exact two-sided p of two models' right decisions `(N,)` on the same images.

    Only images on which they differ count. It takes images as independent: with several of a patient use `sign_flip`.
    """
    one, other = np.asarray(first, dtype=bool).ravel(), np.asarray(second, dtype=bool).ravel()
    if one.shape != other.shape:
        raise InputError(f"McNemar's test needs the same decisions twice, got {one.shape} and {other.shape}")
    return mcnemar_from_counts(int((one & ~other).sum()), int((~one & other).sum()))


def mcnemar_from_counts(b: int, c: int) -> float:
    """Give the exact two-sided p from the two counts of images on which the models differ.

    >>> round(mcnemar_from_counts(10, 2), 5)
    0.03857
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def sign_flip(first: Array, second: Array, groups: Array | None = None, *, draws: int = 10000, seed: int = 0) -> float:
    """Give the two-sided p of a difference in right decisions, exchanging the two models patient by patient.

    Args:
        first, second: `(N,)` or `(N, K)`, bool or in [0, 1], on the same images.
        groups: `(N,)` patient of each image.

    The smallest p is 1 / (draws + 1).
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        raise InputError(f"a paired test needs the same decisions twice, got {one.shape} and {other.shape}")
    gain = (one - other).reshape(len(one), -1).sum(1)
    sums = np.bincount(group_codes(groups, len(one)), gain)
    generator = np.random.default_rng(seed)
    # Patients with gains of equal size are exchangeable, so that one binomial draw stands for all of them.
    sizes, counts = np.unique(np.abs(sums), return_counts=True)
    flipped = (2 * generator.binomial(counts, 0.5, size=(draws, len(sizes))) - counts) @ sizes
    extreme = int((np.abs(flipped) >= abs(sums.sum()) - 1e-9).sum())
    return (extreme + 1) / (draws + 1)


def holm(p_values: Array) -> Array:
    """Adjust p values `(M,)` so that the chance of any false alarm among them stays at the level.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def delong(first: Array, second: Array, truth: Array, groups: Array | None = None, *, level: float = 0.95) -> Difference:
    """Compare two AUROCs of scores `(N,)` on the same images: the first minus the second.

    Returns:
        NaN throughout where an AUROC is undefined. Where no image is placed differently p is 1 and there is no interval.
    """
    value = auroc(first, truth) - auroc(second, truth)
    if math.isnan(value):
        return Difference(math.nan, math.nan, math.nan, math.nan)
    truth = np.asarray(truth, dtype=bool)
    codes = group_codes(groups, len(truth))
    influence = np.bincount(codes, auroc_influence(first, truth) - auroc_influence(second, truth))
    error = math.sqrt(variance_between(influence, rarer_groups(truth, codes)))
    if error == 0:
        return Difference(value, math.nan, math.nan, 1.0 if value == 0 else math.nan)
    normal = NormalDist()
    reach = normal.inv_cdf(0.5 + level / 2) * error
    return Difference(value, value - reach, value + reach, 2 * normal.cdf(-abs(value) / error))
