"""What is left of a model's right decisions under attack. Right decisions are `(N, D)` bool, one column per decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from antivenom.errors import InputError

Array = np.ndarray[Any, Any]


def fooled(clean_right: Array, adv_right: Array) -> Array:
    """Say of each decision whether the attack turned it wrong: `(N, D)` float, NaN where it was wrong from the start.

    `intervals.proportion` of this is the attack success rate with its interval.
    """
    clean, adv = np.asarray(clean_right, dtype=bool), np.asarray(adv_right, dtype=bool)
    if clean.shape != adv.shape:
        raise InputError(f"clean and attacked decisions belong together, got shapes {clean.shape} and {adv.shape}")
    return np.where(clean, ~adv, np.nan)


def attack_success_rate(clean_right: Array, adv_right: Array) -> float:
    """Give the share turned wrong of the decisions that were first right; NaN where none was.

    >>> attack_success_rate(np.array([[True], [True], [False]]), np.array([[False], [True], [False]]))
    0.5
    """
    turned = fooled(clean_right, adv_right)
    return float(np.nanmean(turned)) if not np.isnan(turned).all() else math.nan


def worst_case(rights: Sequence[Array]) -> Array:
    """Keep of several attacks, for each image, the example that leaves the fewest decisions right; the first of equals.

    One example has to do all the harm: decisions that different examples turned are never added up. Where an image has one
    decision, it is right only if it is right under every attack.

    Args:
        rights: `(N, D)` per attack.

    Returns:
        `(N, D)`.

    >>> worst_case([np.array([[True, False]]), np.array([[False, True]])]).tolist()
    [[True, False]]
    """
    worst: Array = np.take_along_axis(_stacked(rights), worst_example(rights)[None, :, None], axis=0)[0]
    return worst


def worst_example(rights: Sequence[Array]) -> Array:
    """Name for each image the attack that leaves the fewest decisions right; `(N,)`, the first of equals."""
    return np.asarray(_stacked(rights).sum(2).argmin(0))


def area_under_curve(epsilons: Array, accuracies: Array) -> float:
    """Give the mean accuracy over the range of a security curve (trapezoids), whatever the order of its points.

    >>> area_under_curve(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.5, 0.0]))
    0.5
    """
    order = np.argsort(epsilons, kind="stable")
    x, y = np.asarray(epsilons, dtype=float)[order], np.asarray(accuracies, dtype=float)[order]
    if len(np.unique(x)) < 2 or not np.isfinite(x).all():
        raise InputError(f"a curve needs at least two different, finite epsilons, got {x.tolist()}")
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))


def median_distance(distances: Array) -> float:
    """Give the median distance `(N,)`; infinite where at least half of the images withstood; NaN without images.

    >>> median_distance(np.array([0.1, 0.2, np.inf, np.inf]))
    inf
    """
    distances = np.asarray(distances, dtype=float)
    if np.isnan(distances).any():
        raise InputError(f"{int(np.isnan(distances).sum())} distances are NaN; an attack that failed has an infinite one")
    return float(np.median(distances)) if distances.size else math.nan


def _stacked(rights: Sequence[Array]) -> Array:
    if not len({np.shape(r) for r in rights}) == 1 or np.ndim(rights[0]) != 2:
        raise InputError(
            f"the worst case needs the same (N, D) decisions under each attack, got {[np.shape(r) for r in rights]}"
        )
    return np.stack([np.asarray(r, dtype=bool) for r in rights])
