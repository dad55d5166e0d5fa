"""Adversarial training: each step learns from images as an adversary leaves them.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083. The growing epsilon: Pang, Yang, Dong, Su, Zhu, "Bag of Tricks for Adversarial Training",
ICLR 2021, https://arxiv.org/abs/2010.00467. One step, and its sudden failure:
Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial training", ICLR 2020, https://arxiv.org/abs/2001.03994
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from antivenom.attacks.ascent import GradientClimber, from_a_draw, from_the_image, last_point, straight
from antivenom.attacks.fgsm import fgsm
from antivenom.attacks.pgd import pgd
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import SPENT, AttackResult
from antivenom.attacks.square import square
from antivenom.attacks.worst_of import worst_of
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.card import NORMS, number
from antivenom.threat.goals import Findings, Goal, Untargeted
from antivenom.threat.objectives import Objective, log_likelihood, log_odds, margin
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.transforms import Stripes

Means = Literal["pgd", "fgsm", "square", "stripes"]


class Adversary(BaseModel):
    """What stands between the training images and the model that learns from them.

    Attributes:
        epsilon: the largest perturbation, in units of the range; '2/255' is understood.
        norm: of the perturbation.
        attacks: what it does; of several, each step of the training meets the next one in turn. `stripes` are the vertical
            perturbation of Sahu 2024, the worst of a few draws.
        steps: gradients for each image in PGD; 1 with a `step_size` above 1 is fast adversarial training.
        step_size: as a fraction of epsilon.
        queries: of Square for each image; draws of stripes are a tenth of it.
        warm_up: share of the training over which epsilon grows from nothing.
        clean: share of the loss that is taken of the images as they are.
        trades: weight of the divergence between the answers to clean and to disturbed images, which then takes the place of the
            loss of disturbed ones, and is what PGD climbs (TRADES; 6 in the paper). None: none.
        trial_steps: gradients for each validation image, whose robust accuracy under PGD chooses the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
    norm: Literal["linf", "l2"] = "linf"
    attacks: tuple[Means, ...] = Field(default=("pgd",), min_length=1)
    steps: int = Field(default=3, ge=1)
    step_size: float = Field(default=0.5, gt=0)
    queries: int = Field(default=20, ge=10)
    warm_up: float = Field(default=0.25, ge=0, le=1)
    clean: float = Field(default=0.0, ge=0, lt=1)
    trades: float | None = Field(default=None, gt=0)
    trial_steps: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _goes_together(self) -> Adversary:
        if self.trades is not None and (self.clean or self.attacks != ("pgd",)):
            raise ValueError("TRADES weighs clean images itself and climbs with PGD; leave out clean and attacks")
        if self.norm == "l2" and "stripes" in self.attacks:
            raise ValueError("stripes are bounded in every value: take the norm linf")
        return self

    def disturb(self, model: Forward, images: Tensor, targets: Tensor, draws: Draws, done: float, turn: int = 0) -> Tensor:
        """Training images as the adversary leaves them, `(B, C, H, W)`, when a share `done` of the training is over.

        Args:
            turn: which step of the training this is, where there are several attacks.
        """
        size = self.epsilon * min(1.0, done / self.warm_up) if self.warm_up else self.epsilon
        ball, goal, objective = NORMS[self.norm](size), _goal(targets), _objective(targets)
        victim = Victim(model, model, batch=len(images), oddities={})  # what masks gradients is not looked for at every step
        if self.trades is not None:
            with torch.no_grad():
                goal, objective = _Unlike(model(images), targets.ndim == 2), margin
        match self.attacks[turn % len(self.attacks)]:
            case "stripes":
                tries = self.queries // 10
                return worst_of(victim, images, goal, Stripes(size), tries=tries, until=SPENT, generator=draws).x_adv
            case "square":
                return square(victim, images, goal, ball, queries=self.queries, until=SPENT, generator=draws).x_adv
            case "fgsm":
                climber = GradientClimber(1, from_the_image, straight(1.0), objective)
            case "pgd":
                climber = GradientClimber(self.steps, from_a_draw, straight(self.step_size), objective)
        return last_point(Problem.of(victim, images, goal, ball, draws, takes=(Linf, L2)), climber)

    def try_out(self, model: Forward, images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        """Validation images as PGD of full size and with more steps leaves them."""
        climb = partial(pgd, steps=self.trial_steps, step_size=2.5 / self.trial_steps)
        return self._tried(climb, model, images, targets, draws)

    def one_step(self, model: Forward, images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        """Validation images as a single step leaves them: who withstands this and not `try_out` has learnt a trick."""
        return self._tried(fgsm, model, images, targets, draws)

    def _tried(
        self, attack: Callable[..., AttackResult], model: Forward, images: Tensor, targets: Tensor, draws: Draws
    ) -> Tensor:
        victim, ball = Victim(model, model, batch=len(images)), NORMS[self.norm](self.epsilon)
        found = attack(victim, images, _goal(targets), ball, objective=_objective(targets), until=SPENT, generator=draws)
        return found.x_adv


def divergence(clean: Tensor, disturbed: Tensor, *, multilabel: bool) -> Tensor:
    """How far the answers `(B, A)` to disturbed images are from those to clean ones, `(B,)`: the Kullback-Leibler divergence of
    the classes' probabilities; of findings, the sum of their own.

    >>> divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), multilabel=False).tolist()
    [0.0]
    """
    if multilabel:
        pairs = [torch.stack([F.logsigmoid(z), F.logsigmoid(-z)], -1) for z in (clean, disturbed)]
        return F.kl_div(pairs[1], pairs[0], reduction="none", log_target=True).sum((1, 2))
    return F.kl_div(disturbed.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def _goal(targets: Tensor) -> Goal:
    if targets.ndim == 2:
        return Findings.against(targets, torch.zeros(targets.shape[1], device=targets.device))
    return Untargeted(targets)


def _objective(targets: Tensor) -> Objective:
    return log_likelihood if targets.ndim == 2 else log_odds


@dataclass(frozen=True)
class _Unlike(Goal):
    """An answer unlike the one to the image as it is, whatever is true."""

    clean: Tensor  # (B, A)
    multilabel: bool
    every = False

    def margins(self, answer: Tensor) -> Tensor:
        return divergence(self.clean, answer, multilabel=self.multilabel)[:, None]

    def take(self, index: Tensor) -> _Unlike:
        return _Unlike(self.clean[index], self.multilabel)

    def check(self, images: int, answers: int) -> None:
        assert self.clean.shape == (images, answers)

    def to(self, device: torch.device) -> _Unlike:
        return _Unlike(self.clean.to(device), self.multilabel)
