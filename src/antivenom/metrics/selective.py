"""What a model is worth on the images that it keeps when the most suspicious are rejected, beside rejecting any at random.

El-Yaniv, Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 11 (2010),
https://jmlr.org/papers/v11/el-yaniv10a.html: risk and coverage.
Geifman, El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, https://arxiv.org/abs/1705.08500: their
curve for a given score. Here it tells what is right instead of what is wrong.

A detector that rejects the attacked, or the hard, leaves a curve above that of random rejection, which keeps accuracy in
expectation. An AUROC over the images that are left is one of a selected sample: it can rise because the hard ones are gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from antivenom.errors import InputError
from antivenom.metrics.classification import without_both
from antivenom.metrics.intervals import Estimate, effective_interval, estimate, group_codes
from antivenom.metrics.ranking import auroc_influence, auroc_per_class, rarer_groups

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What is right among the least suspicious images, for every number of them; and the same among as many drawn at random.

    Attributes:
        coverage: `(N,)` share of images kept: 1 / N, 2 / N, ... 1.
        right: `(N,)` mean right of those kept; one less is the risk.
        low, high: `(N,)` where this lies for random rejection in `level` of all draws.
        area: mean of `right` over coverage: one less is the area under the risk-coverage curve.
        random: mean right of all images: what random rejection keeps in expectation at every coverage, and as area.
        random_low, random_high: where the area lies for random rejection in `level` of all draws.
    """

    coverage: Array
    right: Array
    low: Array
    high: Array
    area: float
    random: float
    random_low: float
    random_high: float


def risk_coverage(suspicion: Array, right: Array, *, level: float = 0.95) -> RiskCoverage:
    """Keep the least suspicious images, one more at a time.

    Args:
        suspicion: `(N,)`, higher is rejected earlier; NaN is rejected first.
        right: `(N,)` bool, or any share in [0, 1] of an image that is right.
        level: of the range of random rejection, from the normal distribution of a mean drawn without replacement.

    Images of equal suspicion are kept in any order: the curve is its mean over these orders.

    Raises:
        InputError: other shapes, no image, or a share that is none.

    >>> found = risk_coverage(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1, 1, 1, 0]))
    >>> found.right.tolist(), found.random
    ([1.0, 1.0, 1.0, 0.75], 0.75)
    """
    shares = _mean_of_ties(*_checked(suspicion, right))
    n = len(shares)
    kept = np.arange(1, n + 1)
    curve = np.cumsum(shares) / kept
    whole, spread = float(np.mean(right)), float(np.var(right, ddof=1)) if n > 1 else 0.0
    reach = NormalDist().inv_cdf(0.5 + level / 2)
    half = reach * np.sqrt(spread / kept * (1 - kept / n))
    # The area weighs the image kept i-th by the mean of 1 / k over k from i on; a random order gives a linear rank statistic.
    weights = np.cumsum((1 / kept)[::-1])[::-1] / n
    around = reach * math.sqrt(spread * float(((weights - weights.mean()) ** 2).sum()))
    return RiskCoverage(
        kept / n,
        curve,
        np.clip(whole - half, 0, 1),
        np.clip(whole + half, 0, 1),
        float(curve.mean()),
        whole,
        max(0.0, whole - around),
        min(1.0, whole + around),
    )


def area_estimate(suspicion: Array, right: Array, groups: Array, *, draws: int = 500, seed: int = 0) -> Estimate:
    """Estimate the area of `risk_coverage` (mean right over coverage), its interval from resampled patients.

    Args:
        suspicion, right: as in `risk_coverage`.
        groups: `(N,)` patient of each image.
        draws, seed: of the resamples.
    """
    scores, shares = _checked(suspicion, right)

    def area(rows: Array) -> float:
        kept = _mean_of_ties(scores[rows], shares[rows])
        return float((np.cumsum(kept) / np.arange(1, len(kept) + 1)).mean())

    return estimate(area, groups, draws=draws, seed=seed)


@dataclass(frozen=True, eq=False)
class WeightedAuroc:
    """AUROC of several findings as one number.

    Attributes:
        estimate: mean over the findings, each weighted by its positives; the weights count as known.
        deviation: standard deviation over the findings; NaN where fewer than two are measured.
        each: `(K,)` AUROC of each finding; NaN of those left out.
        left_out: places of the findings that lack positives or negatives, of which nothing can be said.
    """

    estimate: Estimate
    deviation: float
    each: Array
    left_out: tuple[int, ...]


def weighted_auroc(scores: Array, truth: Array, groups: Array | None = None, *, level: float = 0.95) -> WeightedAuroc:
    """Weigh the AUROC of each finding by its positives, as Li and Zhu (ISBI 2020) state it with the deviation over findings.

    Args:
        scores: `(N, K)`, higher is more positive.
        truth: `(N, K)` bool.
        groups: `(N,)` patient of each image; None where each image has its own.
        level: nominal coverage of the interval, which is DeLong's by patient.

    Raises:
        InputError: other shapes.

    >>> found = weighted_auroc(np.array([[0.0, 1], [1, 1], [2, 1]]), np.array([[0, 0], [1, 0], [1, 0]]))
    >>> found.estimate.value, found.left_out
    (1.0, (1,))
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if scores.shape != truth.shape or scores.ndim != 2:
        raise InputError(f"scores and truth are (N, K) both, got {scores.shape} and {truth.shape}")
    each = auroc_per_class(scores, truth)
    codes = group_codes(groups, len(truth))
    count = int(codes.max(initial=-1)) + 1
    left_out = tuple(np.flatnonzero(without_both(truth)).tolist())
    kept = np.flatnonzero(~np.isnan(each))
    if not len(kept):
        return WeightedAuroc(Estimate(math.nan, math.nan, math.nan, len(truth), count, "undefined"), math.nan, each, left_out)
    weights = truth[:, kept].sum(0) / truth[:, kept].sum()
    value = float(weights @ each[kept])
    influence = np.sum([w * auroc_influence(scores[:, k], truth[:, k]) for w, k in zip(weights, kept, strict=True)], axis=0)
    rarer = min(rarer_groups(truth[:, k], codes) for k in kept)
    low, high, effective = effective_interval(value, np.bincount(codes, influence, count), len(truth), rarer, level)
    method = f"DeLong's variance by group (effective n = {effective:.0f}), {len(kept)} weighted by positives"
    deviation = float(each[kept].std()) if len(kept) > 1 else math.nan
    return WeightedAuroc(Estimate(value, low, high, len(truth), count, method), deviation, each, left_out)


def _checked(suspicion: Array, right: Array) -> tuple[Array, Array]:
    scores, shares = np.asarray(suspicion, dtype=float), np.asarray(right, dtype=float)
    if scores.shape != shares.shape or scores.ndim != 1 or not len(scores):
        raise InputError(f"suspicion and right are (N,) both, N at least 1, got {scores.shape} and {shares.shape}")
    wrong = shares[~((shares >= 0) & (shares <= 1))]
    if wrong.size:
        raise InputError(f"an image is right by a share between 0 and 1, got {wrong[0]:g}")
    return np.where(np.isnan(scores), math.inf, scores), shares


def _mean_of_ties(scores: Array, shares: Array) -> Array:
    """Shares `(N,)` from the least suspicious on, each the mean of those of equal suspicion."""
    levels, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray(np.repeat(np.bincount(place.reshape(-1), shares, len(levels)) / counts, counts))
