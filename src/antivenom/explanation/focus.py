"""Figures for what maps of attention only show: how large the focus is, where it lies, and how far an attack moves it.

Maps are `(B, H, W)`, finite and none of them negative, such as `grad_cam` gives. Figures are `(B,)` float64, NaN where they are
undefined: a map that is all 0 points nowhere, so it has no area, no centre and no share, and its images must not be counted as
well focused.

Zhang, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation Backprop", ECCV 2016,
https://arxiv.org/abs/1608.00507: the pointing game, here without their tolerance of 15 pixels.
Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15 (1904).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from antivenom.errors import InputError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
LEVEL = 0.5  # of a map's largest value, above which it is active: the warm half of the usual pictures


def active(maps: Array | Tensor, level: float = LEVEL) -> Array:
    """Say which pixels lie above `level` times the map's largest value; `(B, H, W)` bool, none where a map is all 0.

    Raises:
        InputError: no maps.
        SettingsError: a level outside [0, 1).
    """
    if not 0 <= level < 1:
        raise SettingsError(f"a level is a share of the largest value in [0, 1), got {level}")
    values = _maps(maps)
    return np.asarray(values > level * values.max((1, 2), keepdims=True))


def active_area(maps: Array | Tensor, level: float = LEVEL) -> Array:
    """Give the share of pixels that are active; NaN where a map is all 0.

    >>> active_area(np.array([[[1.0, 0.6], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    array([0.5, nan])
    """
    return _where_lit(maps, active(maps, level).mean((1, 2)))


def effective_area(maps: Array | Tensor) -> Array:
    """Give the share of pixels that would hold the map if it were even there, without a level: (sum m)² / (sum m²) / pixels.

    NaN where a map is all 0. This is the participation ratio, 1 of an even map and 1 / pixels of a single one.

    >>> effective_area(np.array([[[1.0, 1.0], [0.0, 0.0]]]))
    array([0.5])
    """
    values = to_unit(maps).reshape(len(maps), -1)
    even = values.shape[1] * (values**2).sum(1)
    return np.asarray(np.divide(values.sum(1) ** 2, even, out=np.full(len(values), np.nan), where=even > 0))


def overlap(first: Array | Tensor, second: Array | Tensor, level: float = LEVEL) -> Array:
    """Give the intersection over union of two maps' active pixels; NaN where either map is all 0.

    >>> overlap(np.array([[[1.0, 1.0, 0.0]]]), np.array([[[0.0, 1.0, 1.0]]])).round(3)
    array([0.333])
    """
    _alike(first, second)
    one, other = active(first, level), active(second, level)
    union = (one | other).sum((1, 2))
    share = (one & other).sum((1, 2)) / np.maximum(union, 1)
    return _where_lit(first, _where_lit(second, share))


def centroid(maps: Array | Tensor) -> Array:
    """Give the centre of mass `(B, 2)`, row and column in pixels from the middle of the first one; NaN where a map is all 0.

    >>> centroid(np.array([[[0.0, 0.0, 0.0], [0.0, 2.0, 2.0]]]))
    array([[1. , 1.5]])
    """
    values = to_unit(maps)
    _, height, width = values.shape
    total = values.sum((1, 2))
    down, across = values.sum(2) @ np.arange(height), values.sum(1) @ np.arange(width)
    total = np.where(total > 0, total, np.nan)
    return np.stack([down / total, across / total], 1)


def centroid_shift(first: Array | Tensor, second: Array | Tensor) -> Array:
    """Give the distance between two maps' centres of mass in pixels; NaN where either map is all 0."""
    _alike(first, second)
    return np.asarray(np.hypot(*(centroid(second) - centroid(first)).T))


def rank_correlation(first: Array | Tensor, second: Array | Tensor) -> Array:
    """Give Spearman's correlation between two maps' pixels; NaN where either map is constant.

    >>> rank_correlation(np.array([[[0.0, 1.0, 2.0]]]), np.array([[[9.0, 4.0, 0.0]]]))
    array([-1.])
    """
    _alike(first, second)
    one, other = _ranks(first), _ranks(second)
    spread = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.asarray(np.divide((one * other).sum(1), spread, out=np.full(len(one), np.nan), where=spread > 0))


def mass_on(maps: Array | Tensor, mask: Array | Tensor) -> Array:
    """Give the share of a map's sum that lies on a mask, such as a lesion; by chance, the share of pixels under the mask.

    Args:
        maps: `(B, H, W)`.
        mask: `(B, H, W)` bool.

    Returns:
        NaN where a map is all 0 or a mask is empty.

    >>> mass_on(np.array([[[3.0, 1.0]]]), np.array([[[True, False]]]))
    array([0.75])
    """
    on = _mask(mask, maps)
    return np.where(on.any((1, 2)), _share(to_unit(maps), on), np.nan)


def hits(maps: Array | Tensor, mask: Array | Tensor) -> Array:
    """Say whether the largest value lies on the mask: 1 or 0, and of several equal ones the share that does (pointing game).

    A coarse map laid over an image is even near the edges, so it may well have several. NaN where a map is all 0 or a mask is
    empty.

    >>> hits(np.array([[[3.0, 1.0]]]), np.array([[[False, True]]]))
    array([0.])
    """
    values, on = _maps(maps), _mask(mask, maps)
    tops = values == values.max((1, 2), keepdims=True)
    share = (tops & on).sum((1, 2)) / tops.sum((1, 2))
    return np.where(on.any((1, 2)), _where_lit(maps, share), np.nan)


def change_on(delta: Array | Tensor, where: Array | Tensor) -> Array:
    """Give the share of a perturbation, as the sum of its absolute values, that lies on some pixels.

    Args:
        delta: `(B, C, H, W)`.
        where: `(B, H, W)` bool.

    Returns:
        NaN where nothing was changed.

    >>> change_on(np.array([[[[0.3, -0.1]]]]), np.array([[[True, False]]])).round(3)
    array([0.75])
    """
    sizes = np.abs(np.asarray(delta, dtype=np.float64))
    if sizes.ndim != 4:
        raise InputError(f"a perturbation is (B, C, H, W), got {sizes.shape}")
    by_pixel = sizes.sum(1)
    return _share(to_unit(by_pixel), _mask(where, by_pixel))


def change_outside(delta: Array | Tensor, maps: Array | Tensor, level: float = LEVEL) -> Array:
    """Give the share of a perturbation outside the active pixels of a map; by chance, 1 less the active area.

    NaN where nothing was changed or a map is all 0.
    """
    return _where_lit(maps, change_on(delta, ~active(maps, level)))


@dataclass(frozen=True)
class Drift:
    """What an attack did to where a model looks, image by image; each `(B,)`, NaN where undefined or not asked for.

    Attributes:
        clean_area, attacked_area: share of pixels that are active.
        clean_effective_area, attacked_effective_area: the same without a level.
        overlap: intersection over union of the active pixels.
        shift: distance between the centres of mass in pixels.
        shift_share: the same as a share of the image's diagonal.
        correlation: Spearman's, between the pixels of the two maps.
        clean_mass, attacked_mass: share of the map's sum on the mask.
        clean_hit, attacked_hit: whether its largest value lies on the mask.
        mask_area: share of pixels under the mask: what mass and hits come to by chance.
        change_outside: share of the perturbation outside the clean active pixels; by chance 1 - `clean_area`.
    """

    clean_area: Array
    attacked_area: Array
    clean_effective_area: Array
    attacked_effective_area: Array
    overlap: Array
    shift: Array
    shift_share: Array
    correlation: Array
    clean_mass: Array
    attacked_mass: Array
    clean_hit: Array
    attacked_hit: Array
    mask_area: Array
    change_outside: Array

    @staticmethod
    def between(
        clean: Array | Tensor,
        attacked: Array | Tensor,
        *,
        level: float = LEVEL,
        mask: Array | Tensor | None = None,
        delta: Array | Tensor | None = None,
    ) -> Drift:
        """Compare maps of clean images with maps of the same images attacked.

        Let both be of the same class, such as the one answered on the clean image: else a change of the answer passes for a
        change of place.

        Args:
            clean, attacked: `(B, H, W)`.
            level: above which share of its largest value a map is active.
            mask: `(B, H, W)` bool, where the lesion is.
            delta: `(B, C, H, W)`, the attacked image less the clean one.

        Raises:
            InputError: shapes that do not belong together, or values that are no maps.
            SettingsError: a level outside [0, 1).

        >>> maps = np.array([[[0.0, 1.0], [0.2, 0.0]]])
        >>> drift = Drift.between(maps, maps)
        >>> drift.overlap.tolist(), drift.shift.tolist(), drift.clean_mass.tolist()
        ([1.0], [0.0], [nan])
        """
        _alike(clean, attacked)
        unasked = np.full(len(clean), np.nan)
        shift = centroid_shift(clean, attacked)
        masked = {"clean_mass": unasked, "attacked_mass": unasked, "clean_hit": unasked, "attacked_hit": unasked}
        if mask is not None:
            masked = {"clean_mass": mass_on(clean, mask), "attacked_mass": mass_on(attacked, mask)}
            masked |= {"clean_hit": hits(clean, mask), "attacked_hit": hits(attacked, mask)}
        return Drift(
            clean_area=active_area(clean, level),
            attacked_area=active_area(attacked, level),
            clean_effective_area=effective_area(clean),
            attacked_effective_area=effective_area(attacked),
            overlap=overlap(clean, attacked, level),
            shift=shift,
            shift_share=shift / np.hypot(*clean.shape[1:]),
            correlation=rank_correlation(clean, attacked),
            mask_area=unasked if mask is None else _mask(mask, clean).mean((1, 2)),
            change_outside=unasked if delta is None else change_outside(delta, clean, level),
            **masked,
        )


def to_unit(maps: Array | Tensor) -> Array:
    """Maps with a largest value of 1, in float64; what is all 0 stays so.

    Raises:
        InputError: not `(B, H, W)`, negative or not finite.
    """
    values = _maps(maps)
    largest = values.max((1, 2), keepdims=True)
    return np.asarray(values / np.where(largest > 0, largest, 1))


def _maps(maps: Array | Tensor) -> Array:
    values = np.asarray(maps, dtype=np.float64)
    if values.ndim != 3 or not values.size:
        raise InputError(f"maps are (B, H, W), got {values.shape}; give one map as map[None]")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise InputError(f"maps are finite and not negative, got values from {values.min()} to {values.max()}")
    return values


def _mask(mask: Array | Tensor, maps: Array | Tensor) -> Array:
    on = np.asarray(mask)
    if on.dtype != bool or on.shape != tuple(maps.shape):
        raise InputError(f"a mask is bool of its map's shape {tuple(maps.shape)}, got {on.dtype} of {on.shape}")
    return on


def _alike(first: Array | Tensor, second: Array | Tensor) -> None:
    if tuple(first.shape) != tuple(second.shape):
        raise InputError(f"maps that are compared have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")


def _share(values: Array, on: Array) -> Array:
    total = values.sum((1, 2))
    return np.asarray(np.divide((values * on).sum((1, 2)), total, out=np.full(len(values), np.nan), where=total > 0))


def _where_lit(maps: Array | Tensor, figures: Array) -> Array:
    return np.where(_maps(maps).max((1, 2)) > 0, figures, np.nan)


def _ranks(maps: Array | Tensor) -> Array:
    """Ranks of the pixels of each map, ties sharing theirs, about their mean; `(B, pixels)`."""
    from scipy.stats import rankdata

    ranks = rankdata(_maps(maps).reshape(len(maps), -1), axis=1)
    return np.asarray(ranks - ranks.mean(1, keepdims=True))
