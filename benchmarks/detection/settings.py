"""Does the weight of the shrinkage, or the layer, decide what the Gaussian of li2020 notices; and is the paper's order kept?

    python benchmarks/detection/settings.py --model runs/kermany/model.safetensors --data kermany --root ROOT

FGSM and PGD against the model's own answer, to the end of their budget, on test images. Each detector is fitted on training
images, tuned on one half of the validation images, and flags what lies above a threshold of 5 % false alarms from the other
half. Every share stands with its 95 % interval by patient; detectors are compared image by image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antivenom.attacks import SPENT, attack
from antivenom.data.datasets import load as load_set
from antivenom.data.imageset import ImageSet, batches
from antivenom.detection.detector import Detector
from antivenom.detection.gaussian import fit_gaussian
from antivenom.detection.moments import Moments
from antivenom.detection.reading import FEATURES, Reading, Sensor
from antivenom.detection.table import row
from antivenom.detection.threshold import Threshold
from antivenom.evaluation.guarding import halves, read
from antivenom.evaluation.run import drawn
from antivenom.guard.fitting import scores_of
from antivenom.metrics.intervals import paired_difference, proportion
from antivenom.models.classifier import Classifier
from antivenom.models.execution import accelerate
from antivenom.models.weights import load
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.threat.goals import against_own_answer
from antivenom.threat.perturbations import Linf

Array = np.ndarray[Any, Any]

RATE = 0.05
WEIGHTS = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)  # of the mean variance, added to each
OTHERS = ("isolation-forest", "one-class-svm")  # that li2020 compares with
CHOSEN = f"gaussian on {FEATURES}, chosen"


def main() -> None:
    options = arguments()
    model = load(options.model).eval()
    side = model.size[0] if model.size else None
    data = load_set(options.data, options.root, label=options.label, size=side)
    sensor = Sensor(model, (*options.layers, FEATURES))
    tests = drawn(data.split("test"), options.images, options.seed)
    tune, held = halves(data.split("val"), options.seed)
    clean, tuned, kept = read(sensor, data.split("train")), read(sensor, tune), read(sensor, held)
    looked = {"clean": read(sensor, tests), **attacked(model, sensor, tests, options)}
    groups, flags, rows = np.array(tests.groups), {}, {}
    for name, detector in fitted(clean, tuned, options.layers, options.seed):
        threshold = Threshold.from_held_out(scores_of(detector, kept), RATE, np.array(held.groups))
        flags[name] = {what: threshold.flags(scores_of(detector, seen)).numpy() for what, seen in looked.items()}
        rows[name] = {what: proportion(found, groups).to_dict() for what, found in flags[name].items()}
        told = ", ".join(f"{what} {found.mean():.1%}" for what, found in flags[name].items())
        print(f"{name}: flags of {told}", flush=True)
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    found[f"{options.data} | {model.architecture} | {side or tests[0].image.shape[-1]} px"] = {
        "model": model.digest(),
        "options": {name: str(value) for name, value in vars(options).items() if name not in ("root", "output", "model")},
        "n": len(tests),
        "held-out": len(held),
        "answers overturned": {
            what: proportion((seen.logits.argmax(1) != looked["clean"].logits.argmax(1)).numpy(), groups).to_dict()
            for what, seen in looked.items()
        },
        "mean logit of the answer to the clean image": {
            what: float(seen.logits.gather(1, looked["clean"].logits.argmax(1)[:, None]).mean())
            for what, seen in looked.items()
        },
        "features moved, in spreads of clean images": {what: moved(looked["clean"], seen) for what, seen in looked.items()},
        "flagged": rows,
        f"{CHOSEN}, less another": {
            other: {what: paired_difference(mine, flags[other][what], groups).to_dict() for what, mine in flags[CHOSEN].items()}
            for other in flags
            if other != CHOSEN
        },
        "machine": machine(),
        "versions": versions(),
        "code": digest_code(),
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n")


def attacked(model: Classifier, sensor: Sensor, tests: ImageSet, options: argparse.Namespace) -> dict[str, Reading]:
    """What the sensor makes of the test images after each attack."""
    ways = {"fgsm": {}, "pgd": {"steps": options.steps, "step_size": 2.5 / options.steps}}
    seen: dict[str, list[Reading]] = {name: [] for name in ways}
    victim = None
    for batch in batches(tests, 64):
        victim = victim or accelerate(model, batch.images[:8], batch=64)
        goal = against_own_answer(
            model.answers(batch.images), torch.zeros(len(model.task.classes)) if model.task.multilabel else None
        )
        for name, settings in ways.items():
            draws = Draws.of(options.seed, image_keys(batch.keys))
            found = attack(name)(victim, batch.images, goal, Linf(options.epsilon), until=SPENT, generator=draws, **settings)
            seen[name].append(sensor.read(found.x_adv))
    return {name: Reading.join(readings) for name, readings in seen.items()}


def moved(clean: Reading, seen: Reading) -> float:
    """Median distance of features from those of the unchanged image, over the distance of two clean images."""
    own, other = clean.layer(FEATURES), clean.layer(FEATURES).roll(1, 0)
    return float((seen.layer(FEATURES) - own).norm(dim=1).median() / (other - own).norm(dim=1).median())


def fitted(clean: Reading, tune: Reading, layers: list[str], seed: int) -> Iterator[tuple[str, Detector]]:
    """Detectors by what is special about them."""
    for layer in (*layers, FEATURES):
        yield f"gaussian on {layer}, chosen", fit_gaussian([clean], tune=tune, layer=layer).eval()
    variance = float(Moments.of([clean.layer(FEATURES)], what=FEATURES).covariance.diagonal().mean())
    for weight in WEIGHTS:
        yield (
            f"gaussian on {FEATURES}, {weight:g} of the variance",
            fit_gaussian([clean], tune=None, shrinkage=weight * variance).eval(),
        )
    yield "mahalanobis on all layers", row("mahalanobis").fit([clean], tune, [*layers, FEATURES], seed).eval()
    for name in OTHERS:
        yield name, row(name).fit([clean], tune, row(name).layers, seed).eval()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--layers", nargs="+", default=["layer1", "layer2", "layer3"])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epsilon", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/detection-settings.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
