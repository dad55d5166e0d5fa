"""What if a score, or a feature, were moved, and no image asked for? Two readings of sahu2024's vertical perturbation.

The paper's text speaks of confidence scores and of feature values of chosen classes; its pictures show stripes (`Stripes`). A
score or a feature that is moved by hand belongs to no image: what comes out here says how near the decisions stand to one
another inside the model, and nothing about what an adversary, who has an image to change, can reach. So these figures stand
apart from every attack. Sahu et al., "Adversarial Attacks on Medical Image Diagnosis Models and its Mitigation Techniques",
2024, https://doi.org/10.55248/gengpi.5.0324.0774
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.attacks.apgd import apgd
from antivenom.attacks.result import SPENT
from antivenom.errors import InputError, ModelError
from antivenom.metrics.classification import right
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import Forward
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import margin
from antivenom.threat.perturbations import L2
from antivenom.threat.pixels import Pixels

Array = np.ndarray[Any, Any]

AT_ONCE = 64  # images shown to the model together
ANY_VALUE = Pixels(low=-math.inf, high=math.inf)  # a feature need not be one that an image has: not even positive after a ReLU
SAME = 1e-3  # of the answers' size: far above what rounding can do


def score_shift(
    logits: Array,
    targets: Array,
    shifts: Sequence[float],
    *,
    of: int | None = None,
    multilabel: bool = False,
    thresholds: Array | None = None,
) -> Array:
    """Give the accuracy `(S,)` that would be left if scores were shifted against the truth by each of `shifts`.

    Args:
        logits: `(N, A)`.
        targets: `(N,)` class numbers, or `(N, K)` 0/1.
        shifts: in units of the logits; negative ones help the truth.
        of: None lowers the score of what is true, of every image by the same amount (of findings: present ones are lowered and
            absent ones raised). A number lowers the score of that class or finding in every image, whether it is true or not:
            its decision threshold is moved up.
        multilabel: whether each class is a finding of its own.
        thresholds: of findings, `(K,)` logits; 0 where None.

    Raises:
        InputError: the shapes do not go together, or there is no class `of`.

    >>> score_shift(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), [0.0, 1.5, 3.0]).tolist()
    [1.0, 0.5, 0.0]
    """
    logits, targets = np.asarray(logits, dtype=float), np.asarray(targets)
    if logits.ndim != 2 or targets.shape != (logits.shape if multilabel else logits.shape[:1]):
        raise InputError(f"logits (N, A) and targets belong together, got shapes {logits.shape} and {targets.shape}")
    if of is not None and not 0 <= of < logits.shape[1]:
        raise InputError(f"there is no class {of}; there are {logits.shape[1]}, counted from 0")
    if of is not None:
        down = np.eye(logits.shape[1])[of]
    else:
        down = 2 * targets - 1 if multilabel else np.eye(logits.shape[1])[targets]
    lowered = (logits - shift * down for shift in shifts)
    return np.array([right(scores, targets, multilabel=multilabel, thresholds=thresholds).mean() for scores in lowered])


@dataclass(frozen=True)
class FeatureWhatIf:
    """What the last layer would answer if it were given other features. No image need exist that gives them.

    Attributes:
        before, after: `(B, A)` logits on the image's own features and on the moved ones.
        changed: `(B,)` bool: the goal is met on the moved features, and was not on the image's own.
        size: `(B,)` L2 norm of the change.
        share: `(B,)` the same as a share of the norm of the image's own features.
    """

    before: Tensor
    after: Tensor
    changed: Tensor
    size: Tensor
    share: Tensor


def feature_perturbation(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    epsilon: float,
    *,
    relative: bool = False,
    steps: int = 40,
    generator: torch.Generator | Draws,
) -> FeatureWhatIf:
    """Move the penultimate features towards a goal inside an L2 ball, by projected gradient ascent on the last layer alone.

    The ascent is `apgd`, towards each way to the goal in turn: the last layer is linear, so each has one best direction.

    Args:
        model: in evaluation mode; its last layer alone must turn the features into the answer.
        x: images `(B, C, H, W)`, whose features are moved.
        goal: what is wanted of the answer; `Targeted` is the paper's.
        epsilon: radius of the ball, in units of the features.
        relative: whether epsilon is a share of the norm of each image's own features instead.
        steps: gradients per image and way.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, SettingsError: see `Problem.of`.
        ModelError: training mode, or more than one layer stands between features and answer.
    """
    check_ready(model)
    with torch.no_grad():
        parts = [(model.features(part), model(part)) for part in torch.split(x, AT_ONCE)]
    features, before = (torch.cat(column) for column in zip(*parts, strict=True))
    last, norms, goal = _last_layer(model, features, before), features.norm(dim=1), goal.to(x.device)
    radius = epsilon * (norms if relative else torch.ones_like(norms))
    found = apgd(
        lambda moved: last(moved.flatten(1)),
        features[:, :, None, None],
        goal,
        L2(radius, ANY_VALUE),
        steps=steps,
        targets=before.shape[1],
        objective=margin,
        until=SPENT,
        generator=generator,
    )
    moved = found.x_adv.flatten(1)
    with torch.no_grad():
        after = last(moved)
    size = (moved - features).norm(dim=1)
    return FeatureWhatIf(before, after, found.success & ~goal.reached(before), size, size / norms)


def _last_layer(model: Classifier, features: Tensor, answer: Tensor) -> Forward:
    """The layer that turns these features into this answer; found by trying, since a network may call it anything."""
    for layer in reversed(list(model.backbone.modules())):
        applied = _applied(layer, features.shape[1])
        if applied is None:
            continue
        for last in (applied, _against_nothing(applied)):
            with torch.no_grad():
                tried = last(features)
            if tried.shape == answer.shape and _same(tried, answer, multilabel=model.task.multilabel):
                return last
    raise ModelError(
        f"no single layer of {model.architecture} turns its features into its answer, so the features cannot be moved alone"
    )


def _applied(layer: nn.Module, width: int) -> Forward | None:
    if isinstance(layer, nn.Linear) and layer.in_features == width:
        return layer
    if isinstance(layer, nn.Conv2d) and layer.in_channels == width and layer.kernel_size == (1, 1):
        return lambda features: layer(features[:, :, None, None]).flatten(1)
    return None


def _against_nothing(applied: Forward) -> Forward:
    """Of two classes the second alone is scored: `(B, 1)` to `(B, 2)`, as `models.foreign` reads such an answer."""

    def both(features: Tensor) -> Tensor:
        answer = applied(features)
        return torch.cat([torch.zeros_like(answer), answer], 1)

    return both


def _same(tried: Tensor, answer: Tensor, *, multilabel: bool) -> bool:
    if not multilabel:  # only the distances between classes decide: a softmax leaves them as they are
        tried, answer = (scores - scores.mean(1, keepdim=True) for scores in (tried, answer))
    return bool((tried - answer).abs().amax() <= SAME * answer.abs().amax().clamp_min(SAME))
