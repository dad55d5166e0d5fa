"""A classifier that looks at what it is given before it answers: it accepts, abstains or rejects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from antivenom.detection.detector import Detector
from antivenom.detection.reading import Reading, Sensor
from antivenom.detection.squeezing import FeatureSqueezing, changes
from antivenom.detection.threshold import Threshold
from antivenom.errors import ModelError, SettingsError
from antivenom.guard.finding import Finding, explained
from antivenom.guard.policy import Policy, Verdict
from antivenom.guard.prediction_sets import PredictionSets, memberships
from antivenom.guard.temperature import Temperature, chances
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.provenance import digest_json, digest_tensors
from antivenom.task import Task

_UNITY = 1 + 1e-9  # shares of a rate add up to it, but for rounding


@dataclass(frozen=True, eq=False)
class Watch:
    """One detector in use.

    Attributes:
        name: as the policy and the reasons call it.
        detector: fitted on clean images of the classifier that is guarded.
        threshold: above which an image is flagged.
        scale: a robust spread of the scores of held-out clean images, positive: the unit in which a score's distance from its
            threshold compares with that of other detectors.
        model: digest of the classifier that the detector was fitted on; empty: not written down.
    """

    name: str
    detector: Detector
    threshold: Threshold
    scale: float
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Name, threshold and scale as plain values."""
        return {"name": self.name, "threshold": self.threshold.to_dict(), "scale": self.scale}


class Guarded(NamedTuple):
    """What a guard says of B images; A classes, S detectors.

    Attributes:
        logits: `(B, A)`, the classifier's own.
        probabilities: `(B, A)`, calibrated.
        scores: `(B, S)`, higher is more suspicious; infinity where a detector cannot tell.
        flagged: `(B, S)` bool, above the detector's threshold.
        members: the prediction set, `(B, A)` bool; of findings `(B, A, 2)`, whether absent and present are in it.
        verdict: `(B,)` int8, a `Verdict`.
    """

    logits: Tensor
    probabilities: Tensor
    scores: Tensor
    flagged: Tensor
    members: Tensor
    verdict: Tensor


class Guard(nn.Module):
    """A classifier with its detectors, their thresholds, calibrated probabilities, prediction sets and a policy.

    One forward pass of the classifier serves all, and one more for each squeeze that a detector compares with. Gradients flow
    from logits, probabilities and scores to the images.

    Args:
        model: which is guarded; shared, not copied. In evaluation mode.
        watches: at least one, of different names.
        temperature: of the probabilities; None: they are as the classifier states them.
        sets: fitted on probabilities of this temperature; None: every set holds everything.
        policy: what decides.
        notes: what a reader of a verdict must be told beside what the parts say of themselves, one sentence each.

    Raises:
        SettingsError: no detector, two of one name, a scale that is not positive, thresholds whose rates add up to more than
            the policy's, names that the policy has and the guard has not, parts that belong to another task, or a detector that
            was fitted on another classifier.
        ModelError: a detector reads a layer that the model does not have.
    """

    temperatures: Tensor
    bounds: Tensor
    thresholds: Tensor

    def __init__(
        self,
        model: Classifier,
        watches: Sequence[Watch],
        *,
        temperature: Temperature | None = None,
        sets: PredictionSets | None = None,
        policy: Policy | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.watches, self.policy, self.own_notes = tuple(watches), policy or Policy(single=sets is not None), tuple(notes)
        self.temperature = temperature or Temperature.none(model.task)
        self.sets = sets or PredictionSets.none(model.task)
        _check(self, model.task)
        _check_origin(self.watches, model)
        self.sensor = sensor_for(model, [watch.detector for watch in self.watches])
        self.detectors = nn.ModuleList([watch.detector for watch in self.watches]).eval()
        # Settings, written on the card; as tensors they move with the module.
        self.register_buffer("temperatures", torch.tensor(self.temperature.values), persistent=False)
        self.register_buffer("bounds", self.sets.bounds.float(), persistent=False)
        levels = [watch.threshold.value for watch in self.watches]
        self.register_buffer("thresholds", torch.tensor(levels, dtype=torch.float64), persistent=False)
        names = [watch.name for watch in self.watches]
        self._deciding = _places(self.policy.deciding(names))
        self._sure = _places(self.policy.sure(model.task))
        self.training = model.training

    @property
    def model(self) -> Classifier:
        """The classifier that is guarded: images to logits, as if there were no guard."""
        return self.sensor.model

    @property
    def task(self) -> Task:
        """Of the classifier."""
        return self.model.task

    @property
    def notes(self) -> tuple[str, ...]:
        """All that a reader of a verdict must be told, one sentence each."""
        told = [*self.model.notes, *self.own_notes, *self.temperature.notes, *self.sets.notes]
        for watch in self.watches:
            told += [f"{watch.name}: {note}" for note in (*watch.detector.notes, *watch.threshold.notes)]
        return tuple(dict.fromkeys(told))

    def forward(self, images: Tensor) -> Guarded:
        """Judge images `(B, channels, H, W)` in [0, 1]. One with a value that is not finite is rejected, whatever comes of it.

        Raises:
            ModelError: the guard is in training mode, or as the classifier.
            ImageError: as the classifier.
        """
        if self.training:
            raise ModelError("the guard is in training mode; call .eval() on it first")
        return self.judge(self.sensor(images), sums(images))

    def judge(self, reading: Reading, pixels: Tensor | None = None) -> Guarded:
        """Judge what the sensor read of B images.

        Args:
            reading: of the guard's own `sensor`, on its device.
            pixels: `(B,)`, the `sums` of the images; None: they are known to be finite.
        """
        # Between two passes of a network the caches hold nothing of this, and every operation costs 20 microseconds on a
        # processor: so they are few. What is not finite, taken from itself, is not 0.
        logits = reading.logits
        probabilities = chances(logits, self.temperatures, multilabel=self.task.multilabel)
        each = [detector(reading) for detector in self.detectors]
        scores = torch.stack(each, 1) if len(each) > 1 else each[0][:, None]
        flagged = scores > self.thresholds
        members = memberships(probabilities, self.bounds)
        whole = torch.cat([logits, scores] if pixels is None else [logits, scores, pixels[:, None]], 1).sum(1)
        alarm = flagged if self._deciding is None else flagged[:, self._deciding]
        rejected = alarm.any(1) | (whole - whole != 0)
        verdict = self._unsure(probabilities, members).to(torch.int8).masked_fill_(rejected, Verdict.REJECT.value)
        return Guarded(logits, probabilities, scores, flagged, members, verdict)

    @torch.no_grad()
    def check(self, images: Tensor) -> list[Finding]:
        """Judge any number of images `(B, channels, H, W)` on any device, and say why in words.

        Raises:
            ModelError, ImageError: as `forward`.
        """
        found: list[Finding] = []
        for part in torch.split(images, AT_ONCE):
            answer = Guarded(*(values.cpu() for values in self(part.to(self.model.device))))
            found += [explained(self, answer, row, sound=fit) for row, fit in enumerate(sums(part).isfinite().tolist())]
        return found

    def describe(self) -> dict[str, Any]:
        """Everything but the weights and the classifier, as plain values for a card."""
        names = [watch.name for watch in self.watches]
        return {
            "watches": [watch.to_dict() for watch in self.watches],
            "temperature": self.temperature.to_dict(),
            "sets": self.sets.to_dict(),
            "policy": {**self.policy.to_dict(), "in words": self.policy.describe(names)},
            "notes": list(self.own_notes),
        }

    def digest(self) -> str:
        """SHA-256 over weights, states and settings: two guards that may judge differently have different digests."""
        states = [
            {"kind": type(watch.detector).__name__, "state": digest_tensors(watch.detector.state_dict())}
            for watch in self.watches
        ]
        return digest_json({"classifier": self.model.digest(), "states": states, **self.describe()})

    def _unsure(self, probabilities: Tensor, members: Tensor) -> Tensor:
        """Where to abstain `(B,)` bool."""
        held, answer = members, probabilities
        if self.task.multilabel:
            answer = torch.maximum(probabilities, 1 - probabilities)
            if self._sure is not None:
                held, answer = held[:, self._sure], answer[:, self._sure]
        doubts: list[Tensor] = []
        if self.policy.single:
            doubts.append((held.sum(2) != 1).any(1) if self.task.multilabel else held.sum(1) != 1)
        if self.policy.confidence is not None:
            surest = answer.amin(1) if self.task.multilabel else answer.amax(1)
            doubts.append(surest < self.policy.confidence)
        if not doubts:
            return torch.zeros(len(members), dtype=torch.bool, device=members.device)
        return doubts[0] if len(doubts) == 1 else doubts[0] | doubts[1]


def sensor_for(model: Classifier, detectors: Sequence[Detector]) -> Sensor:
    """A sensor that reads what these detectors need: their layers, and the squeezes that they compare.

    Raises:
        ModelError: a layer that the model does not have.
    """
    layers = dict.fromkeys(name for detector in detectors for name in detector.layers)
    parts = [part for detector in detectors for part in detector.modules() if isinstance(part, FeatureSqueezing)]
    names = list(dict.fromkeys(name for part in parts for name in part.squeezes))
    return Sensor(model, tuple(layers), changes(names) if names else None)


def sums(images: Tensor) -> Tensor:
    """The sum of the values of each image `(B, C, H, W)`, `(B,)`: not finite where one of them is not."""
    return images.detach().sum((1, 2, 3), dtype=torch.float32)


def _check(guard: Guard, task: Task) -> None:
    names = [watch.name for watch in guard.watches]
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"a guard needs at least one detector, each of a name of its own; got {names}")
    for watch in guard.watches:
        if not (0 < watch.scale < math.inf and math.isfinite(watch.threshold.value)):
            raise SettingsError(
                f"{watch.name}: a threshold is finite and a scale positive, got {watch.threshold.value} and {watch.scale}"
            )
    deciding = [watch for watch, decides in zip(guard.watches, guard.policy.deciding(names), strict=True) if decides]
    total = sum(watch.threshold.rate for watch in deciding)
    if total > guard.policy.rate * _UNITY:
        raise SettingsError(
            f"the thresholds of {', '.join(watch.name for watch in deciding)} were taken at false-alarm rates that add up to "
            f"{total:.4g}, and the policy allows {guard.policy.rate:g}; take each at {guard.policy.share(len(names)):.4g}"
        )
    fits = guard.temperature.multilabel == task.multilabel and len(guard.temperature.values) == task.decisions
    if not fits or len(guard.sets.present) != len(task.classes) or bool(guard.sets.absent) != task.multilabel:
        raise SettingsError(
            f"temperature ({len(guard.temperature.values)} values) and prediction sets ({len(guard.sets.present)} classes) "
            f"belong to another task than {', '.join(task.classes)}; fit them on this classifier"
        )


def _check_origin(watches: Sequence[Watch], model: Classifier) -> None:
    # Hashing the weights takes a tenth of a second: not where nothing was written down.
    digest = model.digest() if any(watch.model for watch in watches) else ""
    for watch in watches:
        if watch.model not in {"", digest}:
            raise SettingsError(
                f"{watch.name} was fitted on another classifier (digest {watch.model[:12]}) than the one that it shall guard "
                f"({digest[:12]}): its scores mean nothing here; fit it again on this one"
            )


def _places(which: Sequence[bool]) -> list[int] | None:
    """The places that count; None where all do."""
    return None if all(which) else [place for place, counts in enumerate(which) if counts]
