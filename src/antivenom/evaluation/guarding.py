"""Fit a guard on a set: detectors on training images, the rest on two parts of the validation images.

One part of them tunes, the other gives thresholds and prediction sets; no test image is touched. What is read of the training
images is kept in shards on disk, so that work goes on after a kill and memory stays bounded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from antivenom.data.imageset import ImageSet, batches, gather
from antivenom.data.splits import grouped_split
from antivenom.detection.reading import Reading, Sensor
from antivenom.detection.stored import StoredReadings
from antivenom.evaluation.run import Progress, check_fit
from antivenom.guard.fitting import Detectors, fit_guard, sensor_to_fit
from antivenom.guard.guard import Guard
from antivenom.guard.policy import Policy
from antivenom.models.classifier import Classifier, check_ready

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
