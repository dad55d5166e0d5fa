"""SimBA: one direction of an orthogonal basis after another, forth or back, kept where it helps, seeing scores alone.

Guo, Gardner, You, Wilson, Weinberger, "Simple Black-box Adversarial Attacks", ICML 2019, https://arxiv.org/abs/1905.07121
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from antivenom.attacks.ascent import Look, State, climb, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.queries import Budget, answered
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet
from antivenom.threat.pixels import per_image

Basis = Literal["dct-low", "dct", "pixel"]
# Of all frequencies of an axis: the lowest, tried first, and those that each widening adds (28 and 7 of 224, authors' code).
LOWEST, WIDER = 1 / 8, 1 / 32
PASSED = 8  # directions along which an image cannot move, passed over in one look


def simba(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    queries: int = 5000,
    step_size: float = 0.2,
    basis: Basis = "dct-low",
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Try one direction after another in random order: keep a step forth if it helps, else one back if that does, else none.

    The paper bounds no perturbation; here each step comes back into the set, and directions that are used up are tried again in
    the same order. Steps are judged as stored but walked unrounded, as finer ones than the grid would never add up.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        queries: forward passes per image, the one on the clean image included; the search begins with another on it.
        step_size: size of a step in the norm of `allowed`, as a fraction of epsilon.
        basis: `dct-low` are cosines over the whole image, low frequencies first; `dct` the same in any order; `pixel` moves one
            value at a time. Tied channels move together.
        objective: what must rise for a step to be kept; `log_odds` orders points as the paper's probability does.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if basis not in ("dct-low", "dct", "pixel"):
        raise SettingsError(f"basis is 'dct-low', 'dct' or 'pixel', got {basis!r}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2))
    budget = Budget.of(problem, queries, until, least=2)
    return climb(problem, _Descent(budget, step_size, basis, objective), restarts=1, until=until).result


def ring(height: int, width: int) -> Tensor:
    """`(height, width)`: in which widening of the lowest frequencies each coefficient is reached, from 0.

    >>> ring(32, 32)[0, [0, 3, 4, 5, 31]].tolist()
    [0, 0, 1, 2, 28]
    """
    share = torch.maximum(torch.arange(height)[:, None] / height, torch.arange(width) / width)
    return ((share - LOWEST) / WIDER + 1).floor().clamp_min(0).long()


@dataclass(frozen=True)
class _Descent:
    """State: the point and its height; the directions in order and how many of them there are; which of them is next, and
    whether the step back is; the queries left."""

    budget: Budget
    step_size: float
    basis: Basis
    objective: Objective

    @property
    def looks(self) -> int:
        return self.budget.looks

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - one climb only
        none = torch.zeros(len(problem), dtype=torch.int64, device=problem.x.device)
        order, many = self._order(problem)
        height = torch.full((len(problem),), -torch.inf, dtype=problem.x.dtype, device=problem.x.device)
        return problem.x.clone(), height, order, many, none, none.bool(), self.budget.given(problem)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        kept, height, order, many, turn, back, left = state
        moves = step > 0  # the first look is at the image itself
        point, stuck = self._step(problem, kept, _at(order, turn % many), back)
        for _ in range(PASSED):
            index = (stuck & moves).nonzero()[:, 0]
            if not len(index):
                break
            turn, back = turn + (back & stuck & moves), back ^ (stuck & moves)
            where = _at(order[index], (turn % many)[index])
            point[index], stuck[index] = self._step(problem.take(index), kept[index], where, back[index])
        point = point.where(wide(moves), kept)
        shown = (left > 0) & ~(stuck & moves)
        owner, rise = shown.nonzero()[:, 0], torch.full_like(height, -torch.inf)
        margin = rise.clone()
        rise[owner], margin[owner] = answered(problem, owner, lambda _, rows: point[owner[rows]], self.objective)

        better, tried = rise > height, shown & moves
        turn = turn + (tried & (better | back))
        back = torch.where(tried, ~better & ~back, back)
        kept, height = point.where(wide(better), kept), rise.where(better, height)
        left = self.budget.after(left, shown.long(), margin)
        return Look(point, margin, (kept, height, order, many, turn, back, left), queries=shown.long())

    def _order(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The directions that each image may come to, by number, in its own order `(B, n)`; and how many it has `(B,)`."""
        images, channels, height, width = problem.x.shape
        tied, region = problem.allowed.pixels.tied, problem.allowed.pixels.region
        place = torch.arange((1 if tied else channels) * height * width)
        rank = ring(height, width).flatten()[place % (height * width)] * (self.basis == "dct-low")
        wanted = min(self.looks, len(place))
        near = (rank <= rank.kthvalue(wanted).values).nonzero()[:, 0]
        key = rank[near] + problem.draws.at(0).uniform(len(near))
        many = torch.full((images,), wanted)
        if self.basis == "pixel" and region is not None:
            free = region.flatten(1).cpu()[:, near % (height * width)] > 0
            key, many = key.where(free, torch.inf), free.sum(1).clamp(1, wanted)
        order = near[key.argsort(stable=True, dim=1)[:, :wanted]]
        return order.to(problem.x.device), many.to(problem.x.device)

    def _step(self, problem: Problem, kept: Tensor, which: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """The points a step away, and whether they are where they were."""
        way = self._direction(problem, which) * wide(torch.where(back, -1.0, 1.0).to(kept))
        length = self.step_size * torch.as_tensor(per_image(problem.allowed.epsilon, kept)).to(kept)
        point = problem.allowed.project(kept + length * way, problem.x)
        return point, (point == kept).flatten(1).all(1)

    def _direction(self, problem: Problem, which: Tensor) -> Tensor:
        """Directions of unit size, by number: an outer product, since a matrix of them would be pixels by pixels."""
        _, channels, height, width = problem.x.shape
        pixels = problem.allowed.pixels
        channel, place = which // (height * width), which % (height * width)
        axes = ((place // width, height), (place % width, width))
        wave = one_hot if self.basis == "pixel" else _cosine
        down, across = (wave(number, size).to(problem.x) for number, size in axes)
        on = one_hot(channel, 1 if pixels.tied else channels).to(problem.x)
        way = on[:, :, None, None] * down[:, None, :, None] * across[:, None, None, :]
        way = pixels.free(way.expand_as(problem.x))
        return way / per_image(problem.allowed.size(way).clamp_min(TINY), way)


def _cosine(frequency: Tensor, length: int) -> Tensor:
    """`(B, length)` of the cosine transform's second type."""
    return (math.pi / length * frequency[:, None] * (torch.arange(length, device=frequency.device) + 0.5)).cos()


def _at(order: Tensor, turn: Tensor) -> Tensor:
    return order.gather(1, turn[:, None])[:, 0]
