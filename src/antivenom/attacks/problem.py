"""The door of every attack: what it is given is checked once and becomes one value that can be split by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import PerturbationSet
from antivenom.threat.pixels import per_image


@dataclass(frozen=True)
class Problem:
    """Whom to attack, on what, wanting what, allowed what, with which luck."""

    victim: Victim
    x: Tensor  # (B, C, H, W)
    goal: Goal
    allowed: PerturbationSet
    draws: Draws

    @staticmethod
    def of(
        model: Forward | Victim,
        x: Tensor,
        goal: Goal,
        allowed: PerturbationSet,
        generator: torch.Generator | Draws,
        *,
        endless: bool = False,
    ) -> Problem:
        """Check the arguments and gather them. A `torch.Generator` gives up one seed; images are numbered as they stand.

        Args:
            endless: whether epsilon may be infinite: for attacks that look for the smallest perturbation themselves.

        Raises:
            ImageError: not a floating-point batch `(B, C, H, W)`, not finite, or outside the range of `allowed.pixels`.
            LabelError: the goal does not fit the images.
            ModelError: training mode, or an answer that is not `(B, A)`.
            SettingsError: an epsilon that is negative, infinite or finer than the grid.
        """
        _check_images(x, allowed)
        _check_set(allowed, endless)
        if isinstance(generator, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = Draws.of(seed, torch.arange(len(x)))
        if len(generator) != len(x):
            raise SettingsError(f"{len(generator)} streams of random numbers for {len(x)} images; give one per image")
        victim = Victim.of(model)
        with torch.no_grad():
            answer = victim.judge(x[:1])
        if answer.ndim != 2 or len(answer) != 1:
            raise ModelError(f"a model must answer (B, A) for B images, got {tuple(answer.shape)} for one")
        goal.check(len(x), answer.shape[1])
        return Problem(victim, x.detach(), goal.to(x.device), allowed, generator)

    def take(self, index: Tensor) -> Problem:
        """The same problem for some of the images."""
        return Problem(self.victim, self.x[index], self.goal.take(index), self.allowed.take(index), self.draws.take(index))

    def __len__(self) -> int:
        return len(self.x)

    def as_stored(self, point: Tensor) -> Tensor:
        """The point on the grid of stored images, where there is one.

        An attack that walks along the boundary looks here and moves the unrounded point: otherwise the walk ends where
        rounding, which leads back towards the image, takes every success away.
        """
        return point if self.allowed.pixels.grid is None else self.allowed.realise(point, self.x)

    @property
    def endless(self) -> bool:
        """Whether perturbations of any size are allowed."""
        return bool((torch.as_tensor(self.allowed.epsilon) == math.inf).all())

    @torch.no_grad()
    def judged(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """The image as it would be stored, and the goal's margin `(B,)` on the model that decides."""
        stored = self.allowed.realise(x_adv, self.x)
        return stored, self.goal.margin(self.victim.judge(stored))


def _check_images(x: Tensor, allowed: PerturbationSet) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise ImageError(f"images must be floating point of shape (B, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
    if not len(x):
        raise ImageError("there is no image to attack")
    low, high = per_image(allowed.pixels.low, x), per_image(allowed.pixels.high, x)
    if not bool(((x >= low) & (x <= high)).all()):  # a NaN fails both
        raise ImageError(
            f"images must be finite and lie in the range of the pixels, got [{float(x.min()):g}, {float(x.max()):g}]; "
            "divide stored integers by their largest value"
        )


def _check_set(allowed: PerturbationSet, endless: bool) -> None:
    epsilon = torch.as_tensor(allowed.epsilon)
    if not bool(((epsilon >= 0) & ((epsilon < math.inf) | endless)).all()):
        raise SettingsError(f"epsilon must be finite and not negative, got {allowed.epsilon}")
    grid = allowed.pixels.grid
    if grid is not None and bool(((epsilon > 0) & (epsilon < torch.as_tensor(grid) * (1 - 1e-3))).any()):
        raise SettingsError(
            f"no stored image lies within epsilon {allowed.epsilon} of another on a grid of {grid}: "
            "a finer epsilon than one step of the grid shows nothing about robustness"
        )
