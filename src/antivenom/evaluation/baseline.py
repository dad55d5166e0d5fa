"""The detector that li2020 argues against: it learnt one attack from examples, and need not know the next.

Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020,
https://doi.org/10.1109/ISBI45749.2020.9098628
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from antivenom.attacks import Until, attack
from antivenom.data.imageset import ImageSet, batches
from antivenom.detection.reading import Sensor
from antivenom.detection.states import save_detector
from antivenom.detection.supervised import fit_supervised
from antivenom.detection.threshold import Threshold
from antivenom.errors import RecordsError
from antivenom.evaluation.guarding import SHARD, halves, read
from antivenom.evaluation.run import drawn
from antivenom.evaluation.trials import Trial
from antivenom.guard.files import rebuilt
from antivenom.guard.fitting import scores_of, spread
from antivenom.guard.guard import Guard, Watch
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.randomness import Draws, image_keys
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import against_own_answer


def kept_baseline(path: Path, guard: Guard, data: ImageSet, trial: Trial, *, split_seed: int = 0, images: int = 500) -> Watch:
    """As `supervised_baseline`, from its file where there is one: a run that goes on compares with the very same.

    Raises:
        RecordsError: the file belongs to another guard, set or trial.
        WeightsError: it is damaged, or cannot be written.
    """
    origin = {
        "guard": guard.digest(),
        "data": data.digest,
        "trial": trial.model_dump_json(),
        "drawn": f"{images} images with seed {split_seed}",
    }
    if path.is_file():
        tensors, found = read_safetensors(path)
        card = json.loads(found.pop("card", "{}"))
        if found != origin:
            raise RecordsError(f"{path} holds the baseline of another examination; choose another folder, or remove it")
        return rebuilt(card, tensors)
    watch = supervised_baseline(guard, data, trial, split_seed=split_seed, images=images)
    tensors, settings = save_detector(watch.detector)
    card = {**watch.to_dict(), "detector": settings, "model": watch.model}
    write_safetensors(path, tensors, {**origin, "card": json.dumps(card)})
    return watch


def supervised_baseline(
    guard: Guard, data: ImageSet, trial: Trial, *, split_seed: int = 0, images: int = 500, rate: float | None = None
) -> Watch:
    """Fit a small detector on clean images and on those that one attack made of them.

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
