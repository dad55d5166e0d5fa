"""DI-MI-FGSM: momentum along gradients of randomly resized and padded views, so that no detail of one model is relied on.

Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille, "Improving Transferability of Adversarial Examples with Input Diversity", CVPR 2019,
https://arxiv.org/abs/1803.06978
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.attacks.ascent import climb, wide
from antivenom.attacks.mim import accumulated
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.views import View, ViewClimber
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L1


def input_diversity(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 10,
    step_size: float = 0.1,
    decay: float = 1.0,
    copies: int = 1,
    resize: float = 1.1,
    probability: float = 0.5,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective along accumulated gradients of resized and padded views, starting at the image.

    Meant for a `Victim` whose gradients come from other models than its judge; see `models.ensemble.transfer`.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: moves per image.
        step_size: as a fraction of epsilon; the paper takes epsilon / steps.
        decay: how much of the accumulated gradient is kept at each step; 1 in the paper.
        copies: views per step; 1 in the paper.
        resize: side of the padded canvas, relative to the image's; the paper's 330 of 299 pixels.
        probability: of a view being resized at all.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    climber = ViewClimber(steps, copies, resized(resize, probability), accumulated(decay, step_size), objective)
    return climb(problem, climber, restarts=1, until=until).result


def resized(resize: float, probability: float) -> View:
    """Views enlarged by up to `resize`, laid at random on a black canvas larger by just that, and brought back to size.

    All three are one affine map, which is sampled once, so that the share of the view which the image takes up is continuous
    where the paper's sides are whole pixels. The paper leaves the canvas as large as it is; here models keep their own size.

    Raises:
        SettingsError: no canvas that is larger, or no probability.
    """
    if not (resize > 1 and 0 <= probability <= 1):
        raise SettingsError(f"needs a resize above 1 and a probability in 0..1, got {resize} and {probability}")

    def view(problem: Problem, z: Tensor) -> Tensor:
        luck = problem.draws.uniform(4).to(z)
        share = (1 + (resize - 1) * luck[:, 1]) / resize  # of the canvas's side
        across, down = ((1 - share) * luck[:, place] for place in (2, 3))  # where the image begins, of the canvas's side
        none = torch.zeros_like(share)
        rows = [torch.stack([1 / share, none, (1 - 2 * across) / share - 1], 1)]
        rows += [torch.stack([none, 1 / share, (1 - 2 * down) / share - 1], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(z.shape), align_corners=False)
        black = per_image(problem.allowed.pixels.low, z)
        laid = F.grid_sample(z - black, grid, align_corners=False) + black  # outside the image: zeros
        return torch.where(wide(luck[:, 0] < probability), laid, z)

    return view
