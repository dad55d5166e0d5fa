"""Probabilities that come true as often as they say: logits divided by a temperature.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599

The paper has one temperature for exclusive classes. Findings of a multi-label task have one each, since each is a decision of
its own. No decision changes: neither the order of classes nor the side of one half on which a finding lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.errors import InputError, SettingsError
from antivenom.metrics.calibration import negative_log_likelihood, probabilities
from antivenom.metrics.classification import one_hot
from antivenom.task import Task

Array = np.ndarray[Any, Any]

LOWEST, HIGHEST = 0.05, 20.0  # beyond these a network's logits carry next to nothing, or are wrong in their unit
_HALVINGS = 60  # of the interval between the inverses of both: to the last bit of float64


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by.

    Attributes:
        values: one for exclusive classes, one per finding of a multi-label task; positive.
        multilabel: which of the two.
        n: held-out images that it was fitted on; 0 where it was not fitted.
        likelihood: mean negative log-likelihood of these images before and after, in nats per decision; None where not fitted.
        notes: what a reader of the probabilities must be told, one sentence each.

    Raises:
        SettingsError: a temperature that is not positive and finite, or several for exclusive classes.

    >>> Temperature((2.0,)).probabilities(torch.tensor([[0.0, 2.0]])).tolist()[0][1] == torch.tensor(1.0).sigmoid().item()
    True
    """

    values: tuple[float, ...] = (1.0,)
    multilabel: bool = False
    n: int = 0
    likelihood: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.values or not all(np.isfinite(value) and value > 0 for value in self.values):
            raise SettingsError(f"temperatures are positive and finite, got {list(self.values)}")
        if not self.multilabel and len(self.values) != 1:
            raise SettingsError(f"exclusive classes have one temperature, got {len(self.values)}")

    @staticmethod
    def none(task: Task) -> Temperature:
        """Leave the probabilities as the classifier states them."""
        notes = ("the probabilities were not calibrated: they are as sure as the classifier was trained to be",)
        return Temperature((1.0,) * task.decisions, task.multilabel, notes=notes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits `(B, A)` into probabilities `(B, A)`; NaN where a logit is not finite."""
        return chances(logits, torch.tensor(self.values, dtype=logits.dtype, device=logits.device), multilabel=self.multilabel)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "values": list(self.values),
            "multilabel": self.multilabel,
            "n": self.n,
            "likelihood": None if self.likelihood is None else list(self.likelihood),
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Temperature:
        """The temperature that `to_dict` wrote."""
        before_after = values["likelihood"]
        return Temperature(
            tuple(float(value) for value in values["values"]),
            bool(values["multilabel"]),
            int(values["n"]),
            None if before_after is None else (float(before_after[0]), float(before_after[1])),
            tuple(str(note) for note in values["notes"]),
        )


def chances(logits: Tensor, temperatures: Tensor, *, multilabel: bool) -> Tensor:
    """Turn logits `(B, A)` into probabilities, divided by one temperature `(1,)` or one per finding `(A,)`."""
    scaled = logits / temperatures
    return scaled.sigmoid() if multilabel else scaled.softmax(1)


def fit_temperature(logits: Tensor, targets: Tensor | Array, task: Task) -> Temperature:
    """Find the temperature under which held-out images are likeliest.

    The likelihood is convex in the inverse of the temperature, so its one minimum is where its slope changes sign.

    Args:
        logits: `(N, A)` of clean images that the classifier was not trained on.
        targets: `(N,)` class numbers, or `(N, A)` 0/1.
        task: of the classifier.

    Returns:
        1, with a note, where the images do not tell: one class alone among them, all decisions alike, or no image on the wrong
        side, which only says that it would never err. A bound, with a note, where the minimum lies beyond it.

    Raises:
        InputError: no image, logits that are not finite, or targets that do not go with them.

    >>> sure, right = torch.tensor([[0.0, 4.0]] * 4), torch.tensor([1, 1, 1, 0])
    >>> round(fit_temperature(sure, right, Task(("normal", "ill"))).values[0], 3)
    3.641
    """
    values, truth = _checked(logits, targets, task)
    names = task.classes if task.multilabel else ("",)
    fitted, notes = [], []
    for place, name in enumerate(names):
        columns = slice(place, place + 1) if task.multilabel else slice(None)
        temperature, said = _fitted(values[:, columns], truth[:, columns], multilabel=task.multilabel)
        fitted.append(temperature)
        notes += [f"{name}: {said}" if name else said] if said else []
    before, after = (
        negative_log_likelihood(values / by, np.asarray(targets), multilabel=task.multilabel)
        for by in (np.ones(1), np.array(fitted))
    )
    return Temperature(tuple(fitted), task.multilabel, len(values), (before, after), tuple(notes))


def _fitted(logits: Array, truth: Array, *, multilabel: bool) -> tuple[float, str]:
    """The temperature of one decision, and what must be said of it."""
    present = truth.any(0).sum() if not multilabel else int(truth.any()) + int(not truth.all())
    if present < 2:
        what = ("all present" if truth.all() else "all absent") if multilabel else "all of one class"
        return 1.0, f"the held-out images are {what}, which says nothing about how sure to be; the temperature stays 1"
    signed = np.where(truth, logits, -logits) if multilabel else _ahead(logits, truth)
    if (signed == 0).all():
        return 1.0, "the classifier answers all held-out images alike; the temperature stays 1"
    if (signed > 0).all():
        return 1.0, (
            f"none of the {len(logits)} held-out images is on the wrong side, so they do not tell how often one is; "
            "the temperature stays 1"
        )
    low, high = 1 / HIGHEST, 1 / LOWEST
    if _slope(logits, truth, low, multilabel=multilabel) >= 0:
        return HIGHEST, f"the logits say next to nothing of the held-out images; the temperature is at its bound, {HIGHEST:g}"
    if _slope(logits, truth, high, multilabel=multilabel) <= 0:
        return LOWEST, f"the logits are far too small for how right they are; the temperature is at its bound, {LOWEST:g}"
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(logits, truth, middle, multilabel=multilabel) > 0 else (middle, high)
    return 2 / (low + high), ""


def _slope(logits: Array, truth: Array, inverse: float, *, multilabel: bool) -> float:
    """The derivative of the mean negative log-likelihood by the inverse temperature."""
    expected = probabilities(inverse * logits, multilabel=multilabel)
    return float(((expected - truth) * logits).sum(1).mean())


def _ahead(logits: Array, truth: Array) -> Array:
    """By how much the true class is ahead of the best other `(N,)`."""
    own = logits[truth]
    return np.asarray(own - np.where(truth, -np.inf, logits).max(1))


def _checked(logits: Tensor, targets: Tensor | Array, task: Task) -> tuple[Array, Array]:
    """Logits in float64 and what is true `(N, A)` bool."""
    values = logits.detach().cpu().double().numpy()
    if values.ndim != 2 or values.shape[1] != len(task.classes) or not len(values):
        raise InputError(f"a temperature needs logits (N, {len(task.classes)}) of at least 1 image, got {values.shape}")
    odd = int((~np.isfinite(values)).any(1).sum())
    if odd:
        raise InputError(
            f"{odd} of {len(values)} held-out images have logits that are not finite: find out what is wrong with them"
        )
    return values, truths(targets, len(values), task)


def truths(targets: Tensor | Array | Sequence[int], images: int, task: Task) -> Array:
    """What is true of each image and class `(N, A)` bool.

    Raises:
        InputError: not as many targets as images, or some outside the classes.
    """
    truth = one_hot(np.asarray(targets), len(task.classes), multilabel=task.multilabel).astype(bool)
    if len(truth) != images:
        raise InputError(f"{images} images need as many targets, got {len(truth)}")
    return truth
