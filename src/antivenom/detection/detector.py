"""What every detector is: a state fitted on clean images, which scores what a classifier made of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from antivenom.detection.reading import Reading
from antivenom.errors import InputError


class Detector(nn.Module, ABC):
    """A fitted detector. Its tensors are buffers, so that it moves and is saved as any module; none of them is trained.

    A subclass takes exactly its `settings()` and its buffers as keyword arguments of its constructor: that is how it is saved
    without pickle and built again.

    Attributes:
        layers: the layers that it reads.
        widths: how many values it expects of each of them.
        notes: what a reader of any figure about this detector must be told, one sentence each.
    """

    def __init__(self, *, layers: Sequence[str] = (), widths: Sequence[int] = (), notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.layers, self.widths, self.notes = tuple(layers), tuple(widths), tuple(notes)

    @abstractmethod
    def measure(self, reading: Reading) -> Tensor:
        """The score `(B,)` of readings that are finite and fit; higher is more suspicious."""

    @property
    def differentiable(self) -> bool:
        """Whether the score has a useful gradient by the reading."""
        return True

    def settings(self) -> dict[str, Any]:
        """What rebuilds this detector beside its buffers, as plain values."""
        return {"layers": list(self.layers), "widths": list(self.widths), "notes": list(self.notes)}

    def forward(self, reading: Reading) -> Tensor:
        """Score `(B,)`; higher is more suspicious. What is not finite is as suspicious as can be: infinity.

        Raises:
            InputError: a layer is missing, or of another width than that which the state was fitted on.
        """
        for name, width in zip(self.layers, self.widths, strict=True):
            found = reading.layer(name).shape[1]
            if found != width:
                raise InputError(
                    f"layer {name!r} gives {found} values and the detector was fitted on {width}: "
                    "it belongs to another model; fit it again on this one"
                )
        score = self.measure(reading)
        return torch.where(score.isnan(), torch.inf, score)


def finite(values: Tensor, what: str) -> Tensor:
    """The values, where all are finite.

    Raises:
        InputError: saying how many images are not.
    """
    odd = ~values.isfinite().flatten(1).all(1)
    if bool(odd.any()):
        first = int(odd.nonzero()[0, 0])
        raise InputError(
            f"{what}: {int(odd.sum())} of {len(values)} images (the first: {first}) give values that are not finite; "
            "a detector cannot be fitted on them: find out what is wrong with these images or the model"
        )
    return values
