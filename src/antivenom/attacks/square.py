"""Square: random search over squares, seeing scores alone.

Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via random search",
ECCV 2020, https://arxiv.org/abs/1912.00049
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, margin
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet

FIRST_SHARE = 0.8
TILES = 5  # along each axis, of the first point in L2 (the authors' code)
# The share of the image that a square covers is halved when so much of the budget is spent (paper, section 4.1 and its code).
HALVINGS = torch.tensor([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000


# Problem, best point so far, step (B,) and side of the square (B,) to the point that is tried next.
Candidate = Callable[[Problem, Tensor, Tensor, Tensor], Tensor]


def square(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    queries: int = 5000,
    share: float = FIRST_SHARE,
    objective: Objective = margin,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Change one random square after another and keep what helps.

    In Linf the first point has vertical stripes, and a square goes to an edge of the ball. In L2 it has tiles of bright and
    dark halves, and a square is given such a pattern and the size that another square gives up; values at the end of their
    range leave some of epsilon unused, which the next square gets as well.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`; only its answers are used.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: a `Linf` or `L2` set.
        queries: forward passes per image, the one on the clean image included.
        share: of the image that the first squares cover; by default that of AutoAttack. The authors' own experiments in L2 have
            0.1, which finds fewer within a few hundred queries.
        objective: what must rise for a square to be kept.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if queries < 2:
        raise SettingsError(f"square needs at least 2 queries, one of them for the clean image, got {queries}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2))
    candidate = _stripes_then_squares if isinstance(allowed, Linf) else _tiles_then_patterns
    search = _Search(queries - 1, share, objective, candidate)
    return climb(problem, search, restarts=1, until=until).result


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
    """State: the best point so far, and its height."""

    looks: int
    share: float
    objective: Objective
    candidate: Candidate

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - one climb only
        rise = torch.full((len(problem),), -torch.inf, dtype=problem.x.dtype, device=problem.x.device)
        return problem.x.clone(), rise

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        kept, height = state
        edge = side(step, self.looks + 1, self.share, *kept.shape[2:])
        point = problem.allowed.project(self.candidate(problem, kept, step, edge), problem.x)
        with torch.no_grad():
            answer = problem.victim.propose(point)
        rise = self.objective(problem.goal, answer)
        better = rise > height
        kept = torch.where(wide(better), point, kept)
        return Look(point, problem.goal.margin(answer), (kept, torch.where(better, rise, height)))


# -- Linf --------------------------------------------------------------------------------------------------------------


def _stripes_then_squares(problem: Problem, kept: Tensor, step: Tensor, edge: Tensor) -> Tensor:
    images, channels, height, width = kept.shape
    independent = _independent(problem)
    epsilon = torch.as_tensor(problem.allowed.epsilon).reshape(-1, 1, 1, 1).to(kept)
    draws = problem.draws.at(step)
    first = step == 0
    if bool(first.all()):
        return problem.x + epsilon * _signs(draws.uniform(independent, 1, width)).to(kept)
    luck = draws.uniform(2 + independent).to(kept)
    inside = _window(kept, luck[:, 0], luck[:, 1], edge)
    moved = problem.x + epsilon * _signs(luck[:, 2:])[:, :, None, None]
    point = torch.where(inside, moved, kept)
    if bool(first.any()):
        stripes = problem.x + epsilon * _signs(draws.uniform(independent, 1, width)).to(kept)
        point = torch.where(wide(first), stripes.expand_as(kept), point)
    return point.expand(images, channels, height, width)


# -- L2 ----------------------------------------------------------------------------------------------------------------


def _tiles_then_patterns(problem: Problem, kept: Tensor, step: Tensor, edge: Tensor) -> Tensor:
    first = step == 0
    delta = torch.zeros_like(kept)
    if bool(first.any()):
        delta = torch.where(wide(first), _tiles(problem, kept, step), delta)
    if not bool(first.all()):
        delta = torch.where(wide(first), delta, _exchanged(problem, kept, step, edge))
    delta = problem.allowed.pixels.free(delta)
    epsilon = torch.as_tensor(problem.allowed.epsilon).to(kept).expand(len(kept))
    return problem.x + delta * wide(epsilon / problem.allowed.size(delta).clamp_min(TINY))


def _tiles(problem: Problem, kept: Tensor, step: Tensor) -> Tensor:
    """Five by five tiles, in each a pattern either way round and, for each channel, either way up."""
    images, channels, height, width = kept.shape
    size = max(3, min(height, width) // TILES)
    rows, columns = height // size, width // size
    luck = _signs(problem.draws.at(step).uniform(1 + _independent(problem), rows, columns)).to(kept)
    upright = pattern(torch.tensor([size]), torch.tensor([True])).to(kept)[0]
    tile = torch.where(luck[:, :1, :, :, None, None] > 0, upright, upright.T) * luck[:, 1:, :, :, None, None]
    tiles = tile.permute(0, 1, 2, 4, 3, 5).reshape(images, -1, rows * size, columns * size).expand(-1, channels, -1, -1)
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    return torch.nn.functional.pad(tiles, (left, width - columns * size - left, top, height - rows * size - top))


def _exchanged(problem: Problem, kept: Tensor, step: Tensor, edge: Tensor) -> Tensor:
    """The change with one square emptied and another given a pattern, what it held, and the size of both."""
    channels, height, width = kept.shape[1:]
    edge = (edge.clamp(3, min(height, width)) - 1) // 2 * 2 + 1  # odd, so that a pattern has a middle
    luck = problem.draws.at(step).uniform(5 + _independent(problem)).to(kept)
    gains, gives = _window(kept, luck[:, 0], luck[:, 1], edge), _window(kept, luck[:, 2], luck[:, 3], edge)
    delta = kept - problem.x
    held = (delta * (gains | gives)).square().sum((2, 3), keepdim=True)
    unused = (torch.as_tensor(problem.allowed.epsilon).to(kept) ** 2 - problem.allowed.size(delta) ** 2).clamp_min(0)
    own = delta * gains
    fresh = _placed(pattern(edge, luck[:, 4] < 0.5).to(kept), kept, luck[:, 0], luck[:, 1], edge)
    fresh = fresh * _signs(luck[:, 5:])[:, :, None, None] + own / own.flatten(2).norm(dim=2)[..., None, None].clamp_min(TINY)
    size = (wide(unused) / channels + held).sqrt()
    fresh = fresh * size / fresh.flatten(2).norm(dim=2)[..., None, None].clamp_min(TINY)
    return torch.where(gains, fresh, delta.masked_fill(gives, 0))


def pattern(edge: Tensor, upright: Tensor) -> Tensor:
    """A bright half and a dark half, each brightest in its middle, of Euclidean length 1 (paper, section 4.2).

    Args:
        edge: `(B,)` sides in pixels, at least 2.
        upright: `(B,)` bool: one half above the other, or beside it.

    Returns:
        `(B, S, S)`, S being the largest side; smaller ones stand in the upper left corner.
    """
    largest = int(edge.max())
    found = torch.zeros(len(edge), largest, largest)
    for one in sorted(set(edge.tolist())):
        half = one // 2
        halves = torch.cat([_mound(half, one), -_mound(one - half, one)])
        halves = halves / halves.norm()
        mine = (edge == one).nonzero()[:, 0].cpu()
        for place in mine.tolist():
            found[place, :one, :one] = halves if upright[place] else halves.T
    return found


def _mound(height: int, width: int) -> Tensor:
    """Rectangles around the middle, each a ring wider than the last and 1 / n^2 as high, of Euclidean length 1."""
    mound = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for ring in range(max(row, column) + 1):
        mound[max(0, row - ring) : row + ring + 1, max(0, column - ring) : column + ring + 1] += 1 / (ring + 1) ** 2
    unit: Tensor = mound / mound.norm()
    return unit


def _placed(squares: Tensor, like: Tensor, down: Tensor, across: Tensor, edge: Tensor) -> Tensor:
    """Squares `(B, S, S)` where `_window` has them in the image, zero elsewhere; `(B, 1, H, W)`."""
    height, width = like.shape[2:]
    rows, columns = (
        torch.arange(span, device=like.device) - _corner(luck, span, edge)[:, None]
        for luck, span in ((down, height), (across, width))
    )
    last = squares.shape[1] - 1
    images = torch.arange(len(squares), device=like.device)[:, None, None]
    found: Tensor = squares[images, rows.clamp(0, last)[:, :, None], columns.clamp(0, last)[:, None, :]]
    inside = _window(like, down, across, edge)
    return found[:, None] * inside


# -- places ------------------------------------------------------------------------------------------------------------


def _window(like: Tensor, down: Tensor, across: Tensor, edge: Tensor) -> Tensor:
    """`(B, 1, H, W)` bool: a square of this side at a random place, from two uniform numbers `(B,)` each."""
    height, width = like.shape[2:]
    rows, columns = (_between(span, _corner(luck, span, edge), edge) for luck, span in ((down, height), (across, width)))
    return rows[:, None, :, None] & columns[:, None, None, :]


def _corner(luck: Tensor, span: int, edge: Tensor) -> Tensor:
    return (luck * (span - edge + 1)).long()


def _independent(problem: Problem) -> int:
    """Channels that draw a sign of their own: of tied ones the mean of several signs would be little of any."""
    return 1 if problem.allowed.pixels.tied else problem.x.shape[1]


def _signs(uniform: Tensor) -> Tensor:
    return (uniform < 0.5) * 2.0 - 1


def _between(length: int, start: Tensor, span: Tensor) -> Tensor:
    """`(B, length)` bool: which places lie in `[start, start + span)`."""
    places = torch.arange(length, device=start.device)
    return (places >= start[:, None]) & (places < (start + span)[:, None])
