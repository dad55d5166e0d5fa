"""Goals: what the adversary wants of the model's answer. A goal carries the labels; nothing else knows them.

A goal states signed margins, positive where a condition is met, and whether one of them suffices or all are needed. Every
attack is written on margins, so a goal for several findings at once needs no attack of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.errors import LabelError


class Goal(ABC):
    """What is wanted of each image's answer."""

    every: bool  # must every margin be positive, or does any one do?

    @abstractmethod
    def margins(self, answer: Tensor) -> Tensor:
        """Conditions of the goal; `(B, A)` to `(B, M)`. One that does not apply is -inf (any) or +inf (every)."""

    @abstractmethod
    def take(self, index: Tensor) -> Goal:
        """The same goal for some of the images."""

    @abstractmethod
    def check(self, images: int, answers: int) -> None:
        """Refuse a goal that does not fit so many images and answers.

        Raises:
            LabelError: naming what does not fit.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Goal:
        """The same goal with its tensors on a device."""

    @property
    def aim(self) -> Goal:
        """What is climbed: the goal itself, or one way to it."""
        return self

    def aims(self, answer: Tensor, most: int) -> list[Goal]:  # noqa: ARG002 - where all conditions are needed, there is one way
        """At most so many single ways to the goal, the likeliest by a first `answer` `(B, A)` first."""
        return [self]

    def margin(self, answer: Tensor) -> Tensor:
        """How far the goal is met; `(B, A)` to `(B,)`."""
        margins = self.margins(answer)
        return margins.amin(1) if self.every else margins.amax(1)

    def reached(self, answer: Tensor) -> Tensor:
        """Which answers satisfy the adversary; a tie and a NaN do not."""
        return self.margin(answer) > 0


@dataclass(frozen=True)
class Untargeted(Goal):
    """Any class but the true one."""

    labels: Tensor  # (B,) int64
    every = False

    def margins(self, answer: Tensor) -> Tensor:
        own = self.labels[:, None]
        return (answer - answer.gather(1, own)).scatter(1, own, -math.inf)

    def aims(self, answer: Tensor, most: int) -> list[Goal]:
        """Each of the other classes as a target."""
        others = self.margins(answer).nan_to_num(-math.inf).argsort(1, descending=True)[:, : min(most, answer.shape[1] - 1)]
        return [Aimed(self, Targeted(target)) for target in others.unbind(1)]

    def take(self, index: Tensor) -> Untargeted:
        return Untargeted(self.labels[index])

    def check(self, images: int, answers: int) -> None:
        _check_classes("labels", self.labels, images, answers)

    def to(self, device: torch.device) -> Untargeted:
        return Untargeted(self.labels.to(device))


@dataclass(frozen=True)
class Targeted(Goal):
    """One chosen class, such as 'normal' for a scan that shows a tumour."""

    targets: Tensor  # (B,) int64
    every = True

    def margins(self, answer: Tensor) -> Tensor:
        chosen = self.targets[:, None]
        return (answer.gather(1, chosen) - answer).scatter(1, chosen, math.inf)

    def take(self, index: Tensor) -> Targeted:
        return Targeted(self.targets[index])

    def check(self, images: int, answers: int) -> None:
        _check_classes("targets", self.targets, images, answers)

    def to(self, device: torch.device) -> Targeted:
        return Targeted(self.targets.to(device))


@dataclass(frozen=True)
class Findings(Goal):
    """Several findings at once: invent some, hide others, leave the rest alone.

    Attributes:
        wanted: `(B, A)` with +1 invent, -1 hide, 0 leave alone.
        threshold: `(A,)` logits above which a finding counts as present, chosen on clean validation images.
        every: whether all of them are wanted, or any one does.
    """

    wanted: Tensor
    threshold: Tensor
    every: bool = True

    @staticmethod
    def against(targets: Tensor, threshold: Tensor, *, every: bool = True) -> Findings:
        """Every finding (or, with `every=False`, any one) decided wrongly; `targets` `(B, A)` with 1 present, 0 absent."""
        return Findings(1 - 2 * targets, threshold, every)

    def aims(self, answer: Tensor, most: int) -> list[Goal]:
        """Where any one finding does: each of them alone."""
        if self.every:
            return [self]
        margins = self.margins(answer)
        ways = margins.argsort(1, descending=True)[:, : max(1, min(most, int(margins.isfinite().sum(1).amin())))]
        alone = (torch.zeros_like(self.wanted).scatter(1, way, self.wanted.gather(1, way)) for way in ways[:, None].unbind(2))
        return [Aimed(self, Findings(wanted, self.threshold)) for wanted in alone]

    def margins(self, answer: Tensor) -> Tensor:
        idle = math.inf if self.every else -math.inf
        return torch.where(self.wanted == 0, idle, self.wanted * (answer - self.threshold))

    def take(self, index: Tensor) -> Findings:
        return Findings(self.wanted[index], self.threshold, self.every)

    def check(self, images: int, answers: int) -> None:
        if tuple(self.wanted.shape) != (images, answers) or tuple(self.threshold.shape) != (answers,):
            raise LabelError(
                f"findings need wanted ({images}, {answers}) and threshold ({answers},), "
                f"got {tuple(self.wanted.shape)} and {tuple(self.threshold.shape)}"
            )
        if not bool((self.wanted.abs() <= 1).all()):
            raise LabelError("wanted holds +1 (invent), -1 (hide) and 0 (leave alone) only")
        idle = (self.wanted == 0).all(1)
        if bool(idle.any()):
            raise LabelError(f"image {int(idle.nonzero()[0, 0])} has no finding to invent or hide; leave it out")

    def to(self, device: torch.device) -> Findings:
        return Findings(self.wanted.to(device), self.threshold.to(device), self.every)


def against_own_answer(answer: Tensor, threshold: Tensor | None = None) -> Goal:
    """Overturn what the model itself holds most probable, without knowing the truth.

    Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020: the loss is that of the single class with
    the highest probability.

    Args:
        answer: `(B, A)` logits of the unchanged images.
        threshold: `(A,)` logits above which a finding counts as present; None where classes exclude each other. An image whose
            most probable finding is not above it counts as fooled before the attack.
    """
    own = answer.argmax(1)
    if threshold is None:
        return Untargeted(own)
    return Findings(torch.zeros_like(answer, dtype=torch.int64).scatter(1, own[:, None], -1), threshold)


@dataclass(frozen=True)
class Aimed(Goal):
    """A goal that is climbed by one of the ways to it; success is whatever meets the goal itself.

    Attributes:
        goal: what is wanted.
        way: what is climbed.
    """

    goal: Goal
    way: Goal

    @property
    def every(self) -> bool:  # type: ignore[override]
        return self.goal.every

    @property
    def aim(self) -> Goal:
        return self.way

    def margins(self, answer: Tensor) -> Tensor:
        return self.goal.margins(answer)

    def take(self, index: Tensor) -> Aimed:
        return Aimed(self.goal.take(index), self.way.take(index))

    def check(self, images: int, answers: int) -> None:
        self.goal.check(images, answers)
        self.way.check(images, answers)

    def to(self, device: torch.device) -> Aimed:
        return Aimed(self.goal.to(device), self.way.to(device))


def _check_classes(what: str, classes: Tensor, images: int, answers: int) -> None:
    if classes.dtype != torch.int64 or tuple(classes.shape) != (images,):
        raise LabelError(
            f"{what} must be int64 of shape ({images},), got {classes.dtype} of shape {tuple(classes.shape)}; "
            "for findings of a multi-label task use the goal Findings"
        )
    if images and not (classes.min() >= 0 and classes.max() < answers):
        raise LabelError(f"{what} must lie in 0..{answers - 1}, got {int(classes.min())}..{int(classes.max())}")
