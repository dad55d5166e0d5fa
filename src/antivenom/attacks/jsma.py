"""Jacobian-based saliency maps: one value, or a pair of values, a step: those that raise the target most and lower the rest.

Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, "The Limitations of Deep Learning in Adversarial Settings", EuroS&P 2016,
https://arxiv.org/abs/1511.07528

Two forms are in use. The paper moves pairs of values through the whole range, all of them up (or all down), and asks of a pair
that it raise the target's logit and lower the sum of the others. Foolbox 1 and AdvBox move one value at a time by a tenth of
the range, up to 7 times each, and heed cross-entropy towards the target alone. Of that form three things differ here: it climbs
the log-odds, whose gradient is that of cross-entropy but for a positive factor; values go both ways, which was meant, though
its signs let them fall only (`moves="down"` does as much); and the target is the likeliest other class, not the one that a
first attack reaches or chance draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb_each_way, nearest, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, SPENT, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Goal
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import TINY
from antivenom.threat.pixels import EDGE, per_image
from antivenom.threat.sparse import L0

Moves = Literal["up", "down", "both"]
SIGNS: dict[Moves, tuple[int, ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}
TENTH, CHANGES, STEPS = 0.1, 7, 2000  # theta, max_perturbations_per_pixel and max_iter of Foolbox 1 and AdvBox
SCOUTS = 32  # features whose pairs are compared first, to rule out most others
SLACK = 1e-5  # of the numbers compared: far above what rounding can do
COMPARED = 2**20  # pairs held in memory at a time, over the whole batch


def jsma(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: L0,
    *,
    pairs: bool = True,
    theta: float | None = None,
    moves: Moves | None = None,
    fast: bool | None = None,
    most: int | None = None,
    steps: int = STEPS,
    targets: int = 1,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Change the values that a saliency map names, one or two a step, until the model is fooled or no more may change.

    Tied channels are one value of the map. A climb ends when `epsilon` values have changed and none of them can move on; where
    one more may change, it goes without a partner.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted. Findings that are wanted count as the target, by their sign, and all others as the rest.
        allowed: an `L0` set: how many values may change; an infinite epsilon lets all.
        pairs: the paper's pairs, or single values.
        theta: how far a value moves at once, as a share of its range; by default 1 in pairs and 0.1 alone.
        moves: whether values go `up`, `down`, or wherever the map says (`both`); by default up in pairs and both alone.
        fast: whether the map is that of the target alone, one gradient a step and not two; by default in pairs not.
        most: changes of a value; by default 7 alone, and in pairs as many as cross the range.
        steps: of a climb at most, each of one gradient or, where the rest is heeded too, of two.
        targets: of the ways to the goal, how many are climbed in turn, the likeliest first; it matters where any other class,
            or any one finding, will do.
        until: `FOOLED`, which takes the first success, or `SPENT`, which climbs every way and keeps the fewest values.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(L0,), endless=True)
    theta = theta if theta is not None else 1.0 if pairs else TENTH
    if not 0 < theta <= 1:
        raise SettingsError(f"theta is a share of the range, above 0 and up to 1, got {theta}; the way is set by moves")
    moves = moves or ("up" if pairs else "both")
    if moves not in SIGNS:
        raise SettingsError(f"moves is 'up', 'down' or 'both', got {moves!r}")
    most = most if most is not None else math.ceil(1 / theta) if pairs else CHANGES
    if min(most, steps, targets) < 1:
        raise SettingsError(f"most, steps and targets are 1 or more, got {most}, {steps} and {targets}")
    # No more steps than it takes to change every value that may change as often as it may.
    steps = min(steps, -(-int(_features(problem).amax()) * most // (1 + pairs)))
    fast = not pairs if fast is None else fast
    # Where the model is its own judge, a success is one, and whatever follows changes more values.
    content = until is SPENT and problem.victim.judge is problem.victim.propose
    climber = _Saliency(steps, pairs, theta, SIGNS[moves], fast, most, content)
    return climb_each_way(problem, climber, targets, restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Saliency:
    """State: how far each value has moved, in features (tied channels are one), how often, the last margin, and who rests.

    An image rests once it fools or nothing may move: it stays in the batch and costs no query.
    """

    steps: int
    pairs: bool
    theta: float
    signs: tuple[int, ...]
    fast: bool
    most: int
    content: bool  # whether a point that fools ends the climb

    @property
    def looks(self) -> int:
        return self.steps + 1

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        movable = _of_features(problem, problem.allowed.pixels.free(torch.ones_like(problem.x))) > 0
        changes = torch.where(movable, 0, self.most).to(torch.int32)
        margin = torch.full((len(problem),), -math.inf).to(problem.x)
        return torch.zeros_like(movable).to(problem.x), changes, margin, margin.isnan()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        moved, changes, margin, resting = state
        shown = problem.as_stored(problem.x + moved)
        awake = (~resting).nonzero()[:, 0]
        asked, part = (~resting).long(), problem.take(awake)
        if not len(awake) or bool((step == self.steps).all()):
            with torch.no_grad():
                seen = part.goal.margin(part.victim.propose(shown[awake])) if len(awake) else margin[awake]
            return Look(shown, margin.index_copy(0, awake, seen), state, queries=asked)
        seen, rise, fall, cost = self._slopes(part, shown[awake])
        whole = (rise.isfinite() & fall.isfinite()).flatten(1).all(1)
        rise, fall = (_of_features(part, slope.nan_to_num(0, 0, 0)) for slope in (rise, fall))
        chosen, way = self._chosen(part, moved[awake], changes[awake], rise, fall)
        stays = (way == 0) | ((seen > 0) & self.content)
        chosen = chosen & ~wide(stays)
        low, high = part.allowed.pixels.limits(part.x)
        further = (moved[awake] + wide(way * self.theta) * _span(part)).clamp(low, high)
        state = (
            moved.index_copy(0, awake, torch.where(chosen, further, moved[awake])),
            changes.index_copy(0, awake, changes[awake] + chosen),
            margin.index_copy(0, awake, seen),
            resting.index_copy(0, awake, stays),
        )
        flat, none = (rise == 0).flatten(1).all(1), torch.zeros_like(resting)
        zero, broken, gradients = (none.to(v).index_copy(0, awake, v) for v in (flat, ~whole, cost))
        return Look(shown, state[2], state, gradients, zero, broken, asked)

    def _slopes(self, problem: Problem, shown: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The goal's margin, how the target rises and the rest falls with each value, and how many gradients it took `(B,)`."""
        z = shown.detach().requires_grad_()
        with torch.enable_grad():
            answer = problem.victim.propose(z)
            margin = problem.goal.margin(answer.detach())
            cost = torch.ones_like(margin).long()
            if self.fast:
                rise = _slope(log_odds(problem.goal, answer), z)
                return margin, rise, rise, cost
            target = _target(problem.goal, answer)
            rest = target == 0
            rise = _slope((target * answer).sum(1), z, again=True)
            fall = _slope(-(rest * answer).sum(1), z)
        # Where every finding is wanted there is no rest: with the target in its stead, products fall in the target's order.
        anyone = rest.any(1)
        return margin, rise, torch.where(wide(anyone), fall, rise), cost + anyone

    def _chosen(self, problem: Problem, moved: Tensor, changes: Tensor, rise: Tensor, fall: Tensor) -> tuple[Tensor, Tensor]:
        """Which features move, and which way: 1 up, -1 down, 0 where none can or none would help `(B,)`."""
        low, high = problem.allowed.pixels.limits(problem.x)
        edge = EDGE * _span(problem)
        rise, fall = (part / wide(part.flatten(1).abs().amax(1).clamp_min(TINY**3)) for part in (rise, fall))
        used = moved != 0
        spare = _features(problem) - used.flatten(1).sum(1)
        alone = spare == 1  # the last one that may change has nobody to go with
        willing = (changes < self.most) & torch.where(wide(alone), ~used, used | wide(spare > 0))
        best = torch.zeros(len(moved), dtype=torch.float64, device=moved.device)
        way, places = torch.zeros_like(best), torch.zeros(len(moved), 2, dtype=torch.int64, device=moved.device)
        for sign in self.signs:
            free = willing & ((high - moved > edge) if sign > 0 else (moved - low > edge))
            flat = (sign * rise).flatten(1), (sign * fall).flatten(1), free.flatten(1)
            product, found = best_one(*flat)
            if self.pairs:
                both, pair = best_pair(*flat)
                product, found = product.where(alone, both), found.where(alone[:, None], pair)
            better = product > best
            best, way = torch.where(better, product, best), torch.where(better, sign, way)
            places = torch.where(better[:, None], found, places)
        chosen = torch.zeros_like(used).flatten(1).scatter(1, places, True).view_as(used)
        return chosen, way.to(moved)


def best_one(rise: Tensor, fall: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the feature whose rise times fall is largest, both being above 0; as `best_pair`, the feature twice."""
    product, place = torch.where(free & (rise > 0) & (fall > 0), rise * fall, 0).max(1)
    return product.double(), place[:, None].expand(-1, 2)


def _slope(height: Tensor, z: Tensor, *, again: bool = False) -> Tensor:
    """The gradient of heights `(B,)` by the images; zero where they are detached from these."""
    slope = None
    if height.requires_grad:
        (slope,) = torch.autograd.grad(height.sum(), z, retain_graph=again, allow_unused=True)
    return torch.zeros_like(z) if slope is None else slope


def _target(goal: Goal, answer: Tensor) -> Tensor:
    """What is to rise (1) or to fall (-1), and the rest (0); `(B, A)`."""
    aim = goal.aim
    if isinstance(aim, Findings):
        return aim.wanted.to(answer)
    return (aim.margins(answer.detach()) == math.inf).to(answer)  # a class has no margin over itself


def _of_features(problem: Problem, values: Tensor) -> Tensor:
    """What moves for itself: of tied channels one; `(B, C or 1, H, W)`."""
    free = problem.allowed.pixels.free(values)
    return free[:, :1] if problem.allowed.pixels.tied else free


def _span(problem: Problem) -> Tensor:
    """From one end of the range to the other, shaped to broadcast over images."""
    pixels = problem.allowed.pixels
    high, low = (torch.as_tensor(per_image(end, problem.x)) for end in (pixels.high, pixels.low))
    return (high - low).to(problem.x)


def _features(problem: Problem) -> Tensor:
    """How many features may change `(B,)`."""
    channels, height, width = problem.x.shape[1:]
    each = channels if problem.allowed.pixels.tied else 1
    epsilon = torch.as_tensor(problem.allowed.epsilon, device=problem.x.device).expand(len(problem))
    return (epsilon / each).floor().clamp_max(channels * height * width // each).long()


def best_pair(rise: Tensor, fall: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the two features whose summed rise times summed fall is largest, both sums being above 0.

    Exact, in O(N) and without a table of all pairs, by ruling features out in two ways. Let A and G be the sums of a good pair,
    found among a few. Since a geometric mean exceeds no arithmetic one, a pair with a larger product has a mean of rise / A
    and fall / G above 1: a feature too low for that even beside the best is out, which in gradients leaves tens of 150,528. And
    swapping a feature for one that dominates it, with no less rise and no less fall, lowers no product: so the best pair is
    also found among features that at most one other dominates. That leaves two of any number of equal ones. All pairs of what
    is left are compared, a part at a time. Only where rise and fall trade against each other along a curve can many be left;
    time then grows with the square of their number, memory does not.

    Args:
        rise, fall: `(B, N)`, finite.
        free: `(B, N)` bool: the features to choose from.

    Returns:
        The product `(B,)`, 0 where there is no such pair, and the two features `(B, 2)` int64.
    """
    rise, fall = (part.masked_fill(~free, -math.inf) for part in (rise, fall))
    high, deep = (part.amax(1, keepdim=True).clamp_min(TINY**3) for part in (rise, fall))
    scouts = (fall * (high / deep)).add_(rise).topk(min(SCOUTS, rise.shape[1])).indices
    product, pair = _compared(rise, fall, scouts)
    found = product[:, None] > 0
    up = rise.gather(1, pair).sum(1, keepdim=True).where(found, high).maximum(SLACK * high)
    down = fall.gather(1, pair).sum(1, keepdim=True).where(found, deep).maximum(SLACK * deep)
    share = (fall * (up / down)).add_(rise)  # of up
    mean = up * (product[:, None] / up.double() / down.double()).sqrt().to(share)
    left = _places(share >= 2 * mean - share.amax(1, keepdim=True) - SLACK * (high + deep * up / down))
    kept = _places(_hardly_dominated(_at(left, rise), _at(left, fall)))
    return _compared(rise, fall, left.gather(1, kept.clamp_min(0)).where(kept >= 0, -1))


def _places(chosen: Tensor) -> Tensor:
    """Where each row `(B, N)` is true, in order: `(B, M)` int64; -1 where a row has fewer than others."""
    rows, places = chosen.nonzero(as_tuple=True)
    count = chosen.sum(1)
    rank = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
    table = torch.full((len(chosen), 1 + int(rank.amax()) if len(rows) else 1), -1, device=rows.device)
    table[rows, rank] = places
    return table


def _at(places: Tensor, values: Tensor) -> Tensor:
    """The values at some places, -inf where there is none."""
    return values.gather(1, places.clamp_min(0)).masked_fill(places < 0, -math.inf)


def _hardly_dominated(rise: Tensor, fall: Tensor) -> Tensor:
    """`(B, M)` bool: the features that at most one other dominates; of equals, two."""
    order = fall.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, rise.gather(1, order).argsort(dim=1, descending=True, stable=True))
    depth = fall.gather(1, order)  # what dominates a feature stands before it
    beaten = depth[:, 1:].minimum(depth.cummax(1).values[:, :-1])
    second = torch.cat([torch.full_like(depth[:, :2], -math.inf), beaten.cummax(1).values[:, :-1]], 1)
    return torch.zeros_like(fall, dtype=torch.bool).scatter(1, order, depth > second[:, : depth.shape[1]])


def _compared(rise: Tensor, fall: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Of all pairs of some places `(B, M)` the largest product `(B,)`, or 0, and the two places `(B, 2)`."""
    rise, fall = (_at(places, part).double() for part in (rise, fall))
    images, width = rise.shape
    best, pair = rise.new_zeros(images), torch.zeros(images, 2, dtype=torch.int64, device=rise.device)
    every = torch.arange(width, device=rise.device)
    for rows in torch.split(every, max(1, COMPARED // max(1, images * width))):
        up, down = (part[:, rows, None] + part[:, None] for part in (rise, fall))
        product = torch.where((up > 0) & (down > 0) & (every > rows[:, None]), up * down, 0).flatten(1)
        value, found = product.max(1)
        ends = places.gather(1, torch.stack([rows[0] + found // width, found % width], 1))
        pair = torch.where((value > best)[:, None], ends, pair)
        best = best.maximum(value)
    return best, pair
