"""Signs that a gradient attack failed for reasons of its own, seen on its way.

Pintor, Demetrio, Sotgiu, Demontis, Carlini, Biggio, Roli, "Indicators of Attack Failure: Debugging and Improving Optimization
of Adversarial Examples", NeurIPS 2022, https://arxiv.org/abs/2106.09947. Of its six signs, an attack that succeeds on its way
and forgets it cannot happen here, since every attack keeps its best point; unconstrained failure is a row of every plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import ascent_direction, from_a_draw
from antivenom.attacks.problem import Problem
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1

LAST = 0.25  # share of the steps in which a climb should have come to rest
NEAR = 0.05  # of epsilon: how near the points lie that show how rough the objective is
PROBES = 8


@dataclass(frozen=True)
class Indicators:
    """What was seen of each image's climb.

    Attributes:
        vanished: `(B,)` bool: the first gradient was zero in every value.
        rough: `(B,)` spread of the objective over points very near each other, as a share of its rise over the whole climb: 0
            on a smooth slope, above 1 where one sees no slope for the noise.
        unfinished: `(B,)` share of the whole rise that the last quarter of the steps still brought.
        refused: `(B,)` bool: what gradients come from was fooled, the model that decides was not.
        fooled: `(B,)` bool: the model that decides was fooled.
        heights: `(steps + 1, B)` the objective along the climb.
    """

    vanished: Tensor
    rough: Tensor
    unfinished: Tensor
    refused: Tensor
    fooled: Tensor
    heights: Tensor


def indicators(
    model: Callable[[Tensor], Tensor] | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    generator: torch.Generator | Draws,
) -> Indicators:
    """Watch PGD on its way, on all images together.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps, step_size: of PGD, the latter as a fraction of epsilon.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    parts = [
        _watched(problem.take(index), steps, step_size) for index in torch.split(torch.arange(len(x)), problem.victim.batch)
    ]
    return Indicators(
        vanished=torch.cat([part.vanished for part in parts]),
        rough=torch.cat([part.rough for part in parts]),
        unfinished=torch.cat([part.unfinished for part in parts]),
        refused=torch.cat([part.refused for part in parts]),
        fooled=torch.cat([part.fooled for part in parts]),
        heights=torch.cat([part.heights for part in parts], 1),
    )


def _watched(problem: Problem, steps: int, step_size: float) -> Indicators:
    point = from_a_draw(problem, torch.zeros(len(problem), dtype=torch.int64))
    heights, claimed = [], torch.zeros(len(problem), dtype=torch.bool, device=problem.x.device)
    vanished, best, top = claimed, point, torch.full((len(problem),), -torch.inf, device=point.device)
    for step in range(steps + 1):
        margin, rise, gradient, _ = ascent_direction(problem, point, log_odds)
        heights.append(rise)
        if step == 0:
            vanished = (gradient == 0).flatten(1).all(1)
        higher = margin > top
        best, top = torch.where(higher.reshape(-1, 1, 1, 1), point, best), torch.where(higher, margin, top)
        claimed = claimed | (margin > 0)
        point = problem.allowed.step(point, gradient, step_size, problem.x)
    climb = torch.stack(heights)
    highest = climb.cummax(0).values
    whole = (highest[-1] - climb[0]).clamp_min(1e-12)
    late = highest[-1] - highest[int((1 - LAST) * steps)]
    fooled = problem.judged(best)[1] > 0
    return Indicators(vanished, _spread(problem) / whole, late / whole, claimed & ~fooled, fooled, climb)


@torch.no_grad()
def _spread(problem: Problem) -> Tensor:
    """Standard deviation of the objective over random points close to the image, `(B,)`."""
    near = problem.allowed.within(torch.as_tensor(problem.allowed.epsilon) * NEAR)
    values = []
    for probe in range(PROBES):
        point = near.project(problem.x + near.sample(problem.x, problem.draws.at(9, probe)), problem.x)
        values.append(log_odds(problem.goal, problem.victim.propose(point)))
    return torch.stack(values).std(0)
