"""Intervals: no figure is stated without the uncertainty of the sample that it rests on.

Images of one patient resemble each other, so what counts as a draw is the patient, never the image. For shares, and for what
is made of shares, the variance between patients is known in closed form (a ratio estimator, linearised); it becomes the
number of independent decisions that would vary as much, the *effective n*, and that goes into Wilson's interval. In simulation
this covers better than resampling patients, above all near 0 and 1 (see tests/metrics/test_intervals.py), and it cannot
degenerate: a bootstrap of 40 right answers out of 40 says [100, 100]. `estimate` resamples patients for any other statistic.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from survey
data", Survey Methodology 24 (1998): the effective n.
Zou, "On the estimation of additive interaction by use of the four-by-two table and beyond", American Journal of Epidemiology
168 (2008), https://doi.org/10.1093/aje/kwn104: intervals of sums and differences from those of their terms (MOVER).
Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007): resampling whole groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from antivenom.errors import InputError

Array = np.ndarray[Any, Any]

# Above this share of resamples without a value, the others are no longer a sample of what the statistic may be.
MOST_UNDEFINED = 0.1


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and the sample behind it.

    Attributes:
        value, low, high: the figure and its interval; NaN where it could not be measured.
        n: decisions (or images, or pairs) that it counts.
        groups: patients (or lesions, or subjects) that they come from.
        method: how the interval was made, in words.

    >>> print(Estimate(0.834, 0.791, 0.87, n=500, groups=312, method="Wilson").percent())
    83.4 % [79.1, 87.0], n = 500 (312 patients)
    """

    value: float
    low: float
    high: float
    n: int
    groups: int
    method: str

    @property
    def measured(self) -> bool:
        """Whether there is a value at all."""
        return not math.isnan(self.value)

    def percent(self, digits: int = 1, groups_are: str = "patients") -> str:
        """The figure in percent, with its interval, n and, where they are fewer, its groups."""
        return f"{self.range(100, digits, ' %')}, {self.sample(groups_are)}"

    def decimal(self, digits: int = 3, groups_are: str = "patients") -> str:
        """The figure as it is, such as an AUROC or a distance, with its interval, n and groups."""
        return f"{self.range(1, digits)}, {self.sample(groups_are)}"

    def range(self, factor: float = 1, digits: int = 3, unit: str = "") -> str:
        """The figure and its interval, times a factor: `83.4 % [79.1, 87.0]`."""
        if not self.measured:
            return "not measured"
        value, low, high = (f"{factor * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value}{unit} [no interval]" if math.isnan(self.low) else f"{value}{unit} [{low}, {high}]"

    def sample(self, groups_are: str = "patients") -> str:
        """What the figure rests on: `n = 500 (312 patients)`, or `n = 500` where no two belong together."""
        return f"n = {self.n}" + (f" ({self.groups} {groups_are})" if self.groups < self.n else "")

    def __str__(self) -> str:
        return self.decimal()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: text where a number is not finite."""
        ends = {name: _plain(getattr(self, name)) for name in ("value", "low", "high")}
        return {**ends, "n": self.n, "groups": self.groups, "method": self.method}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Estimate:
        """The estimate that `to_dict` wrote."""
        value, low, high = (float(values[name]) for name in ("value", "low", "high"))
        return Estimate(value, low, high, int(values["n"]), int(values["groups"]), str(values["method"]))


def wilson(value: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Give the score interval of a share seen in n independent trials; n need not be whole.

    >>> low, high = wilson(0.5, 1000)
    >>> round(low, 4), round(high, 4)
    (0.4691, 0.5309)
    """
    return _score(value, n, NormalDist().inv_cdf(0.5 + level / 2))


def proportion(right: Array, groups: Array | None = None, *, level: float = 0.95) -> Estimate:
    """Estimate the share of decisions that are right.

    Args:
        right: `(N,)` or `(N, K)`, bool or in [0, 1]; NaN where a decision does not count. The K decisions about an image
            belong together, as do the images of a group.
        groups: `(N,)` patient of each image; None where each image has its own.
        level: nominal coverage of the interval.

    Raises:
        InputError: values outside [0, 1], or groups of another length.

    >>> print(proportion(np.array([True] * 9 + [False])).percent())
    90.0 % [59.6, 98.2], n = 10
    """
    values = _checked(right)
    codes = np.repeat(group_codes(groups, len(values)), values.shape[1])
    return _combine(values.reshape(-1, 1), np.ones(1), codes, level)


def average_proportion(right: Array, groups: Array | None = None, *, level: float = 0.95) -> Estimate:
    """Estimate the plain mean of the columns' shares, such as the mean recall over classes.

    Args:
        right: `(N, R)`, bool or in [0, 1]; NaN where a decision does not count in that column, as images of other classes do
            not. A column where nothing counts is left out.
        groups, level: as in `proportion`.

    >>> recalls = np.array([[1, np.nan], [1, np.nan], [np.nan, 0], [np.nan, 1]])
    >>> average_proportion(recalls).value
    0.75
    """
    values = _checked(right)
    codes = group_codes(groups, len(values))
    values = values[:, ~np.isnan(values).all(0)] if len(values) else values[:, :0]
    return _combine(values, np.full(values.shape[1], 1 / max(1, values.shape[1])), codes, level)


def paired_difference(first: Array, second: Array, groups: Array | None = None, *, level: float = 0.95) -> Estimate:
    """Estimate how much larger the first share is than the second, over the same decisions.

    Args:
        first, second: `(N,)` or `(N, K)`, bool or in [0, 1]; a decision counts where neither is NaN.
        groups, level: as in `proportion`.

    Only decisions on which the two differ count for or against; where there are none, the interval still tells how many could
    have been missed.

    >>> a, b = np.array([1, 1, 1, 0] * 25), np.array([1, 1, 0, 0] * 25)
    >>> print(paired_difference(a, b).percent())
    25.0 % [16.7, 34.3], n = 100
    """
    one, other = _checked(first), _checked(second)
    if one.shape != other.shape:
        raise InputError(f"a paired difference needs the same decisions twice, got {one.shape} and {other.shape}")
    codes = np.repeat(group_codes(groups, len(one)), one.shape[1])
    gain = (one - other).reshape(-1, 1)
    found = _combine(np.hstack([np.maximum(gain, 0), np.maximum(-gain, 0)]), np.array([1.0, -1.0]), codes, level)
    method = "Wilson for and against" if found.method == "Wilson" else "Wilson for and against, clustered"
    return Estimate(found.value, found.low, found.high, found.n // 2, found.groups, method)


def estimate(
    statistic: Callable[[Array], float],
    groups: Array,
    *,
    n: int | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate any statistic of images, by resampling whole groups.

    Args:
        statistic: takes row numbers `(M,)` (with repetitions) and returns a number, NaN where it is undefined.
        groups: `(N,)` patient of each image.
        n: what the figure counts, where that is not the N images.
        draws: resamples.
        seed: of the resamples.

    The interval is the percentile one: it holds for medians and for infinite distances, where the acceleration of BCa, which is
    a jackknife, does not exist. Undefined resamples are dropped and counted; when they are many, or when no resample differs
    from the others, there is no interval (low and high are NaN) and the method says so. Prefer `proportion`,
    `average_proportion` and `ranking.auroc_estimate` for what they cover.

    >>> ages = np.array([40.0, 41, 50, 62, 70, 71])
    >>> found = estimate(lambda rows: float(np.median(ages[rows])), groups=np.array(["a", "a", "b", "c", "d", "e"]))
    >>> found.value, found.groups
    (56.0, 5)
    """
    rows = np.arange(len(groups))
    codes = group_codes(groups, len(groups))
    count = int(codes.max(initial=-1)) + 1
    n = len(groups) if n is None else n
    value = float(statistic(rows)) if count else math.nan
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, n, count, "undefined")
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, count, count) for _ in range(draws))
    seen = np.array([statistic(np.concatenate([members[g] for g in picked])) for picked in drawn], dtype=float)
    defined = seen[~np.isnan(seen)]
    lost = draws - len(defined)
    method = f"bootstrap over {count} groups" + (f", {lost} of {draws} resamples undefined" if lost else "")
    if lost > MOST_UNDEFINED * draws:
        return Estimate(value, math.nan, math.nan, n, count, f"{method}: too many for an interval")
    if defined.min() == defined.max():
        return Estimate(value, math.nan, math.nan, n, count, f"{method}: all alike, which tells no uncertainty")
    # No interpolation between resamples: between a finite and an infinite one there is nothing.
    low = np.quantile(defined, (1 - level) / 2, method="lower")
    high = np.quantile(defined, (1 + level) / 2, method="higher")
    return Estimate(value, float(low), float(high), n, count, method)


def group_codes(groups: Array | None, length: int) -> Array:
    """Number the groups of `length` rows from 0; without groups each row is its own.

    Raises:
        InputError: as many groups as rows are needed.
    """
    if groups is None:
        return np.arange(length)
    if np.shape(groups) != (length,):
        raise InputError(f"{length} images need one group each, got groups of shape {np.shape(groups)}")
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def variance_between(influence: Array, groups: int) -> float:
    """Give the variance of a figure whose error is the sum of one influence per group; 0 where groups do not differ.

    Args:
        influence: what each group adds to the error; groups that do not count add 0.
        groups: that count: of a comparison between two kinds, those of the rarer kind.
    """
    variance = float(influence @ influence) * groups / max(1, groups - 1)
    return variance if variance > 1e-24 else 0.0  # less is a rounding error


def effective_interval(
    value: float, influence: Array, most: float, groups: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Give (low, high, effective n) of a figure in [0, 1] whose error is the sum of one influence per group.

    Args:
        influence, groups: as in `variance_between`. Where the groups do not differ, as at 0 and 1, each counts as one draw.
        most: what the effective n cannot exceed.
    """
    variance, spread = variance_between(influence, groups), value * (1 - value)
    known = groups > 1 and variance > 0 and spread > 0
    effective = max(1.0, min(most, spread / variance)) if known else float(groups)
    quantile = _student(0.5 + level / 2, groups - 1) if groups > 1 else NormalDist().inv_cdf(0.5 + level / 2)
    return *_score(value, effective, quantile), effective


def _combine(values: Array, weights: Array, codes: Array, level: float) -> Estimate:
    """A weighted sum of the columns' shares, its interval joined from theirs and their correlation (MOVER)."""
    counted = ~np.isnan(values)
    n = int(counted.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "nothing to count")
    groups = int(codes.max()) + 1
    filled = np.where(counted, values, 0)
    sums = np.stack([np.bincount(codes, column, groups) for column in filled.T], 1)
    counts = np.stack([np.bincount(codes, column, groups) for column in counted.T], 1)
    totals = counts.sum(0)
    shares = sums.sum(0) / totals
    influence = (sums - shares * counts) / totals

    below, above, effective, plain = np.empty(len(shares)), np.empty(len(shares)), 0.0, True
    for r, share in enumerate(shares):
        if counts[:, r].max() <= 1 and np.isin(values[counted[:, r], r], (0, 1)).all():
            low, high = wilson(share, totals[r], level)
            effective += totals[r]
        else:
            present = int((counts[:, r] > 0).sum())
            low, high, size = effective_interval(share, influence[:, r], totals[r], present, level)
            effective, plain = effective + size, False
        below[r], above[r] = share - low, high - share

    norm = np.sqrt((influence**2).sum(0))
    unit = np.divide(influence, norm, out=np.zeros_like(influence), where=norm > 1e-12)
    correlation = unit.T @ unit
    np.fill_diagonal(correlation, 1)
    down = weights * np.where(weights > 0, below, above)
    up = weights * np.where(weights > 0, above, below)
    value = float(weights @ shares)
    low = value - math.sqrt(max(0.0, float(down @ correlation @ down)))
    high = value + math.sqrt(max(0.0, float(up @ correlation @ up)))
    method = "Wilson" if plain else f"Wilson, clustered (effective n = {effective:.0f})"
    present_groups = int((counts.sum(1) > 0).sum())
    # Ends that the terms cannot pass are passed by an ulp, which would print as -0.0.
    bottom, top = float(weights[weights < 0].sum()), float(weights[weights > 0].sum())
    return Estimate(value, max(bottom, low), min(top, high), n, present_groups, method)


def _score(value: float, n: float, z: float) -> tuple[float, float]:
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # An interval holds its value: at 0 and 1 rounding would lose it by an ulp.
    return max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))


def _student(probability: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _checked(right: Array) -> Array:
    values = np.asarray(right, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"decisions are (N,) or (N, K), got shape {np.shape(right)}")
    wrong = values[(values < 0) | (values > 1)]
    if wrong.size:
        raise InputError(f"decisions are 0, 1 or between (NaN: not counted), got {wrong[0]:g}")
    return values


def _plain(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)
