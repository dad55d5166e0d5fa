"""Ascent over the parameters of a transformation: the gradient by pixels, carried on to angles, exposures, fields or stripes.

It is the first-order attack of the paper below, which finds that it cannot be relied on for turns and shifts, in which a
model's error is rugged: run `worst_of` beside it. Of stripes it is projected gradient ascent whose change is constant down each
column. Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the Landscape of Spatial Robustness", ICML 2019,
https://arxiv.org/abs/1712.02779
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, ascent_direction, climb, only_looked
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.transformed import transform_of, transformed_problem
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.transforms import Transform


def parameter_ascent(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: Transform,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    random_start: bool = True,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective by the signs of its slopes along the parameters, from `restarts` random starts.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: a transformation.
        steps: gradients per climb.
        step_size: as a fraction of how far each parameter may go either way.
        restarts: climbs per image; with `until=FOOLED` an image that fools the model starts no other. Where the parameters are
            few, several short climbs do more than a long one.
        random_start: whether a climb begins at a uniform draw of the parameters, or at the image.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `transformed_problem`.
    """
    problem = transformed_problem(model, x, goal, allowed, generator)
    climber = _Climber(steps, step_size, random_start, objective)
    return climb(problem, climber, restarts=restarts, until=until).result


@dataclass(frozen=True)
class _Climber:
    """State: the parameters."""

    steps: int
    step_size: float
    random_start: bool
    objective: Objective

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:
        theta = transform_of(problem).sample(problem.x, problem.draws.at(restart))
        return (theta if self.random_start else torch.zeros_like(theta),)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        theta = state[0].detach().requires_grad_()
        with torch.enable_grad():
            shown = transform_of(problem).apply(problem.x, theta)
        point = shown.detach()
        if bool((step == self.steps).all()):
            return only_looked(problem, point, state)
        margin, _, by_pixels, broken = ascent_direction(problem, point, self.objective)
        (gradient,) = torch.autograd.grad(shown, theta, by_pixels)
        zero = (gradient == 0).flatten(1).all(1)
        following = (state[0] + self.step_size * gradient.sign()).clamp(-1, 1)
        return Look(point, margin, (following,), 1, zero, broken)
