"""TI-MI-FGSM: momentum along blurred gradients, which is as if all small translations of the image were attacked at once.

Dong, Pang, Su, Zhu, "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks", CVPR 2019,
https://arxiv.org/abs/1904.02884
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.attacks.ascent import GradientClimber, Move, climb, from_the_image
from antivenom.attacks.input_diversity import resized
from antivenom.attacks.mim import accumulated
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.views import ViewClimber
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1

SIDE = 224  # pixels from which the kernel keeps its width; the paper's images have 299
DEVIATIONS = 3.0  # of the Gaussian on either side of its middle (the authors' code)
RESIZE = 1.1  # of the views, where they are diverse (the authors' code)


def translation(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 10,
    step_size: float = 0.1,
    decay: float = 1.0,
    width: int = 15,
    diversity: float = 0.0,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective along accumulated gradients that a Gaussian has blurred, starting at the image.

    Meant for a `Victim` whose gradients come from other models than its judge; see `models.ensemble.transfer`.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: moves per image.
        step_size: as a fraction of epsilon; the paper takes epsilon / steps.
        decay: how much of the accumulated gradient is kept at each step; 1 in the paper.
        width: of the kernel in pixels, odd, at 224 pixels or more; 15 in the paper. Smaller images get a smaller one, since
            what is to be averaged over is a part of the picture, not a count of pixels.
        diversity: probability that a step takes the gradient of a resized and padded view, as the paper's TI-DIM does.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness; not drawn from without diversity.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    weights = kernel(width, min(x.shape[-2:])).to(x)
    move = _blurred(accumulated(decay, step_size), weights)
    if diversity:
        views = ViewClimber(steps, 1, resized(RESIZE, diversity), move, objective)
        return climb(problem, views, restarts=1, until=until).result
    climber = GradientClimber(steps, from_the_image, move, objective, remembers=True)
    return climb(problem, climber, restarts=1, until=until).result


def kernel(width: int, side: int) -> Tensor:
    """The Gaussian along one axis, adding up to 1; as many values as it is wide on images of `side` pixels.

    Raises:
        SettingsError: a width that is not odd and positive.

    >>> len(kernel(15, 299)), len(kernel(15, 64)), kernel(15, 8).tolist()
    (15, 5, [1.0])
    """
    if width < 1 or width % 2 == 0:
        raise SettingsError(f"a kernel has an odd width of at least 1, got {width}")
    reach = (width - 1) / 2 * min(1.0, side / SIDE)
    places = torch.arange(-round(reach), round(reach) + 1)
    weights = torch.exp(-((places * DEVIATIONS / max(reach, 1e-9)) ** 2) / 2)
    return weights / weights.sum()


def blur(images: Tensor, weights: Tensor) -> Tensor:
    """Convolve every channel of `(B, C, H, W)` with the kernel along both axes; zeros lie outside, as in the authors' code."""
    flat, reach = images.flatten(0, 1)[:, None], len(weights) // 2
    flat = F.conv2d(flat, weights[None, None, :, None], padding=(reach, 0))
    return F.conv2d(flat, weights[None, None, None, :], padding=(0, reach)).view_as(images)


def _blurred(move: Move, weights: Tensor) -> Move:
    def along(problem: Problem, point: Tensor, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return move(problem, point, blur(gradient, weights), memory)

    return along
