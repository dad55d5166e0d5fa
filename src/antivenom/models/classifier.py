"""A classifier as everything else sees it: images in [0, 1] in, logits out, and all that lies between inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antivenom.errors import ImageError, ModelError
from antivenom.models.layers import last_input
from antivenom.provenance import digest_json, digest_tensors
from antivenom.task import Task

AT_ONCE = 64  # images in one forward pass of `Classifier.answers`


class Step(nn.Module):
    """One operation on images `(B, C, H, W)` between the stored image and the network; see `presentation`.

    Attributes:
        differentiable: whether its gradient is exact; False where a surrogate stands in for it.
    """

    differentiable: bool = True

    def settings(self) -> dict[str, Any] | None:
        """What rebuilds this step, as plain values for a card; None where code of the user's own is part of it."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The settings, as `str` shows them."""
        return ", ".join(f"{name}={value}" for name, value in (self.settings() or {}).items())


class Classifier(nn.Module):
    """A network with its task, its normalisation and the preprocessing in use inside.

    Args:
        backbone: normalised images to logits `(B, A)`, A as many as the task has classes.
        task: class names; single- or multi-label.
        channels: of the images that it takes: 1 for grey, 3 for colour.
        mean, std: subtracted and divided by, one value or one per channel of the backbone.
        architecture: as in `ARCHITECTURES`; for a foreign module the name of its class.
        size: height and width at which the backbone works; images of another size are resampled inside. None: as they come.
        smallest: fewest pixels a side that the backbone can work on.
        copy_grey: whether a grey image is copied to three channels in front of the backbone.
        steps: preprocessing in front of all this, in order.
        exact_gradient: whether the backbone can be differentiated.
        notes: what a reader of any figure about this model must be told, one sentence each.

    Raises:
        ModelError: channels, mean and std do not go together.

    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    >>> model = Classifier(network, Task(("normal", "pneumonia")), channels=1, mean=0.5, std=0.25).eval()
    >>> images = torch.rand(3, 1, 8, 8)
    >>> tuple(model(images).shape), tuple(model.features(images).shape), model.differentiable
    ((3, 2), (3, 4), True)
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        task: Task,
        *,
        channels: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        architecture: str = "",
        size: tuple[int, int] | None = None,
        smallest: int = 1,
        copy_grey: bool = False,
        steps: Sequence[Step] = (),
        exact_gradient: bool = True,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone, self.task, self.channels = backbone, task, channels
        self.size, self.smallest = size, smallest
        self.architecture = architecture or type(backbone).__name__
        self.copy_grey, self.exact_gradient, self.notes = copy_grey, exact_gradient, tuple(notes)
        self.steps = nn.ModuleList(steps)
        # Not among the weights: they are settings, written on the card.
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)
        widths = {1, 3 if copy_grey else channels}
        if copy_grey and channels != 1:
            raise ModelError(f"copy_grey copies one channel to three, but this model takes {channels}; leave it out")
        if not steps and {self.mean.numel(), self.std.numel()} - widths:
            raise ModelError(f"mean has {self.mean.numel()} and std {self.std.numel()} values; give one, or {max(widths)}")
        if not (self.std > 0).all():
            raise ModelError(f"std must be positive, got {std}")
        if not any(module.training for module in backbone.modules()):
            self.eval()

    @staticmethod
    def wrap(
        module: nn.Module,
        task: Task,
        *,
        channels: int,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        size: tuple[int, int] | None = None,
        copy_grey: bool = False,
        architecture: str = "",
    ) -> Classifier:
        """Make a classifier of any module that turns images into scores; see `foreign.adopt`.

        Raises:
            ModelError: it cannot be run on an image, or answers in a shape that does not fit the task.
        """
        from antivenom.models.foreign import adopt

        return adopt(
            module,
            task,
            channels=channels,
            mean=mean,
            std=std,
            size=size,
            copy_grey=copy_grey,
            architecture=architecture,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Answer images `(B, channels, H, W)` in [0, 1] with logits `(B, A)`.

        Raises:
            ModelError: some part is in training mode although no gradient is recorded, or the answer has another shape.
            ImageError: the images have another number of channels.
        """
        if not torch.is_grad_enabled():
            check_ready(self)
        logits: Tensor = self.backbone(self.prepare(images))
        if logits.shape != (len(images), len(self.task.classes)):
            raise ModelError(
                f"{self.architecture} answered {len(images)} image(s) with shape {tuple(logits.shape)}; "
                f"the task has {len(self.task.classes)} classes: {', '.join(self.task.classes)}"
            )
        return logits

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """Logits `(B, A)` in float32 on the CPU, for any number of images on any device; a bounded number at a time.

        Raises:
            ModelError, ImageError: as `forward`.
        """
        return torch.cat([self(part.to(self.device)).float().cpu() for part in torch.split(images, AT_ONCE)])

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees: the penultimate activations `(B, D)`, pooled over places where there are any.

        Raises:
            ModelError: as `forward`; or no linear or convolutional layer gives the logits.
        """
        with last_input(self.last_layers()) as seen:
            self(images)
        return self.features_of(seen)

    def last_layers(self) -> list[nn.Module]:
        """The layers that may give the logits; the one that runs last does."""
        widths = {len(self.task.classes)} | ({1} if self.task.binary else set())
        return [module for module in self.backbone.modules() if _outputs(module) in widths]

    def features_of(self, seen: Sequence[tuple[nn.Module, Tensor]]) -> Tensor:
        """The features of a forward pass, from what `layers.last_input` noted of `last_layers`.

        Raises:
            ModelError: none of them ran.
        """
        if not seen:
            raise ModelError(f"{self.architecture} ends in no linear or convolutional layer, so it has no penultimate features")
        layer, found = seen[-1]
        if isinstance(layer, nn.Linear):
            if found.ndim == 2:
                return found
            return found.reshape(len(found), -1, found.shape[-1]).mean(1)
        return found.flatten(2).mean(2)

    def prepare(self, images: Tensor) -> Tensor:
        """What the backbone is given for these images: preprocessed, resampled, copied to three channels, normalised.

        Raises:
            ImageError: not `(B, channels, H, W)`, or smaller than the backbone can take.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ImageError(
                f"{self.architecture} takes images (B, {self.channels}, H, W), got {tuple(images.shape)}; "
                "load the data with as many channels, or build the model for them"
            )
        for step in self.steps:
            images = step(images)
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        if min(images.shape[-2:]) < self.smallest:
            raise ImageError(
                f"{self.architecture} takes images of at least {self.smallest} pixels a side, got {tuple(images.shape[-2:])}; "
                f"build it with size=({self.smallest}, {self.smallest}) to have them resampled inside"
            )
        if self.copy_grey:
            images = images.expand(-1, 3, -1, -1)
        return (images - self.mean) / self.std

    @property
    def differentiable(self) -> bool:
        """Whether the gradient of the answer with respect to the image exists and is exact, with no surrogate in it."""
        return self.exact_gradient and all(step.differentiable for step in self.own_steps)

    @property
    def own_steps(self) -> tuple[Step, ...]:
        """The preprocessing in front, in order."""
        return tuple(step for step in self.steps if isinstance(step, Step))

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as plain values for a card."""
        return {
            "architecture": self.architecture,
            "task": self.task.to_dict(),
            "channels": self.channels,
            "size": None if self.size is None else list(self.size),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "copy_grey": self.copy_grey,
            "steps": [str(step) for step in self.steps],
            "notes": list(self.notes),
        }

    def digest(self) -> str:
        """SHA-256 over weights and description: two models that may answer differently have different digests."""
        return digest_json({"weights": digest_tensors(self.state_dict()), **self.describe()})


def check_ready(model: nn.Module) -> None:
    """Refuse a model of which any part is in training mode: its answers would depend on their company in the batch.

    Raises:
        ModelError: naming the first such part.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ModelError(f"{name or type(model).__name__} is in training mode; call .eval() on the model first")


def _outputs(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else 0


def _per_channel(values: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
