"""A guard from what a sensor read of clean images: states from some, thresholds and sets from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.detection.detector import Detector
from antivenom.detection.reading import Reading, Sensor, batches
from antivenom.detection.squeezing import changes
from antivenom.detection.table import row
from antivenom.detection.threshold import Threshold
from antivenom.errors import InputError, SettingsError
from antivenom.guard.guard import Guard, Watch
from antivenom.guard.policy import Policy
from antivenom.guard.prediction_sets import fit_prediction_sets
from antivenom.guard.temperature import fit_temperature
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.task import Task

Array = np.ndarray[Any, Any]

MOST_SHARED = 0.5  # of the held-out images that also fitted: more is a mistake; fewer may be copies, which real sets hold
_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
Detectors = Sequence[str] | Mapping[str, Sequence[str]]


def sensor_to_fit(model: Classifier, detectors: Detectors = ("gaussian",)) -> Sensor:
    """A sensor that reads of images what these detectors are fitted on.

    Args:
        model: to be guarded.
        detectors: names in `DETECTORS`, or the layers that each reads by its name.

    Raises:
        SettingsError: none, one that is not in the table, or one for another kind of task.
        ModelError: a layer that the model does not have.
    """
    chosen = _chosen(detectors, model.task)
    squeezes = list(dict.fromkeys(name for detector in chosen for name in row(detector).squeezes))
    layers = tuple(dict.fromkeys(layer for names in chosen.values() for layer in names))
    return Sensor(model, layers, changes(squeezes) if squeezes else None)


def fit_guard(
    model: Classifier,
    clean: Iterable[Reading],
    *,
    tune: Reading,
    held_out: Reading,
    targets: Tensor | Array,
    groups: Array | Sequence[Any] | None = None,
    tune_targets: Tensor | Array | None = None,
    detectors: Detectors = ("gaussian",),
    policy: Policy | None = None,
    coverage: float = 0.9,
    seed: int,
) -> Guard:
    """Fit detectors, thresholds, temperature and prediction sets on three disjoint samples of clean images.

    Args:
        model: to be guarded, in evaluation mode.
        clean: what `sensor_to_fit(model, detectors)` read of training images, as a stream that can be read again.
        tune: of other images, by which detectors choose their settings.
        held_out: of yet others, which no state, setting or weight has seen; thresholds and sets come from these alone.
        targets: of the held-out images: `(N,)` class numbers, or `(N, A)` 0/1.
        groups: `(N,)` patients of the held-out images; None where each image has its own.
        tune_targets: of the images of `tune`; where given, the temperature is fitted on these, else on the held-out ones.
        detectors: names in `DETECTORS`, or the layers that each reads by its name.
        policy: what decides, and the joint false-alarm rate, of which each detector has an even share; None: `Policy()`.
        coverage: of the prediction sets.
        seed: of all that is drawn.

    Returns:
        The guard, in evaluation mode on the model's device; `notes` say what is weak about it.

    Raises:
        SettingsError: a detector that is not in the table or for another kind of task, or a policy that names others.
        InputError: too few images, values that are not finite, or held-out images of which most have been fitted on.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    >>> model = Classifier(network, Task(("normal", "ill")), channels=1, mean=0.5, std=0.25).eval()
    >>> sensor, generator = sensor_to_fit(model), torch.Generator().manual_seed(0)
    >>> clean, tune, held = (sensor.read(torch.rand(200, 1, 8, 8, generator=generator)) for _ in range(3))
    >>> guard = fit_guard(model, [clean], tune=tune, held_out=held, targets=held.logits.argmax(1), seed=0)
    >>> guard.check(torch.ones(1, 1, 8, 8))[0].verdict.name
    'REJECT'
    """
    policy, chosen = policy or Policy(), _chosen(detectors, model.task)
    policy.deciding(list(chosen))
    seen = _Seen(clean)
    fitted = {name: row(name).fit(seen, tune, layers, seed).eval() for name, layers in chosen.items()}
    notes = _shared(seen, tune, held_out)
    digest, watches = model.digest(), []
    for name, detector in fitted.items():
        scores = scores_of(detector, held_out)
        threshold = Threshold.from_held_out(scores, policy.share(len(chosen)), groups)
        scale, told = spread(scores)
        watches.append(Watch(name, detector, threshold, scale, digest))
        notes += [f"{name}: {told}"] if told else []
    own = tune_targets is not None
    temperature = fit_temperature(
        tune.logits if own else held_out.logits, targets if tune_targets is None else tune_targets, model.task
    )
    if not own and not model.task.multilabel and not model.task.binary:
        notes.append("temperature and prediction sets were fitted on the same images: the coverage is kept only nearly")
    sets = fit_prediction_sets(
        temperature.probabilities(held_out.logits), targets, model.task, coverage=coverage, groups=groups
    )
    return Guard(model, watches, temperature=temperature, sets=sets, policy=policy, notes=notes).to(model.device).eval()


@torch.no_grad()
def scores_of(detector: Detector, reading: Reading) -> Tensor:
    """Scores `(N,)` of many images, a bounded number at a time."""
    return torch.cat([detector(part) for part in batches(reading, AT_ONCE)]) if len(reading) else torch.empty(0)


def spread(scores: Tensor) -> tuple[float, str]:
    """A robust spread of scores `(N,)`, and what must be said of it: that of the quartiles, as the deviation of a normal.

    >>> spread(torch.arange(101.0))
    (37.064492216456635, '')
    """
    values = scores.double()
    low, high = values.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64, device=values.device)).tolist()
    if high > low:
        return (high - low) / _QUARTILES, ""
    wide = float(values.std(correction=0))
    told = "half of the held-out images have one and the same score; it tells little"
    return (wide, told) if wide > 0 else (1.0, told)


class _Seen:
    """A stream of readings of which it is noted, in passing, which images it held."""

    def __init__(self, clean: Iterable[Reading]) -> None:
        self.clean, self.keys = clean, set[bytes]()

    def __iter__(self) -> Iterator[Reading]:
        for reading in self.clean:
            self.keys |= set(_keys(reading))
            yield reading


def _keys(reading: Reading) -> list[bytes]:
    """One key an image: the same image gives the same bits where it was read in batches of one size."""
    values = torch.cat([reading.logits, *reading.layers.values()], 1).detach().float().cpu().contiguous().numpy()
    return [hashlib.blake2b(line.tobytes(), digest_size=8).digest() for line in values]


def _shared(seen: _Seen, tune: Reading, held_out: Reading) -> list[str]:
    """What must be said of held-out images that are among the others.

    Raises:
        InputError: most of them are.
    """
    others = seen.keys | set(_keys(tune))
    shared = sum(key in others for key in _keys(held_out))
    if shared > MOST_SHARED * len(held_out):
        raise InputError(
            f"{shared} of {len(held_out)} held-out images also fitted or tuned the detectors: a threshold taken from them does "
            "not keep its rate; hold out images of other patients"
        )
    return [f"{shared} of {len(held_out)} held-out images are like ones that fitted or tuned the detectors"] if shared else []


def _chosen(detectors: Detectors, task: Task) -> dict[str, tuple[str, ...]]:
    """The layers that each detector reads.

    Raises:
        SettingsError: as `sensor_to_fit`.
    """
    named = detectors if isinstance(detectors, Mapping) else {name: row(name).layers for name in detectors}
    if not named or isinstance(detectors, str) or len(named) != len(detectors):
        raise SettingsError(f"detectors are named once each, at least one; got {detectors!r}")
    for name in named:
        if row(name).multilabel not in {None, task.multilabel}:
            kind = "findings" if row(name).multilabel else "classes that exclude each other"
            raise SettingsError(f"{name} is for {kind}, and this task has {', '.join(task.classes)}; leave it out")
    return {name: tuple(layers) for name, layers in named.items()}
