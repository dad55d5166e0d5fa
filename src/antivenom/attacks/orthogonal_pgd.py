"""Evading a detector while fooling a model, by steps for the one that leave the other as it is.

Bryniarski, Hingun, Pachuca, Wang, Carlini, "Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient
Descent", ICLR 2022, https://arxiv.org/abs/2106.15023. Of the paper's two ways this is the orthogonal one; the other is
`pgd` with the objective `selective`. Here each of the two gradients is scaled to length 1 before one is taken out of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import GradientClimber, Look, State, climb, from_a_draw, only_looked, straight
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.evading import Evading
from antivenom.threat.objectives import both_sides, selective
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L1


def orthogonal_pgd(
    model: Forward | Victim,
    x: Tensor,
    goal: Evading,
    allowed: PerturbationSet,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Follow whatever is wanting, the model's error or the scores' way below their thresholds, without loss of the other.

    Args:
        model: images `(B, C, H, W)` to `[logits | scores]`, such as `Watched`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: `Evading`.
        allowed: a ball with a finite epsilon.
        steps: per climb, of two gradients each.
        step_size: as a fraction of epsilon.
        restarts: climbs per image, from uniform draws.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; or the goal is not `Evading`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    climber = _OrthogonalClimber(steps, from_a_draw, straight(step_size), selective)
    return climb(problem, climber, restarts=restarts, until=until).result


@dataclass(frozen=True)
class _OrthogonalClimber(GradientClimber):
    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, memory = state
        if bool((step == self.steps).all()):
            return only_looked(problem, point, state)
        margin, met, fooling, unnoticed = _both_slopes(problem, point)
        broken = ~(fooling.isfinite() & unnoticed.isfinite()).flatten(1).all(1)
        fooling, unnoticed = _unit(fooling.nan_to_num(0, 0, 0)), _unit(unnoticed.nan_to_num(0, 0, 0))
        shared = (fooling * unnoticed).sum((1, 2, 3), keepdim=True)
        wanted = met.reshape(-1, 1, 1, 1)
        gradient = torch.where(wanted, unnoticed - shared * fooling, fooling - shared * unnoticed)
        following, memory = self.move(problem, point, gradient, memory)
        return Look(point, margin, (following, memory), 2, (gradient == 0).flatten(1).all(1), broken)


def _both_slopes(problem: Problem, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The goal's margin, whether the model is fooled, and the gradients of both sides."""
    z = point.detach().requires_grad_()
    with torch.enable_grad():
        answer = problem.victim.propose(z)
        fooling, unnoticed, met = both_sides(problem.goal, answer)
        slopes = []
        for rise, kept in ((fooling, True), (unnoticed, False)):
            slope = torch.autograd.grad(rise.sum(), z, retain_graph=kept, allow_unused=True)[0] if rise.requires_grad else None
            slopes.append(torch.zeros_like(point) if slope is None else slope)
    return problem.goal.margin(answer.detach()), met, slopes[0], slopes[1]


def _unit(gradient: Tensor) -> Tensor:
    length: Tensor = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / length.reshape(-1, 1, 1, 1)
