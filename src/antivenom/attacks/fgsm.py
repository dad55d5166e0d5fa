"""The fast gradient sign method, and its like in other norms: one step along the steepest direction.

Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, https://arxiv.org/abs/1412.6572
"""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.attacks.ascent import Gathered, GradientClimber, climb, from_the_image, highest, straight
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet


def fgsm(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Go to the edge of the perturbation set in one step, along the gradient at the image.

    The gradient comes from the model itself, not from a faster twin: a sign that the twin gets wrong is never taken back.
    With `until=SPENT` the higher of image and edge counts, so the attack never does worse than nothing.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        objective: what the gradient is taken of.
        until: `FOOLED` or `SPENT`; the attack looks at two points only, so they differ for images that are wrong anyway.
        generator: not drawn from; taken, as by every attack, so that all are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.

    >>> model = lambda x: x.flatten(1) @ torch.tensor([[1.0, -1.0], [-2.0, 2.0]])
    >>> from antivenom.threat.goals import Untargeted
    >>> from antivenom.threat.perturbations import Linf
    >>> x = torch.tensor([0.5, 0.2]).reshape(1, 1, 1, 2)
    >>> result = fgsm(model, x, Untargeted(torch.tensor([0])), Linf(0.1), generator=torch.Generator())
    >>> bool(result.success), result.x_adv.flatten().tolist()
    (True, [0.4000000059604645, 0.30000001192092896])
    """
    problem = Problem.of(Victim.of(model).untwinned, x, goal, allowed, generator, takes=(Linf, L2))
    victim, climber = problem.victim, GradientClimber(1, from_the_image, straight(1.0), objective)
    # The climb begins at the image, so that a model that proposes for itself has judged it then.
    before = Gathered(problem, highest) if victim.judge is victim.propose else None
    return climb(problem, climber, restarts=1, until=until, before=before).result
