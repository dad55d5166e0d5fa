"""What attacks on scores share: a budget that no image exceeds, and looks at any number of an image's points at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, Until
from antivenom.errors import SettingsError
from antivenom.threat.objectives import Objective


@dataclass(frozen=True)
class Budget:
    """How the forward passes of an image are shared out.

    Attributes:
        looks: what the image may spend on looks.
        claim: what a success that a look claims costs beside it, since the judge is asked.
    """

    looks: int
    claim: int

    @staticmethod
    def of(problem: Problem, queries: int, until: Until, *, least: int) -> Budget:
        """Set aside what the loop itself asks: about the clean image, and the judge where a look does not tell its answer.

        Raises:
            SettingsError: fewer than `least` queries would be left for looks.
        """
        stops = until is FOOLED
        anew = problem.victim.judge is not problem.victim.propose or problem.allowed.pixels.grid is not None
        # The judge is asked at the end, and where an image leaves when it fools also at each claim, of which the last one may
        # come when all else is spent.
        aside = int(stops) + int(anew) + int(stops and anew)
        if queries < least + aside:
            raise SettingsError(f"this attack needs at least {least + aside} queries here, got {queries}")
        return Budget(queries - aside, int(stops and anew))

    def given(self, problem: Problem) -> Tensor:
        """`(B,)` int64: what each image has before its first look."""
        return torch.full((len(problem),), self.looks, device=problem.x.device)

    def after(self, left: Tensor, spent: Tensor, margin: Tensor) -> Tensor:
        """What is left `(B,)` after a look that spent so much and found this margin."""
        return left - spent - self.claim * (margin > 0)


Points = Callable[[Problem, Tensor], Tensor]  # the images of some points, and which points, to the points (r, C, H, W)


@torch.no_grad()
def answered(problem: Problem, owner: Tensor, points: Points, objective: Objective) -> tuple[Tensor, Tensor]:
    """The objective and the goal's margin, both `(R,)`, at R points.

    Only `victim.batch` of them are in memory at a time.

    Args:
        owner: `(R,)` places in the problem of the images that the points belong to; any number may belong to one.
        points: makes some of the points, from the problem of their images and their places among the R.
        objective: what must rise.
    """
    every = torch.arange(len(owner), device=owner.device)
    rise = torch.full((len(owner),), -torch.inf, dtype=problem.x.dtype, device=owner.device)
    margin = rise.clone()
    for places in torch.split(every, problem.victim.batch) if len(owner) else ():
        part = problem.take(owner[places])
        answer = problem.victim.propose(points(part, places))
        rise[places], margin[places] = objective(part.goal, answer).to(rise), part.goal.margin(answer).to(rise)
    return rise, margin
