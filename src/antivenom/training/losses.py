"""What training makes small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.task import Task

_LARGEST_WEIGHT = 20.0  # a finding seen in one image of a thousand would otherwise drown all the others


@dataclass(frozen=True)
class StandardLoss:
    """Minus the log-likelihood of an image's truth: cross-entropy of classes; of findings, the sum of their binary ones.

    A mean over findings would make every gradient, and with it every learning rate, as many times smaller as there are
    findings.

    Attributes:
        multilabel: which of the two.
        weights: `(A,)` per class; for findings, of their presence against their absence. None: all alike.
        smoothing: share of the target that is spread over all classes (for findings, over present and absent).

    >>> loss = StandardLoss(multilabel=False)
    >>> round(float(loss(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))), 4)
    0.6931
    """

    multilabel: bool
    weights: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images of the loss of logits `(B, A)` against targets `(B,)` or `(B, A)`, a scalar in float32."""
        logits = logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device)
        if not self.multilabel:
            return F.cross_entropy(logits, targets, weight=weights, label_smoothing=self.smoothing)
        soft = targets.float() * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights, reduction="sum") / len(logits)


def class_weights(targets: Tensor, task: Task) -> Tensor:
    """Weights `(A,)` under which rare classes count as much as frequent ones, at most 20.

    Args:
        targets: of the training images, `(N,)`, or `(N, A)` of 0 and 1.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), Task(("normal", "pneumonia"))).tolist()
    [0.6666666865348816, 2.0]
    """
    if task.multilabel:
        present = targets.sum(0).float()
        return ((len(targets) - present) / present.clamp_min(1)).clamp(1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT)
    counts = torch.bincount(targets, minlength=len(task.classes)).float()
    return (len(targets) / (len(task.classes) * counts.clamp_min(1))).clamp_max(_LARGEST_WEIGHT)
