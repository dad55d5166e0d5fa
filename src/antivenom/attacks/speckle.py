"""Speckle: multiplicative noise of the size that an attack is allowed, a control for ultrasound, OCT and other coherent scans.

Speckle is as strong as the signal that carries it, so that what is black stays black. Goodman, "Some fundamental properties of
speckle", Journal of the Optical Society of America 66 (1976), https://doi.org/10.1364/JOSA.66.001145, derives its statistics;
what is drawn here is the Gaussian that they tend to where many looks are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet
from antivenom.threat.pixels import per_image


def speckle(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    tries: int = 1,
    spread: float = 1.0,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Multiply every value by 1 + n, n Gaussian, without looking at the model, and keep what meets the goal best.

    The noise is as large as the ball allows. In L2 its length is epsilon. In Linf it is cut off at epsilon; before, its
    standard deviation where the image is brightest is `spread` times epsilon, so that bright pixels move by nearly epsilon and
    dark ones in proportion to their brightness.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed; values count from the lower end of their range.
        tries: draws per image; with one, the control is what a single unlucky scan would meet.
        spread: see above; only used in Linf.
        until: `FOOLED` or `SPENT`; an image that is wrong as it stands keeps its error under `FOOLED`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    given = Victim.of(model)
    problem = Problem.of(Victim(given.judge, given.judge, given.batch), x, goal, allowed, generator, takes=(Linf, L2))
    return climb(problem, _Speckled(tries, spread), restarts=1, until=until).result


@dataclass(frozen=True)
class _Speckled:
    looks: int
    spread: float

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - nothing is remembered
        return ()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        x, allowed = problem.x, problem.allowed
        signal = x - per_image(allowed.pixels.low, x)
        independent = 1 if allowed.pixels.tied else x.shape[1]
        grain = allowed.pixels.free(signal * problem.draws.at(step).normal(independent, *x.shape[2:]).to(x))
        brightest = signal.flatten(1).amax(1).clamp_min(TINY)
        # At least as large as the ball, so that it is met even where there are few pixels; the projection cuts off the rest.
        size = (1 / allowed.size(grain).clamp_min(TINY)).maximum(self.spread / brightest)
        point = allowed.project(x + wide(size * torch.as_tensor(allowed.epsilon).to(x)) * grain, x)
        with torch.no_grad():
            return Look(point, problem.goal.margin(problem.victim.propose(point)), state)
