"""How few random cuts set an image apart from clean ones.

Liu, Ting, Zhou, "Isolation Forest", ICDM 2008, https://doi.org/10.1109/ICDM.2008.17; fitted by scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.detection.bank import MOST, gather, unless_odd
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading
from antivenom.errors import InputError, WeightsError


class IsolationForest(Detector):
    """The score of the paper, `2 ** -(mean path length / c(samples))`: 1 is set apart at once, 0.5 is as any.

    All trees are walked down at once, a step for a level, on flat tables; a leaf leads to itself. It equals scikit-learn's
    `-score_samples`, whose trees see float32 as well. It is made of steps and has no gradient.

    Attributes:
        feature: the place `(T, N)` of the value that each node of each tree looks at.
        threshold: up to which `(T, N)` it goes left.
        left, right: the nodes `(T, N)` that follow.
        length: path length `(T, N)` to each node, in a leaf with that which its images would still need.
        levels: of the deepest tree.
        samples: images that each tree was grown on.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    length: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        levels: int,
        samples: int,
        feature: Tensor,
        threshold: Tensor,
        left: Tensor,
        right: Tensor,
        length: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.levels, self.samples = min(levels, left.shape[1]), samples
        # A place outside would be read all the same, or end the program on a GPU.
        for name, places, room in (
            ("feature", feature, widths[0]),
            ("left", left, left.shape[1]),
            ("right", right, left.shape[1]),
        ):
            if places.numel() == 0 or int(places.min()) < 0 or int(places.max()) >= room:
                raise WeightsError(f"the trees' table {name!r} must hold places from 0 to {room - 1}; the state is damaged")
        for name, table in zip(_TABLES, (feature, threshold, left, right, length), strict=True):
            self.register_buffer(name, table)

    @property
    def differentiable(self) -> bool:
        """No: a threshold has no slope."""
        return False

    def settings(self) -> dict[str, Any]:
        """The layer, the depth and the size of the trees."""
        return {**super().settings(), "levels": self.levels, "samples": self.samples}

    def measure(self, reading: Reading) -> Tensor:
        """The score `(B,)` between 0 and 1."""
        seen = reading.layer(self.layers[0]).detach()
        values, (trees, nodes) = seen.float(), self.feature.shape
        feature, threshold, left, right, length = (getattr(self, name).flatten() for name in _TABLES)
        root = nodes * torch.arange(trees, device=values.device)
        at = root.expand(len(values), trees)
        for _ in range(self.levels):
            goes_left = values.gather(1, feature[at]) <= threshold[at]
            at = root + torch.where(goes_left, left[at], right[at])
        score = torch.exp2(-length[at].mean(1) / expected_path(self.samples))
        return unless_odd(score.to(torch.float64 if seen.dtype == torch.float64 else torch.float32), seen)


_TABLES = ("feature", "threshold", "left", "right", "length")


def fit_isolation_forest(
    clean: Iterable[Reading], *, layer: str = FEATURES, trees: int = 100, samples: int = 256, most: int = MOST, seed: int
) -> IsolationForest:
    """Grow random trees on clean images.

    Args:
        clean: readings of clean images, as a stream.
        layer: whose activations count.
        trees: 100 in the paper.
        samples: images that each tree is grown on; 256 in the paper, all where there are fewer.
        most: images that the trees draw theirs from.
        seed: of that choice and of the trees.

    Raises:
        InputError: fewer than 2 images that differ, or values that are not finite.
    """
    from sklearn.ensemble import IsolationForest as Forest

    bank = gather(clean, [layer], most, seed=seed).layer(layer)
    if len(bank) < 2 or bool((bank == bank[0]).all()):
        raise InputError(f"layer {layer!r} gives {len(bank)} clean image(s) and no two that differ; nothing can be set apart")
    forest = Forest(n_estimators=trees, max_samples=min(samples, len(bank)), random_state=seed).fit(bank.numpy())
    grown = [estimator.tree_ for estimator in forest.estimators_]
    nodes = max(tree.node_count for tree in grown)
    tables = [_table(tree, nodes) for tree in grown]
    feature, threshold, left, right, length = (torch.from_numpy(np.stack(column)) for column in zip(*tables, strict=True))
    few = (
        [f"{layer}: each tree was grown on {len(bank)} images, not {samples}: there were no more"]
        if len(bank) < samples
        else []
    )
    return IsolationForest(
        layers=[layer],
        widths=[bank.shape[1]],
        notes=few,
        levels=max(tree.max_depth for tree in grown),
        samples=min(samples, len(bank)),
        feature=feature,
        threshold=threshold,
        left=left,
        right=right,
        length=length,
    )


def expected_path(samples: int, *, exact: bool = False) -> float:
    """The mean length of an unsuccessful search in a binary tree of so many images, c(n) of the paper.

    Args:
        samples: n.
        exact: sum the harmonic number; by default it is `ln(n - 1)` and Euler's constant, as in the paper and scikit-learn.

    >>> round(expected_path(256), 4), round(expected_path(256, exact=True), 4)
    (10.2448, 10.2487)
    """
    if samples <= 2:
        return float(max(samples - 1, 0))
    before = samples - 1
    harmonic = math.fsum(1 / n for n in range(1, samples)) if exact else math.log(before) + np.euler_gamma
    return 2 * harmonic - 2 * before / samples


def _table(tree: Any, nodes: int) -> tuple[np.ndarray[Any, Any], ...]:
    """The columns of one of scikit-learn's trees, as `_TABLES` names them, filled up to so many nodes."""
    leaf, own = tree.children_left < 0, np.arange(tree.node_count)
    threshold = tree.threshold.astype(np.float32)
    # Rounded down, so that no float32 value goes another way than by scikit-learn's float64 threshold.
    threshold = np.where(threshold > tree.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    needed = np.array([expected_path(int(images)) for images in tree.n_node_samples])
    columns = (
        np.where(leaf, 0, tree.feature),
        threshold,
        np.where(leaf, own, tree.children_left),
        np.where(leaf, own, tree.children_right),
        (tree.compute_node_depths() - 1 + np.where(leaf, needed, 0)).astype(np.float32),
    )
    return tuple(np.pad(column, (0, nodes - tree.node_count)) for column in columns)
