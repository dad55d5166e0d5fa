"""How far the nearest clean images lie, and how fast their number grows with the distance.

Sun, Ming, Zhu, Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, https://arxiv.org/abs/2204.06507:
the distance. Ma, Li, Wang, Erfani, Wijewickrema, Schoenebeck, Song, Houle, Bailey, "Characterizing Adversarial Subspaces Using
Local Intrinsic Dimensionality", ICLR 2018, https://arxiv.org/abs/1801.02613: the growth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.detection.bank import MOST, SAME, distance, gather, nearest, squares, unless_odd, wide
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading
from antivenom.errors import InputError

_LEAST_GROWTH = 1e-6  # summed logarithms below this are rounding: k neighbours at one distance


class Neighbours(Detector):
    """The distance to the k-th nearest clean image.

    Attributes:
        bank: activations `(N, D)` of clean images, each of length 1 where `normalised`.
        k: which neighbour counts.
        normalised: whether only the direction of the activations counts.
    """

    bank: Tensor
    _lengths: Tensor

    def __init__(
        self, *, layers: Sequence[str], widths: Sequence[int], notes: Sequence[str] = (), k: int, normalised: bool, bank: Tensor
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.k, self.normalised = k, normalised
        _enough(k, len(bank), layers[0])
        self.register_buffer("bank", bank)
        self.register_buffer("_lengths", squares(bank), persistent=False)

    def settings(self) -> dict[str, Any]:
        """The layer, the neighbour and whether lengths count."""
        return {**super().settings(), "k": self.k, "normalised": self.normalised}

    def measure(self, reading: Reading) -> Tensor:
        """The distance `(B,)`; between 0 and 2 where `normalised`."""
        seen = wide(reading.layer(self.layers[0]))
        points, bank = F.normalize(seen) if self.normalised else seen, self.bank.to(seen.dtype)
        return unless_odd(distance(points, bank[nearest(points, bank, self._lengths, self.k)[:, -1]]), seen)


def fit_neighbours(
    clean: Iterable[Reading], *, layer: str = FEATURES, k: int = 50, normalised: bool = True, most: int = MOST, seed: int
) -> Neighbours:
    """Keep a bank of clean images.

    The paper keeps all training images and chooses k by validation (50 for CIFAR-10, 1000 for ImageNet); here the bank is
    bounded, so that the k-th neighbour of a larger set is nearer than here.

    Args:
        clean: readings of clean images, as a stream.
        layer: whose activations count.
        k: which neighbour counts.
        normalised: whether activations are divided by their length first, as the paper found to matter most.
        most: images kept.
        seed: of the choice of the images.

    Raises:
        InputError: fewer than k images, or values that are not finite.
    """
    bank = gather(clean, [layer], most, seed=seed).layer(layer)
    kept = F.normalize(bank) if normalised else bank
    return Neighbours(layers=[layer], widths=[bank.shape[1]], notes=[], k=k, normalised=normalised, bank=kept)


class IntrinsicDimension(Detector):
    """The local intrinsic dimension that the k nearest clean images suggest: its mean over the layers.

    With r_1 <= ... <= r_k the distances, the estimate is k / sum(log(r_k / r_i)). An image off the surface on which clean
    images lie has neighbours at nearly one distance, and a high dimension.

    Attributes:
        bank: activations `(N, D)` of clean images, those of all layers side by side; no two are the same in any layer.
        k: neighbours that count.
    """

    bank: Tensor
    _lengths: Tensor

    def __init__(
        self, *, layers: Sequence[str], widths: Sequence[int], notes: Sequence[str] = (), k: int, bank: Tensor
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.k = k
        _enough(k + 1, len(bank), layers[0])
        self.register_buffer("bank", bank)
        lengths = [squares(part) for part in torch.split(bank, list(widths), 1)]
        self.register_buffer("_lengths", torch.stack(lengths), persistent=False)

    def settings(self) -> dict[str, Any]:
        """The layers and the number of neighbours."""
        return {**super().settings(), "k": self.k}

    def measure(self, reading: Reading) -> Tensor:
        """The dimension `(B,)`."""
        seen = [wide(reading.layer(name)) for name in self.layers]
        banks = torch.split(self.bank.to(seen[0].dtype), list(self.widths), 1)
        found = [_dimension(*each, self.k) for each in zip(seen, banks, self._lengths, strict=True)]
        return unless_odd(torch.stack(found).mean(0), *seen)


def fit_intrinsic_dimension(
    clean: Iterable[Reading], *, layers: Sequence[str] = (FEATURES,), k: int = 20, most: int = MOST, seed: int
) -> IntrinsicDimension:
    """Keep a bank of clean images.

    The paper takes the neighbours within a batch of 100 images, gives the estimates of all layers to a logistic regression and
    trains it on attacked images. Here the neighbours come from one bank, the layers count alike, and no attacked image is
    needed; images whose activations repeat another's in some layer are left out of the bank.

    Args:
        clean: readings of clean images, as a stream.
        layers: whose estimates are averaged.
        k: neighbours that count; 20 in the paper for most data sets.
        most: images kept.
        seed: of the choice of the images.

    Raises:
        InputError: a layer gives k images or fewer that differ, or values that are not finite.
    """
    bank = gather(clean, layers, most, seed=seed)
    seen = [bank.layer(name) for name in layers]
    fresh = torch.stack([_first_of_its_kind(values) for values in seen])
    _enough(k + 1, int(fresh.all(0).sum()), layers[int(fresh.sum(1).argmin())])
    widths = [values.shape[1] for values in seen]
    return IntrinsicDimension(layers=layers, widths=widths, notes=[], k=k, bank=torch.cat(seen, 1)[fresh.all(0)])


def _dimension(points: Tensor, bank: Tensor, lengths: Tensor, k: int) -> Tensor:
    far = distance(points[:, None], bank[nearest(points, bank, lengths, k + 1)]).sort(1).values
    itself = far[:, :1] <= SAME * points.detach().norm(dim=1, keepdim=True)
    far = torch.where(itself, far[:, 1:], far[:, :-1])
    return k / (far[:, -1:] / far).log().sum(1).clamp_min(_LEAST_GROWTH)


def _first_of_its_kind(values: Tensor) -> Tensor:
    """Whether no earlier row is the same `(N,)`."""
    kind = torch.unique(values, dim=0, return_inverse=True)[1]
    place = torch.arange(len(values))
    first = torch.full_like(place, len(values)).scatter_reduce(0, kind, place, "amin")
    return first[kind] == place


def _enough(needed: int, found: int, layer: str) -> None:
    if not 1 <= needed <= found:
        raise InputError(f"layer {layer!r} gives {found} different clean images and {needed} are needed; give more or lower k")
