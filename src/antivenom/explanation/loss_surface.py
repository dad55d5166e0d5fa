"""The loss around an image, over a plane: along its gradient one way, along a random direction across it the other.

Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, "Ensemble Adversarial Training: Attacks and Defenses", ICLR 2018,
https://arxiv.org/abs/1705.07204: the loss along the sign of the gradient and along a direction orthogonal to it. Here the
second is always a random one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.explanation.feature_maps import check_images
from antivenom.models.classifier import AT_ONCE, check_ready
from antivenom.models.execution import Forward
from antivenom.randomness import Draws

Array = np.ndarray[Any, Any]
Loss = Callable[[Tensor], Tensor]  # an answer (B, A) to (B,)


@dataclass(frozen=True)
class Surface:
    """The loss over a plane.

    Attributes:
        values: `(S, S)` float64; rows go along the gradient, columns across it; the image is in the middle.
        distances: `(S,)` float64, of rows and of columns alike, in units of epsilon.
        epsilon: the unit, in units of the image's range.
        order: of the norm that it is measured in: `math.inf` or 2.
    """

    values: Array
    distances: Array
    epsilon: float
    order: float

    @property
    def within(self) -> Array:
        """Which points lie no farther than epsilon from the image; `(S, S)` bool.

        Two steps of signs add up where the signs agree: in the largest norm what is within is a diamond, not the square.
        """
        down, across = np.abs(self.distances)[:, None], np.abs(self.distances)[None]
        size = down + across if self.order == math.inf else np.hypot(down, across)
        return np.asarray(size <= 1 + 1e-9)

    @property
    def rise(self) -> float:
        """The most that the loss rises within epsilon on this plane."""
        middle = len(self.distances) // 2
        return float(self.values[self.within].max() - self.values[middle, middle])

    @property
    def bend(self) -> float:
        """How far the loss is from flat within epsilon: root mean square distance from the best plane, in units of the loss."""
        down, across = np.meshgrid(self.distances, self.distances, indexing="ij")
        points = np.stack([np.ones_like(down), down, across], -1)[self.within]
        values = self.values[self.within]
        plane = np.linalg.lstsq(points, values, rcond=None)[0]
        return float(np.sqrt(np.mean((values - points @ plane) ** 2)))


def loss_surface(
    model: Forward,
    image: Tensor,
    loss: Loss,
    *,
    epsilon: float,
    order: float = math.inf,
    reach: float = 2.0,
    side: int = 21,
    draws: Draws,
) -> Surface:
    """Read the loss on a grid around one image.

    The random direction is drawn from signs (or, in the Euclidean norm, from a Gaussian), made exactly orthogonal to the other
    and scaled to the same size. Values beyond [0, 1] are clipped: what is read is what could be stored.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode.
        image: `(C, H, W)` in [0, 1].
        loss: of one answer `(1, A)` to `(1,)`, such as a goal's `margin`, or cross-entropy against the true class.
        epsilon: the unit of distance, in units of the image's range.
        order: `math.inf` for the sign of the gradient, 2 for the gradient itself.
        reach: how far the grid goes either way, in units of epsilon.
        side: points along an edge, odd, so that the image is one of them.
        draws: one stream; the only source of randomness.

    Raises:
        ImageError: not one image, or one of a single value, which nothing is orthogonal to.
        ModelError: the loss has no slope at the image; the model is in training mode.
        SettingsError: another norm, an even side, several streams, or sizes that are not positive.

    >>> model = lambda x: x.flatten(1) @ torch.tensor([[2.0], [-2.0], [2.0], [-2.0]])
    >>> image, draws = torch.full((1, 2, 2), 0.5), Draws.of(0, torch.arange(1))
    >>> surface = loss_surface(model, image, lambda answer: answer[:, 0], epsilon=0.1, side=5, draws=draws)
    >>> surface.distances.tolist(), round(surface.rise, 6), surface.bend < 1e-6
    ([-2.0, -1.0, 0.0, 1.0, 2.0], 0.8, True)
    """
    _check(model, image, epsilon, order, reach, side, draws)
    along = _slope(model, image, loss)
    across = draws.normal(*image.shape)[0].to(along)
    if order == math.inf:
        along, across = along.sign(), across.sign()
    across = across - (across * along).sum() / along.square().sum() * along
    if not across.norm() > 1e-6 * math.sqrt(image.numel()):
        raise ImageError(f"an image {tuple(image.shape)} has no direction across its gradient; give one of more values")
    along, across = (way / torch.linalg.vector_norm(way, order) for way in (along, across))
    distances = torch.linspace(-reach, reach, side, dtype=torch.float64)
    steps = epsilon * distances.to(along)
    values = [_row(model, image, loss, image + step * along, steps, across) for step in steps]
    return Surface(torch.stack(values).numpy(), distances.numpy(), epsilon, order)


def _slope(model: Forward, image: Tensor, loss: Loss) -> Tensor:
    z = image.detach().clone()[None].requires_grad_()
    with torch.enable_grad():
        value = loss(model(z)).sum()
        found = torch.autograd.grad(value, z, allow_unused=True)[0] if value.requires_grad else None
    if found is None or not (found.isfinite().all() and found.any()):
        raise ModelError("the loss has no slope at this image to go along; give one that has, such as a margin")
    return found[0]


@torch.no_grad()
def _row(model: Forward, image: Tensor, loss: Loss, start: Tensor, steps: Tensor, across: Tensor) -> Tensor:
    points = (start + steps.reshape(-1, 1, 1, 1) * across).clamp(0, 1).to(image)
    answers = torch.cat([model(part) for part in torch.split(points, AT_ONCE)])
    return torch.cat([loss(answer[None]) for answer in answers]).double().cpu()


def _check(model: Forward, image: Tensor, epsilon: float, order: float, reach: float, side: int, draws: Draws) -> None:
    check_images(image[None])
    if isinstance(model, nn.Module):
        check_ready(model)
    if order not in {math.inf, 2}:
        raise SettingsError(f"the norm is of order inf or 2, got {order}")
    if not (0 < epsilon < math.inf and 0 < reach < math.inf) or side < 3 or side % 2 == 0 or len(draws) != 1:
        raise SettingsError(
            "a surface needs epsilon and reach above 0, an odd side of at least 3 and one stream, "
            f"got epsilon={epsilon}, reach={reach}, side={side} and {len(draws)} streams"
        )
