"""Where the marks of a chart go. The template draws them as SVG, in the page's own type and colours.

Drawing the few marks ourselves keeps the page small, its text text, and its bytes the same under every plotting library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from antivenom.metrics.calibration import Reliability
from antivenom.metrics.intervals import Estimate, wilson

Curve = Sequence[tuple[float, Estimate]]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at a place in the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point, with its interval and what it says when pointed at."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve: `style` names its look, `path` and `band` are SVG path data."""

    name: str
    style: str
    path: str
    band: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` x `height`; the axes leave the frame (left, top, right, bottom) for the data.

    Attributes:
        ident: unique in the page.
        title: what is drawn.
        description: what it shows, for those who do not see it.
    """

    ident: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    level: Level | None = None
    diagonal: str = ""
    width: float = 460
    height: float = 316
    left: float = 46
    top: float = 14
    right: float = 446
    bottom: float = 266


FRAME = Chart("", "", "", "", "", (), (), ())


def security_chart(
    ident: str,
    title: str,
    curves: Sequence[tuple[str, str, Curve]],
    x_label: str,
    y_label: str,
    size_text: Callable[[float], str],
    *,
    factor: float = 100,
    unit: str = " %",
    level: tuple[float, str] | None = None,
    ticks: Sequence[float] | None = None,
) -> Chart:
    """Lay out security curves: share against the size of the change.

    Args:
        curves: (name, style, points), points from epsilon 0 on.
        size_text: an epsilon as a tick.
        factor, unit: how a share is told.
        level: a share to compare with and its name.
        ticks: sizes that the axis names; None: all.

    Sizes are spread by log(1 + epsilon / smallest epsilon), so that doublings stand nearly evenly and zero has a place.
    """
    sizes = sorted({epsilon for _, _, points in curves for epsilon, _ in points})
    least, most = next((e for e in sizes if e > 0), 1.0), max(sizes[-1], 1e-9)

    def across(epsilon: float) -> float:
        share = math.log1p(epsilon / least) / math.log1p(most / least)
        return round(FRAME.left + share * (FRAME.right - FRAME.left), 2)

    def told(name: str, epsilon: float, e: Estimate) -> str:
        digits = 1 if factor == 100 else 3
        ends = "" if math.isnan(e.low) else f" [{factor * e.low:.{digits}f}, {factor * e.high:.{digits}f}]"
        return f"{name} at {size_text(epsilon)}: {factor * e.value:.{digits}f}{unit}{ends}"

    lines = []
    for name, style, points in curves:
        known = [(across(epsilon), epsilon, e) for epsilon, e in points if e.measured]
        marks = tuple(
            Mark(x, height_of(e.value), height_of(e.low), height_of(e.high), told(name, size, e)) for x, size, e in known
        )
        lines.append(Line(name, style, path_of([(m.x, m.y) for m in marks]), _band(marks), marks))
    # The worst case is drawn last, on top of the attacks that it joins.
    described = "; ".join(line.marks[-1].text for line in lines if line.marks)
    return Chart(
        ident,
        title,
        f"{title}. At the largest size: {described}.",
        x_label,
        y_label,
        tuple(Tick(across(e), size_text(e)) for e in (sizes if ticks is None else ticks)),
        tuple(Tick(height_of(v / 100), f"{v}" if factor == 100 else f"{v / 100:g}") for v in range(0, 101, 20)),
        tuple(lines),
        Level(height_of(level[0]), level[1]) if level else None,
    )


def reliability_chart(ident: str, title: str, bins: Reliability) -> Chart:
    """Lay out a reliability diagram: how often stated probabilities come true, with Wilson intervals per bin."""

    def across(share: float) -> float:
        return round(FRAME.left + share * (FRAME.right - FRAME.left), 2)

    marks = []
    for stated, true, count in zip(bins.confidence.tolist(), bins.frequency.tolist(), bins.count.tolist(), strict=True):
        low, high = wilson(true, count)
        text = f"stated {100 * stated:.0f} %, true {100 * true:.0f} % [{100 * low:.0f}, {100 * high:.0f}], n = {count:,}"
        marks.append(Mark(across(stated), height_of(true), height_of(low), height_of(high), text))
    return Chart(
        ident,
        title,
        f"{title}: " + "; ".join(mark.text for mark in marks) + ".",
        "stated probability, %",
        "came true, %",
        tuple(Tick(across(v / 100), f"{v}") for v in range(0, 101, 20)),
        tuple(Tick(height_of(v / 100), f"{v}") for v in range(0, 101, 20)),
        (Line("bins", "bins", path_of([(m.x, m.y) for m in marks]), "", tuple(marks)),),
        diagonal=path_of([(FRAME.left, FRAME.bottom), (FRAME.right, FRAME.top)]),
    )


def height_of(share: float) -> float:
    """Where a share stands on the upright axis, which runs from 0 to 1."""
    return round(FRAME.bottom - share * (FRAME.bottom - FRAME.top), 2)


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """SVG path data through these points; empty without any."""
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def _band(marks: Sequence[Mark]) -> str:
    framed = [m for m in marks if not math.isnan(m.low)]
    if len(framed) < 2:
        return ""
    return path_of([*((m.x, m.high) for m in framed), *((m.x, m.low) for m in reversed(framed))]) + " Z"
