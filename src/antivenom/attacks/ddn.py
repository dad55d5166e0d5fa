"""Decoupled direction and norm: the direction follows the gradient, the norm shrinks while the point fools and else grows.

Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger, "Decoupling Direction and Norm for Efficient Gradient-Based L2
Adversarial Attacks and Defenses", CVPR 2019, https://arxiv.org/abs/1811.09600
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, ascent_direction, climb, falling, nearest, only_looked, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import SPENT, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, in_turn
from antivenom.threat.perturbations import L2, TINY

LAST_STRIDE = 0.01  # of the first: where the cosine ends (the authors' code)
BEYOND = 1.5  # a walk that comes from outside ends half a percent nearer (32 validation images; twice and thrice: a third)


def ddn(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: L2,
    *,
    steps: int = 100,
    radius: float | None = None,
    gamma: float = 0.05,
    objective: Objective | None = None,
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Find a small L2 perturbation by walking along the boundary, one gradient a step.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: an `L2` set: the largest perturbation that counts; an infinite epsilon counts any.
        steps: gradients per image; 100 to 1000 in the paper.
        radius: of the sphere on which the walk begins, in units of the range; 1 in the paper. None takes half as far again as
            the boundary lies by the image's first gradient (the estimate as in FMN, Pintor et al., NeurIPS 2021): a sphere
            far too large may pass a class by.
        gamma: share by which the radius shrinks or grows at each step.
        objective: what is climbed; `log_odds` is the paper's. None: that first, then the margin to the nearest class, which
            ends a few percent nearer (`objectives.in_turn`).
        until: `SPENT`, which goes on to nearer points, or `FOOLED`, which takes the first.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(L2,), endless=True)
    return climb(problem, _Walk(steps, radius, gamma, objective), restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Walk:
    """State: the point, and the radius of the sphere on which the next one lies."""

    steps: int
    radius: float | None
    gamma: float
    objective: Objective | None

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        return problem.x.clone(), torch.full((len(problem),), self.radius or 0.0).to(problem.x)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, radius = state
        shown = problem.as_stored(point)
        if bool((step == self.steps).all()):
            return only_looked(problem, shown, state)
        met, _, gradient, broken = ascent_direction(problem, shown, self.objective or in_turn(step / self.steps))
        pixels = problem.allowed.pixels
        gradient = pixels.passable(pixels.free(gradient), point)
        zero = (gradient == 0).flatten(1).all(1)
        if self.radius is None:
            radius = torch.where(step == 0, -BEYOND * met / problem.allowed.dual(gradient).clamp_min(TINY), radius)
        # At the image itself the radius is still to be tried out.
        factor = torch.where(met > 0, 1 - self.gamma, 1 + self.gamma).where(step > 0, 1)
        radius = (radius * factor).minimum(torch.as_tensor(problem.allowed.epsilon).to(radius))
        stride = falling(step / self.steps, LAST_STRIDE)
        delta = point + wide(stride.to(point)) * problem.allowed.steepest(gradient) - problem.x
        delta = delta * wide(radius / problem.allowed.size(delta).clamp_min(TINY))
        following = problem.x + problem.allowed.pixels.clip(delta, problem.x)
        return Look(shown, met, (following, radius), 1, zero, broken)
