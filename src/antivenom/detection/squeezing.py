"""How far the answer moves when the image is given in less detail.

Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS 2018,
https://arxiv.org/abs/1704.01155
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from antivenom.detection.bank import unless_odd
from antivenom.detection.detector import Detector
from antivenom.detection.logits import count_logits, expected_logits
from antivenom.detection.reading import Change, Reading
from antivenom.errors import InputError, SettingsError
from antivenom.models.transforms import BitDepth, Median

# What the paper squeezes by, but for non-local means.
SQUEEZES: Mapping[str, Change] = {
    **{f"bit-depth-{bits}": BitDepth(bits).eval() for bits in range(1, 8)},
    **{f"median-{size}": Median(size).eval() for size in (2, 3)},
}
DEFAULT = ("bit-depth-5", "median-2")  # best together on ImageNet, there with non-local means (11-3-4)


class FeatureSqueezing(Detector):
    """The largest L1 distance between the probabilities of an image and those of its squeezed versions.

    Attributes:
        squeezes: names in `SQUEEZES` of the versions that are compared.
        classes: logits of the model.
        multilabel: whether they are findings, whose probabilities are sigmoids.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        squeezes: Sequence[str],
        classes: int,
        multilabel: bool,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.squeezes, self.classes, self.multilabel = tuple(squeezes), classes, multilabel
        changes(self.squeezes)

    def settings(self) -> dict[str, Any]:
        """The squeezes, the number of logits and how they are read."""
        own = {"squeezes": list(self.squeezes), "classes": self.classes, "multilabel": self.multilabel}
        return {**super().settings(), **own}

    def measure(self, reading: Reading) -> Tensor:
        """The distance `(B,)`; at most 2 for classes, at most their number for findings.

        Raises:
            InputError: a squeezed version was not read, or the logits are another model's.
        """
        known = [expected_logits(logits, self.classes) for logits in _answers(reading, self.squeezes)]
        whole, *versions = [logits.sigmoid() if self.multilabel else logits.softmax(1) for logits in known]
        moved = torch.stack([(version - whole).abs().sum(1) for version in versions])
        return unless_odd(moved.amax(0), *known)


def fit_squeezing(clean: Iterable[Reading], *, squeezes: Sequence[str] = DEFAULT, multilabel: bool = False) -> FeatureSqueezing:
    """Look that the model answers clean images and their squeezed versions with finite logits, and note how many.

    Args:
        clean: readings of clean images and of these squeezed versions, as a stream; see `changes`.
        squeezes: names in `SQUEEZES`.
        multilabel: whether the logits are findings rather than classes.

    Raises:
        SettingsError: no squeeze, or one that is not in the table.
        InputError: a squeezed version was not read, there is no image, or values are not finite.
    """
    changes(squeezes)
    classes = count_logits(logits for reading in clean for logits in _answers(reading, squeezes))
    return FeatureSqueezing(layers=[], widths=[], notes=[], squeezes=squeezes, classes=classes, multilabel=multilabel)


def changes(names: Sequence[str]) -> dict[str, Change]:
    """The changes of these names, as a `Sensor` takes them.

    Raises:
        SettingsError: none, or one that is not in the table.
    """
    unknown = [name for name in names if name not in SQUEEZES]
    if unknown or not names:
        told = f"there is no squeeze {unknown[0]!r}" if unknown else "no squeeze was named"
        raise SettingsError(f"{told}; there are {', '.join(SQUEEZES)}")
    return {name: SQUEEZES[name] for name in names}


def _answers(reading: Reading, squeezes: Sequence[str]) -> list[Tensor]:
    """The logits `(B, A)` of the images and of each squeezed version."""
    for name in squeezes:
        if name not in reading.squeezed:
            raise InputError(f"squeeze {name!r} was not read; there is {', '.join(reading.squeezed) or 'none'}")
    return [reading.logits, *(reading.squeezed[name] for name in squeezes)]
