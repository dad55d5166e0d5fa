"""Audits of several models side by side: what each is worth unchanged and attacked, and whether two differ by more than luck.

Chen, Zhao, Chen, "Enhancing adversarial defense for medical image analysis systems with pruning and attention mechanism",
Medical Physics 48 (2021), https://doi.org/10.1002/mp.15208: tables of models by attacks, the best of a column marked with *.
There the largest value has the star, however near the next one; here it has to stand apart (`contrasts.marks`). There a table
holds the share of another model's examples that fool a model; here each model is attacked itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.errors import SettingsError
from antivenom.metrics.intervals import Estimate, paired_difference
from antivenom.metrics.significance import holm
from antivenom.records.plan import PlanRow, size
from antivenom.report import words
from antivenom.report.attacked import AXES
from antivenom.report.charts import Chart, security_chart
from antivenom.report.compared_looks import Looks, looks_of
from antivenom.report.compared_sentences import legend_of, notes_of, verdict_of
from antivenom.report.contrasts import BEST, TIED, Standing, balanced_difference, luck, marks
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.lineup import (
    PACE,
    Ground,
    Member,
    distance_of,
    ground_of,
    pace_of,
    reach_of,
    read_members,
    rows_at,
    title_of,
    values_of,
)
from antivenom.report.origin import run_identity
from antivenom.report.trade_off import TradeOff, style_of, trade_off_chart
from antivenom.report.write import templates, write_page

Array = np.ndarray[Any, Any]

CLEAN, WORST = "unchanged images", "worst case"


@dataclass(frozen=True)
class Cell:
    """A figure in the table; `mark` is * for the best of its column, = where several cannot be told apart."""

    figure: Figure
    mark: str = ""


@dataclass(frozen=True)
class AttackCell:
    """What one attack left of one model."""

    accuracy: Cell
    balanced: Figure


@dataclass(frozen=True)
class ModelRow:
    """One model; None where its audit measured no such thing."""

    name: str
    baseline: bool
    style: str
    state: str
    architecture: str
    parameters: str
    zeros: str
    seconds: Figure | None
    conditions: str
    clean_balanced: Cell
    clean_accuracy: Cell
    attacks: tuple[AttackCell | None, ...]
    worst_balanced: Cell | None
    worst_accuracy: Cell | None
    reach: str
    distance: Cell | None
    distance_text: tuple[str, str]
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Contrast:
    """A model less the baseline, on unchanged images, under one attack or in the worst case."""

    what: str
    accuracy: Figure
    balanced: Figure
    lost: Figure
    won: Figure
    p: Figure
    adjusted: Figure

    @property
    def chances(self) -> tuple[str, str]:
        """Both p values as they are printed, alone and corrected."""
        one, other = (f"{figure.estimate.value:.4f}" for figure in (self.p, self.adjusted))
        return one.replace("0.0000", "< 0.0001"), other.replace("0.0000", "< 0.0001")


@dataclass(frozen=True)
class Against:
    """A model held against the baseline; `why_not` says why it is not, where it is not."""

    name: str
    test: str
    contrasts: tuple[Contrast, ...]
    why_not: str


@dataclass(frozen=True)
class Comparison:
    """The whole page."""

    title: str
    verdict: str
    baseline: str
    ground: Ground
    threat: str
    in_words: str
    unit: str
    unit_of_groups: str
    multilabel: bool
    chance: float
    constant: Figure
    constant_answer: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[ModelRow, ...]
    against: tuple[Against, ...]
    legend: tuple[str, ...]
    notes: tuple[str, ...]
    trade_off: TradeOff
    curves: Chart
    looks: Looks | None


# -- reading -----------------------------------------------------------------------------------------------------------


def compare(
    folders: Sequence[str | os.PathLike[str]],
    *,
    baseline: str | None = None,
    threat: str = "linf",
    level: str | None = None,
    ledger: Ledger | None = None,
) -> Comparison:
    """Lay audits side by side, from their records alone.

    Args:
        folders: each what `antivenom audit` wrote, or a folder that holds such ones one level down.
        baseline: name of the model that the others are held against; the first where None.
        threat: as the audits name it, such as `linf`, or its norm.
        level: size at which each attack is looked at: in 255ths where the threat is of changes of values (2 or 2/255), else as
            it stands. Where None, that of all sizes measured throughout at which the baseline's worst case comes nearest to
            half of its clean accuracy.
        ledger: where the figures are noted.

    Raises:
        RecordsError: a folder holds no audit, or its records are damaged.
        NotMeasuredError: not even the clean images of an audit, or nothing of the threat in the baseline's, is measured.
        InputError: fewer than two audits, two of one name, or models of different tasks.
        SettingsError: no such baseline, threat or level.
    """
    members = read_members(folders, baseline)
    ground = ground_of(members, threat, level)
    return _compared(members, ground, Ledger() if ledger is None else ledger)


def write_comparison(
    folders: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    baseline: str | None = None,
    threat: str = "linf",
    level: str | None = None,
) -> tuple[Comparison, Path]:
    """Write the page of `compare` and, beside it under the same name, its figures as .json and .csv.

    The same records give the same bytes.

    Args:
        output: the HTML file, or a folder for it, which gets `compare.html`.
        folders, baseline, threat, level: as in `compare`.

    Returns:
        What was compared, and the HTML file.

    Raises:
        RecordsError: as `compare`; or the page cannot be written.
        SettingsError: as `compare`; or the file's name ends in .json or .csv, which are written beside it.
    """
    target = Path(output) / "compare.html" if Path(output).is_dir() else Path(output)
    if target.suffix in (".json", ".csv"):
        raise SettingsError(f"{target} is to be the page; name it .html, the figures are written beside it")
    ledger = Ledger()
    found = compare(folders, baseline=baseline, threat=threat, level=level, ledger=ledger)
    write_page(target, templates().get_template("compared.html").render(page=found, words=words, best=BEST, tied=TIED))
    write_page(target.with_suffix(".json"), ledger.as_json(identity(found)))
    write_page(target.with_suffix(".csv"), ledger.as_csv())
    return found, target


def identity(found: Comparison) -> dict[str, Any]:
    """What tells this comparison from others, for the file beside the page."""
    ground = found.ground
    return {
        "baseline": found.baseline,
        "threat": ground.threat,
        "goal": ground.goal,
        "epsilon": ground.epsilon,
        "size": ground.size,
        "chosen": ground.chosen,
        "sizes": list(ground.sizes),
        "balanced accuracy of a constant answer": found.chance,
        "models": [
            {
                "name": row.name,
                "architecture": row.architecture,
                "parameters": row.parameters,
                "zeros": row.zeros,
                "not ranked": row.state,
                "marks": _marks_of(found, row),
                "paired with the baseline": next((not a.why_not for a in found.against if a.name == row.name), None),
                "run": row.origin,
            }
            for row in found.rows
        ],
        "legend": list(found.legend),
        "notes": list(found.notes),
        "where they look": list(found.looks.notes) if found.looks else None,
    }


def _marks_of(found: Comparison, row: ModelRow) -> dict[str, str]:
    attacks = {head: cell.accuracy for (head, _), cell in zip(found.heads, row.attacks, strict=True) if cell}
    cells = {
        "balanced accuracy, clean": row.clean_balanced,
        "accuracy, clean": row.clean_accuracy,
        **{f"accuracy, {head}": cell for head, cell in attacks.items()},
        "balanced accuracy, worst case": row.worst_balanced,
        "accuracy, worst case": row.worst_accuracy,
        "median distance": row.distance,
    }
    return {name: cell.mark for name, cell in cells.items() if cell and cell.mark}


# -- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seen:
    """A model under one attack, none or all at the size compared; `row` is None in the worst case, `right` `(N, D)` bool."""

    member: Member
    ground: Ground
    row: PlanRow | None
    right: Array

    @cached_property
    def accuracy(self) -> Estimate:
        return self.member.audit.accuracy_of(self.right)

    @cached_property
    def balanced(self) -> Estimate:
        return self.member.audit.balanced_accuracy_of(self.right)

    def standing(self, *, balanced: bool) -> Standing:
        above = self.balanced.measured and self.balanced.low > self.member.audit.constant_balanced_accuracy
        return Standing(self.balanced if balanced else self.accuracy, above)

    def less(self, other: _Seen, *, balanced: bool, level: float = 0.95) -> Estimate:
        """How much more it has right than another that was shown the same images."""
        audit, order = self.member.audit, self.member.order
        one, two, groups = self.right[order], other.right[other.member.order], audit.groups[order]
        if not balanced:
            return paired_difference(one, two, groups, level=level)
        multilabel, classes = audit.task.multilabel, len(audit.task.classes)
        return balanced_difference(one, two, audit.targets[order], classes, groups, multilabel=multilabel, level=level)

    def note(self, ledger: Ledger, quantity: str, figure: Estimate, part: str = "") -> Figure:
        part, at = part or f"model {self.member.name}", self.ground
        if self.row is None:
            return ledger.note_worst(quantity, figure, at.goal, at.threat, at.epsilon, part=part)
        return ledger.note(quantity, figure, self.row, part=part)


@dataclass(frozen=True, eq=False)
class _Table:
    """What all models left, by column and name of the model; a model that lacks a column is left out of it."""

    columns: Mapping[str, Mapping[str, _Seen]]
    ledger: Ledger

    @staticmethod
    def of(members: Sequence[Member], ground: Ground, ledger: Ledger) -> _Table:
        columns: dict[str, dict[str, _Seen]] = {what: {} for what in (CLEAN, *ground.attacks, WORST)}
        for member in members:
            audit = member.audit
            seen: list[tuple[str, PlanRow | None, Array]] = [(CLEAN, audit.rows[0], audit.right(0))]
            rows = rows_at(audit, ground)
            seen += [(row.label, row, audit.right(row.number)) for row in rows]
            if rows:
                seen.append((WORST, None, audit.worst_case(ground.threat, ground.epsilon, ground.goal).right))
            for what, row, right in seen:
                columns[what][member.name] = _Seen(member, ground, row, right)
        return _Table(columns, ledger)

    @cached_property
    def marks(self) -> Mapping[tuple[str, bool], Mapping[str, str]]:
        """By column and whether it is of balanced accuracies: the marks by name."""
        return {(what, balanced): self._marks(what, balanced=balanced) for what in self.columns for balanced in (False, True)}

    def _marks(self, what: str, *, balanced: bool) -> Mapping[str, str]:
        column = {name: seen for name, seen in self.columns[what].items() if not seen.member.state}

        def between(one: str, other: str, level: float) -> Estimate | None:
            first, second = column[one], column[other]
            same = first.member.shown_the_same(second.member)
            return first.less(second, balanced=balanced, level=level) if same else None

        return marks({name: seen.standing(balanced=balanced) for name, seen in column.items()}, between)

    def cell(self, what: str, name: str, *, balanced: bool) -> Cell | None:
        return self.clear(what, name, balanced=balanced) if name in self.columns[what] else None

    def clear(self, what: str, name: str, *, balanced: bool) -> Cell:
        """The cell of a model that has this column, as all have that of the clean images."""
        seen = self.columns[what][name]
        quantity, share = ("balanced accuracy", seen.balanced) if balanced else ("accuracy", seen.accuracy)
        return Cell(seen.note(self.ledger, quantity, share), self.marks[what, balanced].get(name, ""))


def _compared(members: Sequence[Member], ground: Ground, ledger: Ledger) -> Comparison:
    first = members[0].audit
    table = _Table.of(members, ground, ledger)
    rows = tuple(_model_rows(members, ground, table))
    titles = {row.label: title_of(member.audit, row) for member in reversed(members) for row in rows_at(member.audit, ground)}
    data = [str(member.audit.protocol["data"].get("title") or member.audit.protocol["data"]["name"]) for member in members]
    return Comparison(
        title=f"{len(members)} models on {words.listed(list(dict.fromkeys(data)))}",
        verdict=verdict_of(_worst_of(rows), ground, first.constant_balanced_accuracy),
        baseline=members[0].name,
        ground=ground,
        threat=words.threat_name(ground.threat),
        in_words=words.size_in_words(ground.threat, ground.epsilon, values_of(first)),
        unit="decisions" if first.task.multilabel else "images",
        unit_of_groups=first.unit,
        multilabel=first.task.multilabel,
        chance=first.constant_balanced_accuracy,
        constant=ledger.note("accuracy of the constant answer", first.constant_accuracy, part=f"model {members[0].name}"),
        constant_answer=first.constant_answer,
        heads=tuple((label, titles[label]) for label in ground.attacks),
        rows=rows,
        against=tuple(_against(members[0], other, table, titles) for other in members[1:]),
        legend=tuple(legend_of(ground)),
        notes=tuple(notes_of(members, ground)),
        trade_off=_trade_off(rows, ground, first.constant_balanced_accuracy),
        curves=_curves(members, ground),
        looks=looks_of(members, ledger),
    )


def _worst_of(rows: Sequence[ModelRow]) -> dict[str, tuple[Estimate, str]]:
    ranked = [(row.name, row.worst_balanced) for row in rows if not row.state]
    return {name: (cell.figure.estimate, cell.mark) for name, cell in ranked if cell}


def _model_rows(members: Sequence[Member], ground: Ground, table: _Table) -> Iterator[ModelRow]:
    distances = {member.name: distance_of(member.audit, ground) for member in members}
    ranked = [member.name for member in members if not member.state]
    # Only models that read unchanged images better than chance are ranked, so a distance is one between right and wrong.
    best = marks({name: Standing(span, True) for name in ranked if (span := distances[name])}, lambda *_: None)
    for place, member in enumerate(members):
        name, card = member.name, member.audit.provenance["card"]
        span, reach, (seconds, conditions) = distances[name], reach_of(member.audit, ground), pace_of(member.audit)
        limit = (ground.goal, ground.threat, ground.sizes[-1])
        part, note = f"model {name}", table.ledger.note_worst
        if reach is not None:
            note("largest size above chance", plain_number(reach, 0, 0, "of the sizes tested"), *limit, part=part)
        yield ModelRow(
            name=name,
            baseline=member.baseline,
            style=style_of(place - 1, baseline=member.baseline),
            state=member.state,
            architecture=str(card.get("architecture", "")),
            parameters=_count(card.get("parameters")),
            zeros=_zeros(card),
            seconds=table.ledger.note(PACE, seconds, part=part) if seconds else None,
            conditions=conditions,
            clean_balanced=table.clear(CLEAN, name, balanced=True),
            clean_accuracy=table.clear(CLEAN, name, balanced=False),
            attacks=tuple(_attack_cell(table, label, name) for label in ground.attacks),
            worst_balanced=table.cell(WORST, name, balanced=True),
            worst_accuracy=table.cell(WORST, name, balanced=False),
            reach=_reach_text(reach, ground),
            distance=Cell(note("median distance", span, *limit, part=part), best.get(name, "")) if span else None,
            distance_text=_distance_text(span, ground) if span else ("–", ""),
            origin=run_identity(member.audit),
        )


def _attack_cell(table: _Table, label: str, name: str) -> AttackCell | None:
    accuracy, balanced = (table.cell(label, name, balanced=balanced) for balanced in (False, True))
    return AttackCell(accuracy, balanced.figure) if accuracy and balanced else None


def _reach_text(reach: float | None, ground: Ground) -> str:
    if reach is None:
        return "–"
    if reach == 0:
        return f"below {size(ground.threat, ground.sizes[0])}"
    return size(ground.threat, reach) + (" or more" if reach == ground.sizes[-1] else "")


def _distance_text(span: Estimate, ground: Ground) -> tuple[str, str]:
    """A distance and its interval; beyond what was tested nothing is known."""
    value, low, high = (
        f"above {size(ground.threat, ground.sizes[-1])}" if math.isinf(end) else size(ground.threat, end)
        for end in (span.value, span.low, span.high)
    )
    return value, "" if math.isnan(span.low) else f"[{low}, {high}]"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _zeros(card: Mapping[str, Any]) -> str:
    """How many weights are 0, where the audit knows."""
    zeros, every = card.get("zeros"), card.get("parameters")
    if not isinstance(zeros, int) or not isinstance(every, int) or not every:
        return "–"
    return f"{zeros:,} = {100 * zeros / every:.1f} %" if zeros else "0"


# -- differences -------------------------------------------------------------------------------------------------------


def _against(baseline: Member, other: Member, table: _Table, titles: Mapping[str, str]) -> Against:
    if not other.shown_the_same(baseline):
        return Against(other.name, "", (), f"not the same images as {baseline.name}, so nothing is paired and nothing tested")
    pairs = {
        what: (column[other.name], column[baseline.name])
        for what, column in table.columns.items()
        if {other.name, baseline.name} <= column.keys()
    }
    groups = other.audit.groups[other.order]
    lots = [luck(seen.right[other.order], base.right[baseline.order], groups) for seen, base in pairs.values()]
    adjusted = holm(np.array([p for p, _ in lots]))
    names = {what: {CLEAN: "Unchanged", WORST: "Worst case"}.get(what) or titles[what] for what in pairs}
    contrasts = (
        _contrast(names[what], seen, base, lot, float(p), len(lots), table.ledger)
        for (what, (seen, base)), lot, p in zip(pairs.items(), lots, adjusted, strict=True)
    )
    return Against(other.name, lots[0][1], tuple(contrasts), "")


def _contrast(
    what: str, seen: _Seen, base: _Seen, lot: tuple[float, str], adjusted: float, tests: int, ledger: Ledger
) -> Contrast:
    one, two = seen.right[seen.member.order], base.right[base.member.order]
    accuracy = seen.less(base, balanced=False)
    part = f"model {seen.member.name} less model {base.member.name}"

    def counted(quantity: str, number: float, method: str) -> Figure:
        return seen.note(ledger, quantity, plain_number(number, accuracy.n, accuracy.groups, method), part)

    return Contrast(
        what,
        seen.note(ledger, "difference in accuracy", accuracy, part),
        seen.note(ledger, "difference in balanced accuracy", seen.less(base, balanced=True), part),
        counted("right in the baseline alone", int((two & ~one).sum()), "count"),
        counted("right in this model alone", int((one & ~two).sum()), "count"),
        counted("p", lot[0], lot[1]),
        counted("p, Holm", adjusted, f"{lot[1]}; Holm over {tests}"),
    )


# -- charts ------------------------------------------------------------------------------------------------------------


def _trade_off(rows: Sequence[ModelRow], ground: Ground, chance: float) -> TradeOff:
    points = [
        (
            f"{row.name} ({row.state.split(':')[0]})" if row.state else row.name,
            row.style,
            row.clean_balanced,
            row.worst_balanced,
        )
        for row in rows
    ]
    place = f"{words.threat_name(ground.threat)} {ground.size}"
    return trade_off_chart(
        "trade-off",
        f"Unchanged against attacked at {place}",
        [(name, style, clean.figure.estimate, worst.figure.estimate) for name, style, clean, worst in points if worst],
        "balanced accuracy, unchanged, %",
        "balanced accuracy, worst case, %",
        chance=chance,
    )


def _curves(members: Sequence[Member], ground: Ground) -> Chart:
    """Balanced accuracy in the worst case by size; the baseline is drawn last, on top."""
    kind = words.norm(ground.threat)
    drawn = []
    for place, member in enumerate(members):
        audit = member.audit
        points = [(0.0, audit.balanced_accuracy())]
        for epsilon in ground.sizes:
            if rows_at(audit, ground, epsilon):
                worst = audit.worst_case(ground.threat, epsilon, ground.goal)
                points.append((epsilon, audit.balanced_accuracy_of(worst.right)))
        drawn.append((member.name, style_of(place - 1, baseline=member.baseline), points))
    return security_chart(
        "curves",
        f"Balanced accuracy in the worst case, {words.threat_name(ground.threat)}",
        [*drawn[1:], drawn[0]],
        AXES.get(kind, f"share of the limits of {kind}"),
        "balanced accuracy, %",
        lambda e: words.plain(e * 255 if kind in ("linf", "stripes") else e, 2),
        level=(members[0].audit.constant_balanced_accuracy, "any constant answer"),
    )
