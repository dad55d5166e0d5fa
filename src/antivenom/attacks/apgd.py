"""Auto-PGD: projected ascent with momentum that halves its own steps when they stop helping.

Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020,
https://arxiv.org/abs/2003.01690
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, ascent_direction, climb, climb_each_way, from_a_draw, only_looked, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1

FIRST_STRIDE = 2.0  # of epsilon (paper, section 3.2)
MOMENTUM = 0.75  # weight of the new step against the last one (paper, section 3.1)
RISES = 0.75  # share of steps that must have raised the objective between two checkpoints (paper, section 3.2)


def apgd(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 0,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective from random starts with steps that begin at twice epsilon and are halved at checkpoints.

    At a checkpoint where too few steps have helped, or nothing has since the last one, the steps are halved and the climb goes
    on from its best point.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients per climb.
        restarts: climbs per image; with `until=FOOLED` an image that fools the model starts no other.
        targets: 0 climbs away from what is true; more climb towards so many classes (findings, where any does) in turn, the
            likeliest first, as the paper's targeted form does with 9. Success is any other class all the same.
        objective: what is climbed; the paper's two are `log_odds` (as cross-entropy) and `dlr`.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    climber = _Adaptive(steps, objective)
    if targets:
        return climb_each_way(problem, climber, targets, restarts=restarts, until=until).result
    return climb(problem, climber, restarts=restarts, until=until).result


def checkpoints(steps: int) -> list[int]:
    """Steps after which the stride is reconsidered (paper, section 3.2), in whole percents: floats would add up past a ceiling.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    last, percent, found = 0, 22, []
    while percent <= 100:
        found.append(-(-percent * steps // 100))
        last, percent = percent, percent + max(percent - last - 3, 6)
    return found


@dataclass(frozen=True)
class _Adaptive:
    """State: point, the point before, the best one with its height and gradient, then of each image the stride, the rises
    since the last checkpoint, the best height at it, the height of the last point, and whether the stride was halved there."""

    steps: int
    objective: Objective

    @property
    def looks(self) -> int:
        return self.steps + 1

    @cached_property
    def span(self) -> Tensor:
        """`(looks,)`: at a checkpoint the steps since the one before, else 0."""
        span, last = torch.zeros(self.looks, dtype=torch.int64), 0
        for place in checkpoints(self.steps):
            span[place], last = place - last, place
        return span

    def start(self, problem: Problem, restart: Tensor) -> State:
        point = from_a_draw(problem, restart)
        none = torch.full((len(problem),), -torch.inf, dtype=point.dtype, device=point.device)
        stride = torch.full_like(none, FIRST_STRIDE)
        return point, point, point, none, torch.zeros_like(point), stride, torch.zeros_like(none), none, none, none.isnan()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, before, best, height, slope, stride, rises, mark, last, halved = state
        if bool((step == self.steps).all()):
            return only_looked(problem, point, state)
        shown = point
        margin, rise, gradient, broken = ascent_direction(problem, point, self.objective)
        zero = (gradient == 0).flatten(1).all(1)
        rises = rises + (rise > last)
        higher = rise > height
        best, slope = _where(higher, point, best), _where(higher, gradient, slope)
        height = torch.where(higher, rise, height)

        span = self.span.to(step.device)[step]
        here = span > 0
        stuck = here & ((rises < RISES * span) | (~halved & (height == mark)))
        stride = torch.where(stuck, stride / 2, stride)
        point, before = _where(stuck, best, point), _where(stuck, best, before)
        gradient = _where(stuck, slope, gradient)
        halved, mark = torch.where(here, stuck, halved), torch.where(here, height, mark)
        rises = torch.where(here, 0, rises)

        allowed, x = problem.allowed, problem.x
        length = wide(stride * torch.as_tensor(allowed.epsilon).to(stride))
        stepped = allowed.project(point + length * allowed.direction(allowed.pixels.passable(gradient, point)), x)
        weight = wide(torch.where(step == 0, 1.0, MOMENTUM).to(point))
        following = allowed.project(point + weight * (stepped - point) + (1 - weight) * (point - before), x)
        state = following, point, best, height, slope, stride, rises, mark, rise, halved
        return Look(shown, margin, state, 1, zero, broken)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(wide(chosen), one, other)
