"""Random numbers that belong to the image.

A draw is named by the run's seed, the image's own key and the place in the work where it is made. It does not depend on who
else is in the batch, so batching, refilling, sharding and resuming change no draw.

SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The constants of SplitMix64, unsigned in the paper, as int64 (multiplication wraps in both alike).
_GAMMA, _MIX_1, _MIX_2 = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def image_keys(names: Sequence[str]) -> Tensor:
    """Turn image names into the int64 keys `(B,)` that `Draws.of` takes; the same name always gives the same key.

    >>> bool((image_keys(["a", "b"])[:1] == image_keys(["a"])).all())
    True
    """
    digests = (hashlib.sha256(name.encode()).digest()[:8] for name in names)
    return torch.tensor([int.from_bytes(d, "big", signed=True) for d in digests], dtype=torch.int64)


@dataclass(frozen=True)
class Draws:
    """One stream of random numbers per image.

    >>> draws = Draws.of(seed=0, images=torch.arange(3))
    >>> together, alone = draws.uniform(4), draws.take(torch.tensor([2])).uniform(4)
    >>> torch.equal(together[2:], alone)
    True
    """

    key: Tensor  # (B,) int64, on the CPU

    @staticmethod
    def of(seed: int, images: Tensor) -> Draws:
        """Streams for the images with keys `(B,)` int64, such as `image_keys(names)` or the index in the data set."""
        return Draws(_mix(images.cpu() + _GAMMA)).at(seed)

    def at(self, *place: int | Tensor) -> Draws:
        """Independent streams for one place in the work, such as `(restart, step)`; a `(B,)` tensor where images differ."""
        key = self.key
        for number in place:
            step = number.cpu() if isinstance(number, Tensor) else torch.tensor(number)
            key = _mix(key + (step.to(torch.int64) + 1) * _GAMMA)
        return Draws(key)

    def take(self, index: Tensor) -> Draws:
        """The streams of some of the images."""
        return Draws(self.key[index.cpu()])

    def __len__(self) -> int:
        return len(self.key)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers `(B, *shape)` from [0, 1), float32 on the CPU."""
        return self._fill(shape, Tensor.uniform_)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers `(B, *shape)`, float32 on the CPU."""
        return self._fill(shape, Tensor.normal_)

    def _fill(self, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        # One generator, seeded anew for each image: a third dearer than a plain draw, where hashing each number in torch
        # costs five to nine times as much.
        out, generator = torch.empty(len(self.key), *shape), torch.Generator()
        for row, key in zip(out, self.key.tolist(), strict=True):
            fill(row, generator=generator.manual_seed(key))
        return out


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    logical: Tensor = (z >> bits) & (2 ** (64 - bits) - 1)  # an int64 shift drags the sign along; the mask drops it
    return logical
