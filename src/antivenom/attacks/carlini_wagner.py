"""Carlini and Wagner's L2 attack: squared distance and a hinge on the margin, weighed by a constant that is searched.

Carlini, Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE Symposium on Security and Privacy 2017,
https://arxiv.org/abs/1608.04644
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, ascent_direction, climb, falling, nearest, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import SPENT, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2
from antivenom.threat.pixels import per_image

Box = Literal["clipped", "tanh"]
LAST_RATE = 0.01  # of the learning rate, where the cosine ends: what a fixed one overshoots by is then next to nothing
INSIDE = 1 - 1e-6  # of the range: where tanh still has an inverse (the authors' code)
FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8  # Adam: Kingma and Ba, ICLR 2015


def carlini_wagner(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: L2,
    *,
    steps: int = 1000,
    searches: int = 9,
    constant: float = 1e-3,
    learning_rate: float = 0.01,
    confidence: float = 0.0,
    box: Box = "clipped",
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Find a small L2 perturbation by Adam, once for each value of the constant that a bisection tries.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted.
        allowed: an `L2` set: the largest perturbation that counts; an infinite epsilon counts any.
        steps: of Adam for each constant; each costs a gradient. With 10 the attack is far from done.
        searches: values of the constant; ten times the last one until an image is fooled, then halves.
        constant: the first value of what weighs the margin against the squared distance.
        learning_rate: of Adam; where values are clipped it falls along a cosine, which the paper's does not: at 100 steps the
            median distance on chest X-rays was 9 % larger without.
        confidence: margin that is still pulled for, in logits.
        box: how values are kept in range. `clipped` moves them and cuts them off (the paper's projected descent). `tanh` is the
            paper's change of variables; values at the very end of their range, as in a black surround, are slow to leave it.
        until: `SPENT`, which goes on to nearer points, or `FOOLED`, which takes the first.
        generator: not drawn from; taken so that all attacks are called alike.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if box not in ("clipped", "tanh"):
        raise SettingsError(f"box is 'clipped' or 'tanh', got {box!r}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(L2,), endless=True)
    search = _Search(steps, searches, constant, learning_rate, confidence, box)
    return climb(problem, search, restarts=1, until=until, merit=nearest).result


@dataclass(frozen=True)
class _Search:
    """State: the variable and Adam's two moments; of each image the constant, its bounds, and whether it has fooled yet."""

    steps: int
    searches: int
    constant: float
    learning_rate: float
    confidence: float
    box: Box

    @property
    def looks(self) -> int:
        return self.steps * self.searches

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one start
        variable, none = self._at_rest(problem), torch.zeros(len(problem)).to(problem.x)
        moments = torch.zeros_like(variable)
        return variable, moments, moments, none + self.constant, none, none + math.inf, none.bool()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        variable, first, second, constant, low, high, hit = state
        z = variable.detach().requires_grad_()
        with torch.enable_grad():
            image = self._image(problem, z)
        shown = problem.as_stored(image.detach())
        margin, lack, rise, broken = ascent_direction(problem, shown, self._lack)
        zero = (lack < 0) & (rise == 0).flatten(1).all(1)
        (slope,) = torch.autograd.grad(image, z, 2 * (image.detach() - problem.x) - wide(constant) * rise)
        place = step % self.steps
        first, second = FIRST * first + (1 - FIRST) * slope, SECOND * second + (1 - SECOND) * slope.square()
        count = wide((place + 1).to(slope))
        moved = (first / (1 - FIRST**count)) / ((second / (1 - SECOND**count)).sqrt() + SMALL)
        rate = falling(place / self.steps, LAST_RATE if self.box == "clipped" else 1.0).to(slope)
        variable = self._kept(problem, variable - self.learning_rate * wide(rate) * moved)
        hit = hit | (margin > 0)

        ends = place == self.steps - 1
        high = torch.where(ends & hit, constant.minimum(high), high)
        low = torch.where(ends & ~hit, constant.maximum(low), low)
        following = torch.where(high.isfinite(), (low + high) / 2, 10 * constant)
        constant, hit = torch.where(ends, following, constant), hit & ~ends
        variable = torch.where(wide(ends), self._at_rest(problem), variable)
        first, second = (moment.masked_fill(wide(ends), 0) for moment in (first, second))
        state = variable, first, second, constant, low, high, hit
        return Look(shown, margin, state, 1, zero, broken)

    def _lack(self, goal: Goal, answer: Tensor) -> Tensor:
        """What is missing to the goal and the confidence; 0 where nothing is."""
        return -(self.confidence - goal.margin(answer)).clamp_min(0)

    def _at_rest(self, problem: Problem) -> Tensor:
        """The variable of the image as it is."""
        if self.box == "clipped":
            return torch.zeros_like(problem.x)
        low, high = self._range(problem)
        return (((problem.x - low) / (high - low) * 2 - 1) * INSIDE).atanh()

    def _image(self, problem: Problem, variable: Tensor) -> Tensor:
        pixels, delta = problem.allowed.pixels, variable
        if self.box == "tanh":
            low, high = self._range(problem)
            delta = low + (high - low) * (variable.tanh() + 1) / 2 - problem.x
        return problem.x + pixels.clip(pixels.free(delta), problem.x)

    def _kept(self, problem: Problem, variable: Tensor) -> Tensor:
        return self._image(problem, variable) - problem.x if self.box == "clipped" else variable

    def _range(self, problem: Problem) -> tuple[float | Tensor, float | Tensor]:
        pixels = problem.allowed.pixels
        return per_image(pixels.low, problem.x), per_image(pixels.high, problem.x)
