"""The momentum iterative method: steps along an average of past gradients, each scaled to unit L1 norm.

Dong, Liao, Pang, Su, Zhu, Hu, Li, "Boosting Adversarial Attacks with Momentum", CVPR 2018,
https://arxiv.org/abs/1710.06081
"""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.attacks.ascent import GradientClimber, Move, climb, from_the_image
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L1


def mim(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 10,
    step_size: float = 0.1,
    decay: float = 1.0,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective along accumulated gradients, starting at the image.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients per image.
        step_size: as a fraction of epsilon; the paper takes epsilon / steps.
        decay: how much of the accumulated gradient is kept at each step; 1 in the paper, 0 is BIM.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    climber = GradientClimber(steps, from_the_image, accumulated(decay, step_size), objective, remembers=True)
    return climb(problem, climber, restarts=1, until=until).result


def accumulated(decay: float, step_size: float) -> Move:
    """Moves along past gradients, each scaled to unit L1 norm; `decay` of them is kept at each step."""

    def move(problem: Problem, point: Tensor, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        unit = gradient / per_image(gradient.flatten(1).abs().sum(1).clamp_min(TINY), gradient)
        momentum = decay * memory + unit
        return problem.allowed.step(point, momentum, step_size, problem.x), momentum

    return move
