"""One pixel or a few: differential evolution over where the pixels lie and what they become, seeing scores alone.

Su, Vargas, Sakurai, "One Pixel Attack for Fooling Deep Neural Networks", IEEE Transactions on Evolutionary Computation 2019,
https://arxiv.org/abs/1710.08864
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L0

DIFFERENCE = 0.5  # weight of the difference of two members that is added to a third (paper, section III-C)
CENTRE, SPREAD = 128 / 255, 127 / 255  # of the normal law of the first values, in units of the range (paper, section III-C)


def few_pixel(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: L0,
    *,
    queries: int = 5000,
    population: int = 100,
    block: int = 20,
    objective: Objective = margin,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Draw a population of changes of a few pixels; each child takes its parent's place where it helps more.

    A child is one member plus half the difference of two others; nothing is crossed over. A place beyond the image's edge is
    reflected at it, a value beyond the range is cut off, which the paper leaves open. The paper climbs the probability of the
    wrong classes (`log_odds`).

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: an `L0` set, which counts values: a pixel is all its C values, so an epsilon of 5 * C allows five pixels.
        queries: forward passes per image, the one on the clean image included; the paper's 100 generations take about 40,000.
        population: members; 400 in the paper, whose budget is eight times as large. On chest films of 64 px, five pixels, 100
            raised the margin farther at 1000 and at 5000 queries.
        block: children of an image that one look shows together; an image leaves at the look in which one fools.
        objective: what must rise for a child to take its parent's place.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; also an epsilon that allows no whole pixel.
    """
    if population < 4 or block < 1:
        raise SettingsError(f"few_pixel needs a population of at least 4 and a block of at least 1, got {population}, {block}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(L0,))
    epsilon, channels = torch.as_tensor(allowed.epsilon), x.shape[1]
    if bool(((epsilon > 0) & (epsilon < channels)).any()):
        raise SettingsError(
            f"few_pixel changes whole pixels, and epsilon {allowed.epsilon} allows no pixel of {channels} values; "
            f"L0 counts values, so {channels} allows one"
        )
    pixels = max(1, int(epsilon.max()) // channels)
    budget = Budget.of(problem, queries, until, least=1)
    return climb(problem, _Evolution(budget, population, block, pixels, objective), restarts=1, until=until).result


@dataclass(frozen=True)
class _Evolution:
    """State: the members `(B, P, K, 2 + values)`, those of the next generation, their heights `(B, P)`, and the queries left.

    A member holds of each of its K pixels the row and the column, in pixels, and the new values, in units of the range.
    """

    budget: Budget
    population: int
    block: int
    pixels: int  # K: of the image that may change most; another leaves its last ones out
    objective: Objective

    @property
    def blocks(self) -> int:
        """Looks of a generation."""
        return math.ceil(self.population / self.block)

    @property
    def looks(self) -> int:
        whole, rest = divmod(self.budget.looks, self.population)
        return whole * self.blocks + math.ceil(rest / self.block)

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - one climb only
        # Pixel by pixel, so that an image's draws do not depend on how many pixels another may change.
        members = torch.stack([self._drawn(problem, number) for number in range(self.pixels)], 2)
        heights = torch.full(members.shape[:2], -torch.inf, dtype=problem.x.dtype, device=problem.x.device)
        return members, members, heights, self.budget.given(problem)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        members, heirs, heights, left = state
        first = step % self.blocks * self.block
        count = (self.population - first).clamp_max(self.block).minimum(left).clamp_min(0)
        owner = torch.arange(len(problem), device=step.device).repeat_interleave(count)
        begin = count.cumsum(0) - count
        place = torch.arange(len(owner), device=step.device) - begin[owner]
        member = first[owner] + place
        luck = problem.draws.at(2, step).uniform(self.block, 3).to(members)[owner, place]
        grown = (step >= self.blocks)[owner]  # the first generation is the population itself
        children = self._children(problem, members, owner, member, luck).where(_row(grown), members[owner, member])
        rise, met = answered(problem, owner, lambda part, rows: self._points(part, children[rows]), self.objective)

        better = rise > heights[owner, member]
        heirs, heights = heirs.clone(), heights.clone()
        heirs[owner, member] = children.where(_row(better), members[owner, member])
        heights[owner, member] = rise.where(better, heights[owner, member])
        members = heirs.where(wide(first + self.block >= self.population), members)

        found = torch.full((len(problem), self.block), -torch.inf, dtype=rise.dtype, device=rise.device)
        found[owner, place] = met.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        highest, which = found.max(1)
        best, shown = members[:, 0].clone(), count > 0
        best[shown] = children[(begin + which)[shown]]
        state = members, heirs, heights, self.budget.after(left, count, highest)
        return Look(self._points(problem, best), highest, state, queries=count)

    def _drawn(self, problem: Problem, number: int) -> Tensor:
        """Some pixel of each first member; `(B, P, 2 + values)`. Places are uniform among those that may change."""
        height, width = problem.x.shape[-2:]
        region = problem.allowed.pixels.region
        free = torch.ones(len(problem), height * width) if region is None else region.flatten(1).cpu() > 0
        rank = (problem.draws.at(0, number).uniform(self.population) * free.sum(1, keepdim=True)).long()
        place = torch.searchsorted(free.long().cumsum(1), rank + 1).clamp_max(height * width - 1)
        values = 1 if problem.allowed.pixels.tied else problem.x.shape[1]
        value = (CENTRE + SPREAD * problem.draws.at(1, number).normal(self.population, values)).clamp(0, 1)
        where = torch.stack([place // width, place % width], 2) + 0.5
        return torch.cat([where, value], 2).to(problem.x)

    def _children(self, problem: Problem, members: Tensor, owner: Tensor, member: Tensor, luck: Tensor) -> Tensor:
        one, two, three = (members[owner, other] for other in others(luck, member, self.population))
        child = one + DIFFERENCE * (two - three)
        ends = child.new_tensor(problem.x.shape[-2:])
        where, value = child[..., :2].abs(), child[..., 2:].clamp(0, 1)
        return torch.cat([torch.where(where > ends, 2 * ends - where, where), value], -1)

    def _points(self, problem: Problem, members: Tensor) -> Tensor:
        """The images of one member each; of changes of the same pixel the last one counts."""
        x, pixels = problem.x, problem.allowed.pixels
        images, channels, height, width = x.shape
        row, column = (members[..., i].long().clamp(0, size - 1) for i, size in enumerate((height, width)))
        low, high = per_image(pixels.low, members), per_image(pixels.high, members)
        value = (low + (high - low) * members[..., 2:]).expand(-1, -1, channels)
        allowed = torch.as_tensor(problem.allowed.epsilon).to(x) // channels
        moved, place = x.flatten(2).clone(), (row * width + column)[:, :, None].expand(-1, -1, channels)
        for number in range(self.pixels):
            spot = place[:, number, :, None]
            kept = (allowed <= number).expand(images)[:, None, None]
            moved.scatter_(2, spot, torch.where(kept, moved.gather(2, spot), value[:, number, :, None]))
        # No member changes more than it may, so nothing is to be projected; sorting all values would cost more than the model.
        return x + pixels.store(pixels.clip(pixels.free(moved.view_as(x) - x), x))


def others(luck: Tensor, member: Tensor, population: int) -> tuple[Tensor, ...]:
    """Three members `(R,)` each, different from each other and from `member` `(R,)`; `luck` is `(R, 3)` from [0, 1).

    >>> [int(other) for other in others(torch.tensor([[0.0, 0.0, 0.99]]), torch.tensor([0]), 4)]
    [1, 2, 3]
    """
    taken = [member]
    for number in range(3):
        pick = (luck[:, number] * (population - 1 - number)).long()
        for used in torch.stack(taken).sort(0).values:
            pick = pick + (pick >= used)
        taken.append(pick)
    return tuple(taken[1:])


def _row(value: Tensor) -> Tensor:
    """A value per child `(R,)`, shaped to broadcast over what it holds."""
    return value[:, None, None]
