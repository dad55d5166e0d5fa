"""What a report says of the model under attack: each attack, each threat and goal, and the size at which the summary looks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow, size
from antivenom.report import words
from antivenom.report.charts import Chart, Curve, security_chart
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.panels import Panel, panels

HALF = 0.5
AXES = {
    "linf": "largest change of a value, in 255ths of its range",
    "stripes": "largest change of a column, in 255ths of the range",
    "l2": "L2 norm of the change",
    "l1": "sum of all changes (L1 norm)",
    "l0": "values changed",
}


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
class Headline:
    """The size at which the summary looks."""

    threat: str
    goal: str
    epsilon: float
    block: SizeBlock
    in_words: str
    half_turned: bool


def _title(audit: Audit, row: PlanRow) -> str:
    facts = audit.attacks.get(row.attack)
    return (facts.title if facts else row.attack) + row.label.removeprefix(row.attack)


def attacks_of(audit: Audit) -> Iterator[AttackRun]:
    """Each attack that was measured, the noise last."""
    measured = [row for row in audit.rows if not row.clean and audit.measured(row.number)]
    for label in dict.fromkeys(row.label for row in sorted(measured, key=lambda row: (row.control, row.number))):
        rows = [row for row in measured if row.label == label]
        facts = audit.attacks.get(rows[0].attack)
        settings = dict.fromkeys(words.settings_in_words(row) for row in rows)
        stops = dict.fromkeys("when fooled" if row.until == "fooled" else "when spent" for row in rows)
        sees = {
            "gradient": "gradients (white box)",
            "scores": "scores (black box)",
            "labels": "decisions (black box)",
            "nothing": "nothing (control)",
        }
        yield AttackRun(
            _title(audit, rows[0]),
            sees.get(facts.sees, facts.sees) if facts else "",
            next(iter(settings)) if len(settings) == 1 else "by size, see below",
            words.listed(list(stops)),
            facts.summary.rstrip(".") if facts else "",
        )


def battles_of(audit: Audit, ledger: Ledger) -> Iterator[Battle]:
    """Each threat and goal under which something was measured."""
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
        size(threat, epsilon),
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
    kind = words.norm(threat)
    x_label = AXES.get(kind, f"share of the limits of {kind}")

    def tick(epsilon: float) -> str:
        return words.plain(epsilon * 255 if kind in ("linf", "stripes") else epsilon, 2)

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


def headline_of(audit: Audit, battles: Sequence[Battle]) -> Headline | None:
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


def _values(audit: Audit) -> int:
    data = audit.protocol["data"]
    sides = data["size"] if isinstance(data["size"], list) else [data["size"]] * 2
    return int(data["channels"]) * math.prod(int(side) for side in sides)
