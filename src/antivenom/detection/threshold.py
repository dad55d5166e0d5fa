"""Where a score becomes an alarm, and how many clean images that will cost.

Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", Springer 2005, https://doi.org/10.1007/b106715: an order
statistic of held-out scores keeps the rate of false alarms on fresh images, whatever the scores' distribution.
Vovk, "Conditional validity of inductive conformal predictors", ACML 2012, https://proceedings.mlr.press/v25/vovk12.html: the
rate that a given threshold will have is distributed as Beta.

Beyond these: images of one patient belong together. With `groups` an unseen patient is reckoned with as large as they are on
average, instead of an unseen image; exact where all have as many images. The interval is then that of `metrics.intervals`;
in simulation (60 to 1000 patients of 1 to 19 images, correlated 0.5 to 0.7) it covers in 92 to 94 % instead of 95, where the
Beta of the images alone covers in 60 to 87.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from antivenom.errors import InputError, SettingsError
from antivenom.metrics.false_alarms import most_alarms
from antivenom.metrics.intervals import Estimate, group_codes, proportion

Array = np.ndarray[Any, Any]

HELD_OUT = "held-out clean images"
FITTING = "the images that fitted the detector"
WIDE = 1.0  # times the rate asked for: a wider interval does not tell the rate from its double


@dataclass(frozen=True)
class Threshold:
    """A score above which an image is flagged.

    Attributes:
        value: the largest score that is not flagged.
        rate: share of clean images that may be flagged, as asked for.
        alarms: share of fresh clean images above it: expected, or by patient as seen; its interval, and the images and
            patients that it rests on. Not measured where the threshold was taken from the fitting images.
        taken: from which scores: `HELD_OUT` or `FITTING`.
        notes: what a reader of any figure at this threshold must be told, one sentence each.

    >>> import torch
    >>> found = Threshold.from_held_out(torch.arange(999.0), rate=0.05)
    >>> print(found.value, found.alarms.percent(), sep=": ")
    949.0: 5.0 % [3.7, 6.4], n = 999
    >>> found.flags(torch.tensor([949.0, 949.5])).tolist()
    [False, True]
    """

    value: float
    rate: float
    alarms: Estimate
    taken: str = HELD_OUT
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Images that it was taken from."""
        return self.alarms.n

    @property
    def groups(self) -> int:
        """Patients that these come from."""
        return self.alarms.groups

    @staticmethod
    def from_held_out(
        scores: Tensor, rate: float, groups: Array | Sequence[Any] | None = None, *, level: float = 0.95
    ) -> Threshold:
        """Take the smallest score above which no more than `rate` of fresh clean images are expected.

        Of n images it is the `ceil((n + 1) * (1 - rate))`-th smallest score: conservative, ties included.

        Args:
            scores: `(N,)` of clean images that neither fitted the detector nor chose anything about it.
            rate: of false alarms, in (0, 1).
            groups: `(N,)` patient of each image; None where each image has its own.
            level: nominal coverage of the interval.

        Raises:
            SettingsError: a rate outside (0, 1).
            InputError: scores that are not finite or not `(N,)`, groups of another length, or too few images (patients) for
                so small a rate: at least 1 / rate - 1 are needed.
        """
        ordered = _checked(scores, rate)
        codes = group_codes(None if groups is None else np.asarray(groups), len(ordered))
        n, patients = len(ordered), len(np.unique(codes))
        flagged = most_alarms(n, patients, rate)
        value = float(np.sort(ordered)[n - flagged - 1])
        alarms = _exact(n, flagged, level) if patients == n else proportion(ordered > value, codes, level=level)
        return Threshold(value, rate, alarms, HELD_OUT, _wide(alarms, rate))

    @staticmethod
    def from_fitting(scores: Tensor, rate: float) -> Threshold:
        """Take the quantile of the fitting images' own scores, as Li and Zhu (ISBI 2020) read: it does not keep the rate.

        Args:
            scores: `(N,)` of the images that the detector was fitted on.
            rate: share of these above the threshold; 0.05 in the paper.

        Raises:
            SettingsError: a rate outside (0, 1).
            InputError: scores that are not finite or not `(N,)`.
        """
        ordered = _checked(scores, rate)
        unknown = Estimate(math.nan, math.nan, math.nan, len(ordered), len(ordered), "not measured on held-out images")
        told = (
            f"the threshold was taken from {FITTING}: of fresh clean images more than {100 * rate:g} % are flagged, up to all "
            "of them where the images are few beside their values",
        )
        return Threshold(float(np.quantile(ordered, 1 - rate)), rate, unknown, FITTING, told)

    def flags(self, scores: Tensor) -> Tensor:
        """Which scores `(...)` are strictly above; NaN is."""
        return ~(scores.double() <= self.value)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "value": self.value,
            "rate": self.rate,
            "alarms": self.alarms.to_dict(),
            "taken": self.taken,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Threshold:
        """The threshold that `to_dict` wrote."""
        return Threshold(
            float(values["value"]),
            float(values["rate"]),
            Estimate.from_dict(values["alarms"]),
            str(values["taken"]),
            tuple(values["notes"]),
        )


def _checked(scores: Tensor, rate: float) -> Array:
    if not 0 < rate < 1:
        raise SettingsError(f"a false-alarm rate lies between 0 and 1, got {rate}; 0.05 is usual")
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"a threshold is taken from scores (N,) with N at least 1, got {tuple(scores.shape)}")
    odd = ~scores.isfinite()
    if bool(odd.any()):
        raise InputError(
            f"{int(odd.sum())} of {len(scores)} clean images (the first: {int(odd.nonzero()[0, 0])}) have a score that is not "
            "finite, above which nothing can be; find out what is wrong with these images or the model"
        )
    return scores.detach().double().cpu().numpy()


def _exact(n: int, flagged: int, level: float) -> Estimate:
    """The share of fresh images above the score that `flagged` of n independent ones exceed: Beta distributed."""
    from scipy.special import betaincinv

    above, below = flagged + 1, n - flagged
    low, high = (float(betaincinv(above, below, chance)) for chance in ((1 - level) / 2, (1 + level) / 2))
    return Estimate(above / (n + 1), low, high, n, n, "Beta of the order statistic")


def _wide(alarms: Estimate, rate: float) -> tuple[str, ...]:
    # Not "<=": an interval that is not known is NaN and counts as wide.
    if alarms.high - alarms.low <= WIDE * rate:
        return ()
    return (
        f"{alarms.n} held-out images ({alarms.groups} patients) leave the false-alarm rate between "
        f"{100 * alarms.low:.1f} and {100 * alarms.high:.1f} %; hold out more to know it better",
    )
