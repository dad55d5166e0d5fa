"""Random noise of the size that an attack is allowed: the control beside every attack.

A model that noise fools as well as an attack is not attacked but merely noisy; an attack that does no better than noise is
not an attack. Fawzi, Moosavi-Dezfooli, Frossard, "Robustness of classifiers: from adversarial to random noise",
NeurIPS 2016, https://arxiv.org/abs/1608.08967, tell how far the two lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, State, climb
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L0, L1


def noise(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    tries: int = 1,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Draw perturbations of full size without looking at the model, and keep the one that meets the goal best.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        tries: draws per image; with one, the control is what a single unlucky scan would meet.
        until: `FOOLED` or `SPENT`; an image that is wrong as it stands keeps its error under `FOOLED`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    given = Victim.of(model)
    problem = Problem.of(replace(given, propose=given.judge), x, goal, allowed, generator, takes=(Linf, L2, L1, L0))
    return climb(problem, _Drawn(tries), restarts=1, until=until).result


@dataclass(frozen=True)
class _Drawn:
    looks: int

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - nothing is remembered
        return ()

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        delta = problem.allowed.extreme(problem.x, problem.draws.at(step))
        point = problem.allowed.project(problem.x + delta, problem.x)
        with torch.no_grad():
            return Look(point, problem.goal.margin(problem.victim.propose(point)), state)
