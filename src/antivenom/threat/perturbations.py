"""Perturbation sets: what the adversary may do to an image, and the geometry of it.

A set is a ball (how far) over `Pixels` (which values, and how). Shapes: B images, `...` the values of one image, channels
first; every norm is taken over `...`, in units of the image's range, so that 1 / 255 is one grey level of 8 bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from antivenom.randomness import Draws
from antivenom.threat.pixels import Pixels, per_image, some

TINY = 1e-12
ANYWHERE = Pixels()
Limit = float | Tensor


@dataclass(frozen=True)
class Capability(ABC):
    """What the adversary may do to an image, and how far.

    Attributes:
        epsilon: how far; a number, or `(B,)` where images differ.
        pixels: which values may move.
    """

    epsilon: float | Tensor
    pixels: Pixels = ANYWHERE
    name: ClassVar[str]

    def take(self, index: Tensor) -> Self:
        """The same for some of the images."""
        return replace(self, epsilon=some(self.epsilon, index), pixels=self.pixels.take(index))

    def within(self, epsilon: float | Tensor) -> Self:
        """The same with another size."""
        return replace(self, epsilon=epsilon)

    def describe(self) -> str:
        """Kind and pixels without epsilon, as a record names the threat.

        >>> Linf(0.1, Pixels(grid=1 / 255)).describe()
        'linf, grid 1/255'
        """
        return ", ".join(filter(None, (self.name, self.pixels.describe())))


@dataclass(frozen=True)
class PerturbationSet(Capability):
    """All perturbations of at most `epsilon` that `pixels` admit: a ball.

    Attributes:
        grain: what sizes are whole multiples of; 0 where any size can be.
    """

    grain: ClassVar[float] = 0.0

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation; `(B, ...)` to `(B,)`."""

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Dual norm: the most that a linear function can rise per unit of size; `(B, ...)` to `(B,)`."""

    @abstractmethod
    def shrink(self, delta: Tensor, low: Limit = -math.inf, high: Limit = math.inf) -> Tensor:
        """The nearest perturbation inside the ball and between `low` and `high`, which have 0 between them.

        For L2 feasible, and nearest only where the limits do not bind.
        """

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The admitted direction of unit size along which a linear function rises fastest."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The admitted direction of unit size in which a step goes: the steepest, or one near it that moves more values."""

    @abstractmethod
    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        """Uniform draw from the ball, shaped as `like`."""

    @abstractmethod
    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        """Random perturbation of full size: what the ball allows without looking at the model."""

    @abstractmethod
    def reach(self, gradient: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
        """The smallest admitted perturbation, of any size, that changes a linear function of this gradient by `rise` `(B,)`.

        It stays between `low` and `high`, which are finite and have 0 between them; where they do not allow so large a change,
        it makes the largest that they do. Within the limits of a point it leads from there to the nearest point of a plane.
        """

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The point of the set nearest to `x_adv`, as `shrink` finds it."""
        return x + self.shrink(self.pixels.free(x_adv - x), *self.pixels.limits(x))

    def realise(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The image as it would be stored. Judged on this, climbed without it: rounding inside the loop stops small steps."""
        projected = self.project(x_adv, x)
        return projected if self.pixels.grid is None else x + self.pixels.store(projected - x)

    def step(self, z: Tensor, gradient: Tensor, stride: float, x: Tensor) -> Tensor:
        """Move `stride * epsilon` along the direction of a step and come back into the set."""
        return self.project(z + stride * per_image(self.epsilon, z) * self.direction(self.pixels.passable(gradient, z)), x)


@dataclass(frozen=True)
class Linf(PerturbationSet):
    """No value changes by more than epsilon."""

    name: ClassVar[str] = "linf"

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).flatten(1).abs().sum(1)

    def shrink(self, delta: Tensor, low: Limit = -math.inf, high: Limit = math.inf) -> Tensor:
        epsilon = torch.as_tensor(per_image(self.epsilon, delta)).to(delta)
        return torch.clamp(torch.clamp(delta, -epsilon, epsilon), low, high)  # type: ignore[arg-type]

    def steepest(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).sign()

    def direction(self, gradient: Tensor) -> Tensor:
        return self.steepest(gradient)

    def reach(self, gradient: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
        uphill = self.pixels.free(gradient) * per_image(rise.sign(), gradient)
        return _together(uphill, uphill.sign(), rise.abs(), low, high)

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * (2 * draws.uniform(*like.shape[1:]).to(like) - 1)

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * self.steepest(draws.uniform(*like.shape[1:]).to(like) - 0.5)


@dataclass(frozen=True)
class L2(PerturbationSet):
    """The root of the summed squares of all changes is at most epsilon."""

    name: ClassVar[str] = "l2"

    def size(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def dual(self, gradient: Tensor) -> Tensor:
        return self.size(self.pixels.free(gradient))

    def shrink(self, delta: Tensor, low: Limit = -math.inf, high: Limit = math.inf) -> Tensor:
        factor = (self.epsilon / self.size(delta).clamp_min(TINY)).clamp_max(1)
        return torch.clamp(delta * per_image(factor, delta), low, high)  # type: ignore[arg-type]

    def steepest(self, gradient: Tensor) -> Tensor:
        free = self.pixels.free(gradient)
        return free / per_image(self.size(free).clamp_min(TINY), free)

    def direction(self, gradient: Tensor) -> Tensor:
        return self.steepest(gradient)

    def reach(self, gradient: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
        uphill = self.pixels.free(gradient) * per_image(rise.sign(), gradient)
        return _together(uphill, uphill, rise.abs(), low, high)

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        radius = draws.at(1).uniform().to(like) ** (1 / math.prod(like.shape[1:]))
        return per_image(radius, like) * self.extreme(like, draws.at(0))

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * self.steepest(draws.normal(*like.shape[1:]).to(like))


def _together(gradient: Tensor, way: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
    """The least multiple of `way`, which never leads downhill, that once kept between the limits rises by `rise` `(B,)`.

    The rise is piecewise linear in the multiple and bends down wherever a value meets its limit. So Newton's steps from 0 never
    pass the answer, and end on it as soon as no further value meets its limit: on images after three to nine of them, where a
    sort of the limits takes up to twice the time (64 px: eight times), and sums along it lose digits where rates differ much.
    """
    room = torch.where(gradient > 0, high, -low).abs().flatten(1)
    rate, pace = gradient.abs().flatten(1), way.abs().flatten(1)
    most, steep, multiple = rate * room, rate * pace, torch.zeros_like(rise)
    while True:
        moving = pace * multiple[:, None] < room
        left = rise - most.where(~moving, 0).sum(1)
        slope = steep.where(moving, 0).sum(1)
        following = torch.where(slope > 0, left / slope, multiple)
        if not bool((following > multiple).any()):
            return torch.clamp(way * per_image(multiple, way), low, high)  # type: ignore[arg-type]
        multiple = multiple.maximum(following)
