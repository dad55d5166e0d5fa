"""Where marks go in the drawings of detectors: what is noticed at which cost, how scores lie, what gets past, what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.intervals import Estimate
from antivenom.metrics.selective import RiskCoverage
from antivenom.report.charts import FRAME, Chart, Line, Tick, height_of, path_of

Array = np.ndarray[Any, Any]

FINEST = 0.01  # false-alarm rate up to which the axis of a ROC curve is nearly even; beyond, equal factors stand equally far
RATES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)
POINTS = 121  # of a curve
LEAST = 20  # a curve of what is kept begins at one image in so many: of fewer it is mostly luck
CELLS = 36  # of a histogram
SPREADS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000)
BAR, GAP, NAME = 8.0, 2.0, 15.0  # heights in a drawing of bars


def roc_chart(ident: str, title: str, curves: Sequence[tuple[str, str, Array, Array]]) -> Chart:
    """Lay out ROC curves: share noticed against share of false alarms, the low rates spread out.

    Args:
        curves: (name, style, false alarms, noticed), both shares rising from 0 to 1.
    """

    def across(rate: float) -> float:
        share = math.log1p(rate / FINEST) / math.log1p(1 / FINEST)
        return round(FRAME.left + share * (FRAME.right - FRAME.left), 2)

    stops = FINEST * np.expm1(np.linspace(0, math.log1p(1 / FINEST), POINTS))
    lines, told = [], []
    for name, style, alarms, hits in curves:
        noticed = hits[np.searchsorted(alarms, stops + 1e-12, side="right") - 1]
        places = [(across(rate), height_of(share)) for rate, share in zip(stops.tolist(), noticed.tolist(), strict=True)]
        lines.append(Line(name, style, path_of(_thinned(places)), "", ()))
        told.append(f"{name}: {100 * float(hits[np.searchsorted(alarms, 0.05 + 1e-12, side='right') - 1]):.1f} %")
    return Chart(
        ident,
        title,
        f"{title}. Noticed at 5 % false alarms: {'; '.join(told)}.",
        "unchanged images flagged, %",
        "noticed, %",
        tuple(Tick(across(rate), f"{100 * rate:g}") for rate in RATES),
        _shares(),
        tuple(lines),
        diagonal=path_of([(across(rate), height_of(rate)) for rate in stops.tolist()]),
    )


def histogram_chart(ident: str, title: str, kinds: Sequence[tuple[str, str, Array]], threshold: float) -> Chart:
    """Lay out how scores lie: share of each kind's images by score.

    Args:
        kinds: (name, style, scores `(N,)`); the first are those of clean images, in whose spread scores are told.
        threshold: above which an image is flagged.

    Scores are told as distances from the median of clean ones, in their interquartile range, and drawn by their inverse
    hyperbolic sine: evenly near 0, in equal factors far away.
    """
    clean = kinds[0][2]
    middle = float(np.median(clean))
    spread = float(np.subtract(*np.quantile(clean, (0.75, 0.25)))) or 1.0

    def pressed(scores: Array) -> Array:
        return np.asarray(np.arcsinh((scores - middle) / spread))

    told = [pressed(scores[np.isfinite(scores)]) for _, _, scores in kinds]
    limit = float(pressed(np.array(threshold)))
    low, high = (
        min(limit, *(float(part.min(initial=limit)) for part in told)),
        max(limit, *(float(part.max(initial=limit)) for part in told)),
    )
    room = max(high - low, 1e-6) * 0.02
    edges = np.linspace(low - room, high + room, CELLS + 1).tolist()
    shares = [np.histogram(part, edges)[0] / max(1, len(part)) for part in told]
    top = max(float(share.max()) for share in shares) or 1.0

    def across(place: float) -> float:
        share = float((place - edges[0]) / (edges[-1] - edges[0]))
        return round(FRAME.left + share * (FRAME.right - FRAME.left), 2)

    lines = []
    for (name, style, _), share in zip(kinds, shares, strict=True):
        corners = [(across(edges[i + side]), height_of(share[i] / top)) for i in range(CELLS) for side in (0, 1)]
        area = path_of([(corners[0][0], FRAME.bottom), *corners, (corners[-1][0], FRAME.bottom)]) + " Z"
        lines.append(Line(name, style, path_of(_thinned(corners)), area, ()))
    lines.append(Line("threshold", "noise", path_of([(across(limit), FRAME.top), (across(limit), FRAME.bottom)]), "", ()))
    above = "; ".join(
        f"{name}: {100 * float((~(scores <= threshold)).mean()):.1f} %" for name, _, scores in kinds if len(scores)
    )
    marks = [value for value in SPREADS if edges[0] <= math.asinh(value) <= edges[-1]]
    return Chart(
        ident,
        title,
        f"{title}. Above the threshold: {above}.",
        "score, in spreads of unchanged images",
        "share of images",
        _apart([Tick(across(math.asinh(value)), f"{value}".replace("-", "−")) for value in marks]),
        (),
        tuple(lines),
    )


def risk_chart(ident: str, title: str, curves: Sequence[tuple[str, str, RiskCoverage]]) -> Chart:
    """Lay out what is right of the images kept against how many are kept, with the range of random rejection.

    Args:
        curves: (name, style, curve), all over the same images.
    """
    stops = np.linspace(0, 1, POINTS)[1:]
    n = len(curves[0][2].coverage)
    places = np.unique(np.clip(np.ceil(stops * n).astype(int), max(1, n // LEAST), n)) - 1
    seen = [curve.right[places] for _, _, curve in curves]
    first = curves[0][2]
    floor = math.floor(10 * min(float(part.min()) for part in [*seen, first.low[places]]) + 1e-9) / 10
    floor = min(floor, 0.9)

    def up(share: float) -> float:
        return height_of((share - floor) / (1 - floor))

    def traced(shares: Array) -> list[tuple[float, float]]:
        across = FRAME.left + first.coverage[places] * (FRAME.right - FRAME.left)
        return [(round(x, 2), up(y)) for x, y in zip(across.tolist(), shares.tolist(), strict=True)]

    lines = [Line(name, style, path_of(traced(part)), "", ()) for (name, style, _), part in zip(curves, seen, strict=True)]
    band = path_of([*traced(first.high[places]), *reversed(traced(first.low[places]))]) + " Z"
    lines.append(Line("random rejection", "noise", path_of(traced(np.full(len(places), first.random))), band, ()))
    means = "; ".join(f"{name}: {100 * curve.area:.1f} %" for name, _, curve in curves)
    step = 20 if floor < 0.5 else 10 if floor < 0.8 else 5
    return Chart(
        ident,
        title,
        f"{title}. Mean over coverage: {means}; random rejection: {100 * first.random:.1f} %.",
        "images kept, %",
        "right, %",
        tuple(Tick(round(FRAME.left + v / 100 * (FRAME.right - FRAME.left), 2), f"{v}") for v in range(0, 101, 20)),
        tuple(Tick(up(v / 100), f"{v}") for v in range(round(100 * floor), 101) if v % step == 0),
        tuple(lines),
    )


@dataclass(frozen=True)
class Bar:
    """One bar from the left edge to `x`, with the ends of its interval."""

    style: str
    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class BarRow:
    """The bars of one name."""

    name: str
    y: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class BarChart:
    """A drawing of shares as bars; `kinds` are the names and styles of the bars of every row."""

    ident: str
    title: str
    description: str
    x_label: str
    kinds: tuple[tuple[str, str], ...]
    rows: tuple[BarRow, ...]
    x_ticks: tuple[Tick, ...]
    height: float
    bottom: float
    width: float = FRAME.width
    left: float = 10.0
    top: float = 6.0
    right: float = FRAME.right
    bar: float = BAR


def bar_chart(
    ident: str, title: str, kinds: Sequence[tuple[str, str]], rows: Sequence[tuple[str, Sequence[Estimate]]], x_label: str
) -> BarChart:
    """Lay out shares as bars with their intervals.

    Args:
        kinds: (name, style) of each bar of a row.
        rows: (name, one share for each kind); a share that is not measured has no bar.
    """
    frame = BarChart(ident, title, "", x_label, tuple(kinds), (), (), 0.0, 0.0)

    def across(share: float) -> float:
        return round(frame.left + share * (frame.right - frame.left), 2)

    y, found, told = frame.top, [], []
    for name, shares in rows:
        place, bars = y + NAME, []
        for (kind, style), share in zip(kinds, shares, strict=True):
            if share.measured:
                ends = (share.value, share.value) if math.isnan(share.low) else (share.low, share.high)
                text = f"{name}, {kind}: {share.range(100, 1, ' %')}"
                bars.append(Bar(style, across(share.value), round(place, 2), across(ends[0]), across(ends[1]), text))
                told.append(text)
            place += BAR + GAP
        found.append(BarRow(name, round(y + NAME - 4, 2), tuple(bars)))
        y = place + 5
    ticks = tuple(Tick(across(v / 100), f"{v}") for v in range(0, 101, 20))
    return BarChart(ident, title, f"{title}. " + "; ".join(told) + ".", x_label, tuple(kinds), tuple(found), ticks, y + 46, y)


def _shares() -> tuple[Tick, ...]:
    return tuple(Tick(height_of(v / 100), f"{v}") for v in range(0, 101, 20))


def _apart(ticks: Sequence[Tick], least: float = 26.0) -> tuple[Tick, ...]:
    """The ticks whose names do not run into each other; that of 0 stands in any case."""
    kept = [tick for tick in ticks if tick.text == "0"]
    for tick in ticks:
        if all(abs(tick.at - other.at) >= least for other in kept):
            kept.append(tick)
    return tuple(sorted(kept, key=lambda tick: tick.at))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same path without points in the middle of level stretches."""
    kept = list(points[:1])
    for place in range(1, len(points)):
        last = place == len(points) - 1
        if last or not points[place - 1][1] == points[place][1] == points[place + 1][1]:
            kept.append(points[place])
    return kept
