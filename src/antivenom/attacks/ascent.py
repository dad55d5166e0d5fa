"""The loop that all attacks with a fixed budget share: who is in the batch, who leaves it, what is kept of each image.

Every image has its own step and restart. An image that is done, since it fools the model or since its budget is spent,
makes room for one that waits: so only images that still resist cost anything, and the batch stays full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from antivenom.attacks.problem import Problem
from antivenom.attacks.result import AttackResult, Until
from antivenom.threat.objectives import Objective

Merit = Callable[[Problem, Tensor, Tensor], Tensor]  # points and their margins (B,) to what makes one point better than another
TOGETHER = 4  # the judge looks at a quarter of a batch at once: it is dear, and dearer still for single images
State = tuple[Tensor, ...]  # what an attack remembers of each image, the batch in front of every tensor
Move = Callable[[Problem, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # point, gradient, memory to the next point, memory


@dataclass(frozen=True)
class Look:
    """One look at the batch: what was shown, how far it met the goal, and what the attack remembers of it."""

    point: Tensor  # (B, C, H, W)
    margin: Tensor  # (B,)
    state: State
    gradients: int | Tensor = 0  # backward passes spent on each image; `(B,)` where images differ
    zero: Tensor | None = None  # (B,) bool: the gradient was zero in every value
    broken: Tensor | None = None  # (B,) bool: the gradient was not finite
    queries: int | Tensor = 1  # forward passes; `(B,)` where images differ


class Climber(Protocol):
    """An attack as the loop sees it; both functions are pure."""

    @property
    def looks(self) -> int:
        """Queries of one climb."""
        ...

    def start(self, problem: Problem, restart: Tensor) -> State:
        """The state before the first query; `restart` is `(B,)`."""
        ...

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        """Query once and move on; `step` is `(B,)`, from 0 to `looks` - 1."""
        ...


def highest(problem: Problem, points: Tensor, margin: Tensor) -> Tensor:  # noqa: ARG001 - a ball is all alike
    """Inside a given ball: the point that meets the goal by most."""
    return margin


def nearest(problem: Problem, points: Tensor, margin: Tensor) -> Tensor:
    """For the smallest perturbation: of points that fool, the nearest; any of them before one that does not."""
    size = problem.allowed.size(points - problem.x).to(margin)
    return torch.where(margin > 0, 1 / size, margin / (1 + margin.abs()) - 1)


class Gathered:
    """What is known of every image so far."""

    def __init__(self, problem: Problem, merit: Merit) -> None:
        count, device = len(problem), problem.x.device
        self.merit_of, self._oddities = merit, problem.victim.oddities or {}
        self.x_adv = problem.x.clone()
        self.merit = torch.full((count,), -torch.inf, device=device)
        self.margin = self.merit.clone()
        self.queries = torch.zeros(count, dtype=torch.int64, device=device)
        self.gradients = torch.zeros(count, dtype=torch.int64, device=device)
        self.zero = torch.zeros(count, dtype=torch.int64, device=device)
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)

    def judge(self, problem: Problem, images: Tensor, points: Tensor, seen: Tensor | None) -> Tensor:
        """Ask the model that decides (or take what it `seen`), keep what is better, and say which now fool it."""
        if seen is None:
            stored, margin = problem.judged(points)
            self.queries[images] += 1
        else:
            stored, margin = points, seen
        merit = self.merit_of(problem, stored, margin)
        better = merit > self.merit[images]  # a NaN is never better
        chosen = images[better]
        self.x_adv[chosen], self.margin[chosen], self.merit[chosen] = stored[better], margin[better], merit[better]
        return margin > 0

    def note(self, images: Tensor, look: Look) -> None:
        """Count what one query cost and what was odd about it."""
        self.queries[images] += look.queries
        self.gradients[images] += look.gradients
        if look.zero is not None:
            self.zero[images] += look.zero * look.gradients
        if look.broken is not None:
            self.broken[images] |= look.broken

    @property
    def result(self) -> AttackResult:
        """What the attack gives back."""
        flags = {
            "zero-gradient": (self.gradients > 0) & (2 * self.zero > self.gradients),
            "non-finite-gradient": self.broken,
            **{name: torch.full_like(self.broken, odd) for name, odd in self._oddities.items()},
        }
        return AttackResult(self.x_adv, self.margin > 0, self.queries, self.gradients, flags, self.margin)


@dataclass(frozen=True)
class _Flight:
    """The images in the batch."""

    images: Tensor  # (b,) their places in the problem
    step: Tensor
    restart: Tensor
    merit: Tensor  # of the best point of this climb, as the proposer sees it
    margin: Tensor  # of the same point
    best: Tensor  # that point
    state: State

    def after(self, look: Look, merit: Tensor) -> _Flight:
        better = merit > self.merit
        best = torch.where(better.reshape(-1, 1, 1, 1), look.point, self.best)
        merit, margin = torch.where(better, merit, self.merit), torch.where(better, look.margin, self.margin)
        return _Flight(self.images, self.step + 1, self.restart, merit, margin, best, look.state)

    def judged(self, fooled: Tensor) -> _Flight:
        """A point that the judge refused does not stand in the way of the next that seems to fool."""
        return replace(self, merit=torch.where(fooled, self.merit, -torch.inf))

    def take(self, index: Tensor) -> _Flight:
        return self._each(lambda tensors: tensors[0][index])

    def joined(self, other: _Flight) -> _Flight:
        both = self._each(torch.cat, other)
        return both.take(both.images.argsort())

    def _each(self, change: Callable[[list[Tensor]], Tensor], *others: _Flight) -> _Flight:
        flights = [self, *others]
        return _Flight(
            change([f.images for f in flights]),
            change([f.step for f in flights]),
            change([f.restart for f in flights]),
            change([f.merit for f in flights]),
            change([f.margin for f in flights]),
            change([f.best for f in flights]),
            tuple(change(list(tensors)) for tensors in zip(*(f.state for f in flights), strict=True)),
        )


def climb(
    problem: Problem,
    climber: Climber,
    *,
    restarts: int,
    until: Until,
    merit: Merit = highest,
    before: Gathered | None = None,
) -> Gathered:
    """Run a climber on every image, `problem.victim.batch` of them at a time.

    Args:
        restarts: climbs per image; with `Until.FOOLED` an image that fools the model starts no other.
        until: whether an image leaves at the query that fools the model, confirmed by the judge, or climbs to the end.
        merit: which of an image's points is kept. Where it is `nearest`, the judge is asked at every nearer point that seems to
            fool: near the boundary a proposer of lower precision is often wrong.
        before: what earlier climbs of the same images found, which this one adds to.
    """
    # A plain model has judged a point by the time it is queried, unless the point as stored would be another.
    as_stored = problem.allowed.pixels.grid is None and (merit is highest or problem.endless)
    own_judge = problem.victim.judge is problem.victim.propose and as_stored
    found, room = before or Gathered(problem, merit), problem.victim.batch
    together = 1 if own_judge or merit is nearest else max(1, room // TOGETHER)
    waiting = torch.arange(len(problem), device=problem.x.device)
    if until is Until.FOOLED:  # an image that is wrong as it stands needs no attack
        waiting = waiting[~(_judge_clean(problem, found, room) if before is None else found.margin > 0)]
    restart = torch.zeros_like(waiting)
    flight = asking = _take_off(problem, climber, waiting[:0], restart[:0])
    while len(flight.images) or len(asking.images) or len(waiting):
        if len(asking.images) >= together or not (len(flight.images) or len(waiting)):
            fooled = found.judge(problem.take(asking.images), asking.images, asking.best, asking.margin if own_judge else None)
            over, done = asking.step >= climber.looks, fooled & (until is Until.FOOLED)
            flight = flight.joined(asking.judged(fooled).take(~over & ~done))
            again = over & ~done & (asking.restart + 1 < restarts)
            waiting = torch.cat([asking.images[again], waiting])
            restart = torch.cat([asking.restart[again] + 1, restart])
            asking = asking.take(asking.images[:0])
        if len(waiting) and (free := room - len(flight.images)) > 0:
            flight = flight.joined(_take_off(problem, climber, waiting[:free], restart[:free]))
            waiting, restart = waiting[free:], restart[free:]
        flight, asks = _until_some_ask(problem, climber, flight, found, until)
        asking = asking.joined(asks)
    return found


def _until_some_ask(
    problem: Problem, climber: Climber, flight: _Flight, found: Gathered, until: Until
) -> tuple[_Flight, _Flight]:
    """Let a batch climb until some of it have a point for the judge: those that climb on, and those."""
    part, at_once = problem.take(flight.images), until is Until.FOOLED or found.merit_of is nearest
    asks = torch.zeros_like(flight.images, dtype=torch.bool)
    while len(flight.images) and not bool(asks.any()):
        look = climber.look(part, flight.state, flight.step)
        found.note(flight.images, look)
        worth = found.merit_of(part, look.point, look.margin)
        flight = flight.after(look, worth)
        claims = (look.margin > 0) & (worth > found.merit[flight.images])
        asks = (flight.step >= climber.looks) | (claims & at_once)
    return flight.take(~asks), flight.take(asks)


def last_point(problem: Problem, climber: Climber) -> Tensor:
    """Where one climb of every image ends, `(B, C, H, W)`, which nobody looks at: what training learns from."""
    every = torch.zeros(len(problem), dtype=torch.int64, device=problem.x.device)
    state = climber.start(problem, every)
    for step in range(climber.looks - 1):
        state = climber.look(problem, state, every + step).state
    return state[0]


def climb_each_way(
    problem: Problem, climber: Climber, most: int, *, restarts: int, until: Until, merit: Merit = highest
) -> Gathered:
    """Climb towards each of the goal's `most` likeliest ways in turn; where there is but one, that is the goal itself."""
    found, every = Gathered(problem, merit), torch.arange(len(problem), device=problem.x.device)
    with torch.no_grad():
        answer = torch.cat([problem.victim.judge(problem.x[part]) for part in torch.split(every, problem.victim.batch)])
    found.judge(problem, every, problem.x, problem.goal.margin(answer))
    found.queries += 1
    for goal in problem.goal.aims(answer, most):
        found = climb(replace(problem, goal=goal), climber, restarts=restarts, until=until, merit=merit, before=found)
    return found


def _judge_clean(problem: Problem, found: Gathered, room: int) -> Tensor:
    every = torch.arange(len(problem), device=problem.x.device)
    return torch.cat([found.judge(problem.take(part), part, problem.x[part], None) for part in torch.split(every, room)])


def _take_off(problem: Problem, climber: Climber, images: Tensor, restart: Tensor) -> _Flight:
    part = problem.take(images)
    none = torch.full(images.shape, -torch.inf, dtype=part.x.dtype, device=images.device)
    return _Flight(images, torch.zeros_like(images), restart, none, none, part.x.clone(), climber.start(part, restart))


@dataclass(frozen=True)
class GradientClimber:
    """Follow the gradient of an objective for some steps.

    Attributes:
        steps: moves per climb; the points before, between and after them are all looked at.
        begin: problem and restart `(B,)` to the first point.
        move: problem, point, gradient and memory to the next point and memory.
        objective: what is climbed.
        remembers: whether `move` needs a memory shaped as the image; it begins as zeros.
    """

    steps: int
    begin: Callable[[Problem, Tensor], Tensor]
    move: Move
    objective: Objective
    remembers: bool = False

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:
        point = self.begin(problem, restart)
        return point, torch.zeros_like(point if self.remembers else point[:, :0])

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, memory = state
        if bool((step == self.steps).all()):
            return only_looked(problem, point, state)
        margin, _, gradient, broken = ascent_direction(problem, point, self.objective)
        zero = (gradient == 0).flatten(1).all(1)
        following, memory = self.move(problem, point, gradient, memory)
        return Look(point, margin, (following, memory), 1, zero, broken)


def only_looked(problem: Problem, point: Tensor, state: State) -> Look:
    """The last points of a climb, which nothing follows: no gradient is taken of them."""
    with torch.no_grad():
        return Look(point, problem.goal.margin(problem.victim.propose(point)), state)


def ascent_direction(problem: Problem, point: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The goal's margin `(B,)`, the objective `(B,)`, its gradient by pixels, and whether that was not finite `(B,)`.

    The gradient is zero where it is detached, and in values where it is not finite.
    """
    z = point.detach().requires_grad_()
    with torch.enable_grad():
        answer = problem.victim.propose(z)
        rise = objective(problem.goal, answer)
        if rise.requires_grad:
            (gradient,) = torch.autograd.grad(rise.sum(), z, allow_unused=True)
        else:
            gradient = None
    gradient = torch.zeros_like(point) if gradient is None else gradient
    broken = ~gradient.isfinite().flatten(1).all(1)
    return problem.goal.margin(answer.detach()), rise.detach(), gradient.nan_to_num(0, 0, 0), broken


def linearised(problem: Problem, point: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The goal's margin `(B,)`; of its aim the `candidates` conditions that decide by margin `(B, K)` and their slopes
    `(B, K, C, H, W)`; and whether one of these was not finite `(B,)`."""
    z = point.detach().requires_grad_()
    with torch.enable_grad():
        answer = problem.victim.propose(z)
        margins = problem.goal.aim.margins(answer)
        idle = -math.inf if not problem.goal.aim.every else math.inf
        order = margins.detach().where(margins.isfinite(), idle).argsort(1, descending=not problem.goal.aim.every)
        near = order[:, : max(1, min(candidates, int(margins.isfinite().sum(1).amax())))]
        found = margins.gather(1, near)
        columns, broken = [], torch.zeros(len(point), dtype=torch.bool, device=point.device)
        for k in range(near.shape[1]):
            slope = None
            if found.requires_grad:
                rise = found[:, k].where(found[:, k].isfinite(), 0).sum()
                (slope,) = torch.autograd.grad(rise, z, retain_graph=k + 1 < near.shape[1], allow_unused=True)
            slope = torch.zeros_like(point) if slope is None else slope
            broken |= ~slope.isfinite().flatten(1).all(1)
            columns.append(slope.nan_to_num(0, 0, 0))
    return problem.goal.margin(answer.detach()), found.detach(), torch.stack(columns, 1), broken


def wide(value: Tensor) -> Tensor:
    """A value per image `(B,)`, shaped to broadcast over images."""
    return value.reshape(-1, 1, 1, 1)


def falling(done: Tensor, last: float) -> Tensor:
    """From 1 where nothing is done to `last` where all is, along a cosine."""
    return last + (1 - last) * (1 + (math.pi * done).cos()) / 2


def straight(step_size: float) -> Move:
    """Moves along the steepest direction, each of the given fraction of epsilon; they remember nothing."""

    def move(problem: Problem, point: Tensor, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return problem.allowed.step(point, gradient, step_size, problem.x), memory

    return move


def from_the_image(problem: Problem, restart: Tensor) -> Tensor:  # noqa: ARG001 - the same for every restart
    """Start at the image itself."""
    return problem.x.clone()


def from_a_draw(problem: Problem, restart: Tensor) -> Tensor:
    """Start at a random point of the perturbation set."""
    draws = problem.draws.at(restart)
    return problem.allowed.project(problem.x + problem.allowed.sample(problem.x, draws), problem.x)
