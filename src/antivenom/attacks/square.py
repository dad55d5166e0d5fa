"""Square: random search over squares, seeing scores alone.

Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via random search",
ECCV 2020, https://arxiv.org/abs/1912.00049
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, margin
from antivenom.threat.perturbations import Linf

# The share of the image that a square covers is halved when so much of the budget is spent (paper, section 4.1 and its code).
HALVINGS = torch.tensor([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000


def square(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: Linf,
    *,
    queries: int = 5000,
    share: float = 0.8,
    objective: Objective = margin,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Begin with vertical stripes, then set one random square after another to an edge of the ball, and keep what helps.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: a `Linf` set.
        queries: forward passes per image, the one on the clean image included.
        share: of the image that the first squares cover; 0.8 in the authors' experiments.
        objective: what must rise for a square to be kept.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if queries < 2:
        raise SettingsError(f"square needs at least 2 queries, one of them for the clean image, got {queries}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf,))
    return climb(problem, _Search(queries - 1, share, objective), restarts=1, until=until).result


def side(step: Tensor, queries: int, share: float, height: int, width: int) -> Tensor:
    """Side of the square at a step `(B,)`, in pixels; `(B,)` int64.

    >>> side(torch.tensor([0, 6, 300, 4500]), 5000, 0.8, 224, 224).tolist()
    [200, 142, 50, 9]
    """
    halvings = (step.cpu()[:, None] > HALVINGS * queries).sum(1)
    covered = share * 0.5**halvings * height * width
    return covered.sqrt().round().clamp(1, min(height, width)).long().to(step.device)


@dataclass(frozen=True)
class _Search:
    looks: int
    share: float
    objective: Objective

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - one climb only
        rise = torch.full((len(problem),), -torch.inf, dtype=problem.x.dtype, device=problem.x.device)
        return problem.x.clone(), rise

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        kept, height = state
        point = problem.allowed.project(self._candidate(problem, kept, step), problem.x)
        with torch.no_grad():
            answer = problem.victim.propose(point)
        rise = self.objective(problem.goal, answer)
        better = rise > height
        kept = torch.where(better.reshape(-1, 1, 1, 1), point, kept)
        return Look(point, problem.goal.margin(answer), (kept, torch.where(better, rise, height)))

    def _candidate(self, problem: Problem, kept: Tensor, step: Tensor) -> Tensor:
        images, channels, height, width = kept.shape
        independent = 1 if problem.allowed.pixels.tied else channels
        epsilon = torch.as_tensor(problem.allowed.epsilon).reshape(-1, 1, 1, 1).to(kept)
        draws = problem.draws.at(step)
        first = step == 0
        if bool(first.all()):
            return problem.x + epsilon * _signs(draws.uniform(independent, 1, width)).to(kept)
        luck = draws.uniform(2 + independent).to(kept)
        edge = side(step, self.looks + 1, self.share, height, width)
        top, left = ((luck[:, i] * (span - edge + 1)).long() for i, span in enumerate((height, width)))
        inside = _between(height, top, edge)[:, None, :, None] & _between(width, left, edge)[:, None, None, :]
        moved = problem.x + epsilon * _signs(luck[:, 2:])[:, :, None, None]
        point = torch.where(inside, moved, kept)
        if bool(first.any()):
            stripes = problem.x + epsilon * _signs(draws.uniform(independent, 1, width)).to(kept)
            point = torch.where(first.reshape(-1, 1, 1, 1), stripes.expand_as(kept), point)
        return point.expand(images, channels, height, width)


def _signs(uniform: Tensor) -> Tensor:
    return (uniform < 0.5) * 2.0 - 1


def _between(length: int, start: Tensor, span: Tensor) -> Tensor:
    """`(B, length)` bool: which places lie in `[start, start + span)`."""
    places = torch.arange(length, device=start.device)
    return (places >= start[:, None]) & (places < (start + span)[:, None])
