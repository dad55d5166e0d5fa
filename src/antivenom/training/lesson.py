"""What one step of a training makes small: a loss of images as they are, or as an adversary leaves them, and what is added.

TRADES: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically Principled Trade-off between Robustness and Accuracy", ICML
2019, https://arxiv.org/abs/1901.08573. Defensive distillation: Papernot, McDaniel, Wu, Jha, Swami, "Distillation as a Defense
to Adversarial Perturbations against Deep Neural Networks", S&P 2016, https://arxiv.org/abs/1511.04508. The penalty: Ross,
Doshi-Velez, "Improving the Adversarial Robustness and Interpretability of Deep Neural Networks by Regularizing their Input
Gradients", AAAI 2018, https://arxiv.org/abs/1711.09404
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.models.execution import Forward
from antivenom.training.adversary import divergence
from antivenom.training.losses import StandardLoss


@dataclass(frozen=True)
class Lesson:
    """How the answers to one batch become one number.

    Attributes:
        loss: of answers against what is wanted.
        clean: share of the loss that is taken of the images as they are, where there are disturbed ones.
        trades: weight of the divergence between the answers to both, which then stands in for the loss of disturbed images.
        temperature: what logits are divided by before the loss, here and in the teacher.
        gradient_penalty: weight of the squared length of the loss's gradient by the pixels of an image, by mean over images.
    """

    loss: StandardLoss
    clean: float = 0.0
    trades: float | None = None
    temperature: float = 1.0
    gradient_penalty: float = 0.0

    def __call__(self, model: Forward, images: Tensor, disturbed: Tensor | None, wanted: Tensor) -> Tensor:
        """The number, a scalar in float32.

        Args:
            model: images `(B, C, H, W)` to logits `(B, A)`, in training mode.
            images, disturbed: as they are, and as an adversary leaves them; None where there is none.
            wanted: targets `(B,)` or `(B, A)`, or a teacher's probabilities `(B, A)`.
        """
        if disturbed is None:
            return self._penalised(model, images, wanted)
        if self.trades is not None:
            plain, harmed = self._answer(model, images), self._answer(model, disturbed)
            return self.loss(plain, wanted) + self.trades * divergence(plain, harmed, multilabel=self.loss.multilabel).mean()
        harmed = self._penalised(model, disturbed, wanted)
        if not self.clean:
            return harmed
        return (1 - self.clean) * harmed + self.clean * self.loss(self._answer(model, images), wanted)

    def soft(self, logits: Tensor) -> Tensor:
        """What a teacher's logits `(B, A)` ask of the pupil: probabilities at the temperature, `(B, A)`."""
        logits = logits.float() / self.temperature
        return logits.sigmoid() if self.loss.multilabel else logits.softmax(1)

    def _answer(self, model: Forward, images: Tensor) -> Tensor:
        return model(images).float() / self.temperature

    def _penalised(self, model: Forward, images: Tensor, wanted: Tensor) -> Tensor:
        if not self.gradient_penalty:
            return self.loss(self._answer(model, images), wanted)
        images = images.detach().requires_grad_()
        value = self.loss(self._answer(model, images), wanted)
        (slope,) = torch.autograd.grad(value * len(images), images, create_graph=True)
        return value + self.gradient_penalty * slope.float().flatten(1).square().sum(1).mean()
