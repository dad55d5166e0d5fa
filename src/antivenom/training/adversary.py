"""Adversarial training: each step learns from images as an adversary leaves them.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083. The growing epsilon: Pang, Yang, Dong, Su, Zhu, "Bag of Tricks for Adversarial Training",
ICLR 2021, https://arxiv.org/abs/2010.00467
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from antivenom.attacks.pgd import pgd
from antivenom.attacks.result import SPENT
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.card import NORMS, number
from antivenom.threat.goals import Findings, Goal, Untargeted
from antivenom.threat.objectives import log_likelihood, log_odds


class Adversary(BaseModel):
    """What stands between the training images and the model that learns from them.

    Attributes:
        epsilon: the largest perturbation, in units of the range; '2/255' is understood.
        norm: of the perturbation.
        steps: gradients for each image; 1 with a `step_size` above 1 is fast adversarial training.
        step_size: as a fraction of epsilon.
        warm_up: share of the training over which epsilon grows from nothing.
        trial_steps: gradients for each validation image, whose robust accuracy chooses the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
    norm: Literal["linf", "l2"] = "linf"
    steps: int = Field(default=3, ge=1)
    step_size: float = Field(default=0.5, gt=0)
    warm_up: float = Field(default=0.25, ge=0, le=1)
    trial_steps: int = Field(default=10, ge=1)

    def disturb(self, model: Forward, images: Tensor, targets: Tensor, draws: Draws, done: float) -> Tensor:
        """Training images as the adversary leaves them, `(B, C, H, W)`, when a share `done` of the training is over."""
        size = self.epsilon * min(1.0, done / self.warm_up) if self.warm_up else self.epsilon
        return self._attacked(model, images, targets, draws, size, self.steps, self.step_size)

    def try_out(self, model: Forward, images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        """Validation images as the adversary leaves them, at full size and with more steps."""
        return self._attacked(model, images, targets, draws, self.epsilon, self.trial_steps, 2.5 / self.trial_steps)

    def _attacked(
        self, model: Forward, images: Tensor, targets: Tensor, draws: Draws, size: float, steps: int, step_size: float
    ) -> Tensor:
        multilabel = targets.ndim == 2
        goal: Goal = Untargeted(targets)
        if multilabel:
            goal = Findings.against(targets, torch.zeros(targets.shape[1], device=targets.device))
        return pgd(
            Victim(model, model, batch=len(images)),
            images,
            goal,
            NORMS[self.norm](size),
            steps=steps,
            step_size=step_size,
            objective=log_likelihood if multilabel else log_odds,
            until=SPENT,
            generator=draws,
        ).x_adv
