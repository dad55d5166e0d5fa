"""Universal perturbations: one change for all images, fitted on some and applied to others.

Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, "Universal Adversarial Training", AAAI 2020, https://arxiv.org/abs/1811.11304:
ascent over mini-batches, of an objective that is clipped so that no image which is fooled already pulls any further. That there
are such perturbations at all is shown by Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal adversarial perturbations",
CVPR 2017, https://arxiv.org/abs/1610.08401.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from antivenom.attacks.ascent import Gathered, ascent_direction, falling, highest, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import AttackResult
from antivenom.errors import ImageError, SettingsError
from antivenom.models.execution import BATCH, Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L1

KINDS = (Linf, L2, L1)
LAST_STRIDE = 0.01  # of the first one, where the cosine ends


def fit_universal(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 200,
    step_size: float = 0.1,
    batch: int = BATCH,
    clip: float = 9.0,
    objective: Objective = log_odds,
    generator: torch.Generator | Draws,
) -> Tensor:
    """Find one perturbation that brings as many of these images as it can to the goal; one gradient a step.

    Images pull as hard as cross-entropy lets them: those that nearly yield most, those that are far from it little. Were all
    to pull alike, as log-odds let them, classes that want opposite changes would hold each other in place.

    It is never judged here: what it is worth is seen on images that it was not fitted on, by `apply_universal`.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`, whose `propose` is climbed.
        x: images `(N, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted of each image and what is allowed.
        steps: moves; each takes the mean gradient over a mini-batch.
        step_size: of the first move, as a fraction of epsilon; it falls along a cosine, where the paper's stays.
        batch: images in a mini-batch; all are seen before one is seen again.
        clip: value of the objective above which an image does not count any more.
        objective: what is climbed on average; on the scale of log-odds, where weights and clip lie.
        generator: the only source of randomness: the order of the images.

    Returns:
        `(C, H, W)`, of at most the largest epsilon allowed to any image. Ranges, regions and grids are those of the images, and
        kept by `apply_universal`.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; or a batch below 1.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=KINDS)
    ball = shared_ball(allowed)
    delta = torch.zeros_like(problem.x[:1])
    for step, images in enumerate(_batches(problem, steps, batch)):
        part = problem.take(images)
        point = part.allowed.project(part.x + delta, part.x)
        _, rise, gradient, _ = ascent_direction(part, point, objective)
        pixels = part.allowed.pixels
        gradient = pixels.passable(pixels.free(gradient), point) * wide(_pulls(part.goal, rise, clip))
        stride = step_size * float(ball.epsilon) * falling(torch.tensor(step / steps), LAST_STRIDE).item()
        delta = ball.shrink(delta + stride * ball.direction(gradient.mean(0, keepdim=True)))
    return delta[0]


def apply_universal(model: Forward | Victim, x: Tensor, goal: Goal, allowed: PerturbationSet, delta: Tensor) -> AttackResult:
    """Add one perturbation to every image, as far as its set allows, and ask the model that decides, once an image.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        delta: `(C, H, W)`, from `fit_universal`, `fit_simba_universal` or elsewhere.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; or a perturbation of another shape or not finite.
    """
    every = torch.arange(len(x))
    problem = Problem.of(model, x, goal, allowed, Draws.of(0, every), takes=KINDS)
    if delta.shape != x.shape[1:] or not bool(delta.isfinite().all()):
        raise ImageError(
            f"a universal perturbation of these images is finite and of shape {tuple(x.shape[1:])}, got {tuple(delta.shape)}"
        )
    found = Gathered(problem, highest)
    for images in torch.split(every.to(x.device), problem.victim.batch):
        part = problem.take(images)
        found.judge(part, images, part.x + delta.to(x), None)
    return found.result


def shared_ball(allowed: PerturbationSet) -> PerturbationSet:
    """The ball of the largest epsilon, in which one perturbation lies before it meets any image."""
    largest = float(torch.as_tensor(allowed.epsilon).max())
    return replace(allowed, epsilon=largest, pixels=Pixels(tied=allowed.pixels.tied))


def _pulls(goal: Goal, rise: Tensor, clip: float) -> Tensor:
    """How hard each image pulls `(B,)`, relative to the one that does most: as much as the gradient of cross-entropy does.

    Cross-entropy rises from the true answer by softplus(log-odds), and falls towards a wanted one by softplus(-log-odds); the
    slopes of these are the weights. Taken relative to the largest they do not vanish where a model is sure of itself.
    """
    slope = logsigmoid(-rise if goal.aim.every else rise).where(rise < clip, -torch.inf)
    return (slope - slope.amax()).exp().nan_to_num(0)


def _batches(problem: Problem, steps: int, batch: int) -> Iterator[Tensor]:
    """Places of the images of each mini-batch; the order is drawn anew each time that all have been seen."""
    if batch < 1 or steps < 0:
        raise SettingsError(f"needs a batch of at least 1 image and no fewer than 0 steps, got {batch} and {steps}")
    waiting, rounds = torch.zeros(0, dtype=torch.int64), 0
    for _ in range(steps):
        while len(waiting) < min(batch, len(problem)):
            waiting = torch.cat([waiting, problem.draws.at(rounds).uniform().argsort()])
            rounds += 1
        yield waiting[:batch].to(problem.x.device)
        waiting = waiting[batch:]
