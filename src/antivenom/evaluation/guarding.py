"""Fit a guard on a set: detectors on training images, the rest on two parts of the validation images.

One part of them tunes, the other gives thresholds and prediction sets; no test image is touched. What is read of the training
images is kept in shards on disk, so that work goes on after a kill and memory stays bounded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from antivenom.attacks import Until, attack
from antivenom.data.imageset import ImageSet, batches, gather
from antivenom.data.splits import grouped_split
from antivenom.detection.reading import Reading, Sensor
from antivenom.detection.stored import StoredReadings
from antivenom.detection.supervised import fit_supervised
from antivenom.detection.threshold import Threshold
from antivenom.evaluation.run import Progress, check_fit, drawn
from antivenom.evaluation.trials import Trial
from antivenom.guard.fitting import Detectors, fit_guard, scores_of, sensor_to_fit, spread
from antivenom.guard.guard import Guard, Watch
from antivenom.guard.policy import Policy
from antivenom.models.classifier import Classifier, check_ready
from antivenom.randomness import Draws, image_keys
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import against_own_answer

TUNED = 0.4  # share of the validation images that tune; thresholds need the more of them
SHARD = 512  # images read and stored together


def halves(vals: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """The validation images in two, no patient in both: those that tune, and those that are held out for thresholds.

    Raises:
        SplitError: fewer than two patients.
    """
    parts = grouped_split(vals.groups, vals.targets.numpy(), (TUNED, 0.0, 1 - TUNED), seed=seed)
    return vals.take(np.flatnonzero(parts == "train")), vals.take(np.flatnonzero(parts == "test"))


def read(sensor: Sensor, images: ImageSet, size: int = SHARD) -> Reading:
    """What the sensor makes of every image of a set, in memory."""
    return Reading.join([sensor.read(batch.images) for batch in batches(images, size)])


def stored(sensor: Sensor, images: ImageSet, folder: Path, progress: Progress | None = None) -> StoredReadings:
    """What the sensor makes of every image of a set, on disk; what the folder holds already is not read again.

    Raises:
        RecordsError: the folder holds readings of another model or other images.
        WeightsError: the folder cannot be written.
    """
    origin = {"model": sensor.model.digest(), "data": images.digest, "layers": ", ".join([*sensor.layers, *sensor.squeezes])}
    kept = StoredReadings(folder, origin)
    for number, start in enumerate(range(0, len(images), SHARD)):
        stop = min(start + SHARD, len(images))
        if progress:
            progress(start, len(images), f"reading training images {start + 1} to {stop}")
        if not kept.has(number):
            kept.write(number, sensor.read(gather([images[i] for i in range(start, stop)]).images))
    return kept


def fit_on(
    model: Classifier,
    data: ImageSet,
    folder: Path,
    *,
    detectors: Detectors = ("gaussian",),
    policy: Policy | None = None,
    coverage: float = 0.9,
    seed: int = 0,
    progress: Progress | None = None,
) -> Guard:
    """Fit a guard around a classifier.

    Args:
        model: in evaluation mode; left exactly as it is.
        data: with the splits `train` and `val`, and the task of the model.
        folder: where readings of the training images are kept meanwhile, so that a fit that was stopped goes on.
        detectors: names in `DETECTORS`, or the layers that each reads by its name.
        policy: what decides; None: all detectors, at a joint false-alarm rate of 5 %.
        coverage: of the prediction sets.
        seed: of the halves of the validation images and all else that is drawn.
        progress: told of the work done.

    Raises:
        ModelError: training mode.
        DataError, ImageError, SplitError: another task or other channels than the model's, a split that is missing, bad images.
        InputError: images whose features are not finite, or too few.
        SettingsError: a detector that is not in the table, or a policy that names others.
        RecordsError: the folder holds readings of another model or other images.
    """
    check_ready(model)
    check_fit(model, data)
    sensor = sensor_to_fit(model, detectors)
    tune, held = halves(data.split("val"), seed)
    clean = stored(sensor, data.split("train"), folder, progress)
    return fit_guard(
        model,
        clean,
        tune=read(sensor, tune),
        held_out=read(sensor, held),
        targets=held.targets,
        groups=held.groups,
        tune_targets=tune.targets,
        detectors=detectors,
        policy=policy,
        coverage=coverage,
        seed=seed,
    )


def supervised_baseline(
    guard: Guard, data: ImageSet, trial: Trial, *, split_seed: int = 0, images: int = 500, rate: float | None = None
) -> Watch:
    """A small detector that has seen one attack, which li2020 argues against: it need not know the next.

    Args:
        guard: whose classifier is attacked.
        data: with the split `val`: one half is attacked and learnt from, the other gives the threshold.
        trial: the attack that it learns from, one that knows of no detector.
        split_seed: with which the guard was fitted.
        images: at most so many are attacked.
        rate: of false alarms at its threshold; None: as that of the guard's first detector.
    """
    model, rate = guard.model, rate or guard.watches[0].threshold.rate
    tune, held = halves(data.split("val"), split_seed)
    sensor, tune = Sensor(model), drawn(tune, images, split_seed)
    clean, attacked = [], []
    for batch in batches(tune, SHARD):
        x = batch.images.to(model.device)
        reading = sensor.read(x)
        goal = against_own_answer(reading.logits, torch.zeros(len(model.task.classes)) if model.task.multilabel else None)
        draws = Draws.of(split_seed, image_keys(batch.keys))
        allowed = perturbation_set(trial.threat, trial.epsilon)
        until = Until(trial.until)
        found = attack(trial.attack)(model, x, goal.to(x.device), allowed, until=until, generator=draws, **trial.arguments)
        clean.append(reading)
        attacked.append(sensor.read(found.x_adv))
    detector = fit_supervised(clean, attacked, seed=split_seed).eval()
    scores = scores_of(detector, read(sensor, held))
    name = f"supervised on {trial.attack}"
    return Watch(name, detector, Threshold.from_held_out(scores, rate, held.groups), spread(scores)[0], model.digest())
