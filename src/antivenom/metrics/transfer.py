"""How far adversarial examples made on one model, the source, fool another, the target.

"Success rate on the target" has been published under one name for four different shares. All of them count the same examples,
those that succeed on the source, and all are 1 where the target is the source itself; they part where the target is wrong
without any attack, or wrong in its own way. Decisions and targets are as in `classification`: `(N,)` class numbers or `(N, K)`
0/1, -1 where a logit was NaN.

Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960): kappa.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.errors import InputError
from antivenom.metrics.classification import UNDECIDED

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Readings:
    """Four readings of success on the target: 1 where it succeeds, 0 where it does not, NaN where a decision does not count.

    `intervals.proportion` of each is a rate with its interval; `kept` belongs beside it.

    Attributes:
        error: the target is wrong about the adversarial image, of those kept.
        conditional: the same, of those kept that the target has right without the attack.
        change: the target decides otherwise than without the attack, of those kept.
        agreement: the target decides as the source does on the adversarial image, of those kept.
    """

    error: Array
    conditional: Array
    change: Array
    agreement: Array

    @property
    def kept(self) -> int:
        """How many decisions the source had right and lost to the attack: what the shares are shares of."""
        return int((~np.isnan(self.error)).sum())

    @property
    def rates(self) -> dict[str, float]:
        """The four shares by name; NaN where nothing counts."""
        return {name: _mean(getattr(self, name)) for name in ("error", "conditional", "change", "agreement")}


@dataclass(frozen=True)
class Overlap:
    """How two targets fare with the same examples: what one of them withstands, does the other too?

    Attributes:
        only_one, only_other, both, neither: examples withstood by the first alone, the second alone, both and neither.
    """

    only_one: int
    only_other: int
    both: int
    neither: int

    @property
    def total(self) -> int:
        """All examples."""
        return self.only_one + self.only_other + self.both + self.neither

    @property
    def kappa(self) -> float:
        """Agreement beyond chance: 1 where they withstand the same, 0 as if by chance; NaN where both never or always do.

        >>> round(Overlap(only_one=10, only_other=5, both=20, neither=15).kappa, 3)
        0.4
        """
        if not self.total:
            return math.nan
        seen = (self.both + self.neither) / self.total
        one, other = (self.both + self.only_one) / self.total, (self.both + self.only_other) / self.total
        chance = one * other + (1 - one) * (1 - other)
        return (seen - chance) / (1 - chance) if chance < 1 else math.nan

    @property
    def odds_ratio(self) -> float:
        """How many times the odds of the first to withstand are higher where the second does; NaN for 0 / 0.

        >>> Overlap(only_one=10, only_other=5, both=20, neither=15).odds_ratio
        6.0
        """
        same, apart = self.both * self.neither, self.only_one * self.only_other
        if not apart:
            return math.inf if same else math.nan
        return same / apart


def kept(targets: Array, source_clean: Array, source_adv: Array) -> Array:
    """Say which decisions the source has right and loses to the attack; bool, shaped as the targets.

    An answer that decides nothing is no success of the adversary, who wanted another decision.

    >>> kept(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([1, 1, 0])).tolist()
    [True, False, False]
    """
    _same(targets, source_clean, source_adv)
    wrong = (np.asarray(source_adv) != targets) & (np.asarray(source_adv) != UNDECIDED)
    return np.asarray((np.asarray(source_clean) == targets) & wrong)


def readings(targets: Array, source_clean: Array, source_adv: Array, target_clean: Array, target_adv: Array) -> Readings:
    """Read the success of examples made on a source against a target in four ways.

    Args:
        targets: what is true.
        source_clean, source_adv: what the source decides without and under the attack.
        target_clean, target_adv: what the target decides about the same images.

    >>> y, fooled = np.zeros(4, dtype=int), np.ones(4, dtype=int)
    >>> found = readings(y, y, fooled, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]))
    >>> found.kept, found.rates
    (4, {'error': 0.5, 'conditional': 0.5, 'change': 0.5, 'agreement': 0.5})
    """
    _same(targets, target_clean, target_adv)
    counts = kept(targets, source_clean, source_adv)
    y, clean, adv = np.asarray(targets), np.asarray(target_clean), np.asarray(target_adv)
    return Readings(
        np.where(counts, adv != y, np.nan),
        np.where(counts & (clean == y), adv != y, np.nan),
        np.where(counts, adv != clean, np.nan),
        np.where(counts, adv == np.asarray(source_adv), np.nan),
    )


def overlap(one: Array, other: Array) -> Overlap:
    """Count what two targets withstand of the same examples; the four counts add up to those kept.

    Whether one withstands more is `significance.mcnemar_from_counts(only_one, only_other)`.

    Args:
        one, other: the same reading of two targets, such as `Readings.error`: 1 fooled, 0 withstood, NaN not kept.

    Raises:
        InputError: they do not count the same decisions, as conditional readings do not.

    >>> overlap(np.array([0.0, 1.0, 0.0, np.nan]), np.array([1.0, 1.0, 0.0, np.nan]))
    Overlap(only_one=1, only_other=0, both=1, neither=1)
    """
    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    _same(first, second)
    counts = ~np.isnan(first)
    if (counts != ~np.isnan(second)).any():
        raise InputError(
            f"an overlap needs the same examples twice, got {int(counts.sum())} and {int((~np.isnan(second)).sum())} "
            "that count, not all the same; of `Readings` take any but `conditional`, made on one source"
        )
    a, b = first[counts] == 0, second[counts] == 0
    return Overlap(int((a & ~b).sum()), int((~a & b).sum()), int((a & b).sum()), int((~a & ~b).sum()))


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def _same(*arrays: Array) -> None:
    shapes = [np.shape(array) for array in arrays]
    if len(set(shapes)) > 1:
        raise InputError(f"targets and decisions belong together, got shapes {', '.join(map(str, shapes))}")
