"""Pictures of what an attack did: clean image, change, attacked image, and the answers before and after."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.calibration import probabilities
from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow, size
from antivenom.records.store import Store

Array = np.ndarray[Any, Any]

LARGEST = 256  # pixels along an edge that a page shows; larger images are reduced
MOST_BARS = 4


@dataclass(frozen=True)
class Bar:
    """One class's probability before and after, as shares of 1."""

    name: str
    before: float
    after: float
    true: bool


@dataclass(frozen=True)
class Panel:
    """One image and what an attack made of it.

    Attributes:
        image: its name in the data set.
        truth, before, after: the true class and the answers; findings are listed.
        fooled: whether the answer turned wrong.
        clean, change, attacked: PNG data URIs.
        factor: by how much the change is amplified.
        shrunk: edge lengths of the stored image, where it is shown smaller.
        pixelated: whether the image is so small that its pixels should show.
    """

    row: PlanRow
    image: str
    truth: str
    before: str
    after: str
    fooled: bool
    title: str
    size: str
    clean: str
    change: str
    attacked: str
    factor: int
    shrunk: str
    pixelated: bool
    bars: tuple[Bar, ...]


def panels(audit: Audit, threat: str, *, most: int = 6) -> tuple[Panel, ...]:
    """Show, of each kept image that the model reads rightly, the smallest change of this threat that turned its answer.

    Of several findings, at least half of the right decisions. Where no change did, the largest that was tried is shown. Ties go
    to the earliest row of the plan. Rows in which every value may become any other are left out, and so is the noise.
    """
    rows = [row for row in audit.select(threat) if not (row.control or row.unbounded)]
    rows.sort(key=lambda row: (row.epsilon, row.number))
    store, clean, right = Store(audit.folder), audit.outcome(0), audit.right(0)
    success = {row.number: audit.success(row.number) for row in rows}
    chosen: list[tuple[int, PlanRow, bool]] = []
    for place in sorted(clean.pixels):
        if not right[place].any():
            continue
        kept = [row for row in rows if place in audit.outcome(row.number).pixels]
        turned = next((row for row in kept if _half(success[row.number][place])), None)
        if turned or kept:
            chosen.append((place, turned or kept[-1], turned is not None))
    chosen = _varied(chosen, [audit.targets[place].tolist() for place, _, _ in chosen])[:most]
    return tuple(_panel(audit, store, place, row, fooled) for place, row, fooled in chosen)


def _half(success: Array) -> bool:
    """Whether at least half of what was to be gained was gained."""
    return bool(np.nansum(success) >= max(1, (~np.isnan(success)).sum() / 2))


def _varied(chosen: list[tuple[int, PlanRow, bool]], targets: list[Any]) -> list[tuple[int, PlanRow, bool]]:
    """Classes in turn, so that no class fills the page."""
    seen: dict[str, int] = {}
    keyed = []
    for item, target in zip(chosen, targets, strict=True):
        turn = seen.get(str(target), 0)
        seen[str(target)] = turn + 1
        keyed.append((turn, item[0], item))
    return [item for _, _, item in sorted(keyed, key=lambda k: k[:2])]


def _panel(audit: Audit, store: Store, place: int, row: PlanRow, fooled: bool) -> Panel:
    clean = store.pixels(audit.outcome(0).pixels[place])
    attacked = store.pixels(audit.outcome(row.number).pixels[place])
    change = attacked - clean
    # The largest whole factor at which the allowed change (or, for other norms, the change there is) fits the range.
    reach = max(float(np.abs(change).max()), row.epsilon if row.threat.startswith("linf") else 0.0)
    factor = max(1, math.floor(0.5 / reach + 1e-3)) if reach > 0 else 1
    step = math.ceil(max(clean.shape[1:]) / LARGEST)
    return Panel(
        row,
        str(audit.splits["test"].images[place]),
        _named(audit, audit.targets[place]),
        _named(audit, audit.decisions(0)[place]),
        _named(audit, audit.decisions(row.number)[place]),
        fooled,
        facts.title if (facts := audit.attacks.get(row.attack)) else row.attack,
        size(row.threat, row.epsilon),
        data_uri(clean, step),
        data_uri(change_in_colour(change, factor), step),
        data_uri(attacked, step),
        factor,
        f"{clean.shape[1]} × {clean.shape[2]}" if step > 1 else "",
        max(clean.shape[1:]) < 100,
        tuple(_bars(audit, place, row)),
    )


def _named(audit: Audit, answer: Array) -> str:
    classes = audit.task.classes
    if not audit.task.multilabel:
        return classes[int(answer)] if answer >= 0 else "no answer"
    present = [classes[k] for k in np.flatnonzero(answer == 1)]
    return ", ".join(present) or "no finding"


def _bars(audit: Audit, place: int, row: PlanRow) -> Iterator[Bar]:
    """The classes that matter to this image: the true ones, and those that moved the most."""
    multilabel, target = audit.task.multilabel, audit.targets[place]
    before, after = (
        probabilities(audit.logits(number)[place : place + 1], multilabel=multilabel)[0] for number in (0, row.number)
    )
    true = target == 1 if multilabel else np.arange(len(before)) == target
    moved = np.nan_to_num(np.abs(after - before))
    order = sorted(range(len(before)), key=lambda k: (multilabel or not true[k], -moved[k], k))[:MOST_BARS]
    for k in sorted(order, key=lambda k: (not true[k], -before[k], k)):
        yield Bar(audit.task.classes[k], float(before[k]), float(after[k]), bool(true[k]))


def change_in_colour(change: Array, factor: int) -> Array:
    """A signed change `(C, H, W)`, amplified, as an image `(3, H, W)` in [0, 1].

    Grey: white is no change, red brighter, blue darker. Colour: mid-grey is no change, each channel for itself.
    """
    amplified = np.clip(factor * change, -0.5, 0.5)
    if len(change) == 3 and not (np.ptp(change, axis=0) < 1e-6).all():
        return np.asarray(0.5 + amplified)
    strength = 2 * amplified[0]
    up, down = np.maximum(strength, 0), np.maximum(-strength, 0)
    red, blue = np.array([0.70, 0.09, 0.17]), np.array([0.13, 0.40, 0.67])
    ink = up * (1 - red)[:, None, None] + down * (1 - blue)[:, None, None]
    return np.asarray(1 - ink)


def data_uri(image: Array, step: int = 1) -> str:
    """An image `(C, H, W)` in [0, 1] as a PNG data URI of 8 bits; every `step`th pixel is shown."""
    from PIL import Image

    shown = np.rint(np.clip(np.nan_to_num(image[:, ::step, ::step]), 0, 1) * 255).astype(np.uint8)
    pixels = shown[0] if len(shown) == 1 else np.ascontiguousarray(shown.transpose(1, 2, 0))
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
