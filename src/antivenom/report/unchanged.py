"""What a report says of the model on unchanged images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antivenom.records.audit import Audit
from antivenom.report.charts import Chart, reliability_chart
from antivenom.report.figures import Figure, Ledger, plain_number

BINS = 10


@dataclass(frozen=True)
class ClassRow:
    """One class on unchanged images."""

    name: str
    count: int
    threshold: Figure | None
    auroc: Figure
    sensitivity: Figure
    specificity: Figure


@dataclass(frozen=True)
class Clean:
    """The model on unchanged images."""

    accuracy: Figure
    balanced: Figure
    mean_auroc: Figure
    constant: Figure
    constant_balanced: float
    constant_answer: str
    rule: str
    validation: int
    classes: tuple[ClassRow, ...]
    error: Figure
    gap: Figure
    brier: Figure
    bins: int
    reliability: Chart
    confusion: tuple[tuple[int, ...], ...]


def clean_of(audit: Audit, ledger: Ledger) -> Clean:
    """Every figure of the unchanged test images."""
    names = audit.task.classes
    multilabel = audit.task.multilabel
    counts = audit.targets.sum(0) if multilabel else np.bincount(audit.targets, minlength=len(names))
    pairs, thresholds = audit.sensitivity_specificity(), audit.thresholds
    found = audit.calibration(bins=BINS)
    rows = []
    for k, (name, auroc) in enumerate(zip(names, audit.auroc(), strict=True)):
        part = f"class {name}"
        threshold = plain_number(float(thresholds[k]), int(audit.operating["n"]) if audit.operating else 0, 0, "validation")
        rows.append(
            ClassRow(
                name,
                int(counts[k]),
                ledger.note("operating point (log-odds)", threshold, part=part),
                ledger.note("AUROC", auroc, part=part),
                ledger.note("sensitivity", pairs[k][0], part=part),
                ledger.note("specificity", pairs[k][1], part=part),
            )
        )
    stated = "Stated probability of every finding" if multilabel else "Stated probability of the answer"
    return Clean(
        accuracy=ledger.note("accuracy", audit.accuracy()),
        balanced=ledger.note("balanced accuracy", audit.balanced_accuracy()),
        mean_auroc=ledger.note("mean AUROC", audit.mean_auroc()),
        constant=ledger.note("accuracy of the constant answer", audit.constant_accuracy),
        constant_balanced=audit.constant_balanced_accuracy,
        constant_answer=audit.constant_answer,
        rule=str(audit.operating["rule"]) if audit.operating else "",
        validation=int(audit.operating["n"]) if audit.operating else 0,
        classes=tuple(rows),
        error=ledger.note("expected calibration error", found.error),
        gap=ledger.note("stated probability less accuracy", found.gap),
        brier=ledger.note("Brier score", found.brier),
        bins=BINS,
        reliability=reliability_chart("reliability", f"{stated} against how often it came true", found.reliability),
        confusion=() if multilabel else tuple(tuple(int(v) for v in row) for row in audit.confusion()),
    )
