"""`antivenom compare`: audits of several models side by side, on the console and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from antivenom.cli.console import out
from antivenom.report.compared import Cell, Comparison, ModelRow, compare, write_comparison


def run(folders: Sequence[Path], output: Path | None, *, baseline: str | None, threat: str, level: str | None) -> None:
    """Print the comparison, and write its page where one is asked for."""
    if output is None:
        show(compare(folders, baseline=baseline, threat=threat, level=level))
        return
    found, page = write_comparison(folders, output, baseline=baseline, threat=threat, level=level)
    show(found)
    out.print(f"page: {page}", markup=False)


def show(found: Comparison) -> None:
    """Print the tables, their legend and what to mind."""
    place = f"{found.threat} {found.ground.size}"
    out.print(f"\n{found.title}; attacks at {place}, {found.ground.chosen}", markup=False)
    out.print(_side_by_side(found), _reach_and_size(found), _by_attack(found), _differences(found), sep="\n")
    for text in (*found.legend, *found.notes, found.verdict):
        out.print(text, markup=False)


def _side_by_side(found: Comparison) -> Table:
    table = _table("", "balanced", "accuracy", "balanced, attacked", "accuracy, attacked")
    for row in found.rows:
        shares = (row.clean_balanced, row.clean_accuracy, row.worst_balanced, row.worst_accuracy)
        table.add_row(_name(row), *map(_share, shares))
    constant = (f"{100 * found.chance:.1f}", f"{100 * found.constant.estimate.value:.1f}")
    table.add_row("any constant answer", *constant, *constant)
    return table


def _reach_and_size(found: Comparison) -> Table:
    table = _table("", "above chance to", "median distance", "parameters", "zeros", "ms per image")
    for row in found.rows:
        seconds = f"{1000 * row.seconds.estimate.value:.2f}" if row.seconds else "–"
        distance = " ".join(row.distance_text) + (row.distance.mark if row.distance else "")
        table.add_row(_name(row), row.reach, distance, row.parameters, row.zeros, seconds)
    return table


def _name(row: ModelRow) -> str:
    return f"{row.name} (baseline)" if row.baseline else row.name


def _by_attack(found: Comparison) -> Table:
    table = _table("accuracy, attacked by", *(label for label, _ in found.heads))
    for row in found.rows:
        table.add_row(row.name, *(_share(cell.accuracy if cell else None) for cell in row.attacks))
    return table


def _differences(found: Comparison) -> Table:
    table = _table(f"less {found.baseline}, points", "under", "accuracy", "balanced", "p", "p, Holm")
    for against in found.against:
        if against.why_not:
            table.add_row(against.name, against.why_not)
        for contrast in against.contrasts:
            shares = (figure.estimate.range(100, 1) for figure in (contrast.accuracy, contrast.balanced))
            table.add_row(against.name, contrast.what, *shares, *contrast.chances)
    return table


def _share(cell: Cell | None) -> str:
    return cell.figure.estimate.range(100, 1) + cell.mark if cell else "–"


def _table(*heads: str) -> Table:
    return Table(*heads, box=None, pad_edge=False)
