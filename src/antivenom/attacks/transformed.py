"""What attacks on the parameters of a transformation share: their door, and how the transformation travels with its images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from antivenom.attacks.problem import Problem
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import Linf
from antivenom.threat.transforms import TRANSFORMS, Transform


@dataclass(frozen=True)
class Outcomes(Linf):
    """The values that a transformation may leave behind, for the loop to judge and store by, and the transformation itself."""

    transform: Transform = field(kw_only=True)

    def take(self, index: Tensor) -> Self:
        """The same for some of the images."""
        return replace(super().take(index), transform=self.transform.take(index))


def transformed_problem(
    model: Forward | Victim, x: Tensor, goal: Goal, allowed: Transform, generator: torch.Generator | Draws
) -> Problem:
    """Check and gather the arguments of an attack on a transformation's parameters; `transform_of` the problem gives it back.

    Raises:
        ImageError, LabelError, ModelError: see `Problem.of`.
        SettingsError: no transformation, or an epsilon that is negative, or beyond the stated limits (of stripes: infinite, or
            finer than the grid).
    """
    if not isinstance(allowed, Transform):
        written = " and ".join(kind.__name__ for kind in TRANSFORMS.values())
        raise SettingsError(f"this attack is written for {written}, not for {type(allowed).__name__}")
    epsilon = torch.as_tensor(allowed.epsilon)
    if not bool((epsilon >= 0).all()):
        raise SettingsError(f"epsilon must be finite and not negative, got {allowed.epsilon}")
    if bool((epsilon > allowed.most).any()):
        raise SettingsError(
            f"epsilon {allowed.most:g} is all of the {allowed.name}'s limits, got {allowed.epsilon}; state wider limits instead"
        )
    inner = Outcomes(allowed.farthest, allowed.pixels, transform=allowed)
    return Problem.of(model, x, goal, inner, generator, takes=(Outcomes,))


def transform_of(problem: Problem) -> Transform:
    """The transformation of a problem's images."""
    assert isinstance(problem.allowed, Outcomes)
    return problem.allowed.transform
