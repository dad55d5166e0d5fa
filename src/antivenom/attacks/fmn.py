"""Fast minimum-norm: gradient steps inside a ball whose radius shrinks while the point fools and else grows, less and less.

Pintor, Roli, Brendel, Biggio, "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", NeurIPS 2021,
https://arxiv.org/abs/2102.12827
"""

from __future__ import annotations

import math
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
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet
from antivenom.threat.sparse import L0, L1

LAST_STRIDE, LAST_GAMMA = 0.01, 0.02  # of the first ones, where the cosines end (the authors' code)


def fmn(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 100,
    stride: float = 1.0,
    gamma: float = 0.05,
    objective: Objective | None = None,
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Find a small perturbation in the norm of `allowed`, one gradient a step.

    Until an image first fools, its radius is the distance to the boundary as the gradient shows it.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: the norm, and the largest perturbation that counts; an infinite epsilon counts any.
        steps: gradients per image; 100 to 1000 in the paper.
        stride: Euclidean length of the first step in units of the range, whatever the norm; it falls along a cosine.
        gamma: share by which the radius first shrinks or grows at each step; it falls along a cosine.
        objective: what is climbed; the margin in the paper. None: all margins first, then the nearest (`objectives.in_turn`).
        until: `SPENT`, which goes on to nearer points, or `FOOLED`, which takes the first.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1, L0), endless=True)
    return climb(problem, _Walk(steps, stride, gamma, objective), restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Walk:
    """State: the point, the radius of the ball around the image, and the size of the nearest point that fooled."""

    steps: int
    stride: float
    gamma: float
    objective: Objective | None

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        none = torch.zeros(len(problem)).to(problem.x)
        return problem.x.clone(), none, none + math.inf

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, radius, shortest = state
        shown = problem.as_stored(point)
        if bool((step == self.steps).all()):
            return only_looked(problem, shown, state)
        met, _, gradient, broken = ascent_direction(problem, shown, self.objective or in_turn(step / self.steps))
        pixels = problem.allowed.pixels
        gradient = pixels.passable(pixels.free(gradient), point)
        zero = (gradient == 0).flatten(1).all(1)
        size, fools, done = problem.allowed.size(shown - problem.x), met > 0, step / self.steps
        shortest = torch.where(fools, size.minimum(shortest), shortest)
        gamma = self.gamma * falling(done, LAST_GAMMA)
        # A little beyond the boundary: exactly on it, rounding decides.
        ahead = size - (1 + self.gamma) * met / problem.allowed.dual(gradient).clamp_min(TINY)
        grain = problem.allowed.grain  # a share of a few values is none: at least one is given up or gained (the authors' code)
        grown = (radius * (1 + gamma)).maximum(radius + grain)
        grown = torch.where(shortest.isfinite(), grown, grown.maximum(ahead))
        shrunk = (radius * (1 - gamma)).minimum(radius - grain).minimum(shortest)
        radius = torch.where(fools, shrunk, grown)
        radius = radius.minimum(torch.as_tensor(problem.allowed.epsilon).to(radius))
        length = self.stride * falling(done, LAST_STRIDE) / gradient.flatten(1).norm(dim=1).clamp_min(TINY)
        following = problem.allowed.within(radius).project(point + wide(length.to(point)) * gradient, problem.x)
        return Look(shown, met, (following, radius, shortest), 1, zero, broken)
