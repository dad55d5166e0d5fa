"""Whether models differ: paired differences on the same images, tests, and which value of a column is marked as the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from antivenom.metrics.classification import recalls
from antivenom.metrics.intervals import Estimate, average_proportion
from antivenom.metrics.significance import mcnemar, sign_flip

Array = np.ndarray[Any, Any]

BEST, TIED = "*", "="
LEVEL = 0.05  # chance of a false star in a column, were all models alike

# The interval, at this level of confidence, of how much the first of two models of a column has more than the second.
Between = Callable[[str, str, float], Estimate | None]


@dataclass(frozen=True)
class Standing:
    """A model in a column.

    Attributes:
        estimate: its value there; more is better.
        above_chance: whether its balanced accuracy there lies above that of a constant answer, with its whole interval.
    """

    estimate: Estimate
    above_chance: bool


def balanced_difference(
    first: Array,
    second: Array,
    targets: Array,
    classes: int,
    groups: Array | None = None,
    *,
    multilabel: bool,
    level: float = 0.95,
) -> Estimate:
    """Estimate how much larger the first balanced accuracy is than the second, over the same decisions.

    Args:
        first, second: `(N, D)` bool, which decisions are right.
        targets: `(N,)` class numbers, or `(N, K)` 0 and 1.
        groups, level: as in `intervals.proportion`.

    The mean share won less the mean share lost, over the classes, is twice the mean of what was won and what was not lost, less
    one; so its interval joins one of each class, as that of a balanced accuracy does.

    >>> targets = np.array([0] * 90 + [1] * 10)
    >>> one, other = np.ones((100, 1), dtype=bool), np.arange(100)[:, None] < 95
    >>> print(balanced_difference(one, other, targets, 2, multilabel=False).percent())
    25.0 % [5.8, 38.3], n = 100
    """
    gain = np.subtract(*(recalls(right, targets, classes, multilabel=multilabel) for right in (first, second)))
    found = average_proportion(np.hstack([np.maximum(gain, 0), 1 - np.maximum(-gain, 0)]), groups, level=level)
    # Rounded, lest a difference of nothing becomes one of -1e-16.
    ends = {name: round(2 * getattr(found, name) - 1, 12) + 0.0 for name in ("value", "low", "high")}
    return replace(found, **ends, n=found.n // 2, method="Wilson for and against, by class")


def luck(first: Array, second: Array, groups: Array) -> tuple[float, str]:
    """Give the p of a difference in right decisions `(N, D)` on the same images, and the name of the test.

    McNemar's exact test takes decisions as independent; where an image has several, or a patient has several images, the two
    models are exchanged patient by patient.
    """
    if first.shape[1] == 1 and len(np.unique(groups)) == len(groups):
        return mcnemar(first, second), "McNemar, exact"
    return sign_flip(first, second, groups), "models exchanged patient by patient"


def marks(column: Mapping[str, Standing], between: Between) -> dict[str, str]:
    """Say which models of a column are the best: `*` where one stands apart from all others, else `=` for those that do not.

    Args:
        column: the models that are ranked, by name.
        between: the interval of the difference of two models on the same images; None where they were not shown the same, or
            where the figure has no such difference.

    The best stands apart from another model where its own 95 % interval does not hold the other's value and the interval of
    their paired difference, widened to the number of pairs of models, lies above 0; without a paired difference, where their
    intervals do not overlap. Nothing is marked where fewer than two models are ranked, the best has no interval, or it is no
    better than a constant answer.
    """
    known = {name: standing for name, standing in column.items() if standing.estimate.measured}
    if len(known) < 2:
        return {}
    best = max(known, key=lambda name: known[name].estimate.value)
    top = known[best]
    if not top.above_chance or math.isnan(top.estimate.low):
        return {}
    level = 1 - LEVEL / math.comb(len(known), 2)
    close = [name for name in known if name != best and not _apart(best, name, known, between, level)]
    return {best: TIED, **dict.fromkeys(close, TIED)} if close else {best: BEST}


def _apart(best: str, other: str, known: Mapping[str, Standing], between: Between, level: float) -> bool:
    one, two = known[best].estimate, known[other].estimate
    paired = between(best, other, level)
    if paired is None:
        return not math.isnan(two.high) and one.low > two.high
    return one.low > two.value and paired.low > 0
