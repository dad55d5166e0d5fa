"""The figures of a report: what is printed is noted here first, so that the files beside the page hold the same numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antivenom.metrics.intervals import Estimate
from antivenom.records.plan import PlanRow
from antivenom.records.trials import TrialRow


@dataclass(frozen=True)
class Figure:
    """One printed number and what it is about.

    Attributes:
        quantity: e.g. `accuracy`.
        attack: label of the attack; `none` for clean images, `worst case` for the worst of all, `any, certified` for a proof.
        goal, threat, epsilon: of the attack; threat is empty and epsilon 0 for clean images.
        part: the class, finding or source that it is restricted to, e.g. `class melanoma`; empty for all.
        estimate: the number.
    """

    quantity: str
    attack: str
    goal: str
    threat: str
    epsilon: float
    part: str
    estimate: Estimate

    @property
    def measured(self) -> bool:
        """Whether there is a number at all."""
        return self.estimate.measured

    @property
    def has_interval(self) -> bool:
        """Whether the number has an interval."""
        return not math.isnan(self.estimate.low)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; None where a number is missing."""
        e = self.estimate
        ends = {name: _or_none(value) for name, value in (("value", e.value), ("low", e.low), ("high", e.high))}
        about = {name: getattr(self, name) for name in ("quantity", "attack", "goal", "threat", "epsilon", "part")}
        return {**about, **ends, "n": e.n, "groups": e.groups, "method": e.method}


class Ledger:
    """The figures of one report, in the order in which they were noted."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str, str, str, float, str], Figure] = {}

    def note(self, quantity: str, estimate: Estimate, row: PlanRow | None = None, *, part: str = "") -> Figure:
        """Note a figure of a row of the plan (None: the clean images) and give it back for printing."""
        if row is None or row.clean:
            return self._note(Figure(quantity, "none", "", "", 0.0, part, estimate))
        return self._note(Figure(quantity, row.label, row.goal, row.threat, row.epsilon, part, estimate))

    def note_worst(
        self, quantity: str, estimate: Estimate, goal: str, threat: str, epsilon: float, *, part: str = ""
    ) -> Figure:
        """Note a figure of the worst case."""
        return self._note(Figure(quantity, "worst case", goal, threat, epsilon, part, estimate))

    def note_certified(
        self, quantity: str, estimate: Estimate, sigma: float, radius: float, goal: str = "any other answer"
    ) -> Figure:
        """Note a figure of the model smoothed by noise: what holds against any change in L2 up to this radius."""
        return self._note(Figure(quantity, "any, certified", goal, "l2", radius, f"sigma {sigma:g}", estimate))

    def note_detection(self, quantity: str, estimate: Estimate, row: TrialRow, part: str) -> Figure:
        """Note a figure of detectors around the model: of a trial, judged as `part` says."""
        traits = [f"past {' and '.join(row.evading)}"] if row.evading else []
        traits += ["on a surrogate"] if row.carried_over else []
        severity = [f"severity {row.settings['severity']}"] if row.kind == "corruption" else []
        attack = " ".join([row.label, *traits, *(severity if "severity" not in row.label else [])])
        threat, epsilon = (row.threat, row.epsilon) if row.kind == "attack" else ("", 0.0)
        goal = "another answer than the model's own" if row.kind == "attack" else ""
        return self._note(Figure(quantity, attack, goal, threat, epsilon, part, estimate))

    def _note(self, figure: Figure) -> Figure:
        key = (figure.quantity, figure.attack, figure.goal, figure.threat, figure.epsilon, figure.part)
        return self._figures.setdefault(key, figure)

    def as_json(self, run: Mapping[str, Any]) -> str:
        """Every figure, with what identifies the run."""
        figures = [figure.to_dict() for figure in self._figures.values()]
        return json.dumps({"run": run, "figures": figures}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def as_csv(self) -> str:
        """Every figure, one a line. Text that a spreadsheet would run as a formula is quoted with an apostrophe."""
        sink = io.StringIO()
        rows = [figure.to_dict() for figure in self._figures.values()]
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(rows[0] if rows else [])
        writer.writerows([[_inert(value) for value in row.values()] for row in rows])
        return sink.getvalue()


def plain_number(value: float, n: int, groups: int, method: str) -> Estimate:
    """A number that is counted, not estimated: it has no interval."""
    return Estimate(value, math.nan, math.nan, n, groups, method)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
