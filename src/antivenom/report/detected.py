"""What a report says of detectors: what they notice of attackers who do not know them and of those who do, and at what cost.

The chapter is about the guard as it decides. Where several detectors decide, charts show the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Accepted, Detection
from antivenom.records.trials import CLEAN_ROW, HELD_OUT, TrialRow, WatchRow
from antivenom.report.charts import Chart
from antivenom.report.detected_words import (
    GUARD,
    called,
    main_passed,
    passed_at,
    sentences_of,
    size_told,
    stopped,
    told,
    warnings_of,
)
from antivenom.report.detection_charts import BarChart, bar_chart, histogram_chart, risk_chart, roc_chart
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.li2020 import Paper, paper_of
from antivenom.report.reasons import WORKS as WORKS_ON_REASONS
from antivenom.report.reasons import Why, why_of

RATE = 0.05  # of false alarms at which attacks are told
MOST = 5  # lines in a chart that can be told apart
WORKS = (
    (
        "Gaussian of features",
        "Li, Zhu, ‘Robust detection of adversarial attacks on medical images’, ISBI 2020",
        "https://doi.org/10.1109/ISBI45749.2020.9098628",
    ),
    (
        "Attackers who know the detector",
        "Carlini, Wagner, ‘Adversarial examples are not easily detected: bypassing ten detection methods’, AISec 2017",
        "https://arxiv.org/abs/1705.07263",
    ),
    (
        "Orthogonal PGD",
        "Bryniarski, Hingun, Pachuca, Wang, Carlini, ‘Evading adversarial example detection defenses with orthogonal projected "
        "gradient descent’, ICLR 2022",
        "https://arxiv.org/abs/2106.15023",
    ),
    (
        "Thresholds",
        "order statistics of held-out scores: Vovk, Gammerman, Shafer, ‘Algorithmic learning in a random world’, 2005",
        "https://doi.org/10.1007/b106715",
    ),
    (
        "Risk and coverage",
        "Geifman, El-Yaniv, ‘Selective classification for deep neural networks’, NeurIPS 2017",
        "https://arxiv.org/abs/1705.08500",
    ),
)


@dataclass(frozen=True)
class DetectorLine:
    """One detector.

    Attributes:
        rate: of false alarms that its threshold was set for.
        alarms: those seen on unchanged test images.
        least, least_name: of the attacks that know nothing of it, the one that it notices least, at its own threshold.
        surrogate: the same of attacks made on another model.
        stopped_naive, stopped: share of changed answers that are flagged, of attackers who do not know it and of those who do.
    """

    name: str
    detail: str
    decides: bool
    rate: str
    alarms: Figure
    least: Figure | None
    least_name: str
    surrogate: Figure | None
    stopped_naive: Figure | None
    stopped: Figure | None


@dataclass(frozen=True)
class TrialLine:
    """One trial that knows nothing: how many images, how often it overturns, and what each detector notices."""

    name: str
    overturned: Figure
    noticed: tuple[Figure, ...]
    control: bool


@dataclass(frozen=True)
class TrialBlock:
    """Trials of one kind and size."""

    name: str
    lines: tuple[TrialLine, ...]


@dataclass(frozen=True)
class KnowingLine:
    """One attacker who knows a detector, at its own threshold; the worst of several has no name of its own."""

    name: str
    overturned: Figure
    unnoticed: Figure
    noticed: Figure | None
    worst: bool


@dataclass(frozen=True)
class KnowingBlock:
    """The attackers who know one detector, within one size."""

    name: str
    lines: tuple[KnowingLine, ...]


@dataclass(frozen=True)
class AlarmLine:
    """False alarms on some images."""

    name: str
    figure: Figure


@dataclass(frozen=True)
class AlarmBlock:
    """False alarms of one kind: by class, by source, on other sets."""

    name: str
    lines: tuple[AlarmLine, ...]


@dataclass(frozen=True)
class NaturalLine:
    """What is flagged after one natural change, by its severity; None where that was not measured."""

    name: str
    figures: tuple[Figure | None, ...]


@dataclass(frozen=True)
class Natural:
    """What is flagged after natural change: one line a change, one column a severity."""

    columns: tuple[str, ...]
    lines: tuple[NaturalLine, ...]


@dataclass(frozen=True)
class KeptLine:
    """The model on a mixture of images, all of them and those let through."""

    name: str
    coverage: Figure
    accuracy_all: Figure
    accuracy: Figure
    auroc_all: Figure
    auroc: Figure
    area: Figure | None
    random: str


@dataclass(frozen=True)
class Detected:
    """The chapter.

    Attributes:
        judge: what the tables of costs are about: the guard, or its first detector where none decides.
        shown: the detector of the charts.
        headers: detectors, as columns.
        rate: of false alarms in the table of attacks.
    """

    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    policy: str
    images: int
    held_out: int
    judge: str
    shown: str
    headers: tuple[str, ...]
    rate: str
    detectors: tuple[DetectorLine, ...]
    attacks: tuple[TrialBlock, ...]
    knowing: tuple[KnowingBlock, ...]
    bars: BarChart | None
    scores: Chart | None
    curves: tuple[Chart, ...]
    risks: tuple[Chart, ...]
    alarms: tuple[AlarmBlock, ...]
    natural: Natural | None
    kept: tuple[KeptLine, ...]
    classes_kept: str
    paper: Paper | None
    why: Why | None
    notes: tuple[str, ...]
    works: tuple[tuple[str, str, str], ...]


def detected_of(found: Detection | None, ledger: Ledger) -> Detected | None:
    """The chapter; None where no guard was examined, or not even the clean images are measured."""
    if found is None or not (found.measured(0) and found.measured(0, HELD_OUT)) or not found.watches:
        return None
    judge = None if found.deciding else found.watches[0].name
    shown = found.watch(found.deciding[0]) if found.deciding else found.watches[0]
    attacks = tuple(_attacks(found, ledger))
    knowing = tuple(_knowing(found, ledger))
    detectors = tuple(_detector(found, ledger, watch) for watch in found.watches)
    kept = tuple(_kept(found, ledger, judge, shown.name))
    why = why_of(found, ledger)
    return Detected(
        tuple(sentences_of(found, ledger, judge)),
        tuple(warnings_of(found)),
        str(found.asked.get("policy", "")),
        len(found.groups),
        len(found.splits[HELD_OUT]),
        called(found, judge),
        shown.title,
        tuple(watch.title for watch in found.watches),
        f"{100 * RATE:g} %",
        detectors,
        attacks,
        knowing,
        _bars(found),
        _scores(found, shown),
        tuple(_curves(found, shown)),
        tuple(_risks(found)),
        tuple(_alarms(found, ledger, judge)),
        _natural(found, ledger, judge),
        kept,
        _classes_kept(found, judge),
        paper_of(found, ledger),
        why,
        tuple(f"{watch.title}: {note}" for watch in found.watches for note in watch.notes),
        (
            *WORKS,
            *(WORKS_ON_REASONS if why else ()),
            *((watch.title, watch.paper, watch.url) for watch in found.watches if watch.paper),
        ),
    )


def _classes_kept(found: Detection, judge: str | None) -> str:
    """Which classes are rejected more often than others, in a sentence; empty where too few images tell."""
    kept, everything = found.accepted(0, judge), found.accepted(0, judge, all_=True)
    shares = [
        f"{name} {few:,} of {many:,}"
        for name, few, many in zip(found.task.classes, kept.positives, everything.positives, strict=True)
    ]
    return f"Of the unchanged images are left: {', '.join(shares)}."


# -- tables ------------------------------------------------------------------------------------------------------------


def _detector(found: Detection, ledger: Ledger, watch: WatchRow) -> DetectorLine:
    part = f"{watch.title}, own threshold"
    naive = [row for row in found.rows if row.naive and found.measured(row.number)]
    carried = [row for row in found.rows if row.carried_over and found.measured(row.number)]

    def least(rows: Sequence[TrialRow]) -> tuple[Figure | None, str]:
        seen = [(found.noticed(row.number, watch.name), row) for row in rows]
        seen = [(share, row) for share, row in seen if share.measured]
        if not seen:
            return None, ""
        share, row = min(seen, key=lambda pair: pair[0].value)
        return ledger.note_detection("noticed", share, row, part), told(row, row.threat)

    weakest, name = least(naive)
    passed, where = main_passed(found, watch.name)
    both: tuple[Figure | None, Figure | None] = (None, None)
    if passed is not None:
        row = next(row for row in found.knowing(watch.name, where))
        said = ("stopped of changed answers, detector not known", "stopped of changed answers, detector known")
        shares = (stopped(passed.naive_evasion), stopped(passed.evasion))
        both = tuple(_worst(ledger, text, share, row, part) for text, share in zip(said, shares, strict=True))  # type: ignore[assignment]
    traits = ["decides"] if watch.decides else ["compared only" if watch.baseline else "watches only"]
    traits += [] if watch.differentiable else ["no gradient"]
    return DetectorLine(
        watch.title,
        ", ".join(traits),
        watch.decides,
        f"{100 * watch.rate:.3g} %",
        ledger.note_detection("false alarms", found.alarms(watch.name), CLEAN_ROW, part),
        weakest,
        name,
        least(carried)[0],
        *both,
    )


def _attacks(found: Detection, ledger: Ledger) -> Iterator[TrialBlock]:
    """Every attack that knows nothing of detectors, at the thresholds of one rate."""
    made = (("On the model itself", "naive"), ("On another model", "carried_over"), ("Control", "control"))
    for title, trait in made:
        rows = [row for row in found.rows if getattr(row, trait) and found.measured(row.number)]
        for where in dict.fromkeys(row.size for row in rows):
            mine = tuple(_trial(found, ledger, row) for row in rows if row.size == where)
            yield TrialBlock(f"{title}, {size_told(*where)}", mine)


def _trial(found: Detection, ledger: Ledger, row: TrialRow) -> TrialLine:
    noticed = (
        ledger.note_detection(
            "noticed", found.noticed(row.number, watch.name, RATE), row, f"{watch.title} at {100 * RATE:g} % false alarms"
        )
        for watch in found.watches
    )
    overturned = ledger.note_detection("answers changed", found.success(row.number), row, "no detector")
    return TrialLine(told(row), overturned, tuple(noticed), row.control)


def _knowing(found: Detection, ledger: Ledger) -> Iterator[KnowingBlock]:
    """The attackers who know each detector, and the worst of them by image."""
    names = [*(watch.name for watch in found.watches), *([None] if len(found.deciding) > 1 else [])]
    for where in found.sizes:
        for name in names:
            passed = passed_at(found, name, where)
            if passed is None:
                continue
            title = found.watch(name).title if name else GUARD
            part = f"{title}, own threshold"
            lines = [_knowing_line(found, ledger, found.rows[number], name, part) for number in passed.trials]
            row = found.rows[passed.trials[0]]
            worst = KnowingLine(
                "Worst case",
                _worst(ledger, "answers changed, any white-box attack", passed.overturned, row, part),
                _worst(ledger, "changed and unnoticed", passed.adaptive, row, part),
                None,
                True,
            )
            yield KnowingBlock(f"{title}, {size_told(*where)}", (worst, *lines))


def _knowing_line(found: Detection, ledger: Ledger, row: TrialRow, name: str | None, part: str) -> KnowingLine:
    return KnowingLine(
        told(row),
        ledger.note_detection("answers changed", found.success(row.number), row, "no detector"),
        ledger.note_detection("changed and unnoticed", found.unnoticed(row.number, name), row, part),
        ledger.note_detection("noticed", found.noticed(row.number, name), row, part),
        False,
    )


def _alarms(found: Detection, ledger: Ledger, judge: str | None) -> Iterator[AlarmBlock]:
    """Alarms where nobody attacks."""
    who = called(found, judge)

    def block(name: str, shares: dict[str, Estimate], kind: str) -> AlarmBlock:
        lines = (
            AlarmLine(part, ledger.note_detection("false alarms", share, CLEAN_ROW, f"{who}, {kind} {part}"))
            for part, share in shares.items()
        )
        return AlarmBlock(name, tuple(lines))

    yield block("Finding shown" if found.task.multilabel else "Class", found.alarms_by_class(judge), "class")
    sources = found.alarms_by_source(judge)
    if len(sources) > 1:
        yield block("Source", sources, "source")
    others = {name: found.alarms(judge, split=name) for name in found.others if found.measured(0, name)}
    if others:
        yield block("Images of another set", others, "set")


def _natural(found: Detection, ledger: Ledger, judge: str | None) -> Natural | None:
    rows = [row for row in found.rows if row.kind == "corruption" and found.measured(row.number)]
    if not rows:
        return None
    levels = sorted({int(row.settings["severity"]) for row in rows})
    by_place = {(row.attack, int(row.settings["severity"])): row for row in rows}

    def figure(name: str, level: int) -> Figure | None:
        row = by_place.get((name, level))
        if row is None:
            return None
        return ledger.note_detection("flagged", found.alarms(judge, number=row.number), row, called(found, judge))

    names = dict.fromkeys(row.attack for row in rows)
    lines = tuple(NaturalLine(name.replace("_", " "), tuple(figure(name, level) for level in levels)) for name in names)
    return Natural(tuple(f"severity {level}" for level in levels), lines)


def _kept(found: Detection, ledger: Ledger, judge: str | None, shown: str) -> Iterator[KeptLine]:
    """The model on what is let through: of clean images, and of attacks that know nothing, mixed with the same unchanged."""
    who = called(found, judge)
    for row in (CLEAN_ROW, *(row for row in found.rows if row.naive and row.until == "spent" and found.measured(row.number))):
        kept, everything = found.accepted(row.number, judge), found.accepted(row.number, judge, all_=True)
        if not everything.accuracy.measured:
            continue

        def note(quantity: str, share: Estimate, row: TrialRow = row, part: str = who) -> Figure:
            return ledger.note_detection(quantity, share, row, f"{part}, mixed with unchanged" if row.number else part)

        area, curve = found.risk_coverage_area(row.number, shown), found.risk_coverage(row.number, shown)
        yield KeptLine(
            "Unchanged images alone" if row.number == 0 else f"{told(row, row.threat)}, and unchanged",
            note("coverage", kept.coverage),
            note("accuracy of all", everything.accuracy),
            note("accuracy of images let through", kept.accuracy),
            note("weighted AUROC of all", everything.auroc.estimate),
            note("weighted AUROC of images let through", _auroc(kept)),
            note("mean right over coverage", area, part=found.watch(shown).title),
            f"{100 * curve.random_low:.1f} to {100 * curve.random_high:.1f}",
        )


def _auroc(kept: Accepted) -> Estimate:
    if kept.accuracy.n == 0:
        return plain_number(float("nan"), 0, 0, "no image is let through")
    return kept.auroc.estimate


# -- charts ------------------------------------------------------------------------------------------------------------


def _bars(found: Detection) -> BarChart | None:
    """What gets past each detector, without and with knowledge of it."""
    kinds = (("changed at all", "noise"), ("unnoticed, detector not known", "s0"), ("unnoticed, detector known", "harm"))
    rows = []
    for watch in found.watches:
        passed, _ = main_passed(found, watch.name)
        if passed is not None:
            rows.append((watch.title, (passed.overturned, passed.naive, passed.known)))
    if not rows:
        return None
    where = main_passed(found, next(w.name for w in found.watches if main_passed(found, w.name)[0]))[1]
    return bar_chart("detected-bars", f"What gets past, {size_told(*where)}", kinds, rows, "answers changed, % of images")


def _scores(found: Detection, shown: WatchRow) -> Chart | None:
    """How the scores of unchanged images lie, and of attacks made without and with knowledge of the detector."""
    naive, passed = _strongest(found), main_passed(found, shown.name)
    knowing = found.knowing(shown.name, passed[1])[:1] if passed[0] else ()
    rows = [*((row, "s0") for row in naive[:1]), *((row, "worst") for row in knowing)]
    if not rows:
        return None
    kinds = [("unchanged", "s2", found.trial(0).scores[shown.name])]
    for row, style in rows:
        tried = found.trial(row.number)
        kinds.append((_curve_name(row), style, tried.scores[shown.name][tried.concerned]))
    return histogram_chart("detected-scores", f"Scores of {shown.title}", kinds, shown.value)


def _curves(found: Detection, shown: WatchRow) -> Iterator[Chart]:
    """ROC curves of the detector shown for several attacks, and of several detectors for the strongest."""
    naive, passed = _strongest(found), main_passed(found, shown.name)
    knowing = found.knowing(shown.name, passed[1])[:1] if passed[0] else ()
    first = sorted(naive[: MOST - len(knowing)], key=lambda row: row.number)
    rows = [*((row, f"s{i}") for i, row in enumerate(first)), *((row, "worst") for row in knowing)]
    if rows:
        curves = [(_curve_name(row), style, *found.roc(row.number, shown.name)) for row, style in rows]
        yield roc_chart("detected-roc", f"ROC of {shown.title}", curves)
    if naive and len(found.watches) > 1:
        each = [(watch.title, f"s{i}", *found.roc(naive[0].number, watch.name)) for i, watch in enumerate(_first(found))]
        yield roc_chart("detected-roc-each", f"ROC by detector, {told(naive[0], naive[0].threat)}", each)


def _risks(found: Detection) -> Iterator[Chart]:
    """What is right of the images kept: of unchanged ones alone, and mixed with those of the strongest attack."""
    for row in (CLEAN_ROW, *_strongest(found)[:1]):
        curves = [(watch.title, f"s{i}", found.risk_coverage(row.number, watch.name)) for i, watch in enumerate(_first(found))]
        name = "Unchanged images alone" if row.number == 0 else f"{told(row, row.threat)}, and as many unchanged"
        yield risk_chart(f"detected-risk-{row.number}", name, curves)


def _curve_name(row: TrialRow) -> str:
    return told(row) + (", detector known" if row.adaptive else "")


def _first(found: Detection) -> list[WatchRow]:
    """As many detectors as a chart can show: those that decide first."""
    return sorted(found.watches, key=lambda watch: not watch.decides)[: MOST + 1]


def _strongest(found: Detection) -> list[TrialRow]:
    """Of each attack that does not know the detectors one trial, those that change most answers first; all of one size."""
    rows = [row for row in found.rows if row.naive and found.measured(row.number) and found.trial(row.number).concerned.any()]
    where = next((row.size for row in rows if row.size in found.sizes), rows[0].size if rows else None)
    alike = [row for row in rows if row.size == where]
    ordered = sorted(alike, key=lambda row: (row.until != "spent", -found.success(row.number).value, row.number))
    return [row for place, row in enumerate(ordered) if row.attack not in {other.attack for other in ordered[:place]}]


# -- joins -------------------------------------------------------------------------------------------------------------


def _worst(ledger: Ledger, quantity: str, share: Estimate, row: TrialRow, part: str) -> Figure:
    return ledger.note_worst(quantity, share, "another answer than the model's own", row.threat, row.epsilon, part=part)
