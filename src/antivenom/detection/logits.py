"""How sure the classifier itself is: what a detector can tell from the logits alone, with nothing to fit.

Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", ICLR 2017,
https://arxiv.org/abs/1610.02136: the maximum softmax. Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection",
NeurIPS 2020, https://arxiv.org/abs/2010.03759: the energy. Wang, Liu, Bocchieri, Li, "Can Multi-label Classification Networks
Know What They Don't Know?", NeurIPS 2021, https://arxiv.org/abs/2109.14162: the joint energy. An attack that makes the
classifier surer passes all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from antivenom.detection.bank import unless_odd, wide
from antivenom.detection.detector import Detector, finite
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError


class MaximumProbability(Detector):
    """Minus the logarithm of the probability that the classifier gives its own answer.

    The ranking is that of the maximum softmax; the logarithm stays exact where probabilities are 1 to the last digit. Of
    findings, each is an answer of its own (present or absent), and the mean over them counts: ours, the paper has none.

    Attributes:
        classes: logits of the model.
        multilabel: whether they are findings.
    """

    def __init__(
        self, *, layers: Sequence[str], widths: Sequence[int], notes: Sequence[str] = (), classes: int, multilabel: bool
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.classes, self.multilabel = classes, multilabel

    def settings(self) -> dict[str, Any]:
        """The number of logits and how they are read."""
        return {**super().settings(), "classes": self.classes, "multilabel": self.multilabel}

    def measure(self, reading: Reading) -> Tensor:
        """The score `(B,)`, 0 for a classifier that is wholly sure."""
        logits = expected_logits(reading.logits, self.classes)
        if self.multilabel:
            return unless_odd(F.softplus(-logits.abs()).mean(1), logits)
        top, best = logits.max(1, keepdim=True)
        others = (logits - top).exp().scatter(1, best, 0).sum(1)
        return unless_odd(others.log1p(), logits)


class Energy(Detector):
    """The energy: `-T * logsumexp(logits / T)` of classes, `-sum(log(1 + exp(logits)))` of findings (the joint energy).

    Attributes:
        classes: logits of the model.
        multilabel: whether they are findings.
        temperature: T; 1 for the joint energy.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        classes: int,
        multilabel: bool,
        temperature: float,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.classes, self.multilabel, self.temperature = classes, multilabel, temperature

    def settings(self) -> dict[str, Any]:
        """The number of logits, how they are read, and the temperature."""
        own = {"classes": self.classes, "multilabel": self.multilabel, "temperature": self.temperature}
        return {**super().settings(), **own}

    def measure(self, reading: Reading) -> Tensor:
        """The energy `(B,)`."""
        logits = expected_logits(reading.logits, self.classes)
        if self.multilabel:
            return unless_odd(-F.softplus(logits).sum(1), logits)
        return unless_odd(-self.temperature * (logits / self.temperature).logsumexp(1), logits)


def fit_maximum_probability(clean: Iterable[Reading], *, multilabel: bool = False) -> MaximumProbability:
    """Look that the model answers clean images with finite logits, and note how many.

    Args:
        clean: readings of clean images, as a stream.
        multilabel: whether the logits are findings rather than classes.

    Raises:
        InputError: there is no image, or values are not finite.
    """
    return MaximumProbability(
        layers=[], widths=[], notes=[], classes=count_logits(reading.logits for reading in clean), multilabel=multilabel
    )


def fit_energy(clean: Iterable[Reading], *, multilabel: bool = False, temperature: float = 1.0) -> Energy:
    """Look that the model answers clean images with finite logits, and note how many.

    Args:
        clean: readings of clean images, as a stream.
        multilabel: whether the logits are findings rather than classes.
        temperature: 1 in the paper; the joint energy has no other.

    Raises:
        InputError: there is no image, or values are not finite.
        SettingsError: a temperature that is not positive, or one for the joint energy.
    """
    if not temperature > 0 or (multilabel and temperature != 1):
        raise SettingsError(f"the temperature of an energy is above 0, and 1 for findings, got {temperature}")
    classes = count_logits(reading.logits for reading in clean)
    return Energy(layers=[], widths=[], notes=[], classes=classes, multilabel=multilabel, temperature=float(temperature))


def count_logits(answers: Iterable[Tensor]) -> int:
    """How many logits there are in answers `(B, A)`, all of which are looked at.

    Raises:
        InputError: there is no answer, answers are not of one model, or values are not finite.
    """
    counts = {finite(logits, "logits").shape[1] for logits in answers}
    if len(counts) != 1:
        raise InputError(f"expected clean images answered by one model, got answers of {sorted(counts) or 'no'} logits")
    return counts.pop()


def expected_logits(logits: Tensor, classes: int) -> Tensor:
    """The logits `(B, A)`, where there are as many as expected.

    Raises:
        InputError: there are more or fewer.
    """
    if logits.shape[1] != classes:
        raise InputError(
            f"the model gives {logits.shape[1]} logits and the detector was fitted on {classes}: "
            "it belongs to another model; fit it again on this one"
        )
    return wide(logits)
