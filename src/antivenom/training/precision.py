"""Float32 or bfloat16: whichever trains faster on the machine at hand, found by a few timed steps, not assumed."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from antivenom.models.classifier import Classifier

_STEPS = 3  # timed, after one that warms up
_GAIN = 1.1  # bfloat16 loses digits: it must be this much faster to be taken


@dataclass(frozen=True)
class Precision:
    """What the steps of a training are computed in.

    Attributes:
        name: of the number format; weights, momentum and loss stay in float32 under either.
        float32_rate, bfloat16_rate: images a second when it was chosen; 0 where it was told.
    """

    name: Literal["float32", "bfloat16"]
    float32_rate: float = 0.0
    bfloat16_rate: float = 0.0

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """The context of a forward pass."""
        if self.name == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def laid_out(self, images: Tensor) -> Tensor:
        """Images in the memory layout that the format is fastest in."""
        return images if self.name == "float32" else images.contiguous(memory_format=torch.channels_last)

    def lay_out(self, model: nn.Module) -> None:
        """Bring weights into the same layout, in place."""
        if self.name == "bfloat16":
            model.to(memory_format=torch.channels_last)


FLOAT32 = Precision("float32")


def measure(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    wanted: Literal["auto", "float32", "bfloat16"],
) -> Precision:
    """Time a few training steps in either format on a copy of the classifier; a format that was named is taken untimed."""
    if wanted != "auto":
        return Precision(wanted)
    rates = [_rate(classifier, images, targets, loss, Precision(name)) for name in ("float32", "bfloat16")]
    return Precision("bfloat16" if rates[1] > _GAIN * rates[0] else "float32", *rates)


def _rate(
    classifier: Classifier, images: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], precision: Precision
) -> float:
    """Images a second, forward and backward; 0 where the machine cannot compute so."""
    model = copy.deepcopy(classifier).train()
    precision.lay_out(model)
    started = 0.0
    try:
        for step in range(_STEPS + 1):
            if step == 1:
                started = _now(images.device)
            with precision.autocast(images.device):
                value = loss(model(precision.laid_out(images)), targets)
            value.backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        if precision.name == "float32":
            raise
        return 0.0
    return _STEPS * len(images) / (_now(images.device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
