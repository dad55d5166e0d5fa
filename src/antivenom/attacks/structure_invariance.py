"""SIA: momentum along the mean gradient of views in which every block of the image is changed in a way of its own.

Wang, Zhang, Zhang, "Structure Invariant Transformation for better Adversarial Transferability", ICCV 2023,
https://arxiv.org/abs/2309.14700
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import climb
from antivenom.attacks.mim import accumulated
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.views import View, ViewClimber
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.pixels import per_image
from antivenom.threat.sparse import L1

NOISE = 16 / 255  # by which a noisy block changes at most (the authors' code)
SHIFT_DOWN, SHIFT_ACROSS, FLIP_DOWN, FLIP_ACROSS, TURN, SCALE, ADD_NOISE = CHANGES = range(7)


def structure_invariance(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 10,
    step_size: float = 0.1,
    decay: float = 1.0,
    copies: int = 20,
    blocks: int = 3,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Climb the objective along accumulated mean gradients of block-wise changed views, starting at the image.

    Meant for a `Victim` whose gradients come from other models than its judge; see `models.ensemble.transfer`.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: moves per image; each takes `copies` gradients.
        step_size: as a fraction of epsilon; the paper takes epsilon / steps.
        decay: how much of the accumulated gradient is kept at each step; 1 in the paper.
        copies: views per step; 20 in the paper.
        blocks: along each axis; 3 in the paper, and no more than there are pixels.
        objective: what is climbed.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    if blocks < 1:
        raise SettingsError(f"an image has at least one block along each axis, got {blocks}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1))
    climber = ViewClimber(steps, copies, rebuilt(blocks), accumulated(decay, step_size), objective)
    return climb(problem, climber, restarts=1, until=until).result


def rebuilt(blocks: int) -> View:
    """Views cut at random into blocks, each shifted around itself, flipped, turned by half, dimmed or made noisy.

    Blocks stay where they are, so that what the image shows as a whole stays too. Of the paper's ten changes these seven are
    those of the collection TransferAttack; resizing, low-pass filtering and drop-out are left out.
    """

    def view(problem: Problem, z: Tensor) -> Tensor:
        height, width = z.shape[-2:]
        tall, wide = min(blocks, height), min(blocks, width)
        sizes = [height - 1, width - 1, tall * wide, tall * wide, z[0].numel()]
        luck = problem.draws.uniform(sum(sizes)).to(z.device)
        row_cuts, column_cuts, change, amount, noise = torch.split(luck, sizes, 1)
        rows, columns = _Bands.cut(row_cuts, tall, height), _Bands.cut(column_cuts, wide, width)
        block = (rows.band[:, :, None] * wide + columns.band[:, None, :]).flatten(1)
        change = (change.gather(1, block) * len(CHANGES)).long().view(-1, height, width)
        amount = amount.gather(1, block).view_as(change)

        turned = change == TURN
        above = rows.spread(2).source(amount, change == SHIFT_DOWN, turned | (change == FLIP_DOWN))
        beside = columns.spread(1).source(amount, change == SHIFT_ACROSS, turned | (change == FLIP_ACROSS))
        source = (above * width + beside).flatten(1)[:, None].expand(-1, z.shape[1], -1)
        moved = z.flatten(2).gather(2, source).view_as(z)

        low, high = per_image(problem.allowed.pixels.low, z), per_image(problem.allowed.pixels.high, z)
        dim = low + amount[:, None].to(z) * (z - low)
        noisy = torch.clamp(z + NOISE * (2 * noise.view_as(z).to(z) - 1), low, high)  # type: ignore[arg-type]
        change = change[:, None]
        return torch.where(change == SCALE, dim, torch.where(change == ADD_NOISE, noisy, moved))

    return view


@dataclass(frozen=True)
class _Bands:
    """Of every place along one axis: which band it lies in, where that begins, how long it is; int64, the batch in front."""

    band: Tensor
    start: Tensor
    span: Tensor
    place: Tensor

    @staticmethod
    def cut(luck: Tensor, bands: int, length: int) -> _Bands:
        """Bands of random length, from `(B, length - 1)` uniform numbers."""
        cuts = luck.argsort(1)[:, : bands - 1].sort(1).values + 1
        none = torch.zeros(len(luck), 1, dtype=torch.int64, device=luck.device)
        edges = torch.cat([none, cuts, none + length], 1)
        place = torch.arange(length, device=luck.device).expand(len(luck), -1)
        band = (place[:, None, :] >= cuts[:, :, None]).sum(1)
        start = edges.gather(1, band)
        return _Bands(band, start, edges.gather(1, band + 1) - start, place)

    def spread(self, axis: int) -> _Bands:
        """The same with a further axis, along which all is alike."""
        return _Bands(*(part.unsqueeze(axis) for part in (self.band, self.start, self.span, self.place)))

    def source(self, amount: Tensor, shifted: Tensor, flipped: Tensor) -> Tensor:
        """From which place of its band each pixel of the view comes; `amount` is the shift as a share of the band."""
        inside = self.place - self.start
        around = (inside - (amount * self.span).long()) % self.span
        return self.start + torch.where(flipped, self.span - 1 - inside, torch.where(shifted, around, inside))
