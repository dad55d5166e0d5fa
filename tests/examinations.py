"""Made-up examinations of a guard, written through `Store` as a real one writes them, so that figures can be foretold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.runs import MODEL

from antivenom.metrics.false_alarms import held_out_threshold
from antivenom.records.detection import ASKED, HOME, ORIGIN
from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Scan, Score
from antivenom.task import Task

Array = np.ndarray[Any, Any]

CHEST = Task(("normal", "pneumonia"))
LIMIT = 0.5  # logit above which a finding counts as present
LI = ("fgsm", "bim", "pgd", "mim")
NOTICED = {
    "gaussian": 3.5,
    "isolation-forest": 1.8,
    "one-class-svm": 2.4,
    "energy": 0.3,
}  # by how much a naive attack stands out
STRENGTH = {"fgsm": 0.6, "noise": 0.0}  # share of the images that an attack overturns; others 0.95


def trial(attack: str, **changes: Any) -> dict[str, Any]:
    """One trial as the document asks for it."""
    asked = {
        "kind": "attack",
        "attack": attack,
        "settings": {},
        "threat": "linf",
        "epsilon": 0.02,
        "until": "spent",
        "made_on": "model",
        "evading": [],
    }
    return {**asked, **changes}


def trials(detectors: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """The attacks of li2020 in the white and the black box, others, and two for each detector that know it; natural change."""
    found = [trial(name, until=until) for name in LI for until in (("spent", "fooled") if name != "fgsm" else ("spent",))]
    found += [trial(name, epsilon=0.05, made_on="surrogate") for name in LI]
    found += [trial("ddn", threat="l2", epsilon=1e6), trial("noise")]
    for name in detectors:
        for objective in ("selective", "log_odds"):
            found.append(trial("pgd", settings={"objective": objective}, until="fooled", evading=[name]))
        found.append(trial("orthogonal_pgd", until="fooled", evading=[name]))
    found += [
        trial(name, kind="corruption", settings={"severity": severity}, threat="none", epsilon=0.0)
        for name in ("blur", "marker")
        for severity in (1, 3, 5)
    ]
    return tuple(found)


@dataclass(frozen=True)
class Examined:
    """What a made-up examination consists of, before it is written."""

    task: Task = CHEST
    detectors: tuple[str, ...] = ("gaussian", "isolation-forest", "one-class-svm")
    deciding: tuple[str, ...] = ("gaussian",)
    trials: tuple[dict[str, Any], ...] | None = None
    n_test: int = 60
    n_val: int = 120
    images_per_group: int = 2
    sources: tuple[str, ...] = ("",)
    others: tuple[str, ...] = ("phantoms",)
    data: str = "chest"
    rate: float = 0.05
    evades: float = 0.9  # share of the images on which who knows the detector passes it
    notes: tuple[str, ...] = ()
    surrogate: bool = True
    seed: int = 0
    finished: Callable[[dict[str, Any]], bool] = bool  # which trials are done; a trial is never empty
    # Changes of an example, an answer or a score before it is written, to make records that contradict each other.
    spoil: Callable[[Example, Answer, list[Score]], tuple[Example, Answer, list[Score]]] | None = None

    def asked_trials(self) -> tuple[dict[str, Any], ...]:
        return trials(self.detectors) if self.trials is None else self.trials


def write_examination(folder: Path, made: Examined) -> Path:
    """Write a made-up examination into a run's folder and give that back."""
    store, luck = Store(folder / HOME), np.random.default_rng(made.seed)
    splits = {"val": made.n_val, "test": made.n_test, **dict.fromkeys(made.others, 30)}
    scans = [scan for split, n in splits.items() for scan in _scans(made, split, n, luck)]
    store.write_scans(scans)
    clean = {scan.image: _logits(made, scan, luck) for scan in scans}
    scores = {
        name: {scan.image: float(luck.normal(3.0 * (scan.split in made.others))) for scan in scans} for name in made.detectors
    }
    held = [scan for scan in scans if scan.split == "val"]
    groups = np.array([scan.group for scan in held])
    values = {
        name: held_out_threshold(np.array([scores[name][scan.image] for scan in held]), made.rate, groups)
        for name in made.detectors
    }
    store.write_document(ASKED, _asked(made, values, splits))
    store.write_document(ORIGIN, {"command": "antivenom guard try", "code": "ef" * 32, "started": "2026-11-22T02:00:00+00:00"})
    limits = [LIMIT] * len(made.task.classes)
    store.write_document(
        "operating", {"rule": "youden", "n": made.n_val, "thresholds": limits, "classes": list(made.task.classes)}
    )
    for split in splits:
        mine = [scan for scan in scans if scan.split == split]
        row = {
            "kind": "clean" if split in ("val", "test") else "other set",
            "attack": "none" if split in ("val", "test") else split,
        }
        _write(store, made, 0, {**trial(**row), "threat": "none", "epsilon": 0.0}, split, mine, clean, scores, values)
    tests = [scan for scan in scans if scan.split == "test"]
    for number, row in enumerate(made.asked_trials(), 1):
        if made.finished({**row, "number": number}):
            concerned = [scan for scan in tests if row["kind"] != "attack" or concerns(made.task, clean[scan.image])]
            _write(store, made, number, row, "test", concerned, clean, scores, values)
    return folder


def concerns(task: Task, logits: Array) -> bool:
    """Whether the model's most probable finding counts as present."""
    return not task.multilabel or bool(logits.max() > LIMIT)


def _write(
    store: Store,
    made: Examined,
    number: int,
    row: dict[str, Any],
    split: str,
    scans: Sequence[Scan],
    clean: dict[str, Array],
    scores: dict[str, dict[str, float]],
    values: dict[str, float],
) -> None:
    luck = np.random.default_rng([made.seed, number, sum(map(ord, split))])
    examples, answers, seen = [], [], []
    for scan in scans:
        logits, turned = _overturned(made, row, clean[scan.image], luck)
        found = {name: scores[name][scan.image] + _shift(row, name, luck) for name in made.detectors}
        for name in row["evading"]:
            passes = luck.random() < made.evades
            found[name] = min(found[name], values[name] - 0.01) if passes else values[name] + 1.0
        passed = turned and all(found[name] <= values[name] for name in row["evading"])
        size = min(row["epsilon"], 0.004)
        name = f"{number:03d}/{scan.image}"
        example = Example(
            name, scan.image, number, row["attack"], json.dumps(row["settings"]), "", row["threat"], row["epsilon"],
            row["until"], made.seed, bool(passed and row["kind"] == "attack"), size, size * 20, size * 300, 900, 10, 10, (), "",
        )  # fmt: skip
        answer = Answer(name, MODEL, tuple(float(v) for v in logits.astype(np.float32)))
        said = [Score(name, detector, value) for detector, value in found.items()]
        if made.spoil:
            example, answer, said = made.spoil(example, answer, said)
        examples.append(example)
        answers.append(answer)
        seen += said
    store.write_shard(f"{split}-{0:06d}-{number:03d}", examples, answers, seen)


def _shift(row: dict[str, Any], detector: str, luck: np.random.Generator) -> float:
    if row["kind"] == "corruption":
        return 0.4 * float(row["settings"]["severity"])
    if row["kind"] != "attack":
        return 0.0
    if row["attack"] == "noise":
        return 0.2
    weaker = (0.55 if row["until"] == "fooled" else 1.0) * (0.8 if row["made_on"] == "surrogate" else 1.0)
    return float(NOTICED.get(detector, 1.0) * weaker + 0.5 * luck.normal())


def _overturned(made: Examined, row: dict[str, Any], clean: Array, luck: np.random.Generator) -> tuple[Array, bool]:
    share = STRENGTH.get(row["attack"], 0.95) * (0.3 if row["made_on"] == "surrogate" else 1.0)
    if row["kind"] != "attack" or luck.random() >= share:
        return clean, False
    logits, own = clean.copy(), int(clean.argmax())
    if made.task.multilabel:
        logits[own] = -3.0
    else:
        logits[own] = np.delete(clean, own).max() - 2.0
    return logits, True


def _scans(made: Examined, split: str, n: int, luck: np.random.Generator) -> list[Scan]:
    classes = len(made.task.classes)
    found = []
    for i in range(n):
        number = i // made.images_per_group
        target = (
            tuple(int(luck.random() < 0.25) for _ in range(classes)) if made.task.multilabel else (int(luck.integers(classes)),)
        )
        source = made.sources[number % len(made.sources)]
        found.append(Scan(f"{split}/{i:04d}.png", split, target, f"{split}-patient-{number}", source))
    return found


def _logits(made: Examined, scan: Scan, luck: np.random.Generator) -> Array:
    noise = luck.normal(size=len(made.task.classes))
    if made.task.multilabel:
        return noise - 2 + 2 * np.array(scan.target)
    noise[scan.target[0]] += 2
    return noise


def _asked(made: Examined, values: dict[str, float], splits: dict[str, int]) -> dict[str, Any]:
    alarms = {
        "value": 0.05,
        "low": 0.02,
        "high": 0.1,
        "n": made.n_val,
        "groups": made.n_val // made.images_per_group,
        "method": "B",
    }
    return {
        "trials": list(made.asked_trials()),
        "images": made.n_test,
        "seed": made.seed,
        "shard": 1000,
        "batch": 64,
        "task": made.task.to_dict(),
        "model": MODEL,
        "architecture": "resnet18",
        "guard": "aa" * 32,
        "policy": f"rejects what {' or '.join(made.deciding)} flags at a rate of {100 * made.rate:g} %; never abstains",
        "detectors": [
            {
                "name": name,
                "threshold": {
                    "value": values[name],
                    "rate": made.rate,
                    "alarms": alarms,
                    "taken": "held-out clean images",
                    "notes": list(made.notes),
                },
                "decides": name in made.deciding,
                "part of the guard": name in made.deciding,
                "differentiable": name != "isolation-forest",
                "notes": [],
            }
            for name in made.detectors
        ],
        "surrogate": {"architecture": "resnet50", "digest": "bb" * 32} if made.surrogate else None,
        "data": {"name": made.data, "digest": "cd" * 32, "held-out": made.n_val, "test": made.n_test, "unit": "patient"},
        "others": {name: {"digest": "dd" * 32, "images": splits[name]} for name in made.others},
    }
