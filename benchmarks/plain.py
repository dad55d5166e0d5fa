"""A classifier trained here beside a plain timm ResNet-18 trained the obvious way, on the same split.

    python benchmarks/plain.py --data kermany --root DATA --model runs/kermany/model.safetensors

The obvious way: from scratch, Adam at 1e-3, batches of 32, float32, half of the images mirrored, the epoch that is best on
validation kept. Both are scored on all test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from antivenom.data.datasets import load as load_data
from antivenom.data.imageset import Batch, ImageSet, batches
from antivenom.metrics.classification import balanced_accuracy_estimate, right
from antivenom.metrics.intervals import Estimate, paired_difference, proportion
from antivenom.metrics.ranking import auroc_estimate, auroc_per_class
from antivenom.models.classifier import Classifier
from antivenom.models.weights import load, read_card
from antivenom.provenance import machine, versions

Array = np.ndarray[Any, Any]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    card = read_card(options.model)
    images = load_data(options.data, options.root, label=options.label, size=card["recipe"]["side"])
    tests = whole(images.split("test"))
    ours = load(options.model)
    plain, history, seconds = train_plainly(images, options.epochs, options.seed)
    answers = {"antivenom": logits(ours, tests.images), "plain timm": logits(plain, tests.images)}
    truth, groups = tests.targets.numpy(), np.array(tests.groups)
    facts = {
        "data": images.name,
        "test images": len(truth),
        "groups": len(set(tests.groups)),
        "epochs": {"antivenom": card["recipe"]["epochs"], "plain timm": options.epochs},
        "seed of the plain one": options.seed,
        "seconds of the plain one": seconds,
        "threads": options.threads,
        "validation of the plain one": history,
        "machine": machine(),
        "versions": versions(),
    }
    scored = {name: scores(some, truth, groups, images) for name, some in answers.items()}
    for name, values in scored.items():
        print(f"{images.name}  {name:12s}", "  ".join(f"{what} {value}" for what, value in values.items()), flush=True)
    if not images.task.multilabel:
        hits = [right(some, truth, multilabel=False) for some in answers.values()]
        gain = paired_difference(hits[0], hits[1], groups)
        print(f"{images.name}  accuracy of antivenom's minus the plain one's: {gain.percent()}")
        facts["difference of accuracy"] = gain.to_dict()
    facts["scores"] = {name: {what: value.to_dict() for what, value in values.items()} for name, values in scored.items()}
    output = options.output or Path(f"benchmarks/results/plain-{images.name}-{options.seed}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(facts, indent=1) + "\n")


def train_plainly(images: ImageSet, epochs: int, seed: int) -> tuple[nn.Module, list[float], float]:
    """The obvious training; with the validation score of each epoch and the seconds that it took."""
    torch.manual_seed(seed)
    train, val = whole(images.split("train")), whole(images.split("val"))
    answers = len(images.task.classes)
    model = timm.create_model("resnet18", in_chans=images.channels, num_classes=answers)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    loss = nn.BCEWithLogitsLoss() if images.task.multilabel else nn.CrossEntropyLoss()
    best, history, began = copy.deepcopy(model), [], time.monotonic()
    for _ in range(epochs):
        model.train()
        for some in torch.randperm(len(train.images)).tensor_split(len(train.images) // 32):
            x = train.images[some]
            mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
            optimiser.zero_grad()
            truth = train.targets[some].float() if images.task.multilabel else train.targets[some]
            loss(model(torch.where(mirrored, x.flip(-1), x)), truth).backward()
            optimiser.step()
        history.append(validation(logits(model, val.images), val.targets.numpy(), images))
        if history[-1] == max(history):
            best = copy.deepcopy(model)
        print(f"{images.name}  epoch {len(history)} of {epochs}, validation {history[-1]:.3f}", flush=True)
    return best, history, time.monotonic() - began


def whole(images: ImageSet) -> Batch:
    """All images of a set in memory."""
    return next(batches(images, len(images)))


@torch.inference_mode()
def logits(model: nn.Module | Classifier, x: Tensor) -> Array:
    """Float32 answers `(N, K)`."""
    model.eval()
    return torch.cat([model(part) for part in torch.split(x, 64)]).numpy()


def validation(answers: Array, truth: Array, images: ImageSet) -> float:
    """What an epoch is chosen by: as in `training.loop`."""
    if images.task.multilabel:
        return float(np.nanmean(auroc_per_class(answers, truth == 1)))
    found = right(answers, truth, multilabel=False)
    return balanced_accuracy_estimate(found, truth, len(images.task.classes), multilabel=False).value


def scores(answers: Array, truth: Array, groups: Array, images: ImageSet) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy and AUROC of test answers, or the AUROC of each finding."""
    classes, multilabel = images.task.classes, images.task.multilabel
    present = truth == 1 if multilabel else np.eye(len(classes), dtype=bool)[truth]
    kinds = [k for k in range(len(classes)) if present[:, k].any() and not present[:, k].all()]
    aurocs = {f"AUROC of {classes[k]}": auroc_estimate(answers[:, k], present[:, k], groups) for k in kinds}
    if multilabel:
        return aurocs
    if len(classes) == 2:
        aurocs = {"AUROC": auroc_estimate(answers[:, 1] - answers[:, 0], present[:, 1], groups)}
    hits = right(answers, truth, multilabel=False)
    balanced = balanced_accuracy_estimate(hits, truth, len(classes), groups, multilabel=False)
    return {"accuracy": proportion(hits, groups), "balanced accuracy": balanced, **aurocs}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--label")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
