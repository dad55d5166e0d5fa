"""A bank: a bounded sample of clean readings, and how far from it others lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from antivenom.detection.detector import finite
from antivenom.detection.reading import Reading, sample
from antivenom.errors import InputError

MOST = 5000  # images kept: 20 MB of 1024 features, and 5 million products a score
SAME = 1e-5  # of the length of the features: nearer is the same image, read again in another batch (float32 keeps 7 digits)
_TINY = torch.finfo(torch.float32).tiny


def gather(clean: Iterable[Reading], layers: Sequence[str], most: int, *, seed: int) -> Reading:
    """At most so many of the clean images, in float32 on the CPU: their logits and these layers.

    Raises:
        InputError: there is no image, one gives values that are not finite, or a layer was not read.
    """
    if most < 1:
        raise InputError(f"a bank keeps at least 1 image, got most={most}")
    return sample(narrowed(clean, layers), most, generator=torch.Generator().manual_seed(seed))


def narrowed(clean: Iterable[Reading], layers: Sequence[str]) -> Iterator[Reading]:
    """The stream without what is not needed, in float32 on the CPU, checked.

    Raises:
        InputError: an image gives values that are not finite, or a layer was not read.
    """
    for reading in clean:
        kept = Reading(reading.logits, {name: reading.layer(name) for name in layers}).map(_plain)
        finite(kept.logits, "logits")
        for name in layers:
            finite(kept.layer(name), f"layer {name!r}")
        yield kept


def wide(values: Tensor) -> Tensor:
    """The values in the precision that scores are computed in: float64 where they are, else float32."""
    return values if values.dtype == torch.float64 else values.float()


def unless_odd(score: Tensor, *seen: Tensor) -> Tensor:
    """The score `(B,)`, NaN where something that was seen `(B, ...)` is not finite: not every formula passes that on."""
    odd = torch.stack([~values.isfinite().flatten(1).all(1) for values in seen]).any(0)
    return score.masked_fill(odd, torch.nan)


def squares(bank: Tensor) -> Tensor:
    """The squared lengths `(N,)` of the points of a bank `(N, D)`, in float64: known once, they halve the cost of a score."""
    return bank.double().square().sum(1)


def squared_distances(points: Tensor, bank: Tensor, lengths: Tensor) -> Tensor:
    """Squared Euclidean distances `(B, N)` of points `(B, D)` from those of the bank `(N, D)`, by one matrix product.

    The rounding is relative to the squared lengths, so small distances are better asked of `distance` again.

    Args:
        points, bank: of one type.
        lengths: `squares(bank)`.
    """
    own = points.square().sum(1, keepdim=True)
    return (own + lengths.to(own.dtype) - 2 * points @ bank.T).clamp_min(0)


def distance(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances along the last axis, by differences; where it is 0 its gradient is, too."""
    return (points - others).square().sum(-1).clamp_min(_TINY).sqrt()


def nearest(points: Tensor, bank: Tensor, lengths: Tensor, k: int) -> Tensor:
    """The places `(B, k)` of the nearest points of the bank `(N, D)`, the nearest first."""
    return squared_distances(points.detach(), bank, lengths).topk(k, largest=False).indices


def _plain(values: Tensor) -> Tensor:
    return values.detach().float().cpu()
