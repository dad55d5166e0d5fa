"""Decoded images kept at hand, so that an epoch does not decode them anew."""

from __future__ import annotations

from torch import Tensor

from antivenom.data.imageset import ImageSet, Sample

CACHE = 1_000_000_000  # bytes of decoded images kept in memory


class Shelf:
    """Decoded images, kept in memory up to a budget, first come, first kept.

    Every image passes through float16, kept or not: what a training sees must not depend on how much memory it was given.

    Args:
        budget: bytes of pixels.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget
        self._kept: dict[tuple[int, int], Sample] = {}

    def samples(self, images: ImageSet, positions: Tensor) -> list[Sample]:
        """The samples at these positions, images in float16."""
        return [self._sample(images, position) for position in positions.tolist()]

    def _sample(self, images: ImageSet, position: int) -> Sample:
        place = (id(images), position)
        if place in self._kept:
            return self._kept[place]
        sample = images[position]
        sample = Sample(sample.image.half(), sample.target, sample.key, sample.group, sample.source)
        if sample.image.nbytes <= self.left:
            self.left -= sample.image.nbytes
            self._kept[place] = sample
        return sample
