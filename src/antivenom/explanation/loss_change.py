"""How much of an attack's harm comes by some of its pixels, such as those outside the lesion or outside the focus.

Wasserman, "Adversarially Robust Medical Classification via Attentive Convolutional Neural Networks", 2022,
https://arxiv.org/abs/2210.14405, reports after Ma et al. (2021) that popular attacks tend to change what lies outside the
salient region. Much of a perturbation may lie there and still do little, so what it does there is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.errors import ImageError
from antivenom.explanation.feature_maps import check_images
from antivenom.models.classifier import AT_ONCE, check_ready
from antivenom.models.execution import Forward

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LossChange:
    """By how much the loss changed; each `(B,)` float64.

    Attributes:
        whole: under the whole perturbation.
        inside: under the part of it on the pixels asked about.
        outside: under the rest. Parts need not add up to the whole: pixels may work together.
    """

    whole: Array
    inside: Array
    outside: Array

    @property
    def share_inside(self) -> Array:
        """`inside` as a share of `whole`; NaN where the whole perturbation does not raise the loss."""
        return self._share(self.inside)

    @property
    def share_outside(self) -> Array:
        """`outside` as a share of `whole`; NaN as above."""
        return self._share(self.outside)

    def _share(self, part: Array) -> Array:
        return np.asarray(np.divide(part, self.whole, out=np.full(len(part), np.nan), where=self.whole > 0))


@torch.no_grad()
def loss_change(model: Forward, x: Tensor, x_adv: Tensor, where: Tensor, loss: Callable[[Tensor], Tensor]) -> LossChange:
    """Measure the change of a loss under a perturbation, under its part on some pixels, and under the rest of it.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode.
        x, x_adv: images before and after, `(B, C, H, W)` in [0, 1].
        where: `(B, H, W)` bool, such as `focus.active` of the clean map or a lesion's mask.
        loss: of the answer `(B, A)` to `(B,)`, such as a goal's `margin`.

    Raises:
        ImageError: shapes that do not belong together.
        ModelError: the model is in training mode.

    >>> x, x_adv = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.3, 0.1]]]])
    >>> change = loss_change(lambda z: z.flatten(1), x, x_adv, torch.tensor([[[True, False]]]), lambda answer: answer.sum(1))
    >>> change.share_inside.round(3).tolist(), change.share_outside.round(3).tolist()
    ([0.75], [0.25])
    """
    check_images(x)
    if x_adv.shape != x.shape or where.dtype != torch.bool or where.shape != (len(x), *x.shape[2:]):
        raise ImageError(
            f"images before and after are (B, C, H, W) and pixels (B, H, W) bool, "
            f"got {tuple(x.shape)}, {tuple(x_adv.shape)} and {where.dtype} of {tuple(where.shape)}"
        )
    if isinstance(model, nn.Module):
        check_ready(model)
    on = where[:, None].to(x.device)
    before, whole, inside, outside = (
        _loss(model, images, loss) for images in (x, x_adv, torch.where(on, x_adv, x), torch.where(on, x, x_adv))
    )
    return LossChange(whole - before, inside - before, outside - before)


def _loss(model: Forward, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Array:
    answer = torch.cat([model(part) for part in torch.split(images, AT_ONCE)])
    return np.asarray(loss(answer).double().cpu().numpy())
