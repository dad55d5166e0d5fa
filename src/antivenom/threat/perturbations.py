"""Perturbation sets: what the adversary may do to an image, and the geometry of it.

A set is a ball (how far) over `Pixels` (which values, and how). Shapes: B images, `...` the values of one image, channels
first; every norm is taken over `...`, in units of the image's range, so that 1 / 255 is one grey level of 8 bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from antivenom.randomness import Draws
from antivenom.threat.pixels import Pixels, per_image, some

TINY = 1e-12
ANYWHERE = Pixels()


@dataclass(frozen=True)
class PerturbationSet(ABC):
    """All perturbations of at most `epsilon` that `pixels` admit.

    Attributes:
        epsilon: largest size; a number, or `(B,)` where images differ.
        pixels: which values may move.
    """

    epsilon: float | Tensor
    pixels: Pixels = ANYWHERE
    name: ClassVar[str]

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation; `(B, ...)` to `(B,)`."""

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Dual norm: the most that a linear function can rise per unit of size; `(B, ...)` to `(B,)`."""

    @abstractmethod
    def shrink(self, delta: Tensor) -> Tensor:
        """Nearest perturbation inside the ball."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The admitted direction of unit size along which a linear function rises fastest."""

    @abstractmethod
    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        """Uniform draw from the ball, shaped as `like`."""

    @abstractmethod
    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        """Random perturbation of full size: what the ball allows without looking at the model."""

    def take(self, index: Tensor) -> PerturbationSet:
        """The same set for some of the images."""
        return replace(self, epsilon=some(self.epsilon, index), pixels=self.pixels.take(index))

    def within(self, radius: float | Tensor) -> PerturbationSet:
        """The same set with another size."""
        return replace(self, epsilon=radius)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """A point of the set near `x_adv`: the nearest one for Linf; for L2 feasible, not nearest at the range's edge."""
        return x + self.pixels.clip(self.shrink(self.pixels.free(x_adv - x)), x)

    def realise(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The image as it would be stored. Judged on this, climbed without it: rounding inside the loop stops small steps."""
        projected = self.project(x_adv, x)
        return projected if self.pixels.grid is None else x + self.pixels.store(projected - x)

    def step(self, z: Tensor, gradient: Tensor, stride: float, x: Tensor) -> Tensor:
        """Move `stride * epsilon` along the steepest direction and come back into the set."""
        return self.project(z + stride * per_image(self.epsilon, z) * self.steepest(gradient), x)

    def describe(self) -> str:
        """Norm and pixels without epsilon, as a record names the threat.

        >>> Linf(0.1, Pixels(grid=1 / 255)).describe()
        'linf, grid 1/255'
        """
        return ", ".join(filter(None, (self.name, self.pixels.describe())))


@dataclass(frozen=True)
class Linf(PerturbationSet):
    """No value changes by more than epsilon."""

    name: ClassVar[str] = "linf"

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).flatten(1).abs().sum(1)

    def shrink(self, delta: Tensor) -> Tensor:
        epsilon = torch.as_tensor(per_image(self.epsilon, delta)).to(delta)
        return torch.clamp(delta, -epsilon, epsilon)

    def steepest(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).sign()

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * (2 * draws.uniform(*like.shape[1:]).to(like) - 1)

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * (draws.uniform(*like.shape[1:]).to(like) - 0.5).sign()


@dataclass(frozen=True)
class L2(PerturbationSet):
    """The root of the summed squares of all changes is at most epsilon."""

    name: ClassVar[str] = "l2"

    def size(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def dual(self, gradient: Tensor) -> Tensor:
        return self.size(self.pixels.free(gradient))

    def shrink(self, delta: Tensor) -> Tensor:
        factor = (self.epsilon / self.size(delta).clamp_min(TINY)).clamp_max(1)
        return delta * per_image(factor, delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        free = self.pixels.free(gradient)
        return free / per_image(self.size(free).clamp_min(TINY), free)

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        radius = draws.at(1).uniform().to(like) ** (1 / math.prod(like.shape[1:]))
        return per_image(radius, like) * self.extreme(like, draws.at(0))

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        return per_image(self.epsilon, like) * self.steepest(draws.normal(*like.shape[1:]).to(like))


NORMS: dict[str, type[PerturbationSet]] = {kind.name: kind for kind in (Linf, L2)}
