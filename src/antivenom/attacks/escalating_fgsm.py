"""The escalating gradient-sign method: FGSM at one size after another, a few steps of each, until the model is fooled.

It is what AdvBox 2018 calls FGSM, and so what a paper reports that ran it with its defaults: not one step but up to a
thousand. Goodman, Hao, Wang, Wu, Xiong, Zhang, "Advbox: a toolbox to generate adversarial examples that fool neural
networks", arXiv 2020, https://arxiv.org/abs/2001.05574
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, ascent_direction, climb, nearest, only_looked, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import Linf


def escalating_fgsm(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: Linf,
    *,
    sizes: int = 100,
    smallest: float = 0.01,
    largest: float = 0.5,
    steps: int = 10,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Take up to `steps` full steps of one size from the image, then of the next, until the model is fooled.

    Several steps of a size may add up, so the perturbation can be larger than `largest`; `allowed` limits it.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: a `Linf` set: the largest perturbation that counts; an infinite epsilon counts any.
        sizes: how many, evenly spaced from `smallest` to `largest`, in units of the range; AdvBox: 100 from 0.01 to 0.5.
        steps: of each size; AdvBox: 10.
        objective: what the gradient is taken of.
        until: `FOOLED`, as AdvBox; `SPENT` tries every size and keeps the nearest point that fools.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; also for sizes out of order.
    """
    if sizes < 1 or steps < 1 or not 0 < smallest <= largest:
        raise SettingsError(
            f"escalating_fgsm needs sizes from a smallest to a largest, got {sizes} from {smallest} to {largest}"
        )
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf,), endless=True)
    ladder = torch.linspace(smallest, largest, sizes, device=x.device)
    return climb(problem, _Ladder(ladder, steps, objective), restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Ladder:
    """State: the point, and the gradient at the image, with which every size begins."""

    ladder: Tensor  # (sizes,)
    steps: int
    objective: Objective

    @property
    def looks(self) -> int:
        return len(self.ladder) * self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        return problem.x.clone(), torch.zeros_like(problem.x)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, slope = state
        if bool((step == self.looks - 1).all()):
            return only_looked(problem, point, state)
        margin, _, gradient, broken = ascent_direction(problem, point, self.objective)
        zero = (gradient == 0).flatten(1).all(1)
        slope = torch.where(wide(step == 0), gradient, slope)
        size, begins = (step // self.steps).clamp_max(len(self.ladder) - 1), wide(step % self.steps == 0)
        base, gradient = torch.where(begins, problem.x, point), torch.where(begins, slope, gradient)
        moved = base + wide(self.ladder[size].to(point)) * problem.allowed.direction(gradient)
        return Look(point, margin, (problem.allowed.project(moved, problem.x), slope), 1, zero, broken)
