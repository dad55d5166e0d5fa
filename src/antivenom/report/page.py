"""What the page says: every section as plain values, taken from an audit and noted in the ledger. The template only prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.errors import NotMeasuredError
from antivenom.metrics.intervals import Estimate
from antivenom.records.audit import AttackFacts, Audit, Flag, PlanRow
from antivenom.report import words
from antivenom.report.charts import Chart, Curve, reliability_chart, security_chart
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.panels import Panel, panels
from antivenom.report.threat_model import Statement, threat_model

Array = np.ndarray[Any, Any]

HALF, BINS = 0.5, 10


@dataclass(frozen=True)
class Tile:
    """A figure that stands out, with what to compare it with."""

    label: str
    figure: Figure
    note: str
    decimal: bool = False


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


@dataclass(frozen=True)
class AttackLine:
    """One attack at one size; `row` is None for the worst case."""

    row: PlanRow | None
    title: str
    detail: str
    sees: str
    accuracy: Figure
    balanced: Figure
    auroc: Figure | None
    success: Figure
    queries: Figure | None
    gradients: Figure | None


@dataclass(frozen=True)
class AttackRun:
    """One attack as it was run."""

    title: str
    sees: str
    settings: str
    stops: str
    summary: str


@dataclass(frozen=True)
class SizeBlock:
    """Everything that was measured at one size of a threat and goal."""

    size: str
    in_words: str
    lines: tuple[AttackLine, ...]

    @property
    def worst(self) -> AttackLine:
        """The worst case."""
        return self.lines[0]


@dataclass(frozen=True)
class Battle:
    """One threat and goal."""

    ident: str
    name: str
    threat: str
    goal: str
    goal_in_words: str
    charts: tuple[Chart, ...]
    blocks: tuple[SizeBlock, ...]
    unbounded: tuple[AttackLine, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class PartRow:
    """One class or source: unchanged, and in the worst case."""

    name: str
    clean: Figure
    worst: Figure | None


@dataclass(frozen=True)
class Headline:
    """The size at which the summary looks."""

    threat: str
    goal: str
    epsilon: float
    block: SizeBlock
    in_words: str
    half_turned: bool


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    unit: str
    multilabel: bool
    colour: bool
    classes: tuple[str, ...]
    images: int
    patients: int | None
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
    clean: Clean
    attacks: tuple[AttackRun, ...]
    battles: tuple[Battle, ...]
    headline: Headline | None
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
    images, patients = len(audit.targets), len(np.unique(audit.groups))
    named = bool((audit.groups != audit.splits["test"].images).any())
    clean = _clean(audit, ledger)
    battles = tuple(_battles(audit, ledger))
    headline = _headline(audit, battles)
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
        patients=patients if named else None,
        finished=audit.finished,
        rows_done=done,
        rows_wanted=len(audit.rows),
        date=str(audit.provenance.get("finished") or audit.provenance["started"])[:10],
        verdict=_verdict(audit, headline),
        warning=f"{words.counted(serious, 'serious flag')} below: clear before relying on the figures." if serious else "",
        summary=tuple(_summary(audit, clean, headline)),
        tiles=tuple(_tiles(clean, headline, multilabel)),
        card=threat_model(audit),
        flags=audit.flags,
        clean=clean,
        attacks=tuple(_attacks(audit)),
        battles=battles,
        headline=headline,
        by_class=tuple(_by_class(audit, ledger, headline)),
        by_source=tuple(_by_source(audit, ledger, headline)),
        caveats=tuple(map(str, protocol["data"].get("caveats", ()))),
        not_measured=tuple(_not_measured(audit, clean, named)),
        limits=LIMITS,
        bibliography=tuple(
            audit.attacks[name]
            for name in dict.fromkeys(row.attack for row in audit.rows if audit.measured(row.number))
            if name in audit.attacks
        ),
        provenance=tuple(_provenance(audit)),
        command=str(audit.provenance.get("command") or ""),
    )


# -- unchanged images --------------------------------------------------------------------------------------------------


def _clean(audit: Audit, ledger: Ledger) -> Clean:
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


# -- under attack ------------------------------------------------------------------------------------------------------


def _title(audit: Audit, row: PlanRow) -> str:
    facts = audit.attacks.get(row.attack)
    return (facts.title if facts else row.attack) + row.label.removeprefix(row.attack)


def _attacks(audit: Audit) -> Iterator[AttackRun]:
    measured = [row for row in audit.rows if not row.clean and audit.measured(row.number)]
    for label in dict.fromkeys(row.label for row in sorted(measured, key=lambda row: (row.control, row.number))):
        rows = [row for row in measured if row.label == label]
        facts = audit.attacks.get(rows[0].attack)
        settings = dict.fromkeys(words.settings_in_words(row) for row in rows)
        stops = dict.fromkeys("when fooled" if row.until == "fooled" else "when spent" for row in rows)
        sees = {"gradient": "gradients (white box)", "scores": "scores (black box)", "nothing": "nothing (control)"}
        yield AttackRun(
            _title(audit, rows[0]),
            sees.get(facts.sees, facts.sees) if facts else "",
            next(iter(settings)) if len(settings) == 1 else "by size, see below",
            words.listed(list(stops)),
            facts.summary.rstrip(".") if facts else "",
        )


def _battles(audit: Audit, ledger: Ledger) -> Iterator[Battle]:
    for goal in audit.goals:
        for threat in audit.threats:
            rows = audit.select(threat, goal)
            if not any(not row.control for row in rows):
                continue
            ident = f"battle-{audit.goals.index(goal)}-{audit.threats.index(threat)}"
            blocks = tuple(_block(audit, ledger, threat, goal, epsilon) for epsilon in audit.epsilons(threat, goal))
            yield Battle(
                ident,
                words.threat_name(threat),
                threat,
                goal,
                words.goal_in_words(goal),
                tuple(_charts(audit, threat, goal, ident)) if blocks else (),
                blocks,
                tuple(_line(audit, ledger, row) for row in rows if row.unbounded),
                panels(audit, threat) if goal == audit.goals[0] else (),
            )


def _block(audit: Audit, ledger: Ledger, threat: str, goal: str, epsilon: float) -> SizeBlock:
    worst = audit.worst_case(threat, epsilon, goal)
    attacks = [row for row in worst.rows if not row.clean]
    count = len({row.label for row in attacks if not row.control})
    first = AttackLine(
        None,
        "Worst case",
        f"of {words.counted(count, 'attack')}" + (" and the noise" if any(row.control for row in attacks) else ""),
        "",
        ledger.note_worst("accuracy", worst.accuracy, goal, threat, epsilon),
        ledger.note_worst("balanced accuracy", audit.balanced_accuracy_of(worst.right), goal, threat, epsilon),
        None,
        ledger.note_worst("success rate", worst.success, goal, threat, epsilon),
        None,
        None,
    )
    rows = audit.select(threat, goal, epsilon=epsilon)
    ordered = sorted(rows, key=lambda row: (row.control, row.number))
    return SizeBlock(
        words.size(threat, epsilon),
        words.size_in_words(threat, epsilon, _values(audit)),
        (first, *(_line(audit, ledger, row) for row in ordered)),
    )


def _line(audit: Audit, ledger: Ledger, row: PlanRow) -> AttackLine:
    facts = audit.attacks.get(row.attack)
    n, groups = len(audit.targets), len(np.unique(audit.groups))
    # Settings that an attack keeps throughout are told once, in the table of attacks.
    constant = len({words.settings_in_words(r) for r in audit.rows if r.label == row.label}) == 1
    return AttackLine(
        row,
        _title(audit, row),
        "" if constant else words.settings_in_words(row),
        facts.sees if facts else "",
        ledger.note("accuracy", audit.accuracy(row.number), row),
        ledger.note("balanced accuracy", audit.balanced_accuracy(row.number), row),
        ledger.note("mean AUROC", audit.mean_auroc(row.number), row),
        ledger.note("success rate", audit.success_rate(row.number), row),
        ledger.note("queries per image", plain_number(audit.queries(row.number), n, groups, "mean"), row),
        ledger.note("gradients per image", plain_number(audit.gradients(row.number), n, groups, "mean"), row),
    )


def _charts(audit: Audit, threat: str, goal: str, ident: str) -> Iterator[Chart]:
    """Accuracy against size; for findings the mean AUROC beside it, since absent findings make up most of accuracy."""
    name = words.threat_name(threat)
    x_label = "largest change of a value, in 255ths of its range" if words.norm(threat) == "linf" else "L2 norm of the change"

    def tick(epsilon: float) -> str:
        return words.plain(epsilon * 255 if words.norm(threat) == "linf" else epsilon, 2)

    rows = [row for row in audit.select(threat, goal) if not row.unbounded]
    labels = list(dict.fromkeys(row.label for row in sorted(rows, key=lambda row: (not row.control, row.number))))

    def drawn(figure: str) -> list[tuple[str, str, Curve]]:
        curves: list[tuple[str, str, Curve]] = []
        place = 0
        for label in labels:
            mine = sorted((row for row in rows if row.label == label), key=lambda row: row.epsilon)
            title = _title(audit, mine[0])
            style = "noise" if mine[0].control else f"s{place % 6}"
            place += not mine[0].control
            values = [(0, 0.0), *((row.number, row.epsilon) for row in mine)]
            take = {"accuracy": audit.accuracy, "balanced": audit.balanced_accuracy, "auroc": audit.mean_auroc}[figure]
            curves.append((title, style, [(epsilon, take(number)) for number, epsilon in values]))
        return curves

    if audit.task.multilabel:
        yield security_chart(
            f"{ident}-auroc",
            f"Mean AUROC over findings, {name}",
            drawn("auroc"),
            x_label,
            "mean AUROC",
            tick,
            factor=1,
            unit="",
            level=(0.5, "no better than chance"),
        )
        worst: Curve = [
            (0.0, audit.balanced_accuracy()),
            *((e, audit.balanced_accuracy_of(audit.worst_case(threat, e, goal).right)) for e in audit.epsilons(threat, goal)),
        ]
        yield security_chart(
            f"{ident}-balanced",
            f"Balanced accuracy of decisions, {name}",
            [*drawn("balanced"), ("Worst case", "worst", worst)],
            x_label,
            "balanced accuracy, %",
            tick,
            level=(audit.constant_balanced_accuracy, "any constant answer"),
        )
        return
    yield security_chart(
        f"{ident}-accuracy",
        f"Accuracy, {name}",
        [*drawn("accuracy"), ("Worst case", "worst", audit.worst_curve(threat, goal))],
        x_label,
        "accuracy, %",
        tick,
        level=(audit.constant_accuracy.value, f"always ‘{audit.constant_answer}’"),
    )


def _headline(audit: Audit, battles: Sequence[Battle]) -> Headline | None:
    """The smallest size at which half of what was right is turned, in the first threat; else the largest size."""
    battle = next((battle for battle in battles if battle.blocks and battle.goal == audit.goals[0]), None)
    if battle is None:
        return None
    pairs = list(zip(audit.epsilons(battle.threat, battle.goal), battle.blocks, strict=True))
    for epsilon, block in pairs:
        if block.worst.success.measured and block.worst.success.estimate.value >= HALF:
            return Headline(battle.threat, battle.goal, epsilon, block, block.in_words, True)
    epsilon, block = pairs[-1]
    return Headline(battle.threat, battle.goal, epsilon, block, block.in_words, False)


# -- in words ----------------------------------------------------------------------------------------------------------


def _verdict(audit: Audit, headline: Headline | None) -> str:
    things = "right decisions" if audit.task.multilabel else "right readings"
    if headline is None or not headline.block.worst.success.measured:
        return "No attack is measured yet: this page says how the model reads unchanged images, and nothing about robustness."
    turned = headline.block.worst.success.estimate
    if headline.half_turned:
        first = f"A change of {headline.in_words} turns {words.of_hundred(turned)} of 100 {things} wrong"
        noise = next((line for line in headline.block.lines if line.row and line.row.control), None)
        if noise is None:
            return first + "."
        return f"{first}; random noise of the same size turns {words.of_hundred(noise.success.estimate)}."
    kept = Estimate(1 - turned.value, 1 - turned.high, 1 - turned.low, turned.n, turned.groups, turned.method)
    return f"Of 100 {things}, {words.of_hundred(kept)} withstood every attack tried, up to a change of {headline.in_words}."


def _summary(audit: Audit, clean: Clean, headline: Headline | None) -> Iterator[str]:
    multilabel = audit.task.multilabel
    accuracy, balanced = clean.accuracy.estimate, clean.balanced.estimate
    constant = words.percent(clean.constant.estimate)
    if multilabel:
        yield (
            f"On unchanged images the model tells images with a finding from those without it with a mean AUROC of "
            f"{clean.mean_auroc.estimate.value:.3f} (0.5 is chance, 1 is perfect). At its operating points it decides "
            f"{words.percent(accuracy)} of all findings rightly; giving {clean.constant_answer} would be right in {constant}, "
            f"since most findings are absent. Sensitivity and specificity average {words.percent(balanced)}; any constant "
            f"answer has 50 %."
        )
    else:
        yield (
            f"On unchanged images the model reads {words.percent(accuracy)} rightly. Always answering "
            f"‘{clean.constant_answer}’ would be right in {constant}. Averaged over the classes (balanced accuracy) it "
            f"is right in {words.percent(balanced)}, a constant answer in {100 * clean.constant_balanced:.1f} %."
        )
    if headline is None or not headline.block.worst.success.measured:
        return
    worst = headline.block.worst
    things, turned = (
        ("findings that the model decides", "decided wrongly") if multilabel else ("scans the model reads", "misread")
    )
    yield (
        f"Of 100 {things} rightly, {words.of_hundred(worst.success.estimate)} (95 % interval "
        f"{words.interval_of_hundred(worst.success.estimate)}) are {turned} after a deliberate change of {headline.in_words}. "
        f"{_comparison(headline)}"
        + (
            "This is the smallest size tested at which at least half are turned."
            if headline.half_turned
            else "This is the largest size tested; none turned half of them."
        )
    )
    helpless = _helpless_from(audit, headline)
    if helpless:
        yield helpless
    outside = [line for line in headline.block.lines if line.sees == "scores"]
    if outside:
        best = max(outside, key=lambda line: line.success.estimate.value)
        queries = best.queries.estimate.value if best.queries else 0
        yield (
            f"An adversary who cannot look inside the model and only sees its scores ({best.title}) turns "
            f"{words.of_hundred(best.success.estimate)} of 100 at that size, asking the model {queries:,.0f} times per "
            "image on average."
        )


def _comparison(headline: Headline) -> str:
    noise = next((line for line in headline.block.lines if line.row and line.row.control), None)
    if noise is None:
        return ""
    e = noise.success.estimate
    return f"Random noise of the same size turns {words.of_hundred(e)} ({words.interval_of_hundred(e)}). "


def _helpless_from(audit: Audit, headline: Headline) -> str:
    """From which size on the model is worth no more than an answer that looks at nothing."""
    chance = audit.constant_balanced_accuracy
    for epsilon in audit.epsilons(headline.threat, headline.goal):
        worst = audit.worst_case(headline.threat, epsilon, headline.goal)
        balanced = audit.balanced_accuracy_of(worst.right)
        if balanced.measured and balanced.value <= chance:
            where = words.size(headline.threat, epsilon)
            return (
                f"From {where} on, the model under attack is worth no more than an answer that does not look at the image: its "
                f"balanced accuracy is {words.percent(balanced)}, that of any constant answer {100 * chance:.1f} %."
            )
    return ""


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


def _not_measured(audit: Audit, clean: Clean, named: bool) -> Iterator[str]:
    open_rows = [row for row in audit.rows if not audit.measured(row.number)]
    for row in open_rows:
        done, wanted = audit.progress[row.number]
        yield (
            f"{row.label}, {words.threat_name(row.threat)} {words.size(row.threat, row.epsilon)}, {row.goal}: {done:,} of "
            f"{wanted:,} images are measured; no figure of it is stated."
            if not row.clean
            else f"clean images: {done:,} of {wanted:,} are measured."
        )
    for part in clean.classes:
        if not part.auroc.measured:
            yield f"AUROC of ‘{part.name}’: the test images hold {part.count} of it, so there is nothing to tell apart."
        if part.threshold is not None and not part.threshold.measured:
            yield f"Sensitivity and specificity of ‘{part.name}’: the validation images gave it no operating point." + (
                " Its decisions are taken at a probability of one half." if audit.task.multilabel else ""
            )
    if audit.flags is None:
        yield "Whether the attacks did their work: nobody has looked for signs of failure in these records yet."
    if not any(row.control and audit.measured(row.number) for row in audit.rows):
        yield "Random noise of the same size, the control without which an attack's success says little."
    if not any(row.unbounded and audit.measured(row.number) for row in audit.rows):
        yield "An attack without bounds, which must reach 0 % if the attacks work at all."
    if not named:
        yield (
            "Patients: the data set names none, so every image counts as a patient of its own. If several images are of one "
            "patient, the intervals are too narrow."
        )


LIMITS = (
    "An accuracy under attack is an upper bound: it holds for the attacks that were run, and a better one can only lower it. "
    "Nothing here is a certificate.",
    "Whether a radiologist, ophthalmologist or dermatologist would notice a change was not asked. The pictures show some "
    "of the changes.",
    "The adversary changes the image as the model receives it. Changes made in the scanner, on paper or screen, or in the "
    "training data are other threats, and so are examples carried over from another model.",
    "The figures hold for images like those tested. At another hospital, camera or population, measure again.",
)


def _provenance(audit: Audit) -> Iterator[tuple[str, str]]:
    found, protocol = audit.provenance, audit.protocol
    yield "Model digest", str(found["weights"])
    yield "Data digest", str(found["data"])
    yield "Code digest", str(found["code"])
    data = protocol["data"]
    size = " × ".join(map(str, data["size"])) if isinstance(data["size"], list) else str(data["size"])
    yield (
        "Images",
        f"{data['name']}: {size}, {words.counted(data['channels'], 'channel')}; {data['val']} validation, {data['test']} test",
    )
    yield "Seed", str(protocol["seed"])
    yield "Plan", f"{len(audit.rows)} rows, shards of {protocol['shard']} images"
    for name in ("precision", "machine", "versions"):
        if found.get(name):
            yield name.capitalize(), _flat(found[name])
    yield "Started", str(found["started"])
    yield "Finished", f"{found['finished']} ({_duration(found['seconds'])})" if found.get("finished") else "not finished"
    for name, value in found["card"].items():
        if value not in (None, "", [], {}) and name != "task":
            yield f"Model card: {name.replace('_', ' ')}", _flat(value)
    yield "Classes", ", ".join(audit.task.classes) + (" (each present or absent)" if audit.task.multilabel else "")


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_flat(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(part) for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{n} {u}" for n, u in ((hours, "h"), (minutes, "min"), (rest, "s")) if n) or "0 s"


def _values(audit: Audit) -> int:
    data = audit.protocol["data"]
    sides = data["size"] if isinstance(data["size"], list) else [data["size"]] * 2
    return int(data["channels"]) * math.prod(int(side) for side in sides)


def run_identity(audit: Audit) -> dict[str, Any]:
    """What tells this run from others, for the files beside the page."""
    return {
        "model": audit.protocol["model"],
        "data": {name: audit.protocol["data"][name] for name in ("name", "digest", "val", "test")},
        "code": audit.provenance["code"],
        "seed": audit.protocol["seed"],
        "finished": audit.finished,
        "classes": list(audit.task.classes),
        "operating": json.loads(json.dumps(audit.operating)),
    }
