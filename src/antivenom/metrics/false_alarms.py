"""Alarms on clean images and on attacked ones: where a score becomes an alarm, and F1 as papers count it.

Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", Springer 2005, https://doi.org/10.1007/b106715: an order
statistic of held-out scores keeps the rate of false alarms on fresh images, whatever the scores' distribution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from antivenom.errors import InputError, SettingsError
from antivenom.metrics.intervals import Estimate, average_proportion, effective_interval, group_codes

Array = np.ndarray[Any, Any]

_SLACK = 1e-9  # a rate such as 0.29 times 100 is 28.999999999999996


def most_alarms(n: int, patients: int, rate: float) -> int:
    """How many of n held-out images may lie above a threshold that keeps a false-alarm rate on fresh ones.

    Images of one patient belong together: an unseen patient is reckoned with as large as they are on average; exact where all
    have as many images.

    Args:
        n: images.
        patients: that they come from; n where each image has its own.
        rate: in (0, 1).

    Raises:
        SettingsError: a rate outside (0, 1).
        InputError: too few patients for so small a rate: at least 1 / rate - 1 are needed.

    >>> most_alarms(999, 999, 0.05), most_alarms(19, 19, 0.05)
    (49, 0)
    """
    if not 0 < rate < 1:
        raise SettingsError(f"a false-alarm rate lies between 0 and 1, got {rate}; 0.05 is usual")
    unseen = n / max(1, patients)  # images of a patient yet to come, all of which may be flagged
    flagged = math.floor((n + unseen) * rate - unseen + _SLACK)
    if flagged < 0 or not n:
        who = "patients" if patients < n else "images"
        raise InputError(
            f"{patients} held-out {who} are too few for a false-alarm rate of {rate:g}: at least "
            f"{math.ceil(1 / rate - 1 - _SLACK)} are needed; ask for a larger rate, or hold out more"
        )
    return flagged


def held_out_threshold(scores: Array, rate: float, groups: Array | None = None) -> float:
    """The smallest of held-out clean scores above which no more than `rate` of fresh clean images are expected.

    Args:
        scores: `(N,)`, finite.
        rate: of false alarms, in (0, 1).
        groups: `(N,)` patient of each image; None where each image has its own.

    Raises:
        SettingsError, InputError: as `most_alarms`.

    >>> held_out_threshold(np.arange(999.0), 0.05)
    949.0
    """
    ordered = np.sort(np.asarray(scores, dtype=float))
    patients = len(np.unique(group_codes(groups, len(ordered))))
    return float(ordered[len(ordered) - most_alarms(len(ordered), patients, rate) - 1])


def micro_f1_estimate(clean: Array, attacked: Array, groups: Array | None = None) -> Estimate:
    """Estimate the F1 over both answers of a detector, clean and attacked: the share of images about which it is right.

    This is what Li and Zhu (ISBI 2020) state, over as many clean images as attacked ones: a detector that never raises an alarm
    has 0.5.

    Args:
        clean, attacked: `(N,)` whether an image is flagged unchanged, and attacked; NaN where it does not count.
        groups: `(N,)` patient of each image; None where each image has its own.

    >>> micro_f1_estimate(np.repeat([1, 0], [50, 950]), np.ones(1000)).value
    0.975
    """
    columns = np.stack([1 - np.asarray(clean, dtype=float), np.asarray(attacked, dtype=float)], 1)
    return average_proportion(columns, groups)


def positive_f1_estimate(clean: Array, attacked: Array, groups: Array | None = None) -> Estimate:
    """Estimate the F1 of the alarm alone, were there as many clean images as attacked ones: 2 T / (1 + T + F).

    T is the share of attacked images that are flagged, F that of clean ones. The interval is of the linearised ratio, by group.

    Args:
        clean, attacked, groups: as in `micro_f1_estimate`.

    >>> round(positive_f1_estimate(np.repeat([1, 0], [50, 950]), np.ones(1000)).value, 4)
    0.9756
    """
    kinds = [np.asarray(values, dtype=float) for values in (clean, attacked)]
    counted = [~np.isnan(values) for values in kinds]
    codes = group_codes(groups, len(kinds[0]))
    count, n = int(codes.max(initial=-1)) + 1, int(sum(part.sum() for part in counted))
    if not all(part.any() for part in counted):
        return Estimate(math.nan, math.nan, math.nan, n, count, "nothing to count")
    alarm, hit = (float(np.nanmean(values)) for values in kinds)
    whole = 1 + hit + alarm
    value = 2 * hit / whole
    slopes = (-2 * hit / whole**2, 2 * (1 + alarm) / whole**2)
    influence = np.zeros(count)
    for values, part, mean, slope in zip(kinds, counted, (alarm, hit), slopes, strict=True):
        off = np.where(part, values - mean, 0) * slope / part.sum()
        influence += np.bincount(codes, off, count)
    present = len(np.unique(codes[counted[0] | counted[1]]))
    low, high, effective = effective_interval(value, influence, n, present)
    return Estimate(value, low, high, n, present, f"linearised, clustered (effective n = {effective:.0f})")
