"""Where marks go in the drawings of reasons: change by stage, features in a plane, quantiles of distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.intervals import Estimate
from antivenom.report.charts import FRAME, Chart, Line, Mark, Tick, height_of, path_of

Array = np.ndarray[Any, Any]

MOST = 120  # points of a curve of quantiles
EDGE = 8.0  # room around the points of a plane


@dataclass(frozen=True)
class Cloud:
    """The points of one kind."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scatter:
    """Points in a plane whose axes mean nothing."""

    ident: str
    title: str
    description: str
    clouds: tuple[Cloud, ...]
    width: float = FRAME.width
    height: float = FRAME.height


def growth_chart(ident: str, title: str, stages: Sequence[str], curves: Sequence[tuple[str, str, Sequence[Estimate]]]) -> Chart:
    """Lay out relative changes by stage, upright in equal factors.

    Args:
        stages: names below the drawing.
        curves: (name, style, change of each stage as a share); one that is 0 or not measured has no mark.
    """
    values = [e.value for _, _, row in curves for e in row if e.measured and e.value > 0] or [1.0]
    low, high = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08
    steps = max(1, len(stages) - 1)

    def across(place: int) -> float:
        return round(FRAME.left + (0.03 + 0.94 * place / steps) * (FRAME.right - FRAME.left), 2)

    def up(value: float) -> float:
        if math.isnan(value):  # no interval
            return math.nan
        share = (math.log10(max(value, 1e-300)) - low) / (high - low)
        return height_of(min(1.0, max(0.0, share)))

    lines = []
    for name, style, row in curves:
        marks = tuple(
            Mark(across(place), up(e.value), up(e.low), up(e.high), f"{name}, {stage}: {e.range(100, 1, ' %')}")
            for place, (stage, e) in enumerate(zip(stages, row, strict=True))
            if e.measured and e.value > 0
        )
        framed = [mark for mark in marks if not math.isnan(mark.low)]
        band = ""
        if len(framed) > 1:
            band = path_of([*((m.x, m.high) for m in framed), *((m.x, m.low) for m in reversed(framed))]) + " Z"
        lines.append(Line(name, style, path_of([(m.x, m.y) for m in marks]), band, marks))
    ends = "; ".join(f"{line.marks[0].text}, {line.marks[-1].text}" for line in lines if line.marks)
    ticks = [k * 10.0**power for power in range(-6, 7) for k in (1, 2, 5)]
    return Chart(
        ident,
        title,
        f"{title}. First and last stage: {ends}.",
        "stage of the model",
        "change, % of its size",
        tuple(Tick(across(place), stage) for place, stage in enumerate(stages)),
        tuple(Tick(up(tick), f"{100 * tick:g}") for tick in ticks if low <= math.log10(tick) <= high),
        tuple(lines),
    )


def scatter_chart(ident: str, title: str, kinds: Sequence[tuple[str, str, Array]]) -> Scatter:
    """Lay out points of several kinds, both axes in the same scale.

    Args:
        kinds: (name, style, places `(M, 2)`); the first are drawn below the others.
    """
    whole = np.concatenate([places for _, _, places in kinds])
    low, spread = whole.min(0), np.maximum(np.ptp(whole, axis=0), 1e-9)
    size = np.array([FRAME.width, FRAME.height])
    scale = float(((size - 2 * EDGE) / spread).min())
    start = (size - scale * spread) / 2
    clouds = (
        Cloud(name, style, tuple((round(float(x), 1), round(float(y), 1)) for x, y in start + scale * (places - low)))
        for name, style, places in kinds
    )
    counts = "; ".join(f"{len(places)} images: {name}" for name, _, places in kinds)
    return Scatter(ident, title, f"{title}. {counts}.", tuple(clouds))


def quantile_chart(ident: str, title: str, curves: Sequence[tuple[str, str, Array, Array]]) -> Chart:
    """Lay out quantiles of distances against those of normal draws; on the dashed line the two agree.

    Args:
        curves: (name, style, expected, observed), squared distances in ascending order; their roots are drawn.
    """
    most = math.sqrt(max(float(max(expected[-1], observed[-1])) for _, _, expected, observed in curves))

    def share(squared: float) -> float:
        return math.sqrt(max(0.0, squared)) / most

    def across(part: float) -> float:
        return round(FRAME.left + part * (FRAME.right - FRAME.left), 2)

    lines, told = [], []
    for name, style, expected, observed in curves:
        chosen = np.unique(np.linspace(0, len(expected) - 1, min(MOST, len(expected))).round().astype(int))
        pairs = list(zip(expected[chosen].tolist(), observed[chosen].tolist(), strict=True))
        lines.append(Line(name, style, path_of([(across(share(x)), height_of(share(y))) for x, y in pairs]), "", ()))
        told.append(f"{name}: the largest is {math.sqrt(observed[-1]):.1f}, of normal draws {math.sqrt(expected[-1]):.1f}")
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**9) if most / step <= 8)
    marks = [tick for tick in range(0, 10**6, step) if tick <= most][:9]
    return Chart(
        ident,
        title,
        f"{title}. {'; '.join(told)}.",
        "distance of normal draws",
        "distance seen",
        tuple(Tick(across(tick / most), f"{tick}") for tick in marks),
        tuple(Tick(height_of(tick / most), f"{tick}") for tick in marks),
        tuple(lines),
        diagonal=path_of([(FRAME.left, FRAME.bottom), (FRAME.right, FRAME.top)]),
    )
