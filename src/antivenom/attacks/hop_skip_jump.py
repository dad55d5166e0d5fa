"""HopSkipJump: along the boundary of a model towards the image, seeing the model's decisions alone.

Chen, Jordan, Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", IEEE Symposium on Security and
Privacy 2020, https://arxiv.org/abs/1904.02144
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from antivenom.attacks.ascent import Gathered, nearest
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, SPENT, AttackResult, Until
from antivenom.errors import ImageError, SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet

# Probes of one image that are held in memory at a time: a number of its own, or rounding would tell one batch from another.
AT_ONCE = 32
FINEST = 2.0**-20  # of the range: some steps of float32 at its upper end
SHOWN = 0.5  # of one step of the grid: the least that a probe moves its values by, or few of them would be stored moved
NOISE, PROBES, ROUNDING = 0, 1, 2  # where in the work an image draws

Asking = Generator[Tensor, Tensor, None]  # gives images (n, C, H, W), is told which of them fool, (n,) bool on the CPU


def hop_skip_jump(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    queries: int = 5000,
    probes: int = 100,
    most: int = 10_000,
    probe: float = 0.01,
    tries: int = 100,
    starts: Tensor | None = None,
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Start far away where the model is fooled, then in turns: search the boundary on the way to the image, probe on which
    side of it random points nearby lie, and leap along what they tell of its direction.

    All that is used of an answer is whether the goal is reached. The caller's model is asked, never a twin: every look lies
    at the boundary, where a twin of lower precision is wrong.

    Beside the paper: a probe's length is a share of the distance (the paper's, `1 / d` of it for d values, is lost in float32
    on an image of 224 x 224), and no finer than the values that images hold; on a grid, points are rounded by chance; after
    noise in single pixels come blocks of it, for a class that looks like fine noise is otherwise never left; in Linf the first
    search clips noise at once, not a blend of it; and the last turn probes so little that it can use what it learns.

    Args:
        model: images `(B, C, H, W)` to answers `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: the norm, `Linf` or `L2`, and the largest perturbation that counts; an infinite epsilon counts any.
        queries: forward passes per image, the one on the clean image included; never exceeded.
        probes: of the first turn; turn t has sqrt(t) times as many, as long as the queries last.
        most: probes of a turn at most.
        probe: length of a probe, as a share of the distance to the image from where the last leap ended.
        tries: random starts per image. Where none fools, the image is given back as it is, not fooled.
        starts: images that are tried before random ones: one for each `(B, C, H, W)`, or K `(B, K, C, H, W)`, nearest first.
            For a target that noise does not reach, give images of that class.
        until: `SPENT`, which goes on to nearer points, or `FOOLED`, which takes the first inside epsilon.
        generator: the only source of randomness.

    Raises:
        ImageError: `starts` of another shape, and see `Problem.of`.
        SettingsError: fewer than 2 queries, fewer than one probe, or a probe without length, and see `Problem.of`.
        LabelError, ModelError: see `Problem.of`.
    """
    if queries < 2:
        raise SettingsError(f"hop_skip_jump needs at least 2 queries, one of them for the clean image, got {queries}")
    if min(probes, most) < 1 or not 0 < probe < math.inf:
        raise SettingsError(f"hop_skip_jump needs probes with a length, got probes={probes}, most={most}, probe={probe}")
    given = Victim.of(model)
    judge = replace(given, propose=given.judge)
    problem = Problem.of(judge, x, goal, allowed, generator, takes=(Linf, L2), endless=True)
    starts = _checked(starts, x)
    plan = _Plan(queries, probes, most, probe, tries, until)
    return _walked(problem, (_Walk(problem, image, plan, starts[image]) for image in range(len(x)))).result


def _checked(starts: Tensor | None, x: Tensor) -> Tensor:
    """Starts as `(B, K, C, H, W)`."""
    if starts is None:
        return x[:, None][:, :0]
    several = starts[:, None] if starts.ndim == x.ndim else starts
    if several.ndim != x.ndim + 1 or (len(several), *several.shape[2:]) != tuple(x.shape) or not starts.is_floating_point():
        raise ImageError(
            f"starts must be floating point, one for each image {tuple(x.shape)} or several (B, K, C, H, W), "
            f"got {starts.dtype} of shape {tuple(starts.shape)}"
        )
    return several.to(x)


# -- many images at a time ---------------------------------------------------------------------------------------------


def _walked(problem: Problem, walks: Iterator[_Walk]) -> Gathered:
    """All walks to their ends. They ask for one image or many, each when it likes: what they ask is shown together."""
    found, room, flight = Gathered(problem, nearest), problem.victim.batch, deque[_Walk]()
    while asking := _requests(flight, walks, room, found):
        images = torch.cat([points for _, points in asking])
        whose = torch.tensor([walk.image for walk, points in asking for _ in points], device=images.device)
        with torch.no_grad():
            answer = problem.victim.judge(images)
        margin = problem.goal.take(whose).margin(answer).cpu()
        for (walk, _), heard in zip(asking, torch.split(margin, [len(points) for _, points in asking]), strict=True):
            walk.hear(heard)
            flight.append(walk)
    return found


def _requests(flight: deque[_Walk], walks: Iterator[_Walk], room: int, found: Gathered) -> list[tuple[_Walk, Tensor]]:
    """A full batch of what walks ask next. One that is at its end is noted; others begin only where there is room."""
    asking: list[tuple[_Walk, Tensor]] = []
    while room and (walk := flight.popleft() if flight else next(walks, None)) is not None:
        points = walk.ask(room)
        if points is None:
            walk.note(found)
        else:
            asking.append((walk, points))
            room -= len(points)
    return asking


# -- one image ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    queries: int
    probes: int
    most: int
    probe: float
    tries: int
    until: Until


class _Walk:
    """One image on its way: what it asks next, how many queries it has left, and the nearest point that fooled."""

    def __init__(self, problem: Problem, image: int, plan: _Plan, starts: Tensor) -> None:
        part = problem.take(torch.tensor([image], device=problem.x.device))
        self.image, self.plan, self.starts = image, plan, starts
        self.x, self.draws, self.allowed, self.pixels = part.x, part.draws, part.allowed, part.allowed.pixels
        self.anywhere = part.allowed.within(math.inf)  # what lies beyond epsilon is walked through and does not count
        self.limit = float(torch.as_tensor(part.allowed.epsilon))
        self.left = plan.queries
        self.point, self.margin, self.size, self.ended = part.x, -math.inf, math.inf, False
        self._low = float(torch.as_tensor(self.pixels.low))
        self._span = float(torch.as_tensor(self.pixels.high)) - self._low
        self._values = max(1, int((self.pixels.free(torch.ones_like(self.x)) != 0).sum()))
        self._grid = None if self.pixels.grid is None else float(torch.as_tensor(self.pixels.grid))
        self._finest = FINEST * self._span if self._grid is None else SHOWN * self._grid
        self._chance = self._drawn(ROUNDING, 0)
        self._even = self._distance(self.x + self._values**-0.5)  # of a change of Euclidean length 1 that all values share
        self._steps = self._way()
        self._shown = self._heard = torch.zeros(0)
        self._told: Tensor | None = None

    def ask(self, most: int) -> Tensor | None:
        """At most so many images to be shown next, as they would be stored; None at the end."""
        if len(self._heard) == len(self._shown) and not self._begin():
            return None
        return self._shown[len(self._heard) :][:most]

    def hear(self, margin: Tensor) -> None:
        """The goal's margin at the images shown. The walk goes by its sign; its size is only noted, for the result."""
        self.left -= len(margin)
        self._heard = torch.cat([self._heard, margin])
        if len(self._heard) < len(self._shown):
            return
        fools, size = self._heard > 0, math.inf
        if len(fools) == 1 and bool(fools):
            size = self._distance(self._shown)
        if self.ended or self._told is None or size < self.size:  # the last look, the first, or a nearer point
            self.point, self.margin = self._shown, float(self._heard.nan_to_num(-math.inf))
            self.size = min(size, self.size)
        self._told = fools

    def _begin(self) -> bool:
        """Take the next step, if there is one: to what is asked there."""
        points = None if self._over else self._next()
        if points is None and not self.ended:
            self.ended = True
            if self.limit < self.size < math.inf:
                points = self.allowed.realise(self.point, self.x)
        if points is None:
            return False
        self._shown, self._heard = points, torch.zeros(0)
        return True

    def _next(self) -> Tensor | None:
        try:
            return next(self._steps) if self._told is None else self._steps.send(self._told)
        except StopIteration:
            return None

    def note(self, found: Gathered) -> None:
        """Write down how it ended."""
        found.x_adv[self.image], found.margin[self.image] = self.point[0], self.margin
        found.queries[self.image] = self.plan.queries - self.left

    @property
    def _kept(self) -> int:
        """Queries kept for the last look, at what is left inside epsilon of a point beyond it."""
        return int(self.limit < math.inf)

    @property
    def _over(self) -> bool:
        met = self.size <= self.limit and self.size < math.inf
        return self.ended or (met and (self.plan.until is FOOLED or self.size == 0)) or self.left <= self._kept

    def _distance(self, point: Tensor) -> float:
        return float(self.anywhere.size(point - self.x))

    def _way(self) -> Asking:
        if bool((yield self.x)):
            return
        far = yield from self._start()
        if far is None:
            return
        for turn in count(1):
            # Of d values, a probe goes along the slope by its length over sqrt(d): so near must the boundary be, or all
            # probes lie on one side of it. That is how the paper's theta and delta lie to each other, in either norm.
            reach = self._distance(far)
            length = max(self.plan.probe * reach, self._finest * self._values**0.5)
            width = length / self._values**0.5 * self._even
            halvings = max(0, math.ceil(math.log2(reach / width)))
            point = yield from self._boundary(far, reach, halvings)
            if self._grid is not None:
                yield self.anywhere.realise(point, self.x)  # rounded towards the image: nearer, if it fools
            probes = min(int(self.plan.probes * turn**0.5), self.plan.most, self.left - self._kept - halvings - 1)
            if probes < 1:
                return
            slope = yield from self._slope(point, length, turn, probes)
            far = yield from self._leap(point, slope, turn, width)

    def _start(self) -> Generator[Tensor, Tensor, Tensor | None]:
        """The first of the given starts, nearest first, or of the random ones that fools."""
        given = self.anywhere.project(self.starts, self.x)
        for place in self.anywhere.size(given - self.x).argsort().tolist():
            if bool((yield self._stored(given[place : place + 1]))):
                return given[place : place + 1]
        for place in range(self.plan.tries):
            point = self.anywhere.project(self._noise(place), self.x)
            if bool((yield self._stored(point))):
                return point
        return None

    def _noise(self, place: int) -> Tensor:
        """Uniform noise in the whole range: in single pixels first, then in ever larger blocks, and so on in turn."""
        return self._low + self._span * self._drawn(NOISE, place, 2 ** (place % max(self.x.shape[-2:]).bit_length()))

    def _drawn(self, what: int, place: int, side: int = 1) -> Tensor:
        """Numbers from [0, 1) as many as the image has values, alike in blocks and in channels that are tied."""
        channels, height, width = self.x.shape[1:]
        independent = 1 if self.pixels.tied else channels
        cells = self.draws.at(what, place).uniform(independent, -(-height // side), -(-width // side)).to(self.x)
        blocks = cells.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]
        return blocks.expand_as(self.x)

    def _stored(self, points: Tensor) -> Tensor:
        """Points as they would be stored, rounded up or down by chance, which is drawn once for each value.

        Rounded towards the image, all values that a search has clipped to one size would change at once, the boundary lying
        somewhere between; and most probes would change nothing.
        """
        if self._grid is None:
            return points
        delta = points - self.x
        return self.anywhere.realise(points + self._grid * self._chance * delta.sign(), self.x)

    def _boundary(self, far: Tensor, reach: float, halvings: int) -> Generator[Tensor, Tensor, Tensor]:
        """The nearest point that fools on the way from a far one to the image, found by halving its size."""
        low, high, found = 0.0, reach, far
        for _ in range(halvings):
            middle = (low + high) / 2
            point = self.anywhere.within(middle).project(far, self.x)
            if bool((yield self._stored(point))):
                high, found = middle, point
            else:
                low = middle
        return found

    def _slope(self, point: Tensor, length: float, turn: int, probes: int) -> Generator[Tensor, Tensor, Tensor]:
        """The direction in which more probes fool: how those that do differ from all, as the paper subtracts its baseline."""
        fooling, all_of_them, hits, here = torch.zeros_like(point), torch.zeros_like(point), 0, self._stored(point)
        for place in range(0, probes, AT_ONCE):
            luck = self.draws.at(PROBES, turn, place).normal(min(AT_ONCE, probes - place), *point.shape[1:])
            way = self.pixels.free(luck[0].to(point))
            way = length * way / way.flatten(1).norm(dim=1).clamp_min(TINY).reshape(-1, 1, 1, 1)
            shown = self._stored(self.anywhere.project(point + way, self.x))
            fools = yield shown
            moved = shown - here  # not the way itself, where that leaves the range or is rounded
            fooling += moved[fools.to(moved.device)].sum(0)
            all_of_them += moved.sum(0)
            hits += int(fools.sum())
        if hits in (0, probes):  # no side of the boundary was left: the paper's code goes by their mean alone
            return all_of_them if hits else -all_of_them
        return fooling - hits / probes * all_of_them

    def _leap(self, point: Tensor, slope: Tensor, turn: int, width: float) -> Generator[Tensor, Tensor, Tensor]:
        """A point along the slope that fools: `1 / sqrt(turn)` of the distance away, or half as far, and so on."""
        direction = self.anywhere.steepest(self.pixels.passable(slope, point))
        stride = self._distance(point) / turn**0.5
        while stride > width:
            far = self.anywhere.project(point + stride * direction, self.x)
            if bool((yield self._stored(far))):
                return far
            stride /= 2
        return point
