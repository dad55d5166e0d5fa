"""How well scores tell positives from negatives, whatever the threshold. A higher score means more positive.

Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic curve", Radiology 143 (1982).
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves",
Biometrics 44 (1988): its variance, from the placements of single images.
Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997): the same by patient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from antivenom.errors import InputError
from antivenom.metrics.intervals import Estimate, effective_interval, group_codes

Array = np.ndarray[Any, Any]


def auroc(scores: Array, truth: Array) -> float:
    """Give the chance that a positive scores above a negative, a tie counting half.

    Args:
        scores: `(N,)`.
        truth: `(N,)` bool.

    Returns:
        NaN where either kind is absent or a score is NaN.

    >>> auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.875
    """
    positive, _ = placements(scores, truth)
    return float(positive.mean()) if len(positive) else math.nan


def auroc_per_class(scores: Array, truth: Array) -> Array:
    """Give the AUROC of each column of scores `(N, A)` and truth `(N, A)` bool; `(A,)`."""
    scores, truth = np.asarray(scores), np.asarray(truth, dtype=bool)
    return np.array([auroc(scores[:, k], truth[:, k]) for k in range(scores.shape[1])])


def auroc_estimate(scores: Array, truth: Array, groups: Array | None = None, *, level: float = 0.95) -> Estimate:
    """Estimate the AUROC of scores `(N,)`, its interval from DeLong's variance between patients.

    The effective n is at most that of the images: without this, intervals near 1 cover too rarely. Where the two kinds are
    separated without error, the interval is that of as many right answers as there are patients of the rarer kind.

    >>> print(auroc_estimate(np.arange(8.0), np.arange(8) > 3))
    1.000 [0.283, 1.000], n = 8
    """
    truth = np.asarray(truth, dtype=bool)
    codes = group_codes(groups, len(truth))
    count = int(codes.max(initial=-1)) + 1
    value = auroc(scores, truth)
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, len(truth), count, "undefined")
    influence = np.bincount(codes, auroc_influence(scores, truth), count)
    low, high, effective = effective_interval(value, influence, len(truth), rarer_groups(truth, codes), level)
    return Estimate(value, low, high, len(truth), count, f"DeLong's variance by group (effective n = {effective:.0f})")


def mean_auroc_estimate(scores: Array, truth: Array, groups: Array | None = None, *, level: float = 0.95) -> Estimate:
    """Estimate the plain mean of the columns' AUROC, for scores `(N, A)` and truth `(N, A)` bool.

    Columns where either kind is absent are left out. Errors of the columns are taken together, image by image, so that two
    columns that say the same count as one.

    >>> print(mean_auroc_estimate(np.tile(np.arange(8.0), (2, 1)).T, np.tile(np.arange(8) > 3, (2, 1)).T))
    1.000 [0.283, 1.000], n = 8
    """
    truth = np.asarray(truth, dtype=bool)
    values = auroc_per_class(scores, truth)
    kept = np.flatnonzero(~np.isnan(values))
    codes = group_codes(groups, len(truth))
    count = int(codes.max(initial=-1)) + 1
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, len(truth), count, "undefined")
    influence = np.mean([auroc_influence(scores[:, k], truth[:, k]) for k in kept], axis=0)
    rarer = min(rarer_groups(truth[:, k], codes) for k in kept)
    value = float(values[kept].mean())
    low, high, effective = effective_interval(value, np.bincount(codes, influence, count), len(truth), rarer, level)
    method = f"DeLong's variance by group (effective n = {effective:.0f}), mean of {len(kept)}"
    return Estimate(value, low, high, len(truth), count, method)


def auroc_influence(scores: Array, truth: Array) -> Array:
    """Give what each image adds to the error of the AUROC; `(N,)`, its sum 0."""
    truth = np.asarray(truth, dtype=bool)
    positive, negative = placements(scores, truth)
    influence = np.empty(len(truth))
    influence[truth] = (positive - positive.mean()) / len(positive)
    influence[~truth] = (negative - negative.mean()) / len(negative)
    return influence


def rarer_groups(truth: Array, codes: Array) -> int:
    """Count the groups `(N,)` that hold the rarer kind of truth `(N,)` bool: what an AUROC's uncertainty hangs on."""
    return min(len(np.unique(codes[truth])), len(np.unique(codes[~truth])))


def placements(scores: Array, truth: Array) -> tuple[Array, Array]:
    """Give each positive the share of negatives below it and each negative the share of positives above it, ties half.

    Both are empty where either kind is absent or a score is NaN. Their means are the AUROC.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if scores.shape != truth.shape or scores.ndim != 1:
        raise InputError(f"scores and truth are (N,) both, got {scores.shape} and {truth.shape}")
    positive, negative = scores[truth], scores[~truth]
    if not len(positive) or not len(negative) or np.isnan(scores).any():
        return np.empty(0), np.empty(0)
    return _share_below(negative, positive), 1 - _share_below(positive, negative)


def average_precision(scores: Array, truth: Array) -> float:
    """Give the mean precision at each rise of recall; NaN where either kind is absent or a score is NaN."""
    called, hits, defined = _called_and_hits(scores, truth)
    if not defined:
        return math.nan
    return float((np.diff(hits, prepend=0) * hits / called).sum() / hits[-1])


def tpr_at_fpr(scores: Array, truth: Array, fpr: float) -> float:
    """Give the largest true-positive rate at a false-positive rate of at most `fpr`; NaN as for `auroc`.

    >>> tpr_at_fpr(np.array([0.0, 1, 2, 3]), np.array([False, True, False, True]), fpr=0.0)
    0.5
    """
    called, hits, defined = _called_and_hits(scores, truth)
    if not defined:
        return math.nan
    alarms = called - hits
    allowed = alarms <= fpr * alarms[-1] + 1e-9
    return float(hits[allowed].max(initial=0) / hits[-1])


def _called_and_hits(scores: Array, truth: Array) -> tuple[Array, Array, bool]:
    """At each distinct score, from the highest: images at or above it, and positives among them."""
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if np.isnan(scores).any() or truth.all() or not truth.any():
        return np.empty(0), np.empty(0), False
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return last + 1, np.cumsum(truth[order])[last], True


def _share_below(reference: Array, scores: Array) -> Array:
    ordered = np.sort(reference)
    below, upto = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return np.asarray((below + upto) / (2 * len(reference)))
