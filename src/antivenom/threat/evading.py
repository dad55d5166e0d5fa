"""Goals of an attacker who knows the detector: to reach a goal without being noticed.

Carlini, Wagner, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection Methods", AISec 2017,
https://arxiv.org/abs/1705.07263: a detector's strength is that under an attacker who knows it.
Sabour, Cao, Faghri, Fleet, "Adversarial Manipulation of Deep Representations", ICLR 2016,
https://arxiv.org/abs/1511.05122: an image whose features are those of another image.

The model answers `[logits | scores]`, or `[logits | scores | features]`; whatever climbs a goal climbs these as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from antivenom.errors import LabelError
from antivenom.threat.goals import Aimed, Goal


@dataclass(frozen=True)
class Evading(Goal):
    """The logits meet a goal, and no score is above its threshold.

    Attributes:
        goal: what is wanted of the logits.
        thresholds: `(S,)` above which a score is noticed.
        scale: `(S,)` by which the way to a threshold is divided, so that it compares with a margin of logits: such as the
            spread of the scores of clean images.
    """

    goal: Goal
    thresholds: Tensor
    scale: Tensor
    every = True

    def margins(self, answer: Tensor) -> Tensor:
        logits, scores = self.parts(answer)
        return torch.cat([self.goal.margin(logits)[:, None], self.unnoticed(scores)], 1)

    def parts(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """The logits `(B, A)` and the scores `(B, S)` of an answer."""
        cut = answer.shape[1] - len(self.thresholds)
        return answer[:, :cut], answer[:, cut:]

    def unnoticed(self, scores: Tensor) -> Tensor:
        """How far below their thresholds scores `(B, S)` are; positive at the threshold itself, which nobody notices."""
        above = self.thresholds.nextafter(torch.full_like(self.thresholds, math.inf))
        return ((above - scores) / self.scale).to(scores.dtype)

    def aims(self, answer: Tensor, most: int) -> list[Goal]:
        """The ways to the goal of the logits, each unnoticed."""
        ways = self.goal.aims(self.parts(answer)[0], most)
        return [Aimed(self, replace(self, goal=way.aim)) for way in ways]

    def take(self, index: Tensor) -> Evading:
        return replace(self, goal=self.goal.take(index))

    def check(self, images: int, answers: int) -> None:
        count = len(self.thresholds)
        if self.scale.shape != (count,) or not bool((self.scale > 0).all() and self.thresholds.isfinite().all()):
            raise LabelError(
                f"each score needs a finite threshold and a positive scale, got {self.thresholds} and {self.scale}"
            )
        self.goal.check(images, answers - count)

    def to(self, device: torch.device) -> Evading:
        return Evading(self.goal.to(device), self.thresholds.to(device), self.scale.to(device))


@dataclass(frozen=True)
class Matching(Goal):
    """A goal that is climbed by way of another image's features; success is the goal alone.

    Attributes:
        goal: what is wanted of the answer without its last columns.
        guides: `(B, D)` features to come near, of images that already meet the goal; the last columns of the answer are the
            features of the attacked ones.
    """

    goal: Goal
    guides: Tensor

    @property
    def every(self) -> bool:  # type: ignore[override]
        return self.goal.every

    def margins(self, answer: Tensor) -> Tensor:
        return self.goal.margins(answer[:, : -self.guides.shape[1]])

    def distance(self, answer: Tensor) -> Tensor:
        """Mean squared difference of the features from their guide, `(B,)`."""
        return (answer[:, -self.guides.shape[1] :] - self.guides).square().mean(1)

    def take(self, index: Tensor) -> Matching:
        return Matching(self.goal.take(index), self.guides[index])

    def check(self, images: int, answers: int) -> None:
        if (
            self.guides.ndim != 2
            or len(self.guides) != images
            or not self.guides.shape[1]
            or not bool(self.guides.isfinite().all())
        ):
            raise LabelError(
                f"{images} images need a finite guide each, (B, D), got guides of shape {tuple(self.guides.shape)}"
            )
        self.goal.check(images, answers - self.guides.shape[1])

    def to(self, device: torch.device) -> Matching:
        return Matching(self.goal.to(device), self.guides.to(device))
