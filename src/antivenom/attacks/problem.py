"""The door of every attack: what it is given is checked once and becomes one value that can be split by image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import PerturbationSet
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L0

PROBED = 2  # images that the door shows the model, each twice
SATURATED = 17.0  # logits by which a class must lead for softmax in float32 to be 1 and the gradient of cross-entropy 0
WAVERING = 1e-3  # of the answers' size: far above what rounding can do


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
        takes: tuple[type[PerturbationSet], ...],
        endless: bool = False,
    ) -> Problem:
        """Check the arguments and gather them. A `torch.Generator` gives up one seed; images are numbered as they stand.

        Args:
            takes: the perturbation sets that the attack is written for.
            endless: whether epsilon may be infinite: for attacks that look for the smallest perturbation themselves.

        Raises:
            ImageError: not a floating-point batch `(B, C, H, W)`, not finite, or outside the range of `allowed.pixels`.
            LabelError: the goal does not fit the images.
            ModelError: training mode, or an answer that is not `(B, A)`.
            SettingsError: a perturbation set that the attack does not take, or an epsilon that is negative, infinite or finer
                than the grid.
        """
        if not isinstance(allowed, takes):
            written = " and ".join(kind.__name__ for kind in takes)
            raise SettingsError(f"this attack is written for {written}, not for {type(allowed).__name__}")
        _check_images(x, allowed)
        _check_set(allowed, endless)
        if isinstance(generator, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = Draws.of(seed, torch.arange(len(x)))
        if len(generator) != len(x):
            raise SettingsError(f"{len(generator)} streams of random numbers for {len(x)} images; give one per image")
        victim = Victim.of(model)
        if victim.oddities is None:  # one attack inside another meets a model that was looked at
            with torch.no_grad():
                answer, again = victim.judge(x[:PROBED]), victim.judge(x[:PROBED])
            if answer.ndim != 2 or len(answer) != len(x[:PROBED]):
                shape = tuple(answer.shape)
                raise ModelError(f"a model must answer (B, A) for B images, got {shape} for {len(x[:PROBED])}")
            goal.check(len(x), answer.shape[1])
            victim = replace(victim, oddities=_oddities(answer, again))
        return Problem(victim, x.detach(), goal.to(x.device), allowed, generator)

    def take(self, index: Tensor) -> Problem:
        """The same problem for some of the images."""
        goal, allowed, draws = self.goal.take(index), self.allowed.take(index), self.draws.take(index)
        return replace(self, x=self.x[index], goal=goal, allowed=allowed, draws=draws)

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


def _oddities(answer: Tensor, again: Tensor) -> dict[str, bool]:
    """What an attack on gradients or scores may founder on, from two answers to the same images."""
    scale = answer.abs().amax().clamp_min(1e-6)
    shares = bool(((answer >= 0) & (answer <= 1)).all() and ((answer.sum(1) - 1).abs() < 1e-3).all())
    top = answer.topk(min(2, answer.shape[1])).values
    return {
        "random-answers": bool((answer - again).abs().amax() > WAVERING * scale),
        "probabilities": shares and answer.shape[1] > 1,
        "saturated": bool((top[:, 0] - top[:, -1] > SATURATED).all()),
    }


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
    grid = None if isinstance(allowed, L0) else allowed.pixels.grid  # L0 counts values
    if grid is not None and bool(((epsilon > 0) & (epsilon < torch.as_tensor(grid) * (1 - 1e-3))).any()):
        raise SettingsError(
            f"no stored image lies within epsilon {allowed.epsilon} of another on a grid of {grid}: "
            "a finer epsilon than one step of the grid shows nothing about robustness"
        )
