"""What an attack gives back, and the two ways it can stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Until(Enum):
    """When an image stops climbing."""

    FOOLED = "fooled"  # at the step that fools the model: robust accuracy at least cost
    SPENT = "spent"  # when its budget is spent: transfer, detection and training need the highest point, not the first


FOOLED, SPENT = Until.FOOLED, Until.SPENT


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, image by image. Where it failed, `x_adv` is the nearest it came and proves nothing.

    Attributes:
        x_adv: `(B, C, H, W)`, as it would be stored.
        success: `(B,)` bool: the goal is met by the caller's model on `x_adv`.
        queries: `(B,)` int64 forward passes spent on the image, judgements included.
        gradients: `(B,)` int64 backward passes.
        flags: by name, `(B,)` bool, what masks gradients. Of each image: `zero-gradient` where most gradients were zero in
            every value (a detached graph, a quantised input), `non-finite-gradient` where one held a NaN or an infinity. Of
            the model, for all images alike: `random-answers` where it answers the same image twice differently, `probabilities`
            where its answers are shares that add up to 1, `saturated` where its logits are so large that cross-entropy has
            no gradient in float32. The attacks here climb log-odds, which the last does not touch.
        margin: `(B,)` how far the caller's model meets the goal on `x_adv`; -inf where nothing was judged.
    """

    x_adv: Tensor
    success: Tensor
    queries: Tensor
    gradients: Tensor
    flags: Mapping[str, Tensor]
    margin: Tensor
