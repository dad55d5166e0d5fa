"""Perturbation sets that favour few large changes: L1 and L0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from antivenom.randomness import Draws
from antivenom.threat.perturbations import TINY, Limit, PerturbationSet
from antivenom.threat.pixels import per_image

FINE = 2**-24  # by which float32 tells a number from 1
MOVED = 0.01  # share of the values that a step in L1 moves (Tramèr, Boneh, NeurIPS 2019, section 4: the largest percent)
BISECTIONS = 26  # then solved exactly between the two values that remain


@dataclass(frozen=True)
class L1(PerturbationSet):
    """The sum of all changes is at most epsilon.

    The nearest point is that of ball and range at once: shrinking first and clipping then stays far inside (Croce, Hein,
    "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021, https://arxiv.org/abs/2103.01208).
    """

    name: ClassVar[str] = "l1"

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).flatten(1).abs().amax(1)

    def shrink(self, delta: Tensor, low: Limit = -math.inf, high: Limit = math.inf) -> Tensor:
        epsilon = torch.as_tensor(self.epsilon).to(delta).expand(len(delta))
        inside = torch.clamp(delta, low, high)  # type: ignore[arg-type]
        over = self.size(inside) > epsilon
        if not bool(over.any()):
            return inside
        way, room = delta.abs().flatten(1), torch.clamp(delta.sign() * math.inf, low, high)  # type: ignore[arg-type]
        less = per_image(_threshold(way, room.nan_to_num(0, math.inf, -math.inf).abs().flatten(1), epsilon), delta)
        nearer = torch.clamp(delta.sign() * (delta.abs() - less).clamp_min(0), low, high)  # type: ignore[arg-type]
        nearer = nearer * per_image((epsilon / self.size(nearer).clamp_min(TINY)).clamp_max(1), delta)
        return torch.where(over.reshape(-1, *(1,) * (delta.ndim - 1)), nearer, inside)

    def steepest(self, gradient: Tensor) -> Tensor:
        free = self.pixels.free(gradient)
        best = (free.abs() == per_image(free.flatten(1).abs().amax(1), free)) & (free != 0)
        return free.sign() * best / per_image(best.flatten(1).sum(1).clamp_min(1), free)

    def direction(self, gradient: Tensor) -> Tensor:
        free = self.pixels.free(gradient)
        share = max(1, math.ceil(MOVED * free[0].numel()))
        least = free.flatten(1).abs().topk(share).values[:, -1]
        best = (free.abs() >= per_image(least, free)) & (free != 0)
        return free.sign() * best / per_image(best.flatten(1).sum(1).clamp_min(1), free)

    def reach(self, gradient: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
        uphill = self.pixels.free(gradient) * per_image(rise.sign(), gradient)
        return _in_turn(uphill, uphill.abs(), rise.abs(), low, high, self.pixels.tied)

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        radius = draws.at(1).uniform().to(like) ** (1 / math.prod(like.shape[1:]))
        return per_image(radius, like) * self.extreme(like, draws.at(0))

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        luck = 2 * draws.uniform(*like.shape[1:]).to(like) - 1
        spread = self.pixels.free(luck.sign() * -torch.log1p(-luck.abs().clamp_max(1 - FINE)))
        return per_image(self.epsilon, like) * spread / per_image(self.size(spread).clamp_min(TINY), like)


@dataclass(frozen=True)
class L0(PerturbationSet):
    """At most epsilon values change, each as far as its range allows. Tied channels change as one and count as many."""

    name: ClassVar[str] = "l0"
    grain: ClassVar[float] = 1.0

    def size(self, delta: Tensor) -> Tensor:
        return (delta != 0).flatten(1).sum(1).to(delta)

    def dual(self, gradient: Tensor) -> Tensor:
        return self.pixels.free(gradient).flatten(1).abs().amax(1)

    def shrink(self, delta: Tensor, low: Limit = -math.inf, high: Limit = math.inf) -> Tensor:
        inside = torch.clamp(delta, low, high)  # type: ignore[arg-type]
        if bool((self.size(inside) <= torch.as_tensor(self.epsilon).to(delta)).all()):
            return inside
        gain = delta.square() - (delta - inside).square()  # how much nearer a value brings the perturbation to `delta`
        epsilon = torch.as_tensor(self.epsilon).to(delta).expand(len(delta))
        if self.pixels.tied:
            kept = _largest(gain[:, :1].flatten(1), (epsilon / delta.shape[1]).floor()).view_as(gain[:, :1])
        else:
            kept = _largest(gain.flatten(1), epsilon).view_as(gain)
        return inside * kept

    def steepest(self, gradient: Tensor) -> Tensor:
        free = self.pixels.free(gradient)
        best = free.flatten(1).abs().argmax(1, keepdim=True)
        alone = torch.zeros_like(free).flatten(1).scatter(1, best, 1).view_as(free)
        return self.pixels.free(alone * free.sign()).sign() if self.pixels.tied else alone * free.sign()

    def direction(self, gradient: Tensor) -> Tensor:
        return self.steepest(gradient)

    def reach(self, gradient: Tensor, rise: Tensor, low: Limit, high: Limit) -> Tensor:
        uphill = self.pixels.free(gradient) * per_image(rise.sign(), gradient)
        gain = torch.maximum(uphill * low, uphill * high)
        return _in_turn(uphill, gain, rise.abs(), low, high, self.pixels.tied)

    def sample(self, like: Tensor, draws: Draws) -> Tensor:
        return self.extreme(like, draws.at(0)) * draws.at(1).uniform(*like.shape[1:]).to(like)

    def extreme(self, like: Tensor, draws: Draws) -> Tensor:
        luck = self.pixels.free(2 * draws.uniform(*like.shape[1:]).to(like) - 1)
        return self.shrink(luck).sign()


def _threshold(way: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """By how much to shorten each `way` `(B, n)`, kept in [0, room], so that they add up to `total` `(B,)`."""
    low, high = torch.zeros_like(total), way.amax(1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        more = (way - middle[:, None]).clamp_min(0).minimum(room).sum(1) > total
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    left = way - ((low + high) / 2)[:, None]
    full, moving = left >= room, (left > 0) & (left < room)
    exact = (way.where(moving, 0).sum(1) + room.where(full, 0).sum(1) - total) / moving.sum(1).clamp_min(1)
    return torch.where(moving.any(1), exact.clamp(low, high), high)


def _largest(values: Tensor, count: Tensor) -> Tensor:
    """`(B, n)` bool: the `count` `(B,)` largest of each row that are above 0; of equals, the first."""
    order = values.argsort(stable=True, dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(values.shape[1], device=values.device).expand_as(order))
    return (rank < count.floor()[:, None]) & (values > 0)


def _in_turn(gradient: Tensor, worth: Tensor, rise: Tensor, low: Limit, high: Limit, tied: bool) -> Tensor:
    """Values that go uphill to their limits one after the other, the worthiest first, until they have risen by `rise` `(B,)`.

    The last of them goes part of its way; of equals, the first one in the image goes first. Tied channels go as one.
    """
    way = torch.where(gradient > 0, high, low).where(gradient != 0, 0)
    gain = gradient * way
    if tied:
        worth, gain = worth[:, :1], gain.sum(1, keepdim=True)
    order = worth.flatten(1).argsort(stable=True, dim=1, descending=True)
    gains = gain.flatten(1).gather(1, order)
    before = gains.cumsum(1) - gains
    share = ((rise[:, None] - before) / gains.clamp_min(TINY)).clamp(0, 1)
    return way * torch.zeros_like(share).scatter(1, order, share).view_as(gain)
