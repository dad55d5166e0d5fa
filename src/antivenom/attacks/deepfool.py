"""DeepFool: steps to the nearest boundary of the linearised model, until one is crossed.

Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", CVPR 2016,
https://arxiv.org/abs/1511.04599
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb, linearised, nearest, only_looked, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet

BEYOND = 1e-4  # of the step: float32 leaves a point on a boundary now on this side, now on that (the authors' code)


def deepfool(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Go, step by step, to the nearest boundary as the gradients show it, and a little beyond.

    Conditions are those of the goal: for `Untargeted` one for each other class, as in the paper; where all are wanted (a
    target, findings), each step goes to the farthest of their boundaries.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: the norm, and the largest perturbation that counts; an infinite epsilon counts any.
        steps: linearisations at most.
        overshoot: by what share each step goes beyond the boundary; 0.02 in the paper, 9 in AdvBox's tutorial.
        candidates: so many conditions, those that decide by margin, are linearised at each step; each costs a backward pass.
        until: `FOOLED`, as the paper; `SPENT` walks on beyond the boundary, and finds nothing nearer.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2), endless=True)
    return climb(problem, _Linearised(steps, overshoot, candidates), restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Linearised:
    steps: int
    overshoot: float
    candidates: int

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        return (problem.x.clone(),)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        (point,) = state
        if bool((step == self.steps).all()):
            return only_looked(problem, point, state)
        met, margins, slopes, broken = linearised(problem, point, self.candidates)
        every, allowed, pixels = problem.goal.aim.every, problem.allowed, problem.allowed.pixels
        gain = torch.stack([allowed.dual(slope) for slope in slopes.unbind(1)], 1).clamp_min(TINY)
        # Still here though all is met: the judge disagrees, so the step goes as far again beyond the boundary.
        far = margins.abs() / gain
        ahead = far.where(margins <= 0, -far) if every else -far
        chosen = ahead.where(margins.isfinite(), -math.inf).argmax(1)
        images = torch.arange(len(point), device=point.device)
        slope, missing = slopes[images, chosen], margins[images, chosen].abs().nan_to_num(0, 0, 0)
        # What the end of a range takes from the step the next ones make good: a step that reached all the way within the range
        # would be longer than a curved boundary needs (3 % farther on an adversarially trained network).
        step_to_it = wide(missing / gain[images, chosen]) * allowed.steepest(slope)
        # A share of a step that is next to nothing is nothing in float32: without a growing share of the way so far a point
        # that rounding holds up before the boundary would stay there.
        further = BEYOND * step.to(missing) * allowed.size(point - problem.x)
        further = wide(further) * allowed.steepest(pixels.passable(slope, point))
        moved = point + (1 + self.overshoot + BEYOND) * step_to_it + further
        moved = problem.x + pixels.clip(moved - problem.x, problem.x)
        zero = (slope == 0).flatten(1).all(1) & (met <= 0)
        return Look(point, met, (moved,), slopes.shape[1], zero, broken)
