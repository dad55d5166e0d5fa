"""What a report says of the attacks themselves: the main one examined, and what each found for what it cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antivenom.metrics.intervals import proportion
from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow, size
from antivenom.report import words
from antivenom.report.charts import Chart, Curve, security_chart
from antivenom.report.figures import Figure, Ledger

BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, the share of images, and what it should be."""

    name: str
    figure: Figure
    meaning: str


@dataclass(frozen=True)
class Examined:
    """The main attack, examined."""

    attack: str
    findings: tuple[Finding, ...]


def examined_of(audit: Audit, ledger: Ledger) -> Examined | None:
    """What the examination found; None where there was none."""
    found = audit.diagnosis
    if found is None:
        return None
    row = audit.rows[found.row]
    place = {name: i for i, name in enumerate(audit.splits["test"].images.tolist())}
    groups = audit.groups[[place[name] for name in found.images.tolist()]]

    def share(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], meaning: str) -> Finding:
        figure = ledger.note(name, proportion(values.astype(float), groups[: len(values)]), row, part="examined")
        return Finding(name, figure, meaning)

    effort = {
        "as run": "what the figures above rest on",
        "twice the steps": "should add next to nothing",
        "twice the restarts": "should add next to nothing",
    }
    findings = [share(f"fooled, {name}", fooled, effort.get(name, "")) for name, fooled in found.convergence.items()]
    if found.posed is not None and found.found is not None and found.posed.any():
        chance = words.plain(100 * float(np.nanmean(found.chance)), 2) if found.chance is not None else "?"
        planted = np.where(found.posed, found.found.astype(float), np.nan)
        figure = ledger.note("planted examples found", proportion(planted, groups), row, part="examined")
        findings.append(
            Finding("planted examples found", figure, f"should be all; random points of the same size find {chance} %")
        )
    findings += [
        share("no gradient at the start", found.vanished, "should be none"),
        share("only the source of gradients fooled", found.refused, "should be none"),
    ]
    title = audit.attacks[row.attack].title if row.attack in audit.attacks else row.attack
    return Examined(f"{title}, {words.threat_name(row.threat)} {size(row.threat, row.epsilon)}", tuple(findings))


def cost_chart(audit: Audit, threat: str, goal: str, epsilon: float) -> Chart | None:
    """Accuracy left against forward and backward passes spent on each image, for attacks that stop when they succeed."""
    rows = [row for row in audit.select(threat, goal, epsilon=epsilon) if row.until == "fooled" and not row.control]
    if not rows:
        return None
    curves: list[tuple[str, str, Curve]] = []
    for place, row in enumerate(rows):
        title = audit.attacks[row.attack].title if row.attack in audit.attacks else row.attack
        curves.append((title + row.label.removeprefix(row.attack), f"s{place % 6}", _falling(audit, row)))
    return security_chart(
        f"cost-{audit.threats.index(threat)}",
        f"Accuracy left against effort, {words.threat_name(threat)} {size(threat, epsilon)}",
        curves,
        "forward and backward passes per image",
        "accuracy, %",
        lambda cost: f"{cost:g}",
    )


def _falling(audit: Audit, row: PlanRow) -> Curve:
    outcome, right = audit.outcome(row.number), audit.right(0)
    spent, turned = outcome.queries + outcome.gradients, ~audit.right(row.number)
    last = next((budget for budget in BUDGETS if budget >= spent.max()), BUDGETS[-1])
    points = [(0.0, audit.accuracy())]
    for budget in BUDGETS:
        if budget > last:
            break
        points.append((float(budget), audit.accuracy_of(right & ~(turned & (spent <= budget)[:, None]))))
    return points
