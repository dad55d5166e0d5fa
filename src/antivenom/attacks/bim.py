"""The basic iterative method: small steps along the steepest direction, from the image itself.

Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR workshop 2017,
https://arxiv.org/abs/1607.02533
"""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.attacks.ascent import GradientClimber, climb, from_the_image, straight
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1


def bim(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 10,
    step_size: float = 0.1,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective inside the perturbation set, starting at the image.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients per image. The paper sets min(255 epsilon + 4, 1.25 * 255 epsilon); ten of a tenth of
            epsilon each is what later work calls BIM.
        step_size: as a fraction of epsilon.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    return climb(
        problem, GradientClimber(steps, from_the_image, straight(step_size), objective), restarts=1, until=until
    ).result
