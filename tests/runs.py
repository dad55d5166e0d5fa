"""Made-up runs, written through `Store` as a real audit writes them: what they hold is known, so figures can be foretold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Scan
from antivenom.task import Task

Array = np.ndarray[Any, Any]

MODEL = "ab" * 32
CHEST = Task(("normal", "pneumonia"))
SKIN = Task(
    (
        "actinic keratosis",
        "basal cell carcinoma",
        "benign keratosis",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevus",
        "vascular lesion",
    )
)
FINDINGS = Task(
    (
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural thickening",
        "Hernia",
    ),
    multilabel=True,
)
FACTS = ("title", "sees", "summary", "paper", "url")
PAPERS = {
    "noise": ("Random noise of full size", "nothing", "Every value moves by the full budget, up or down at random.", "", ""),
    "fgsm": (
        "Fast gradient sign method",
        "gradient",
        "One step along the sign of the loss's gradient.",
        "Goodfellow, Shlens, Szegedy, 'Explaining and harnessing adversarial examples', ICLR 2015.",
        "https://arxiv.org/abs/1412.6572",
    ),
    "pgd": (
        "Projected gradient descent",
        "gradient",
        "Many small gradient steps from a random start, projected back into the set.",
        "Madry et al., 'Towards deep learning models resistant to adversarial attacks', ICLR 2018.",
        "https://arxiv.org/abs/1706.06083",
    ),
    "square": (
        "Square attack",
        "scores",
        "Random search over square patches, looking only at the model's scores.",
        "Andriushchenko et al., 'Square attack: a query-efficient black-box adversarial attack via random search', ECCV 2020.",
        "https://arxiv.org/abs/1912.00049",
    ),
}
STRENGTH = {"none": 0.0, "noise": 0.02, "fgsm": 0.7, "square": 0.6, "pgd": 1.0}
COST = {"none": (1, 0), "noise": (1, 0), "fgsm": (2, 1), "square": (400, 0), "pgd": (45, 40)}


@dataclass(frozen=True)
class Run:
    """What a made-up run consists of, before it is written."""

    task: Task
    name: str = "chest"
    title: str = "Chest X-rays, paediatric"
    n_test: int = 60
    n_val: int = 40
    size: int = 32
    channels: int = 1
    images_per_group: int = 1
    unit: str = "patient"
    patients: bool = True  # False: the set names none, so each image is its own group
    sources: tuple[str, ...] = ("",)
    skill: float = 3.0  # how far the true class stands out
    slope: float = 1.6  # logits lost per grey level of a full-strength attack
    keep: int = 6
    seed: int = 0
    epsilons: tuple[float, ...] = (0.25, 0.5, 1, 2, 4, 8)  # of 255
    attacks: tuple[str, ...] = ("noise", "fgsm", "square", "pgd")
    l2: tuple[float, ...] = ()
    until: str = "fooled"
    targeted: str = ""
    caveats: tuple[str, ...] = ()
    flags: tuple[dict[str, str], ...] | None = None  # None: nobody has looked
    prevalence: tuple[float, ...] = ()
    finished: Callable[[dict[str, Any]], bool] = bool  # which rows of the plan; a row is never empty

    def goal(self) -> str:
        return "against every finding" if self.task.multilabel else "untargeted"

    def plan(self) -> list[dict[str, Any]]:
        """Row 0 is clean; then each attack at each size."""

        def row(attack: str, threat: str, epsilon: float, goal: str) -> dict[str, Any]:
            settings = {"pgd": {"steps": 40}, "square": {"queries": 400}}.get(attack, {})
            return {
                "attack": attack,
                "settings": settings,
                "goal": goal,
                "threat": threat,
                "epsilon": epsilon,
                "until": "spent" if attack in {"none", "noise"} else self.until,
            }

        rows = [row("none", "linf", 0.0, self.goal())]
        rows += [row(a, "linf", e / 255, self.goal()) for e in self.epsilons for a in self.attacks]
        rows += [row(a, "l2", e, self.goal()) for e in self.l2 for a in self.attacks if a != "square"]
        if self.targeted:
            rows += [row("pgd", "linf", e / 255, f"targeted: {self.targeted}") for e in self.epsilons]
        return rows


def write_run(folder: Path, run: Run) -> Path:
    """Write a made-up run and give its folder back."""
    store, luck = Store(folder), np.random.default_rng(run.seed)
    plan = run.plan()
    store.write_document("protocol", _protocol(run, plan))
    store.write_document("provenance", _provenance(run))
    store.write_document("attacks", {k: dict(zip(FACTS, v, strict=True)) for k, v in PAPERS.items()})
    scans = [*_scans(run, "val", run.n_val, luck), *_scans(run, "test", run.n_test, luck)]
    store.write_scans(scans)
    scores = {scan.image: _clean_logits(run, scan, luck) for scan in scans}
    store.write_document("operating", _operating(run, [s for s in scans if s.split == "val"], scores))
    # A finding without an operating point is attacked at even odds.
    thresholds = np.array([t or 0.0 for t in store.document("operating")["thresholds"]])
    for number, row in enumerate(plan):
        if not run.finished({**row, "number": number}):
            continue
        wanted = (
            scans if number == 0 else [s for s in scans if s.split == "test" and concerned(run.task, row["goal"], s.target)]
        )
        for start in range(0, len(wanted), 64):
            write_shard(store, run, number, row, wanted[start : start + 64], scores, thresholds)
    if run.flags is not None:
        store.write_document("flags", list(run.flags))
    return folder


def concerned(task: Task, goal: str, target: Sequence[int]) -> bool:
    """Whether a goal has anything to gain from an image."""
    return not goal.startswith("targeted: ") or task.classes[target[0]] != goal.removeprefix("targeted: ")


def write_shard(
    store: Store,
    run: Run,
    number: int,
    row: dict[str, Any],
    scans: Sequence[Scan],
    scores: dict[str, Array],
    thresholds: Array,
) -> None:
    """Write what one row of the plan left of some images."""
    examples, answers = [], []
    for scan in scans:
        logits = _attacked(run, scan, row, scores[scan.image])
        reached = bool(margin(run.task, row["goal"], logits, scan.target, thresholds) > 0)
        name = f"{number}:{scan.image}"
        size = row["epsilon"] if row["threat"].startswith("linf") else row["epsilon"] / 20
        keep = scan.split == "test" and int(scan.image[5:9]) < run.keep
        kept = store.keep_pixels(_pixels(run, scan, row)) if keep else ""
        queries, gradients = COST[row["attack"]]
        examples.append(
            Example(
                example=name,
                image=scan.image,
                row=number,
                attack=row["attack"],
                settings=json.dumps(row["settings"]),
                goal=row["goal"],
                threat=row["threat"],
                epsilon=row["epsilon"],
                until=row["until"],
                seed=run.seed,
                reached=reached,
                linf=size,
                l2=row["epsilon"] if row["threat"].startswith("l2") else size * run.size * run.channels**0.5 * 0.9,
                l1=size,
                l0=run.size**2 if row["epsilon"] else 0,
                queries=queries if not reached else max(1, queries // 3),
                gradients=gradients if not reached else gradients // 3,
                flags=(),
                pixels=kept,
            )
        )
        # Float32, as a model answers and as the record keeps it.
        answers.append(Answer(name, MODEL, tuple(float(v) for v in logits.astype(np.float32))))
    store.write_shard(f"{number:03d}-{scans[0].image.replace('/', '-')}", examples, answers)


def margin(task: Task, goal: str, logits: Array, target: Sequence[int], thresholds: Array) -> float:
    """How far the adversary got with this answer: positive where the goal is met."""
    if task.multilabel:
        margins = (1 - 2 * np.array(target)) * (logits - thresholds)
        return float(margins.min())
    own = task.index(goal.removeprefix("targeted: ")) if goal.startswith("targeted: ") else target[0]
    rest = np.delete(logits, own).max()
    return float(logits[own] - rest if goal.startswith("targeted: ") else rest - logits[own])


def _scans(run: Run, split: str, n: int, luck: np.random.Generator) -> list[Scan]:
    classes = len(run.task.classes)
    shares = np.array(run.prevalence or [1] * classes, dtype=float)
    for_findings = run.prevalence or tuple(np.linspace(0.3, 0.05, classes))
    out = []
    for i in range(n):
        if run.task.multilabel:
            target = tuple(int(luck.random() < p) for p in for_findings)
        else:
            target = (int(luck.choice(classes, p=shares / shares.sum())),)
        out.append(
            Scan(
                image=f"{split}/{i:04d}.png",
                split=split,
                target=target,
                group=f"{split}-patient-{i // run.images_per_group}" if run.patients else f"{split}/{i:04d}.png",
                source=run.sources[(i // run.images_per_group) % len(run.sources)],
            )
        )
    return out


def _clean_logits(run: Run, scan: Scan, luck: np.random.Generator) -> Array:
    noise = luck.normal(size=len(run.task.classes)) * 1.6
    if run.task.multilabel:
        return noise - 2 + run.skill * np.array(scan.target)
    logits = noise
    logits[scan.target[0]] += run.skill
    return logits


def _attacked(run: Run, scan: Scan, row: dict[str, Any], clean: Array) -> Array:
    """Logits fall in a straight line with the size of the change; no luck is involved."""
    levels = row["epsilon"] * (255 if row["threat"].startswith("linf") else 4)
    loss = run.slope * STRENGTH[row["attack"]] * levels
    logits = clean.copy()
    if run.task.multilabel:
        return logits + loss * (1 - 2 * np.array(scan.target))
    if row["goal"].startswith("targeted: "):
        logits[run.task.index(row["goal"].removeprefix("targeted: "))] += 0.6 * loss
        return logits
    rest = np.delete(np.arange(len(logits)), scan.target[0])
    logits[scan.target[0]] -= loss / 2
    logits[rest[np.argmax(clean[rest])]] += loss / 2
    return logits


def _pixels(run: Run, scan: Scan, row: dict[str, Any]) -> Array:
    """Something round and dim in the middle of a dark image, with a patterned change of the row's size on top."""
    luck = np.random.default_rng(sum(map(ord, scan.image)))
    y, x = np.mgrid[: run.size, : run.size] / run.size - 0.5
    image = np.zeros((run.channels, run.size, run.size))
    for sign in (-1, 1):
        lung = ((x - sign * 0.2) / 0.16) ** 2 + (y / 0.36) ** 2
        image += 0.55 * np.exp(-((lung / 1.1) ** 4))[None]
    cx, cy = luck.uniform(-0.25, 0.25, 2)
    image += 0.3 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.004)[None] * np.linspace(1, 0.6, run.channels)[:, None, None]
    image = image + 0.12 + 0.03 * luck.normal(size=image.shape)
    size = row["epsilon"] if row["threat"].startswith("linf") else row["epsilon"] / 20
    pattern = np.sign(np.sin(9 * x * (1 + cx) + 23 * y * x) + 0.3 * luck.normal(size=image.shape))
    image = np.clip(image, 0.05, 0.95)
    return np.asarray(image + size * pattern if row["attack"] != "none" else image, dtype=np.float32).clip(0, 1)


def _operating(run: Run, scans: Sequence[Scan], scores: dict[str, Array]) -> dict[str, Any]:
    thresholds: list[float | None] = []
    targets = np.array([s.target for s in scans]).reshape(len(scans), -1)
    logits = np.array([scores[s.image] for s in scans]).reshape(len(scans), -1)
    for k in range(len(run.task.classes)):
        if run.task.multilabel:
            score, truth = logits[:, k], targets[:, k] == 1
        else:
            rest = np.delete(logits, k, axis=1)
            score, truth = logits[:, k] - np.log(np.exp(rest).sum(1)), targets[:, 0] == k
        if truth.all() or not truth.any():
            thresholds.append(None)
            continue
        cuts = np.sort(score)
        youden = [(score[truth] > c).mean() - (score[~truth] > c).mean() for c in cuts]
        thresholds.append(float(np.float32(cuts[int(np.argmax(youden))])))
    return {
        "rule": "largest sum of sensitivity and specificity (Youden) on clean validation images",
        "n": len(scans),
        "classes": list(run.task.classes),
        "thresholds": thresholds,
    }


def _protocol(run: Run, plan: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": 1,
        "seed": run.seed,
        "data": {
            "name": run.name,
            "title": run.title,
            "digest": "cd" * 32,
            "size": [run.size, run.size],
            "channels": run.channels,
            "unit": run.unit,
            "val": run.n_val,
            "test": run.n_test,
            "caveats": list(run.caveats),
        },
        "model": {"name": "resnet18", "digest": MODEL},
        "shard": 64,
        "keep": run.keep,
        "plan": plan,
    }


def _provenance(run: Run) -> dict[str, Any]:
    return {
        "weights": MODEL,
        "data": "cd" * 32,
        "code": "ef" * 32,
        "versions": {"python": "3.11.9", "antivenom": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "threads": 2},
        "started": "2026-11-21T13:00:00+00:00",
        "finished": "2026-11-21T13:04:10+00:00",
        "seconds": 250.4,
        "command": f"antivenom audit --model resnet18.safetensors --data {run.name}",
        "precision": {"judge": "float32", "propose": "bfloat16"},
        "card": {
            "architecture": "resnet18",
            "task": run.task.to_dict(),
            "channels": run.channels,
            "normalisation": {"mean": [0.5] * run.channels, "std": [0.25] * run.channels},
            "parameters": 11177538,
            "training": {"optimiser": "SGD with momentum", "epochs": 6, "batch": 64},
            "metrics": {"val balanced accuracy": 0.93},
        },
    }
