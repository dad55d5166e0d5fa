"""What the index of a set alone says against trusting figures on it, in sentences with the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from antivenom.data.imageset import SPLITS, Index
from antivenom.task import Task

_LEAST_GAP = 0.05  # smaller differences of prevalence gain a model little
_ALPHA = 0.01
_FEW = 5  # groups of a class in a split, below which a figure on that class says little
_LISTED = 3


def measured_caveats(index: Index, task: Task) -> tuple[str, ...]:
    """State shortcuts by source, classes with hardly any group in a split, and unknown groups.

    >>> index = Index.of(list("abcd"), [0, 0, 1, 1], groups=list("abcd"), splits=["train", "test"] * 2)
    >>> measured_caveats(index, Task(("healthy", "ill")))
    ('Few groups: healthy has 1 in train, 1 in test; ill has 1 in train, 1 in test.',)
    """
    if not len(index):
        return ()
    present = _present(index, task)
    return (*_source_caveat(index, task, present), *_scarcity_caveat(index, task, present), *_group_caveat(index))


def _present(index: Index, task: Task) -> np.ndarray[Any, Any]:
    """`(N, K)` bool: which classes each image has."""
    if task.multilabel:
        return np.asarray(index.targets, dtype=bool)
    return np.asarray(index.targets[:, None] == np.arange(len(task.classes)))


def _source_caveat(index: Index, task: Task, present: np.ndarray[Any, Any]) -> tuple[str, ...]:
    sources, member = np.unique(index.sources, return_inverse=True)
    if len(sources) < 2:
        return ()
    sizes = np.bincount(member, minlength=len(sources))
    counts = np.stack([np.bincount(member[column], minlength=len(sources)) for column in present.T])
    shares = counts / sizes
    gaps = np.ptp(shares, axis=1)
    real = (gaps >= _LEAST_GAP) & (_p_values(counts, sizes) < _ALPHA)
    if not real.any():
        return ()
    order = [int(c) for c in np.argsort(-gaps, kind="stable") if real[c]]
    shown = [task.index(task.positive)] if task.binary else order[:_LISTED]  # the other class of two says the same again
    names = [str(source) or "unknown" for source in sources]
    parts = [f"{task.classes[c]} " + ", ".join(f"{name} {shares[c, s]:.1%}" for s, name in enumerate(names)) for c in shown]
    sentence = (
        f"Prevalence differs between sources ({', '.join(f'{n} n = {k:,}' for n, k in zip(names, sizes, strict=True))}): "
        f"{'; '.join(parts)}{_more(len(order) - len(shown)) if not task.binary else ''}. "
        "Part of any accuracy can come from recognising the source: read the figures of each source."
    )
    if task.multilabel:
        return (sentence,)
    by_source, constant = counts.max(0).sum() / sizes.sum(), counts.sum(1).max() / sizes.sum()
    return (f"{sentence} Naming the commonest class of each source is right for {by_source:.1%}, of all for {constant:.1%}.",)


def _p_values(counts: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Chi-square test per class `(K,)` that its prevalence is the same in all sources."""
    from scipy.special import chdtrc

    total = counts.sum(1, keepdims=True) / sizes.sum()
    spread = np.maximum(total * (1 - total) * sizes, 1e-300)
    statistic = ((counts - total * sizes) ** 2 / spread).sum(1)
    values: np.ndarray[Any, Any] = chdtrc(len(sizes) - 1, statistic)
    return values


def _scarcity_caveat(index: Index, task: Task, present: np.ndarray[Any, Any]) -> tuple[str, ...]:
    units = np.where(index.groups == "", index.keys, index.groups)
    used = [name for name in SPLITS if (index.splits == name).any()]
    parts = []
    for c, name in enumerate(task.classes):
        held = {s: len(np.unique(units[(index.splits == s) & present[:, c]])) for s in used}
        few = [f"{n or 'none'} in {s}" for s, n in held.items() if n < _FEW]
        if few:
            parts.append(f"{name} has {', '.join(few)}")
    what = "groups" if (index.groups != "").any() else "images"
    return (f"Few {what}: {'; '.join(parts)}.",) if parts else ()


def _group_caveat(index: Index) -> tuple[str, ...]:
    unknown = int((index.groups == "").sum())
    if not unknown:
        return ()
    whom = (
        "No ids of patients, subjects or lesions are known" if unknown == len(index) else f"{unknown:,} images have no such id"
    )
    return (f"{whom}: what belongs together may stand in several splits, and intervals take images for independent.",)


def _more(n: int) -> str:
    return f"; {n} more classes differ" if n > 0 else ""
