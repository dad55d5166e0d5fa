"""Gradients from some models, judged by another: what an adversary without access to the target does.

Logits are averaged, as in Dong, Liao, Pang, Su, Zhu, Hu, Li, "Boosting Adversarial Attacks with Momentum", CVPR 2018,
https://arxiv.org/abs/1710.06081, who find that this transfers better than averaging probabilities or losses. They are
averaged as they are: centring each model's logits would change no difference between classes, which is all that the goals of
classes read, and would move findings against their thresholds, as scaling would. A model of larger logits therefore has more
say; where that is not wanted, `weights` take it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from antivenom.errors import ModelError, SettingsError
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import BATCH, Forward, Victim
from antivenom.task import Task

SURROGATES = "surrogates"  # how a victim made here is executed, as a record says it


@dataclass(frozen=True)
class Ensemble:
    """Several models as one: the weighted mean of their logits.

    Attributes:
        models: images `(B, C, H, W)` to logits `(B, A)`, each with its own preprocessing inside.
        weights: one per model, not negative; scaled to add up to 1. None: all alike.

    Raises:
        SettingsError: no model, or weights that cannot be.
        ModelError: a model, or a part of one, in training mode; when called, answers of different shapes.

    >>> both = Ensemble((lambda x: x.flatten(1), lambda x: 3 * x.flatten(1)))
    >>> both(torch.ones(1, 1, 1, 2)).tolist()
    [[2.0, 2.0]]
    """

    models: Sequence[Forward]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise SettingsError("an ensemble needs at least one model")
        for model in self.models:
            if isinstance(model, nn.Module):
                check_ready(model)
        if self.weights is None:
            return
        total = sum(self.weights)
        if len(self.weights) != len(self.models) or min(self.weights) < 0 or not 0 < total < math.inf:
            raise SettingsError(f"weights must be one per model, none negative and not all 0, got {list(self.weights)}")

    def __call__(self, images: Tensor) -> Tensor:
        """The mean logits `(B, A)`."""
        answers = [model(images) for model in self.models]
        if len({answer.shape for answer in answers}) > 1:
            raise ModelError(f"models of one ensemble must answer alike, got {[tuple(answer.shape) for answer in answers]}")
        weights = self.weights or [1.0] * len(answers)
        total = sum(weights)
        return torch.stack([weight / total * answer for weight, answer in zip(weights, answers, strict=True)]).sum(0)


def transfer(
    target: Forward,
    surrogates: Sequence[Forward],
    *,
    like: Tensor | None = None,
    weights: Sequence[float] | None = None,
    batch: int = BATCH,
) -> Victim:
    """Make the victim of a transfer attack: the surrogates propose, the target judges.

    Run attacks on it with `until=SPENT` and one climb. The target is then asked once, for the point that is best on the
    surrogates. Under `FOOLED` it is asked each time that the surrogates are fooled, and after each of several climbs: more
    than an adversary can who sees nothing of the target.

    Args:
        target: who decides; a `Classifier`, or any function of images `(B, C, H, W)` to logits `(B, A)`.
        surrogates: whose gradients are climbed; several as an `Ensemble`.
        like: an image or more `(B, C, H, W)` that all are shown, so that their answers can be compared; only needed where one
            of them is no `Classifier`.
        weights: of the surrogates; see `Ensemble`.
        batch: images to keep in flight.

    Raises:
        ModelError: a surrogate decides among other classes than the target, or a model is in training mode.
        SettingsError: no surrogate, unfit weights, or a model whose classes cannot be known without `like`.

    >>> from antivenom.attacks import ATTACKS, SPENT
    >>> from antivenom.threat.goals import Untargeted
    >>> from antivenom.threat.perturbations import Linf
    >>> x, w = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    >>> victim = transfer(lambda z: (z - 0.48).flatten(1) @ w, [lambda z: (z - 0.47).flatten(1) @ w], like=x)
    >>> goal = Untargeted(torch.tensor([1]))
    >>> bool(ATTACKS["mim"](victim, x, goal, Linf(0.1), until=SPENT, generator=torch.Generator()).success)
    True
    """
    for model in (target, *surrogates):
        if isinstance(model, nn.Module):
            check_ready(model)
    ensemble = Ensemble(tuple(surrogates), weights)
    for surrogate in surrogates:
        _check_classes(target, surrogate)
    if like is not None:
        with torch.no_grad():
            wanted, answers = target(like).shape, [surrogate(like).shape for surrogate in surrogates]
        if any(answer != wanted for answer in answers):
            raise ModelError(
                f"the target answers {tuple(wanted)}, its surrogates {[tuple(answer) for answer in answers]}: "
                "a surrogate must decide among the target's classes"
            )
    elif not all(isinstance(model, Classifier) for model in (target, *surrogates)):
        raise SettingsError("what classes a model decides among can be told of a Classifier only; give images as `like`")
    return Victim(target, ensemble, batch, SURROGATES)


def _check_classes(target: Forward, surrogate: Forward) -> None:
    """Of classifiers: as many classes, decided alike; names may differ, but not stand for other classes."""
    if not (isinstance(target, Classifier) and isinstance(surrogate, Classifier)):
        return
    one, other = target.task, surrogate.task
    if len(one.classes) != len(other.classes) or one.multilabel != other.multilabel:
        raise ModelError(
            f"the surrogate {surrogate.architecture} decides {_written(other)}, the target {_written(one)}: "
            "a surrogate must decide among the target's classes"
        )
    if one.classes != other.classes and set(one.classes) == set(other.classes):
        raise ModelError(
            f"the surrogate {surrogate.architecture} has the target's classes in another order, {', '.join(other.classes)} "
            f"for {', '.join(one.classes)}: put its logits in the target's order first"
        )


def _written(task: Task) -> str:
    kind = "findings" if task.multilabel else "classes"
    return f"{len(task.classes)} {kind} ({', '.join(task.classes)})"
