"""What one look at an image tells a detector: activations of named layers, and the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from antivenom.errors import InputError, ModelError
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.models.layers import last_input, select, watching

FEATURES = "features"  # the layer that `Classifier.features` gives: what the last layer sees
Change = Callable[[Tensor], Tensor]  # images (B, C, H, W) to images


@dataclass(frozen=True)
class Reading:
    """What a classifier made of some images.

    Attributes:
        logits: `(B, A)`.
        layers: activations `(B, D)` by the name of their layer, averaged over places; `features` is what the last layer sees.
        squeezed: logits `(B, A)` of the same images changed, by the name of the change.
    """

    logits: Tensor
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    squeezed: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logits)

    def layer(self, name: str) -> Tensor:
        """The activations `(B, D)` of one layer.

        Raises:
            InputError: it was not read.
        """
        if name not in self.layers:
            raise InputError(f"layer {name!r} was not read; there is {', '.join(self.layers) or 'none'}")
        return self.layers[name]

    def map(self, change: Callable[[Tensor], Tensor]) -> Reading:
        """The same with every tensor changed."""
        layers = {name: change(values) for name, values in self.layers.items()}
        return Reading(change(self.logits), layers, {name: change(values) for name, values in self.squeezed.items()})

    def take(self, index: Tensor) -> Reading:
        """Some of the images."""
        return self.map(lambda values: values[index])

    @staticmethod
    def join(readings: Sequence[Reading]) -> Reading:
        """Several readings of the same layers as one.

        Raises:
            InputError: there is none.
        """
        if not readings:
            raise InputError("no image was read; at least one is needed")
        first = readings[0]
        return Reading(
            torch.cat([reading.logits for reading in readings]),
            {name: torch.cat([reading.layers[name] for reading in readings]) for name in first.layers},
            {name: torch.cat([reading.squeezed[name] for reading in readings]) for name in first.squeezed},
        )


class Sensor(nn.Module):
    """A classifier that reports what it saw on the way: one forward pass, and one more for every squeeze.

    Args:
        model: which is looked at.
        layers: `features`, or names of modules of its backbone (`layer3`), whose output is averaged over places.
        squeezes: changes of the images (bit depth, median, ...), by name, of which the logits are wanted as well.

    Raises:
        ModelError: a layer that the backbone does not have.

    >>> from antivenom.task import Task
    >>> network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    >>> sensor = Sensor(Classifier(network, Task(("a", "b")), channels=1, mean=0, std=1).eval(), ("0", "features"))
    >>> {name: tuple(values.shape) for name, values in sensor(torch.rand(4, 1, 8, 8)).layers.items()}
    {'0': (4, 3), 'features': (4, 3)}
    """

    def __init__(
        self, model: Classifier, layers: Sequence[str] = (FEATURES,), squeezes: Mapping[str, Change] | None = None
    ) -> None:
        super().__init__()
        self.model, self.layers, self.squeezes = model, tuple(layers), dict(squeezes or {})
        self._watched = select(model.backbone, [name for name in self.layers if name != FEATURES])
        # Looked for once: a search through a deep network at every image would cost more than a detector may.
        self._last = model.last_layers() if FEATURES in self.layers else []
        self.training = model.training

    def forward(self, images: Tensor) -> Reading:
        """Read images `(B, C, H, W)` in [0, 1]; gradients flow through everything.

        Raises:
            ModelError, ImageError: as the classifier; or a named layer gave no activations.
        """
        seen: dict[str, Tensor] = {}

        def note(name: str, values: Tensor) -> None:
            seen[name] = _pooled(values, name)

        with watching(self._watched, note) if self._watched else nullcontext(), last_input(self._last) as last:
            logits = self.model(images)
        if FEATURES in self.layers:
            seen[FEATURES] = self.model.features_of(last)
        silent = [name for name in self.layers if name not in seen]
        if silent:
            raise ModelError(f"layer {silent[0]!r} of {self.model.architecture} gave no activations; name another")
        layers = {name: seen[name] for name in self.layers}
        return Reading(logits, layers, {name: self.model(change(images)) for name, change in self.squeezes.items()})

    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Read any number of images, a bounded number at a time, into the CPU's memory."""
        parts = torch.split(images, AT_ONCE)
        return Reading.join([self(part.to(self.model.device)).map(lambda values: values.float().cpu()) for part in parts])


def sample(readings: Iterable[Reading], most: int, *, generator: torch.Generator) -> Reading:
    """At most so many images of a stream, each as likely as any other, in memory for no more than these and a batch.

    Every image draws a number, and those with the smallest stay.

    Args:
        readings: read once, batch by batch.
        most: images kept, in their order; all of a shorter stream are.
        generator: on the CPU.

    Raises:
        InputError: the stream is empty.
    """
    kept: list[Reading] = []
    drawn = torch.empty(0, dtype=torch.float64)
    for reading in readings:
        fresh = torch.rand(len(reading), generator=generator, dtype=torch.float64)
        hopeful = fresh < (drawn.amax() if len(drawn) == most else 1)
        kept, drawn = [*kept, reading.take(hopeful.nonzero()[:, 0])], torch.cat([drawn, fresh[hopeful]])
        if len(drawn) > most:
            stay = drawn.topk(most, largest=False).indices.sort().values
            kept, drawn = [Reading.join(kept).take(stay)], drawn[stay]
    return Reading.join(kept)


def batches(reading: Reading, size: int) -> Iterator[Reading]:
    """A reading as a stream of batches."""
    for index in torch.split(torch.arange(len(reading)), size):
        yield reading.take(index)


def _pooled(values: Tensor, name: str) -> Tensor:
    if values.ndim == 4:
        return values.mean((2, 3))
    if values.ndim == 3:
        return values.mean(1)
    if values.ndim == 2:
        return values
    raise ModelError(
        f"layer {name!r} gives a tensor of shape {tuple(values.shape)}; name one with (B, D), (B, T, D) or (B, C, H, W)"
    )
