"""SPSA: steps along a gradient that differences of scores at random pairs of points estimate.

Uesato, O'Donoghue, Kohli, van den Oord, "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks", ICML 2018,
https://arxiv.org/abs/1802.05666
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget, answered
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, margin
from antivenom.threat.perturbations import L2, Linf, PerturbationSet

Directions = Literal["rademacher", "gaussian"]
Update = Literal["adam", "steepest"]
FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8  # Adam: Kingma and Ba, ICLR 2015


def spsa(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    queries: int = 5000,
    samples: int = 16,
    delta: float = 0.01,
    step_size: float = 0.3,
    update: Update = "adam",
    directions: Directions = "rademacher",
    objective: Objective = margin,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Estimate the gradient from pairs of points on both sides of the present one, step along it, and keep the best point.

    The points of a pair are kept in the range of the pixels, but need not lie in the ball nor on the grid: they are asked
    about, not handed in.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        queries: forward passes per image, the one on the clean image included; each step takes `2 * samples + 1`, and the last
            estimate makes do with the pairs that are left.
        samples: pairs of each estimate; thousands in the paper, which spends far more queries.
        delta: by how much a pair's points differ from the present one, per value; 0.01 in the paper.
        step_size: size of a step as a fraction of epsilon. For Adam it is that of a move of all values by its learning rate,
            0.01 in the paper, which is 0.3 of an epsilon of 8 / 255 in Linf.
        update: `adam`, as in the paper, or `steepest`, a step of full size along the steepest direction.
        directions: of a pair, `rademacher`, signs, or `gaussian`, normal numbers, as in natural evolution strategies (Ilyas,
            Engstrom, Athalye, Lin, "Black-box Adversarial Attacks with Limited Queries and Information", ICML 2018,
            https://arxiv.org/abs/1804.08598).
        objective: what is climbed; the margin in the paper.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if samples < 1 or not delta > 0:
        raise SettingsError(f"spsa needs at least 1 sample and a delta above 0, got {samples} and {delta}")
    if update not in ("adam", "steepest"):
        raise SettingsError(f"update is 'adam' or 'steepest', got {update!r}")
    if directions not in ("rademacher", "gaussian"):
        raise SettingsError(f"directions are 'rademacher' or 'gaussian', got {directions!r}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2))
    budget = Budget.of(problem, queries, until, least=3)
    climber = _Estimated(budget, samples, delta, step_size, update, directions, objective)
    return climb(problem, climber, restarts=1, until=until).result


@dataclass(frozen=True)
class _Estimated:
    """State: the point, Adam's two moments, and the queries left."""

    budget: Budget
    samples: int
    delta: float
    step_size: float
    update: Update
    directions: Directions
    objective: Objective

    @cached_property
    def looks(self) -> int:
        left, looks = torch.tensor(self.budget.looks), 0
        while self._pairs(left) > 0:
            left, looks = left - 2 * self._pairs(left) - 1, looks + 1
        return looks

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        moment = torch.zeros_like(problem.x if self.update == "adam" else problem.x[:, :0])
        return problem.x.clone(), moment, moment, self.budget.given(problem)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, first, second, left = state
        pairs = self._pairs(left)
        gradient = self._estimate(problem, point, step, pairs)
        if self.update == "steepest":
            following = problem.allowed.step(point, gradient, self.step_size, problem.x)
        else:
            first, second = FIRST * first + (1 - FIRST) * gradient, SECOND * second + (1 - SECOND) * gradient.square()
            count = wide((step + 1).to(point))
            moved = (first / (1 - FIRST**count)) / ((second / (1 - SECOND**count)).sqrt() + SMALL)
            following = problem.allowed.project(point + wide(self._rate(problem)) * moved, problem.x)
        shown, owner = problem.as_stored(following), (pairs > 0).nonzero()[:, 0]
        met = torch.full((len(problem),), -torch.inf, dtype=point.dtype, device=point.device)
        _, met[owner] = answered(problem, owner, lambda _, rows: shown[owner[rows]], self.objective)
        spent = 2 * pairs + (pairs > 0)
        return Look(shown, met, (following, first, second, self.budget.after(left, spent, met)), queries=spent)

    def _pairs(self, left: Tensor) -> Tensor:
        """Pairs for which there are queries, beside the one for the point to which they lead."""
        return ((left - 1) // 2).clamp(0, self.samples)

    def _rate(self, problem: Problem) -> Tensor:
        """Adam's learning rate `(B,)`: moving all values by it is a step of full size."""
        every = problem.allowed.size(problem.allowed.pixels.free(torch.ones_like(problem.x))).clamp_min(1)
        return self.step_size * torch.as_tensor(problem.allowed.epsilon).to(every) / every

    @torch.no_grad()
    def _estimate(self, problem: Problem, point: Tensor, step: Tensor, pairs: Tensor) -> Tensor:
        """The gradient as so many pairs `(B,)` of each image show it, `victim.batch` points at a time."""
        owner = torch.arange(len(problem), device=step.device).repeat_interleave(pairs)
        number = torch.arange(len(owner), device=step.device) - (pairs.cumsum(0) - pairs)[owner]
        gradient = torch.zeros_like(point)
        every, room = torch.arange(len(owner), device=step.device), max(1, problem.victim.batch // 2)
        for rows in torch.split(every, room) if len(owner) else ():
            index = owner[rows]
            part = problem.take(index)
            way = self._directions(part, step[index], number[rows])
            both = torch.cat([index, index])
            ahead = torch.cat([way, -way])
            near = problem.take(both)
            tried = point[both] + self.delta * ahead
            tried = near.x + near.allowed.pixels.clip(tried - near.x, near.x)
            rise = self.objective(near.goal, problem.victim.propose(tried)).to(point)
            slope = (rise[: len(rows)] - rise[len(rows) :]).nan_to_num(0, 0, 0) / (2 * self.delta)
            gradient.index_add_(0, index, wide(slope) * way)
        return gradient / wide(pairs.clamp_min(1).to(point))

    def _directions(self, problem: Problem, step: Tensor, number: Tensor) -> Tensor:
        """A direction for each pair, in which only what may move does."""
        _, channels, height, width = problem.x.shape
        pixels, draws = problem.allowed.pixels, problem.draws.at(step, number)
        shape = (1 if pixels.tied else channels, height, width)
        luck = draws.normal(*shape) if self.directions == "gaussian" else (draws.uniform(*shape) < 0.5) * 2.0 - 1
        return pixels.free(luck.to(problem.x).expand_as(problem.x))
