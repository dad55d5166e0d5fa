"""What an attack spends on each image, and the nearest point at which it was seen to fool: kept outside of the attack.

A watched model counts forward and backward passes image by image, whatever the batches in which an attack works, and stops
the attack when every image has spent its budget; an image that has spent its own gets zeros, without a gradient, while others
go on. So attacks with other habits are compared at equal cost, as in Cinà, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed,
Roli, "AttackBench: Evaluating Gradient-based Attacks for Adversarial Examples", AAAI 2025, https://arxiv.org/abs/2404.19460
(there batch by batch, so that an attack whose batch shrinks is not followed).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

EDGE = 1e-6  # of the range: what rounding may leave of a value outside it


class Spent(Exception):  # noqa: N818 - no error: the budget is spent
    """Every image has spent its budget."""


class Ledger:
    """The passes that images cost so far, and the nearest point that fooled, with its size.

    Args:
        x: `(n, C, H, W)` images in [0, 1], no two alike.
        y: `(n,)` their labels, or the wanted ones where `targeted`.
        size: the norm that is made small.
        budget: forward and backward passes of each image.
    """

    def __init__(
        self, x: Tensor, y: Tensor, size: Callable[[Tensor], Tensor], *, budget: float = math.inf, targeted: bool = False
    ) -> None:
        self.x, self.y, self.size, self.budget, self.targeted = x, y, size, budget, targeted
        self.forwards = torch.zeros(len(x), dtype=torch.int64)
        self.backwards = torch.zeros(len(x), dtype=torch.int64)
        self.nearest = torch.full((len(x),), math.inf)
        self.best = x.clone()

    def watch(self, model: nn.Module | Callable[[Tensor], Tensor], *, judges: bool = True) -> nn.Module:
        """The model as an attack may see it; points count only where it `judges`."""
        return _Watched(self, model, judges).eval()

    @property
    def spent(self) -> Tensor:
        """Which images have spent their budget."""
        return self.forwards + self.backwards >= self.budget

    def whose(self, points: Tensor) -> Tensor:
        """The image that each point was made of: the nearest one."""
        distances = torch.cdist(points.flatten(1), self.x.flatten(1))
        found = distances.argmin(1)
        if len(points) == len(self.x):  # as they were given, unless another is clearly nearer
            found = torch.where(distances.diagonal() <= 1.001 * distances.amin(1), torch.arange(len(found)), found)
        return found

    @torch.no_grad()
    def note(self, points: Tensor, answer: Tensor, who: Tensor, alive: Tensor) -> None:
        """Keep those points of images still alive that fool and are nearer than what is known."""
        met = answer.argmax(1) == self.y[who]
        inside = (points >= -EDGE).flatten(1).all(1) & (points <= 1 + EDGE).flatten(1).all(1)
        size = self.size(points - self.x[who])
        counts = alive & inside & (met if self.targeted else ~met) & answer.isfinite().all(1) & (size < self.nearest[who])
        for row in counts.nonzero()[:, 0].tolist():  # one by one: a batch may hold an image twice
            if size[row] < self.nearest[who[row]]:
                self.nearest[who[row]], self.best[who[row]] = size[row], points[row].clamp(0, 1)


class _Watched(nn.Module):
    def __init__(self, ledger: Ledger, model: nn.Module | Callable[[Tensor], Tensor], judges: bool) -> None:
        super().__init__()
        self.model, self._ledger, self._judges = model, ledger, judges

    def forward(self, x: Tensor) -> Tensor:
        ledger = self._ledger
        who = ledger.whose(x.detach())
        alive = ~ledger.spent[who]
        if bool(ledger.spent.all()):
            raise Spent
        ledger.forwards.index_add_(0, who[alive], torch.ones_like(who[alive]))
        answer: Tensor = self.model(x)
        if self._judges:
            ledger.note(x.detach(), answer.detach(), who, alive)
        if not bool(alive.all()):
            answer = torch.where(alive[:, None], answer, 0.0)
        if answer.requires_grad:
            answer.register_hook(lambda _: self._went_back(who[alive]))
        return answer

    def _went_back(self, who: Tensor) -> None:
        self._ledger.backwards.index_add_(0, who, torch.ones_like(who))
