"""The worst of some transformations of an image, tried by chance or on a grid, seeing scores alone.

Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the Landscape of Spatial Robustness", ICML 2019,
https://arxiv.org/abs/1712.02779
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.transformed import transform_of, transformed_problem
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.transforms import Transform

LARGEST_GRID = 10_000  # points; the paper's grid has 5 * 5 * 31 = 775


def worst_of(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: Transform,
    *,
    tries: int = 10,
    points: int = 0,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Transform the image in several ways without following the model, and keep the one that meets the goal best.

    Of stripes, whose draws are all of full size, the first is the one that Square begins with.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: a transformation.
        tries: random draws per image, 10 in the paper; with one, what a single unlucky scan would meet.
        points: where it is not 0, every combination of so many evenly spaced values of each parameter is looked at instead.
        until: `FOOLED` or `SPENT`; an image that is wrong as it stands keeps its error under `FOOLED`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `transformed_problem`; also for no try, a grid of one point, or
            one of more than 10,000.
    """
    if tries < 1 or points < 0 or points == 1:
        raise SettingsError(f"worst_of needs a try, or at least 2 points a parameter, got tries {tries} and points {points}")
    problem = transformed_problem(model, x, goal, allowed, generator)
    looks = points ** math.prod(allowed.shape(x)) if points else tries
    if points and looks > LARGEST_GRID:
        raise SettingsError(
            f"a grid of {points} points for each of {math.prod(allowed.shape(x))} parameters of the {allowed.name} has more "
            f"than {LARGEST_GRID} points; take fewer, or random tries"
        )
    return climb(problem, _Tried(looks, points), restarts=1, until=until).result


@dataclass(frozen=True)
class _Tried:
    looks: int
    points: int

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - nothing is remembered
        return ()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        transform, x = transform_of(problem), problem.x
        if self.points:
            theta = grid_point(step, transform.shape(x), self.points).to(x)
        else:
            theta = transform.guess(x, problem.draws.at(step))
        point = transform.apply(x, theta)
        with torch.no_grad():
            return Look(point, problem.goal.margin(problem.victim.propose(point)), state)


def grid_point(number: Tensor, shape: tuple[int, ...], points: int) -> Tensor:
    """The parameters `(B, *shape)` at places `number` `(B,)` of a grid that has `points` values of each in [-1, 1].

    >>> grid_point(torch.tensor([0, 4, 5]), (2,), 3).tolist()
    [[-1.0, -1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    digits = number[:, None] // points ** torch.arange(math.prod(shape), device=number.device) % points
    return (2 * digits / (points - 1) - 1).reshape(-1, *shape)
