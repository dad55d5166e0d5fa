"""Climbing along the mean gradient over changed views of an image: what helps on all views helps on other models too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from antivenom.attacks.ascent import Look, Move, State
from antivenom.attacks.problem import Problem
from antivenom.errors import SettingsError
from antivenom.threat.objectives import Objective

# Problem and points (B, C, H, W) to a view of each, differentiable in the points; chosen by `problem.draws`.
View = Callable[[Problem, Tensor], Tensor]


@dataclass(frozen=True)
class ViewClimber:
    """Follow the mean gradient over fresh views of the point, and look at where that leads.

    The views say where to go and only the point itself how far it came, so every look costs a forward pass more than it has
    views. The image itself is not among the points looked at; until fooled, the loop has judged it before.

    Attributes:
        steps: moves per climb.
        copies: views per step.
        view: how one is made.
        move: problem, point, gradient and memory to the next point and memory.
        objective: what is climbed, on average over the views.
    """

    steps: int
    copies: int
    view: View
    move: Move
    objective: Objective

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise SettingsError(f"a gradient needs at least one view of the image, got copies={self.copies}")

    @property
    def looks(self) -> int:
        return self.steps

    def start(self, problem: Problem, restart: Tensor) -> State:  # noqa: ARG002 - there is one climb
        return problem.x.clone(), torch.zeros_like(problem.x)

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, memory = state
        gradient, broken = self._mean_gradient(problem, point, step)
        zero = (gradient == 0).flatten(1).all(1)
        point, memory = self.move(problem, point, gradient, memory)
        with torch.no_grad():
            margin = problem.goal.margin(problem.victim.propose(point))
        return Look(point, margin, (point, memory), self.copies, zero=zero, broken=broken, queries=self.copies + 1)

    def _mean_gradient(self, problem: Problem, point: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The mean gradient, and whether that of a view was not finite `(B,)`; so many views at once as fill the batch."""
        images = len(point)
        total, broken = torch.zeros_like(point), torch.zeros(images, dtype=torch.bool, device=point.device)
        for copies in torch.split(torch.arange(self.copies, device=point.device), max(1, problem.victim.batch // images)):
            rows = torch.arange(images, device=point.device).repeat(len(copies))
            part = problem.take(rows)
            part = replace(part, draws=part.draws.at(step[rows], copies.repeat_interleave(images)))
            z = point.detach().requires_grad_()
            with torch.enable_grad():
                rise = self.objective(part.goal, problem.victim.propose(self.view(part, z[rows])))
                found = torch.autograd.grad(rise.sum(), z, allow_unused=True)[0] if rise.requires_grad else None
            gradient = torch.zeros_like(point) if found is None else found
            broken |= ~gradient.isfinite().flatten(1).all(1)
            total += gradient.nan_to_num(0, 0, 0)
        return total / self.copies, broken
