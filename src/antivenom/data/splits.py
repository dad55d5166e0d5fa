"""Splits that keep patients, subjects or lesions apart, stored with a hash.

Stratification follows Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011: the rarest
class is dealt out first, each time to the split that lacks most of it. Here the unit dealt out is a whole group, the largest
first, since a large group fits nowhere once the splits are nearly full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.data.imageset import SPLITS, ImageSet
from antivenom.errors import DataError, SplitError
from antivenom.provenance import digest_json

FRACTIONS = (0.7, 0.1, 0.2)
VALIDATION = 1 / 8  # of what an official training list leaves: 70 / 10 / 20 where its test list holds a fifth
_SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_UNUSED = "unused"
_FORMAT = "antivenom split 1"

Column = Sequence[str] | np.ndarray[Any, Any]


def grouped_split(
    groups: Column, strata: np.ndarray[Any, Any], fractions: Sequence[float] = FRACTIONS, *, seed: int
) -> np.ndarray[Any, Any]:
    """Deal images into train, val and test so that no group is divided and classes are spread evenly.

    Args:
        groups: `(N,)` patient, subject or lesion of each image; an empty name is a group of its own.
        strata: `(N,)` class indices, or `(N, K)` of 0 and 1.
        fractions: of the images, for train, val and test; they sum to 1 and one may be 0.
        seed: decides between groups and splits that are equally good.

    Returns:
        `(N,)` of `train`, `val`, `test`.

    Raises:
        SplitError: fractions that cannot be, or too few groups to give every split one.

    >>> grouped_split(["a", "a", "b", "b"], np.array([0, 0, 0, 0]), (0.5, 0, 0.5), seed=0).tolist()
    ['test', 'test', 'train', 'train']
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise SplitError(f"fractions for train, val and test must be at least 0 and sum to 1, got {list(fractions)}")
    member, counts = _class_counts(groups, strata)
    dealt = _deal(counts, shares, np.random.default_rng(seed))
    empty = [name for place, name in enumerate(SPLITS) if shares[place] > 0 and not (dealt == place).any()]
    if empty:
        raise SplitError(
            f"{len(counts)} groups are too few to fill {', '.join(empty)} at fractions {list(fractions)}; "
            "take other fractions or state the split"
        )
    return np.asarray(np.asarray(SPLITS)[dealt[member]])


def carve_val(
    splits: Column, groups: Column, strata: np.ndarray[Any, Any], fraction: float = VALIDATION, *, seed: int
) -> np.ndarray[Any, Any]:
    """Take a validation split out of a given training split, groups whole; everything else stays as given.

    Raises:
        SplitError: no training image, or too few groups.
    """
    given, names = np.asarray(splits, dtype="<U5"), np.asarray(groups, dtype=np.str_)
    train = given == "train"
    if not train.any():
        raise SplitError("there is no training split to take a validation split from")
    given[train] = grouped_split(names[train], strata[train], (1 - fraction, fraction, 0), seed=seed)
    return given


def settle_splits(
    stated: Column | None, groups: Column, strata: np.ndarray[Any, Any], *, seed: int
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Respect a stated split and complete what it lacks.

    A missing validation split is carved from training. Where nothing is stated, or nothing but one split, all images are dealt
    out anew. Names such as `validation` and `testing` are understood.

    Returns:
        the splits `(N,)` and what a reader must be told about them.
    """
    given = np.asarray(
        [_SYNONYMS.get(s.strip().lower(), s.strip().lower()) for s in map(str, [] if stated is None else stated)]
    )
    present = set(given.tolist()) - {""}
    if len(present) <= 1 and present <= set(SPLITS):
        what = "The set states no split" if not present else f"The set states no split but {present.pop()}"
        return grouped_split(groups, strata, seed=seed), (f"{what}; it was split 70/10/20 here with seed {seed}.",)
    told: list[str] = []
    if present == {"train", "test"}:
        given = carve_val(given, groups, strata, seed=seed)
        told.append(f"The set states no validation split; an eighth of training was taken for it here with seed {seed}.")
    if (given == "").any():
        told.append(f"{int((given == '').sum())} image(s) stand in no split and are not used.")
    return given, tuple(told)


def save_split(path: str | Path, images: ImageSet) -> str:
    """Write which image stands in which split as JSON, with a SHA-256 over it, and give that hash.

    Raises:
        SplitError: an image set that is not split.
        DataError: the file cannot be written.
    """
    index = images.index
    if not (index.splits != "").any():
        raise SplitError(f"{images.name} is not split; there is nothing to save")
    content: dict[str, Any] = {"format": _FORMAT, "set": images.name}
    for name in (*SPLITS, _UNUSED):
        content[name] = index.keys[index.splits == ("" if name == _UNUSED else name)].tolist()
    digest = digest_json(content)
    try:
        Path(path).write_text(json.dumps({**content, "sha256": digest}, indent=0))
    except OSError as error:
        raise DataError(f"{path}: the split cannot be written ({error.strerror or error})") from error
    return digest


def load_split(path: str | Path, images: ImageSet) -> ImageSet:
    """Split a set as a stored file says.

    Raises:
        SplitError: the file is damaged or was changed, belongs to other images, or shares a patient between splits.
    """
    try:
        content = json.loads(Path(path).read_text())
        stated = content.pop("sha256")
        lists: dict[str, list[str]] = {name: content[name] for name in (*SPLITS, _UNUSED)}
    except OSError as error:
        raise SplitError(f"{path}: the split cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SplitError(f"{path}: no split that antivenom wrote ({type(error).__name__}: {error})") from error
    if digest_json(content) != stated or content.get("format") != _FORMAT:
        raise SplitError(f"{path}: its content does not agree with its SHA-256; it was changed after it was saved")
    place = {key: ("" if name == _UNUSED else name) for name, keys in lists.items() for key in keys}
    keys: list[str] = images.index.keys.tolist()
    absent, strange = [k for k in keys if k not in place], set(place) - set(keys)
    if absent or strange or sum(map(len, lists.values())) != len(place):
        some = ", ".join([*absent[:3], *sorted(strange)[:3]]) or "an image listed twice"
        raise SplitError(f"{path}: it lists {len(place)} images and {images.name} has {len(keys)}; they differ in {some}")
    return images.resplit([place[key] for key in keys])


def _class_counts(groups: Column, strata: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Each image's group `(N,)` and each group's images by class `(G, K)`; no finding is a class too."""
    names = np.asarray(groups, dtype=np.str_)
    if len(names) != len(strata) or not len(names):
        raise SplitError(f"{len(names)} groups for {len(strata)} images; a split needs one each and at least one image")
    _, member = np.unique(names, return_inverse=True)
    alone = np.flatnonzero(names == "")
    member[alone] = member.max() + 1 + np.arange(len(alone))
    _, member = np.unique(member, return_inverse=True)
    if strata.ndim == 1:
        _, classes = np.unique(strata, return_inverse=True)
        present = np.eye(classes.max() + 1, dtype=np.int64)[classes]
    else:
        present = np.column_stack([strata, strata.sum(1) == 0]).astype(np.int64)
    counts = np.zeros((member.max() + 1, present.shape[1]), dtype=np.int64)
    np.add.at(counts, member, present)
    return member, counts


def _deal(counts: np.ndarray[Any, Any], shares: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The split `(G,)` of each group, as a place in `SPLITS`."""
    dealt = np.full(len(counts), -1)
    lacking = (shares[:, None] * counts.sum(0)).tolist()  # images of each class that each split still lacks
    fillable = np.flatnonzero(shares > 0).tolist()

    def need(place: int, rarest: int) -> tuple[float, float, float]:
        # Where splits lack a class alike, the one whose share of it is least filled comes first: a class of two subjects then
        # reaches train and test, not train twice. Rounded, since what is equal differs in the last bits.
        lack = lacking[place]
        return round(lack[rarest], 9), round(lack[rarest] / shares[place], 9), round(sum(lack), 9)

    while (dealt < 0).any():
        waiting = np.flatnonzero(dealt < 0)
        left = counts[waiting].sum(0)
        rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
        holders = rng.permutation(waiting[counts[waiting, rarest] > 0])
        for group in holders[np.argsort(-counts[holders].sum(1), kind="stable")].tolist():
            needs = [need(place, rarest) for place in fillable]
            best = [place for place, needed in zip(fillable, needs, strict=True) if needed == max(needs)]
            choice = best[0] if len(best) == 1 else best[int(rng.integers(len(best)))]
            dealt[group] = choice
            for k in np.flatnonzero(counts[group]).tolist():
                lacking[choice][k] -= int(counts[group, k])
    return dealt
