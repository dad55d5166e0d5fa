"""Where the marks of a trade-off go: what a model is worth on unchanged images against what is left of it under attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from antivenom.metrics.intervals import Estimate
from antivenom.report.charts import FRAME, Tick

LABEL_HEIGHT, LABEL_WIDTH = 13.0, 130.0  # of a name, in units of the drawing, generously
STYLES = 9  # looks of lines that the style sheet of the page knows, besides that of the baseline


def style_of(place: int, *, baseline: bool) -> str:
    """The look of a model's line: the baseline is black, the others take their turns."""
    return "worst" if baseline else f"s{place % STYLES}"


@dataclass(frozen=True)
class Cross:
    """One model: its point, the ends of both intervals, and the place of its name."""

    name: str
    style: str
    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    text: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class TradeOff:
    """A drawing in the frame of the other charts.

    Attributes:
        level: height of the line of a constant answer.
        across: place of the same line on the horizontal axis; None where the axis begins above it.
        diagonal: SVG path along which nothing is lost under attack.
    """

    ident: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    crosses: tuple[Cross, ...]
    level: float
    across: float | None
    level_text: str
    diagonal: str
    width: float = FRAME.width
    height: float = FRAME.height
    left: float = FRAME.left
    top: float = FRAME.top
    right: float = FRAME.right
    bottom: float = FRAME.bottom


def trade_off_chart(
    ident: str,
    title: str,
    points: Sequence[tuple[str, str, Estimate, Estimate]],
    x_label: str,
    y_label: str,
    *,
    chance: float,
) -> TradeOff:
    """Lay out the trade-off of several models; up and to the right is better.

    Args:
        points: (name, style, share on unchanged images, share under attack); those that lack either are left out.
        chance: the share that a constant answer has.

    The upright axis runs from 0 to 100 %, the other from the last ten below all intervals.
    """
    known = [point for point in points if point[2].measured and point[3].measured]
    first = min([0.9, *(math.floor(10 * _ends(clean)[0] + 1e-9) / 10 for _, _, clean, _ in known)])

    def across(share: float) -> float:
        return round(FRAME.left + (share - first) / (1 - first) * (FRAME.right - FRAME.left), 2)

    crosses = []
    for name, style, clean, worst in known:
        (left, right), (low, high) = _ends(clean), _ends(worst)
        place = across(clean.value), _up(worst.value), across(left), across(right), _up(low), _up(high)
        text = f"{name}: {_told(clean)} unchanged, {_told(worst)} in the worst case"
        crosses.append(Cross(name, style, *place, text, 0.0, 0.0, "start"))
    marks = _labelled(crosses)
    step = 20 if first < 0.5 else 10 if first < 0.8 else 5
    return TradeOff(
        ident,
        title,
        f"{title}. " + "; ".join(cross.text for cross in marks) + f". A constant answer has {100 * chance:.1f} %.",
        x_label,
        y_label,
        tuple(Tick(across(v / 100), f"{v}") for v in range(round(100 * first), 101) if v % step == 0),
        tuple(Tick(_up(v / 100), f"{v}") for v in range(0, 101, 20)),
        marks,
        _up(chance),
        across(chance) if chance > first else None,
        "any constant answer",
        f"M{across(first):g},{_up(first):g} L{FRAME.right:g},{FRAME.top:g}",
    )


def _labelled(crosses: Sequence[Cross]) -> tuple[Cross, ...]:
    """Give each name a place beside its point, from the top down, below the names that stand there already."""
    placed: dict[int, Cross] = {}
    for number in sorted(range(len(crosses)), key=lambda i: crosses[i].y):
        cross = crosses[number]
        beyond = cross.x > FRAME.right - LABEL_WIDTH
        x, y = cross.x + (-6 if beyond else 6), cross.y - 5
        for other in sorted(placed.values(), key=lambda other: other.label_y):
            if abs(x - other.label_x) < LABEL_WIDTH and abs(y - other.label_y) < LABEL_HEIGHT:
                y = other.label_y + LABEL_HEIGHT
        placed[number] = replace(cross, label_x=round(x, 2), label_y=round(y, 2), anchor="end" if beyond else "start")
    return tuple(placed[number] for number in range(len(crosses)))


def _ends(share: Estimate) -> tuple[float, float]:
    return (share.value, share.value) if math.isnan(share.low) else (share.low, share.high)


def _told(share: Estimate) -> str:
    return share.range(100, 1, " %")


def _up(share: float) -> float:
    return round(FRAME.bottom - share * (FRAME.bottom - FRAME.top), 2)
