"""What a report says of detectors: what they notice of attackers who do not know them and of those who do, and at what cost.

The chapter is about the guard as it decides. Where several detectors decide, charts show the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from antivenom.errors import NotMeasuredError
from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Accepted, Detection, Passed
from antivenom.records.plan import size
from antivenom.records.trials import CLEAN_ROW, HELD_OUT, TrialRow, WatchRow
from antivenom.report import words
from antivenom.report.charts import Chart
from antivenom.report.detection_charts import BarChart, bar_chart, histogram_chart, risk_chart, roc_chart
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.li2020 import Paper, paper_of
from antivenom.report.reasons import WORKS as WORKS_ON_REASONS
from antivenom.report.reasons import Why, unreasoned, why_of

RATE = 0.05  # of false alarms at which attacks are told
MOST = 5  # lines in a chart that can be told apart
SURE, WEAK = 0.9, 0.5  # a detector that notices so much, and an attacker who knows it and gets past with so little, do not fit
GUARD = "the guard"
NAMES = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "pgd": "PGD",
    "mim": "MIM",
    "ddn": "DDN",
    "deepfool": "DeepFool",
    "square": "Square",
    "noise": "Random noise",
    "orthogonal_pgd": "Orthogonal PGD",
    "feature_matching": "Feature matching",
}
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
        tuple(_sentences(found, ledger, judge)),
        tuple(_warnings(found)),
        str(found.asked.get("policy", "")),
        len(found.groups),
        len(found.splits[HELD_OUT]),
        _called(found, judge),
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


def unmeasured(found: Detection | None) -> Iterator[str]:
    """What the examination asked for and did not measure yet."""
    if found is None:
        return
    for (number, split), (done, wanted) in found.progress.items():
        if not found.measured(number, split):
            row = found.rows[number]
            what = f"unchanged images of ‘{split}’" if number == 0 else _told(row, row.threat)
            yield f"Detection, {what}: {done:,} of {wanted:,} images are measured; no figure of it is stated."
    if not any(row.adaptive for row in found.rows):
        yield "Detection under an attacker who knows the detector: none was asked for. Those who do not know it are no bound."
    yield from unreasoned(found)


# -- sentences ---------------------------------------------------------------------------------------------------------


def _sentences(found: Detection, ledger: Ledger, judge: str | None) -> Iterator[str]:
    who = _called(found, judge)
    alarms = ledger.note_detection("false alarms", found.alarms(judge), CLEAN_ROW, who).estimate
    yield _opening(found, judge, who, alarms)
    rows = [row for row in found.rows if row.naive and found.measured(row.number)]
    if rows:
        seen = [(found.noticed(row.number, judge), row) for row in rows]
        ordered = sorted(((share, row) for share, row in seen if share.measured), key=lambda pair: pair[0].value)
        if ordered:
            (low, least), (high, most) = ordered[0], ordered[-1]
            yield (
                f"Of all the images that an attack which does not know it changed, whether that turned an answer or not, {who} "
                f"flags between {words.percent(low)} ({_told(least, least.threat)}) and {words.percent(high)} "
                f"({_told(most, most.threat)})."
            )
    kept = found.accepted(0, judge)
    everything = found.accepted(0, judge, all_=True)
    things = "decisions about them" if found.task.multilabel else "them"
    yield (
        f"What it costs: {words.percent(kept.coverage)} of the unchanged images are let through. Of {things} "
        f"{words.percent(kept.accuracy)} are right; of all it would be {words.percent(everything.accuracy)}."
    )
    yield (
        "A detector is worth what is left of it once it is known: whoever can read the weights of the model can read those of "
        "the detector beside it. Shares noticed of attackers who know nothing are no bound for any who do."
    )


def _opening(found: Detection, judge: str | None, who: str, alarms: Estimate) -> str:
    """The bottom line: at which false-alarm rate how much is stopped, without and with knowledge of the detector."""
    at = f"At {words.percent(alarms)} false alarms on unchanged test images (95 % interval {_ends(alarms)})"
    passed, where = _main_passed(found, judge)
    if passed is None:
        whom = "all of its detectors" if judge is None and len(found.deciding) > 1 else "it"
        return (
            f"{at}, what {who} stops of an attacker who knows it cannot be said: none who knows {whom} was measured. What "
            "follows is about attackers who do not, and no bound for those who do."
        )
    naive, knowing = _stopped(passed.naive_evasion), _stopped(passed.evasion)
    past = f"{words.of_hundred(knowing)} (95 % interval {words.interval_of_hundred(knowing)})"
    unaware = f"{words.of_hundred(naive)} (95 % interval {words.interval_of_hundred(naive)})" if naive.measured else ""
    stopped = (
        f"stops {unaware} of 100 changed answers while the attacker does not know it, and {past} once it is known"
        if unaware
        else f"stops {past} of 100 changed answers of an attacker who knows it"
    )
    return (
        f"{at}, {who} {stopped}. The attacks stay within {_size(*where)} and change the answers about "
        f"{words.percent(passed.overturned)} of the images, noticed or not; each image meets the worst of what was tried."
    )


def _warnings(found: Detection) -> Iterator[str]:
    """Signs that the attackers who know a detector are weaker than they should be."""
    for watch in found.watches:
        for where in found.sizes:
            passed = _passed(found, watch.name, where)
            if passed is None or not passed.adaptive_evasion.measured:
                continue
            seen = [found.noticed(row.number, watch.name).value for row in found.unknowing(where) if row.until == "spent"]
            share = words.percent(passed.adaptive_evasion)
            if passed.naive_evasion.measured and passed.adaptive_evasion.value < passed.naive_evasion.value:
                yield (
                    f"{watch.title}: attackers who know it get past with {share} of the changed answers, those who do not "
                    f"with {words.percent(passed.naive_evasion)}. Knowledge cannot harm: these attacks are too weak."
                )
            elif seen and min(seen) >= SURE and passed.adaptive_evasion.value < WEAK:
                yield (
                    f"{watch.title}: attackers who know it get past with {share} of the changed answers only. Until stronger "
                    "ones were tried, that says more of these attacks than of the detector."
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
        return ledger.note_detection("noticed", share, row, part), _told(row, row.threat)

    weakest, name = least(naive)
    passed, where = _main_passed(found, watch.name)
    stopped: tuple[Figure | None, Figure | None] = (None, None)
    if passed is not None:
        row = next(row for row in found.knowing(watch.name, where))
        said = ("stopped of changed answers, detector not known", "stopped of changed answers, detector known")
        shares = (_stopped(passed.naive_evasion), _stopped(passed.evasion))
        stopped = tuple(_worst(ledger, text, share, row, part) for text, share in zip(said, shares, strict=True))  # type: ignore[assignment]
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
        *stopped,
    )


def _attacks(found: Detection, ledger: Ledger) -> Iterator[TrialBlock]:
    """Every attack that knows nothing of detectors, at the thresholds of one rate."""
    made = (("On the model itself", "naive"), ("On another model", "carried_over"), ("Control", "control"))
    for title, trait in made:
        rows = [row for row in found.rows if getattr(row, trait) and found.measured(row.number)]
        for where in dict.fromkeys(row.size for row in rows):
            mine = tuple(_trial(found, ledger, row) for row in rows if row.size == where)
            yield TrialBlock(f"{title}, {_size(*where)}", mine)


def _trial(found: Detection, ledger: Ledger, row: TrialRow) -> TrialLine:
    noticed = (
        ledger.note_detection(
            "noticed", found.noticed(row.number, watch.name, RATE), row, f"{watch.title} at {100 * RATE:g} % false alarms"
        )
        for watch in found.watches
    )
    overturned = ledger.note_detection("answers changed", found.success(row.number), row, "no detector")
    return TrialLine(_told(row), overturned, tuple(noticed), row.control)


def _knowing(found: Detection, ledger: Ledger) -> Iterator[KnowingBlock]:
    """The attackers who know each detector, and the worst of them by image."""
    names = [*(watch.name for watch in found.watches), *([None] if len(found.deciding) > 1 else [])]
    for where in found.sizes:
        for name in names:
            passed = _passed(found, name, where)
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
            yield KnowingBlock(f"{title}, {_size(*where)}", (worst, *lines))


def _knowing_line(found: Detection, ledger: Ledger, row: TrialRow, name: str | None, part: str) -> KnowingLine:
    return KnowingLine(
        _told(row),
        ledger.note_detection("answers changed", found.success(row.number), row, "no detector"),
        ledger.note_detection("changed and unnoticed", found.unnoticed(row.number, name), row, part),
        ledger.note_detection("noticed", found.noticed(row.number, name), row, part),
        False,
    )


def _alarms(found: Detection, ledger: Ledger, judge: str | None) -> Iterator[AlarmBlock]:
    """Alarms where nobody attacks."""
    who = _called(found, judge)

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
        return ledger.note_detection("flagged", found.alarms(judge, number=row.number), row, _called(found, judge))

    names = dict.fromkeys(row.attack for row in rows)
    lines = tuple(NaturalLine(name.replace("_", " "), tuple(figure(name, level) for level in levels)) for name in names)
    return Natural(tuple(f"severity {level}" for level in levels), lines)


def _kept(found: Detection, ledger: Ledger, judge: str | None, shown: str) -> Iterator[KeptLine]:
    """The model on what is let through: of clean images, and of attacks that know nothing, mixed with the same unchanged."""
    who = _called(found, judge)
    for row in (CLEAN_ROW, *(row for row in found.rows if row.naive and row.until == "spent" and found.measured(row.number))):
        kept, everything = found.accepted(row.number, judge), found.accepted(row.number, judge, all_=True)
        if not everything.accuracy.measured:
            continue

        def note(quantity: str, share: Estimate, row: TrialRow = row, part: str = who) -> Figure:
            return ledger.note_detection(quantity, share, row, f"{part}, mixed with unchanged" if row.number else part)

        area, curve = found.risk_coverage_area(row.number, shown), found.risk_coverage(row.number, shown)
        yield KeptLine(
            "Unchanged images alone" if row.number == 0 else f"{_told(row, row.threat)}, and unchanged",
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
        passed, _ = _main_passed(found, watch.name)
        if passed is not None:
            rows.append((watch.title, (passed.overturned, passed.naive, passed.known)))
    if not rows:
        return None
    where = _main_passed(found, next(w.name for w in found.watches if _main_passed(found, w.name)[0]))[1]
    return bar_chart("detected-bars", f"What gets past, {_size(*where)}", kinds, rows, "answers changed, % of images")


def _scores(found: Detection, shown: WatchRow) -> Chart | None:
    """How the scores of unchanged images lie, and of attacks made without and with knowledge of the detector."""
    naive, passed = _strongest(found), _main_passed(found, shown.name)
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
    naive, passed = _strongest(found), _main_passed(found, shown.name)
    knowing = found.knowing(shown.name, passed[1])[:1] if passed[0] else ()
    first = sorted(naive[: MOST - len(knowing)], key=lambda row: row.number)
    rows = [*((row, f"s{i}") for i, row in enumerate(first)), *((row, "worst") for row in knowing)]
    if rows:
        curves = [(_curve_name(row), style, *found.roc(row.number, shown.name)) for row, style in rows]
        yield roc_chart("detected-roc", f"ROC of {shown.title}", curves)
    if naive and len(found.watches) > 1:
        each = [(watch.title, f"s{i}", *found.roc(naive[0].number, watch.name)) for i, watch in enumerate(_first(found))]
        yield roc_chart("detected-roc-each", f"ROC by detector, {_told(naive[0], naive[0].threat)}", each)


def _risks(found: Detection) -> Iterator[Chart]:
    """What is right of the images kept: of unchanged ones alone, and mixed with those of the strongest attack."""
    for row in (CLEAN_ROW, *_strongest(found)[:1]):
        curves = [(watch.title, f"s{i}", found.risk_coverage(row.number, watch.name)) for i, watch in enumerate(_first(found))]
        name = "Unchanged images alone" if row.number == 0 else f"{_told(row, row.threat)}, and as many unchanged"
        yield risk_chart(f"detected-risk-{row.number}", name, curves)


def _curve_name(row: TrialRow) -> str:
    return _told(row) + (", detector known" if row.adaptive else "")


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


def _passed(found: Detection, detector: str | None, where: tuple[str, float]) -> Passed | None:
    try:
        return found.passed(detector, where)
    except NotMeasuredError:
        return None


def _main_passed(found: Detection, detector: str | None) -> tuple[Passed | None, tuple[str, float]]:
    """What gets past a detector at the first size at which attackers who know it were measured."""
    for where in found.sizes:
        passed = _passed(found, detector, where)
        if passed is not None and passed.evasion.measured:
            return passed, where
    return None, ("", 0.0)


def _worst(ledger: Ledger, quantity: str, share: Estimate, row: TrialRow, part: str) -> Figure:
    return ledger.note_worst(quantity, share, "another answer than the model's own", row.threat, row.epsilon, part=part)


def _stopped(evasion: Estimate) -> Estimate:
    e = evasion
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.groups, e.method)


def _called(found: Detection, judge: str | None) -> str:
    return GUARD if judge is None else found.watch(judge).title


def _size(threat: str, epsilon: float) -> str:
    """A size as a heading; a limit that nothing can reach is none.

    >>> _size("linf", 0.02), _size("l2", 1e6)
    ('L∞ 5.1/255', 'L2, as much as it takes')
    """
    kind = words.norm(threat)
    if (kind == "linf" and epsilon >= 1) or (kind in ("l1", "l2", "l0") and epsilon >= 1e5):
        return f"{words.threat_name(threat)}, as much as it takes"
    return f"{words.threat_name(threat)} {size(threat, epsilon)}"


def _told(row: TrialRow, threat: str = "") -> str:
    """A trial in a few words: the attack, what tells it from others, and its size where that is asked for.

    >>> from dataclasses import replace
    >>> _told(replace(CLEAN_ROW, kind="attack", attack="pgd", label="pgd step_size=0.1 until=spent"))
    'PGD, step size 0.1, until spent'
    """
    traits = [trait.replace("_", " ").replace("=", " ") for trait in row.label.removeprefix(row.attack).split()]
    if row.kind == "corruption":
        traits = [f"{name} {value}" for name, value in row.settings.items()]
    name = NAMES.get(row.attack, row.attack.replace("_", " "))
    return ", ".join([name, *traits, *([_size(threat, row.epsilon)] if threat else [])])


def _ends(share: Estimate) -> str:
    return f"{100 * share.low:.1f} to {100 * share.high:.1f}"
