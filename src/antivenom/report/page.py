"""What the page says: every section as plain values, taken from an audit and noted in the ledger. The template only prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.errors import NotMeasuredError
from antivenom.records.audit import Audit, Flag
from antivenom.records.plan import AttackFacts
from antivenom.report import words
from antivenom.report.attacked import AttackRun, Battle, Headline, attacks_of, battles_of, headline_of
from antivenom.report.certified import Certified, certified_of
from antivenom.report.charts import Chart
from antivenom.report.detected import Detected, detected_of
from antivenom.report.examined import Examined, cost_chart, examined_of
from antivenom.report.explained import Explained, explained_of, unexplained
from antivenom.report.figures import Figure, Ledger
from antivenom.report.origin import provenance_of
from antivenom.report.sentences import limits_of, not_measured, summary_of, verdict_of
from antivenom.report.threat_model import Statement, threat_model
from antivenom.report.unchanged import Clean, clean_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tile:
    """A figure that stands out, with what to compare it with."""

    label: str
    figure: Figure
    note: str
    decimal: bool = False


@dataclass(frozen=True)
class PartRow:
    """One class or source: unchanged, and in the worst case."""

    name: str
    clean: Figure
    worst: Figure | None


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    unit: str
    multilabel: bool
    colour: bool
    classes: tuple[str, ...]
    images: int
    unit_of_groups: str
    groups: int | None
    finished: bool
    rows_done: int
    rows_wanted: int
    date: str
    verdict: str
    warning: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    card: tuple[Statement, ...]
    flags: tuple[Flag, ...] | None
    examined: Examined | None
    effort: Chart | None
    clean: Clean
    attacks: tuple[AttackRun, ...]
    battles: tuple[Battle, ...]
    headline: Headline | None
    certified: tuple[Certified, ...]
    detected: Detected | None
    explained: Explained | None
    by_class: tuple[PartRow, ...]
    by_source: tuple[PartRow, ...]
    caveats: tuple[str, ...]
    not_measured: tuple[str, ...]
    limits: tuple[str, ...]
    bibliography: tuple[AttackFacts, ...]
    provenance: tuple[tuple[str, str], ...]
    command: str


def page_of(audit: Audit, ledger: Ledger) -> Page:
    """Take from an audit all that its report says.

    Raises:
        NotMeasuredError: not even the clean images are measured.
    """
    if not audit.measured(0):
        done, wanted = audit.progress[0]
        raise NotMeasuredError(
            f"{audit.folder} has no figure to report yet: {done} of {wanted} clean images are measured; "
            "run the same audit again, it continues where it stopped"
        )
    multilabel, protocol = audit.task.multilabel, audit.protocol
    images, groups = len(audit.targets), len(np.unique(audit.groups))
    named = bool((audit.groups != audit.splits["test"].images).any())
    clean = clean_of(audit, ledger)
    battles = tuple(battles_of(audit, ledger))
    headline = headline_of(audit, battles)
    done = sum(audit.measured(row.number) for row in audit.rows)
    serious = sum(flag.severity == "serious" for flag in audit.flags or ())
    title = str(protocol["data"].get("title") or protocol["data"]["name"])
    return Page(
        title=f"{protocol['model']['name']} on {title}",
        unit="decisions" if multilabel else "images",
        multilabel=multilabel,
        colour=int(protocol["data"]["channels"]) == 3,
        classes=audit.task.classes,
        images=images,
        unit_of_groups=audit.unit,
        groups=groups if named else None,
        finished=audit.finished,
        rows_done=done,
        rows_wanted=len(audit.rows),
        date=str(audit.provenance.get("finished") or audit.provenance["started"])[:10],
        verdict=verdict_of(audit, headline),
        warning=f"{words.counted(serious, 'serious flag')} below: clear before relying on the figures." if serious else "",
        summary=tuple(summary_of(audit, clean, headline)),
        tiles=tuple(_tiles(clean, headline, multilabel)),
        card=threat_model(audit),
        flags=audit.flags,
        examined=examined_of(audit, ledger),
        effort=cost_chart(audit, headline.threat, headline.goal, headline.epsilon) if headline else None,
        clean=clean,
        attacks=tuple(attacks_of(audit)),
        battles=battles,
        headline=headline,
        certified=tuple(certified_of(audit, ledger)),
        detected=detected_of(audit.detection, ledger),
        explained=explained_of(audit, ledger),
        by_class=tuple(_by_class(audit, ledger, headline)),
        by_source=tuple(_by_source(audit, ledger, headline)),
        caveats=tuple(map(str, protocol["data"].get("caveats", ()))),
        not_measured=(*not_measured(audit, clean, named), *unexplained(audit)),
        limits=limits_of(audit),
        bibliography=tuple(
            audit.attacks[name]
            for name in dict.fromkeys(row.attack for row in audit.rows if audit.measured(row.number))
            if name in audit.attacks
        ),
        provenance=tuple(provenance_of(audit)),
        command=str(audit.provenance.get("command") or ""),
    )


def _tiles(clean: Clean, headline: Headline | None, multilabel: bool) -> Iterator[Tile]:
    if multilabel:
        yield Tile("Mean AUROC, unchanged", clean.mean_auroc, "0.5 is chance", decimal=True)
    else:
        yield Tile("Accuracy, unchanged", clean.accuracy, f"constant answer: {words.percent(clean.constant.estimate)}")
    yield Tile("Balanced accuracy, unchanged", clean.balanced, f"constant answer: {100 * clean.constant_balanced:.1f} %")
    if headline is None:
        return
    worst, name = headline.block.worst, words.threat_name(headline.threat)
    place = f"{name}\u00a0{headline.block.size}"
    yield Tile(
        f"Balanced accuracy, attacked at {place}", worst.balanced, f"constant answer: {100 * clean.constant_balanced:.1f} %"
    )
    noise = next((line for line in headline.block.lines if line.row and line.row.control), None)
    note = f"noise: {words.percent(noise.success.estimate)}" if noise else "noise: not measured"
    yield Tile(f"Attack success at {place}", worst.success, note)


# -- parts, limits, provenance -----------------------------------------------------------------------------------------


def _by_class(audit: Audit, ledger: Ledger, headline: Headline | None) -> Iterator[PartRow]:
    clean = audit.by_class(audit.right(0))
    worst = _worst_parts(audit, headline)
    for k, name in enumerate(audit.task.classes):
        part = f"class {name}"
        under = None
        if headline is not None and worst is not None:
            under = ledger.note_worst(
                "recall", audit.by_class(worst)[k], headline.goal, headline.threat, headline.epsilon, part=part
            )
        yield PartRow(name, ledger.note("recall", clean[k], part=part), under)


def _by_source(audit: Audit, ledger: Ledger, headline: Headline | None) -> Iterator[PartRow]:
    clean = audit.by_source(audit.right(0))
    worst = _worst_parts(audit, headline)
    if len(clean) < 2:
        return
    for name, estimate in clean.items():
        part = f"source {name}"
        under = None
        if headline is not None and worst is not None:
            under = ledger.note_worst(
                "accuracy", audit.by_source(worst)[name], headline.goal, headline.threat, headline.epsilon, part=part
            )
        yield PartRow(name, ledger.note("accuracy", estimate, part=part), under)


def _worst_parts(audit: Audit, headline: Headline | None) -> Array | None:
    return None if headline is None else audit.worst_case(headline.threat, headline.epsilon, headline.goal).right
