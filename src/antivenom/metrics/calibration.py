"""Whether a stated probability is the share of cases in which it comes true.

Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
Nixon et al., "Measuring calibration in deep learning", CVPR Workshops 2019, https://arxiv.org/abs/1904.01685: equal masses.
Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.classification import one_hot

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram, from the least sure to the surest; empty bins are left out.

    Attributes:
        confidence: `(B,)` mean stated probability.
        frequency: `(B,)` share in which it came true.
        count: `(B,)` decisions in the bin.
    """

    confidence: Array
    frequency: Array
    count: Array

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between the two, weighted by count; NaN without decisions."""
        total = self.count.sum()
        return float(self.count @ np.abs(self.confidence - self.frequency) / total) if total else math.nan


def probabilities(logits: Array, *, multilabel: bool) -> Array:
    """Turn logits `(N, A)` into probabilities `(N, A)`: softmax, or a sigmoid per finding.

    >>> probabilities(np.array([[0.0, 0.0]]), multilabel=False).tolist()
    [[0.5, 0.5]]
    """
    return np.asarray(np.exp(log_probabilities(logits, multilabel=multilabel)))


def log_probabilities(logits: Array, *, multilabel: bool) -> Array:
    """Give the logarithm of each probability `(N, A)`, without overflow."""
    logits = np.asarray(logits, dtype=np.float64)
    if multilabel:
        return np.asarray(-np.logaddexp(0, -logits))
    # Of an infinite logit no probability can be told: NaN, which every figure passes on.
    with np.errstate(invalid="ignore"):
        return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def stated(logits: Array, targets: Array, *, multilabel: bool) -> tuple[Array, Array]:
    """Give what was stated and what came true, `(N, D)` both: the top class's probability, or that of each finding."""
    chances = probabilities(logits, multilabel=multilabel)
    if multilabel:
        return chances, one_hot(targets, chances.shape[1], multilabel=True)
    top = chances.argmax(1)
    return chances.max(1, keepdims=True), (top == targets)[:, None]


def reliability(confidence: Array, happened: Array, *, bins: int = 15, equal_mass: bool = False) -> Reliability:
    """Sort stated probabilities `(M,)` into bins of equal width, or of equal mass, and compare each with what happened.

    Equal masses keep tied probabilities in one bin, so that the order of the images cannot matter.

    >>> found = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 0, 1, 0]), bins=2)
    >>> found.frequency.tolist(), round(found.error, 3)
    ([0.0, 0.5], 0.25)
    """
    confidence, happened = np.asarray(confidence, dtype=float).ravel(), np.asarray(happened, dtype=float).ravel()
    edges = np.quantile(confidence, np.arange(1, bins) / bins) if equal_mass and confidence.size else np.arange(1, bins) / bins
    # A probability on an edge belongs to the lower bin, as in the paper.
    place = np.searchsorted(edges, confidence, side="left")
    count = np.bincount(place, minlength=bins)
    used = count > 0
    means = [np.bincount(place, weights=values, minlength=bins)[used] / count[used] for values in (confidence, happened)]
    return Reliability(means[0], means[1], count[used])


def expected_calibration_error(
    logits: Array, targets: Array, *, multilabel: bool, bins: int = 15, equal_mass: bool = False
) -> float:
    """Give the expected calibration error of the top class, or the mean over findings of each one's own.

    Args:
        logits: `(N, A)`.
        targets: `(N,)` class numbers or `(N, K)` 0/1.
        bins: of equal width, or of equal mass. The error is biased upwards by few images per bin.

    Returns:
        NaN where a logit is NaN or there are no images.
    """
    confidence, happened = stated(logits, targets, multilabel=multilabel)
    if np.isnan(confidence).any() or not len(confidence):
        return math.nan
    pairs = zip(confidence.T, happened.T, strict=True)
    return float(np.mean([reliability(c, h, bins=bins, equal_mass=equal_mass).error for c, h in pairs]))


def brier(logits: Array, targets: Array, *, multilabel: bool) -> float:
    """Give the mean squared error of the probabilities: summed over classes (0 to 2), or per finding (0 to 1)."""
    chances = probabilities(logits, multilabel=multilabel)
    squares = (chances - one_hot(targets, chances.shape[1], multilabel=multilabel)) ** 2
    if not len(squares):
        return math.nan
    return float(squares.mean() if multilabel else squares.sum(1).mean())


def negative_log_likelihood(logits: Array, targets: Array, *, multilabel: bool) -> float:
    """Give the mean of -log p of what is true, in nats per decision."""
    truth = one_hot(targets, np.shape(logits)[1], multilabel=multilabel)
    if not len(truth):
        return math.nan
    if multilabel:
        signed = np.where(truth, logits, -np.asarray(logits))
        return float(-log_probabilities(signed, multilabel=True).mean())
    return float(-log_probabilities(logits, multilabel=False)[truth].mean())
