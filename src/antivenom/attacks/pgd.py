"""Projected gradient descent, here an ascent: small steps along the steepest direction, from random starts.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083
"""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.attacks.ascent import GradientClimber, climb, from_a_draw, from_the_image, straight
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1


def pgd(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    random_start: bool = True,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective inside the perturbation set, from `restarts` random starts.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients per climb.
        step_size: as a fraction of epsilon.
        restarts: climbs per image; with `until=FOOLED` an image that fools the model starts no other.
        random_start: whether a climb begins at a uniform draw from the set, or at the image.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    begin = from_a_draw if random_start else from_the_image
    return climb(problem, GradientClimber(steps, begin, straight(step_size), objective), restarts=restarts, until=until).result
