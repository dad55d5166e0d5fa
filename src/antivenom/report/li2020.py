"""The published table of Li and Zhu beside what was measured in its manner.

Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020,
https://doi.org/10.1109/ISBI45749.2020.9098628, Table 1: DenseNet-121 on ChestX-ray14, 1000 unchanged and 1000 attacked images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Detection
from antivenom.records.trials import TrialRow
from antivenom.report.figures import Figure, Ledger

ATTACKS = ("fgsm", "bim", "pgd", "mim")
RATE = 0.05  # of false alarms: "keep 95 % of training data as clean"
WHITE, BLACK = ("white box", False, 0.02), ("black box", True, 0.05)  # name, made on a surrogate, epsilon in the [0, 1] range
RIVALS = {"isolation-forest": "ISO", "one-class-svm": "SVM", "gaussian": "MGM"}  # our name: theirs
# F1, AUROC and its deviation over findings for each of the attacks, as printed in Table 1.
PUBLISHED = {
    ("white box", ""): ((0.5, 0.702, 0.063), (0.5, 0.617, 0.071), (0.5, 0.616, 0.071), (0.5, 0.591, 0.063)),
    ("white box", "ISO"): ((0.838, 0.786, 0.077), (0.874, 0.81, 0.083), (0.874, 0.81, 0.083), (0.874, 0.81, 0.083)),
    ("white box", "SVM"): ((0.87, 0.783, 0.077), (0.931, 0.816, 0.083), (0.931, 0.816, 0.089), (0.931, 0.816, 0.094)),
    ("white box", "MGM"): ((0.936, 0.801, 0.089), (0.975, 0.82, 0.089), (0.975, 0.82, 0.089), (0.975, 0.82, 0.089)),
    ("black box", ""): ((0.5, 0.749, 0.077), (0.5, 0.737, 0.077), (0.5, 0.741, 0.077), (0.5, 0.719, 0.077)),
    ("black box", "ISO"): ((0.871, 0.81, 0.083), (0.759, 0.777, 0.089), (0.735, 0.776, 0.089), (0.837, 0.801, 0.083)),
    ("black box", "SVM"): ((0.903, 0.812, 0.077), (0.777, 0.781, 0.083), (0.754, 0.776, 0.083), (0.859, 0.792, 0.089)),
    ("black box", "MGM"): ((0.958, 0.819, 0.083), (0.924, 0.809, 0.089), (0.903, 0.808, 0.083), (0.957, 0.818, 0.083)),
}
CHEST = ("chest", "cxr", "nih14")  # in the names of sets of chest X-rays


@dataclass(frozen=True)
class PaperCell:
    """One attack: F1 and weighted AUROC with its deviation over findings, measured (None: not) and published."""

    f1: Figure | None
    auroc: Figure | None
    deviation: float
    published: tuple[float, float, float]


@dataclass(frozen=True)
class PaperRow:
    """One detector, or none."""

    name: str
    theirs: str
    cells: tuple[PaperCell, ...]


@dataclass(frozen=True)
class PaperBlock:
    """White box or black box."""

    name: str
    epsilon: str
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class Paper:
    """The published table, with what was measured in its manner.

    Attributes:
        left_out: findings of which nothing can be said in some cell: none of the images kept has them.
    """

    attacks: tuple[str, ...]
    blocks: tuple[PaperBlock, ...]
    images: int
    architecture: str
    left_out: tuple[str, ...]


def paper_of(found: Detection, ledger: Ledger) -> Paper | None:
    """The table for sets of chest X-rays with several findings, where an attack of it was measured; else None."""
    name = str(found.asked["data"]["name"]).lower()
    if not found.task.multilabel or not any(part in name for part in CHEST):
        return None
    left_out: set[str] = set()
    blocks, counts = [], []
    for kind in (WHITE, BLACK):
        trials = [_trial(found, attack, kind) for attack in ATTACKS]
        if any(trials):
            rows = tuple(_rows(found, ledger, kind[0], trials, left_out))
            counts += [int(found.trial(row.number).concerned.sum()) for row in trials if row]
            blocks.append(PaperBlock(kind[0], f"{kind[2]:g}", rows))
    if not blocks:
        return None
    places = sorted(left_out, key=found.task.classes.index)
    images = max(counts)
    return Paper(
        tuple(name.upper() for name in ATTACKS), tuple(blocks), images, str(found.asked["architecture"]), tuple(places)
    )


def _trial(found: Detection, attack: str, kind: tuple[str, bool, float]) -> TrialRow | None:
    """The trial of an attack that is run as in the paper: to the end of the same budget."""
    for row in found.rows:
        alike = row.kind == "attack" and row.attack == attack and row.until == "spent" and not row.evading
        if alike and row.carried_over == kind[1] and row.threat == "linf" and abs(row.epsilon - kind[2]) < 1e-9:
            return row if found.measured(row.number) else None
    return None


def _rows(found: Detection, ledger: Ledger, kind: str, trials: list[TrialRow | None], left_out: set[str]) -> Iterator[PaperRow]:
    names = [watch.name for watch in found.watches]
    for ours, theirs in (("", ""), *((ours, theirs) for ours, theirs in RIVALS.items() if ours in names)):
        cells = [
            _cell(found, ledger, ours, row, published, left_out)
            for row, published in zip(trials, PUBLISHED[kind, theirs], strict=True)
        ]
        yield PaperRow(found.watch(ours).title if ours else "no detector", theirs or "No Defense", tuple(cells))


def _cell(
    found: Detection,
    ledger: Ledger,
    detector: str,
    row: TrialRow | None,
    published: tuple[float, float, float],
    left_out: set[str],
) -> PaperCell:
    known = (
        row is not None and row.number and (not detector or found.threshold(detector, RATE) == found.threshold(detector, RATE))
    )
    if row is None or not known:
        return PaperCell(None, None, math.nan, published)
    part = f"{detector} at {100 * RATE:g} % false alarms" if detector else "no detector"
    kept = found.accepted(row.number, detector or None, RATE if detector else None, all_=not detector)
    left_out |= {found.task.classes[k] for k in kept.auroc.left_out}
    n = 2 * int(found.trial(row.number).concerned.sum())
    nothing = Estimate(0.5, math.nan, math.nan, n, kept.coverage.groups, "never an alarm: half of the images, by count")
    f1 = found.micro_f1(row.number, detector, RATE) if detector else nothing
    return PaperCell(
        ledger.note_detection("F1, micro", f1, row, part),
        ledger.note_detection("weighted AUROC of images let through", kept.auroc.estimate, row, part),
        kept.auroc.deviation,
        published,
    )
