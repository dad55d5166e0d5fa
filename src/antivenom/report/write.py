"""Write the report of a run: one HTML file that needs nothing else, and its figures as JSON and CSV beside it."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from antivenom.errors import RecordsError
from antivenom.records.audit import Audit
from antivenom.report import words
from antivenom.report.figures import Ledger
from antivenom.report.origin import run_identity
from antivenom.report.page import page_of


def write_report(folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run's records; no model is run, and the same records give the same bytes.

    Args:
        folder: of the run.
        output: the HTML file, or a folder for it; `report.html` in the run's folder where None. `figures.json` and
            `figures.csv` with every printed figure are written beside it.

    Returns:
        The HTML file.

    Raises:
        RecordsError: the folder holds no run, its records are damaged or contradict each other, or the page cannot be written.
        NotMeasuredError: not even the clean images are measured.
    """
    audit, ledger = Audit.read(folder), Ledger()
    page = page_of(audit, ledger)
    html = templates().get_template("report.html").render(page=page, words=words)
    target = Path(output) if output is not None else Path(folder)
    target = target / "report.html" if target.is_dir() else target
    write_page(target, html)
    write_page(target.with_name("figures.json"), ledger.as_json(run_identity(audit)))
    write_page(target.with_name("figures.csv"), ledger.as_csv())
    return target


@cache
def templates() -> Environment:
    """Templates escape everything: names of classes, files and sources come from others' tables."""
    found = Environment(
        loader=PackageLoader("antivenom.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["scaled"] = _scaled
    return found


def _scaled(number: float, factor: float = 1, digits: int = 1) -> str:
    """A number times a factor, rounded; with a true minus, and never '−0.0'."""
    return f"{round(factor * number, digits) + 0.0:,.{digits}f}".replace("-", "−")


def write_page(path: Path, text: str) -> None:
    """Write a text whole or not at all.

    Raises:
        RecordsError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise RecordsError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
