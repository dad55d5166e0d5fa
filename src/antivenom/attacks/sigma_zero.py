"""Sigma-zero: Adam on a smooth count of the changed values; those that have changed little are put back, more while it fools.

Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo, "Sigma-zero: Gradient-based Optimization of l0-norm Adversarial Examples",
ICLR 2025, https://arxiv.org/abs/2402.01879
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
from antivenom.threat.perturbations import TINY
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L0

LAST_RATE = 0.1  # of the learning rate, where the cosine ends (the authors' code)
FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8  # Adam: Kingma and Ba, ICLR 2015


def sigma_zero(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: L0,
    *,
    steps: int = 300,
    learning_rate: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    pace: float = 0.01,
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Find a perturbation of few values, one gradient a step.

    All changes are in units of the range; tied channels are one value.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: an `L0` set: the most changed values that count; an infinite epsilon counts any.
        steps: gradients per image; 1000 in the paper, 100 in the authors' code.
        learning_rate: of Adam at the first step, each value by so much of its range; it falls along a cosine.
        sigma: softness of the count: a change d counts as d^2 / (d^2 + sigma).
        threshold: the first one; changes below it are undone.
        pace: by how much of the learning rate the threshold rises at a step that fools, and falls at another.
        until: `SPENT`, which goes on to fewer values, or `FOOLED`, which takes the first success.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(L0,), endless=True)
    climber = _Thinning(steps, learning_rate, sigma, threshold, pace)
    return climb(problem, climber, restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Thinning:
    """State: the changes in units of the range, Adam's two moments of them, and the threshold of each image."""

    steps: int
    learning_rate: float
    sigma: float
    threshold: float
    pace: float

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        none = torch.zeros_like(problem.x[:, :1] if problem.allowed.pixels.tied else problem.x)
        return none, none, none, torch.full((len(problem),), self.threshold).to(none)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        change, first, second, threshold = state
        pixels = problem.allowed.pixels
        span = torch.as_tensor(per_image(pixels.high, change)) - torch.as_tensor(per_image(pixels.low, change))
        shown = problem.as_stored(problem.x + span * change)
        if bool((step == self.steps).all()):
            return only_looked(problem, shown, state)
        met, lack, rise, broken = ascent_direction(problem, shown, _lack)
        zero = (lack < 0) & (rise == 0).flatten(1).all(1)
        together = problem.x.shape[1] // change.shape[1]  # values that move as one; `free` gives their mean
        pull = together * span * pixels.free(rise)[:, : change.shape[1]]
        counted = 2 * self.sigma * change / (change.square() + self.sigma).square() / change[0].numel()
        slope = counted - pull
        slope = slope / wide(slope.flatten(1).abs().amax(1).clamp_min(TINY))
        first, second = FIRST * first + (1 - FIRST) * slope, SECOND * second + (1 - SECOND) * slope.square()
        count, rate = wide((step + 1).to(slope)), self.learning_rate * falling(step / self.steps, LAST_RATE).to(slope)
        moved = (first / (1 - FIRST**count)) / ((second / (1 - SECOND**count)).sqrt() + SMALL)
        low, high = pixels.limits(problem.x)
        change = (change - wide(rate) * moved).clamp(low / span, high / span)
        rate = self.learning_rate * falling((step + 1) / self.steps, LAST_RATE).to(slope)
        threshold = (threshold + self.pace * torch.where(met > 0, rate, -rate)).clamp(0, 1)
        change = change.masked_fill(change.abs() < wide(threshold), 0)
        return Look(shown, met, (change, first, second, threshold), 1, zero, broken)


def _lack(goal: Goal, answer: Tensor) -> Tensor:
    """What is missing to the goal; 0 where nothing is."""
    return goal.aim.margin(answer).clamp_max(0)
