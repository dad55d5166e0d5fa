"""Where the models of a comparison look: areas, drift and distances beside each other, and the same images through each.

Chen, Zhao, Chen, Medical Physics 48 (2021), https://doi.org/10.1002/mp.15208, Figures 4 to 6: the input, then the plain
network, pruned, with BAM, self-attention and CBAM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.intervals import Estimate, estimate
from antivenom.records.audit import Audit
from antivenom.records.explanation import ATTACKED, DRAWS, Explanation, Picture
from antivenom.records.store import Store
from antivenom.report.explained import attack_of, interval_text
from antivenom.report.figures import Figure, Ledger
from antivenom.report.heat import picture
from antivenom.report.lineup import Member

Array = np.ndarray[Any, Any]

PAPER = ("bam", "self", "cbam")  # the order of the attention blocks in the paper's figures
NORMS = ("linf", "l2")


@dataclass(frozen=True)
class LooksRow:
    """One model; None where its explanation has no such figure.

    Attributes:
        attack: by which it was attacked.
        layer: whose maps are weighed, and their size.
        change: attended area less the baseline's, on the images that both were asked about.
        distances: by norm, a median and its interval, as texts.
    """

    name: str
    attack: str
    layer: str
    area: Figure | None
    attacked: Figure | None
    change: Figure | None
    overlap: Figure | None
    distances: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shared:
    """One image, and each model's map of it."""

    image: str
    truth: str
    input: str
    maps: tuple[str, ...]


@dataclass(frozen=True)
class Looks:
    """The section: models that were explained, the pictures that they share, and what stands between them."""

    rows: tuple[LooksRow, ...]
    columns: tuple[str, ...]
    shared: tuple[Shared, ...]
    notes: tuple[str, ...]


def looks_of(members: Sequence[Member], ledger: Ledger) -> Looks | None:
    """What the explanations of these audits say beside each other; None where fewer than two have one."""
    explained = [(member, found) for member in members if (found := member.audit.explanation) is not None]
    if len(explained) < 2:
        return None
    ordered = sorted(explained, key=lambda pair: paper_order(pair[0].audit))
    mapped = [(member, found) for member, found in ordered if found.pictures]
    mapped = mapped if len(mapped) > 1 else []
    return Looks(
        tuple(_row(member, found, explained[0], ledger) for member, found in explained),
        tuple(member.name for member, _ in mapped),
        tuple(_shared(mapped)),
        tuple(_notes(members, explained)),
    )


def paper_order(audit: Audit) -> tuple[int, bool]:
    """The place of a model in the paper's figures: plain, pruned, BAM, self-attention, CBAM, then what it does not show."""
    card = audit.provenance["card"]
    _, *parts = str(card.get("architecture", "")).split("+")
    pruned = bool(card.get("zeros"))
    kind = next((PAPER.index(part) + 1 for part in parts if part in PAPER), len(PAPER) + 1 if parts else 0)
    return kind, pruned


def _row(member: Member, found: Explanation, first: tuple[Member, Explanation], ledger: Ledger) -> LooksRow:
    part, (base, known) = f"model {member.name}", first
    maps, tall, wide = found.has("focus"), *found.size

    def noted(name: str, figure: Estimate) -> Figure:
        return ledger.note(name, figure, found.row, part=part)

    change = area_change(found, known) if maps and known.has("focus") and member is not base else None
    less = f"{part} less model {base.name}"
    distances = []
    for norm in NORMS if found.has("distances") else ():
        median = ledger.note(f"distance to the boundary, {norm}", found.distance(norm), part=part).estimate
        distances.append(interval_text(norm, median) if median.measured else ("–", ""))
    return LooksRow(
        member.name,
        attack_of(member.audit, found),
        f"{found.layer}, {tall} × {wide}" if found.layer else "–",
        ledger.note("attended area", found.area(), part=part) if maps else None,
        noted("attended area", found.area(ATTACKED)) if maps else None,
        ledger.note("difference in attended area", change, part=less) if change else None,
        noted("map: overlap", found.moved("overlap")) if maps else None,
        tuple(distances) or (("–", ""),) * len(NORMS),
    )


def area_change(found: Explanation, base: Explanation) -> Estimate:
    """How much larger the attended area is than another model's, on the images that both were asked about."""
    own, theirs = (dict(zip(one.names, one.drift("clean_area").tolist(), strict=True)) for one in (found, base))
    groups = dict(zip(found.names, found.groups.tolist(), strict=True))
    shared = [name for name in own if name in theirs and not np.isnan(own[name] - theirs[name])]
    gains = np.array([own[name] - theirs[name] for name in shared])
    return estimate(lambda rows: float(gains[rows].mean()), np.array([groups[name] for name in shared]), draws=DRAWS)


def _shared(mapped: Sequence[tuple[Member, Explanation]]) -> Iterator[Shared]:
    """Images of which every model's map is kept."""
    if not mapped:
        return
    kept = [{str(member.audit.splits["test"].images[one.place]): one for one in found.pictures} for member, found in mapped]
    for name, one in kept[0].items():
        if all(name in pictures for pictures in kept):
            audit = mapped[0][0].audit
            yield Shared(
                name,
                _truth(audit, one),
                picture(Store(audit.folder).pixels(one.images[0])),
                tuple(_map(member, pictures[name]) for (member, _), pictures in zip(mapped, kept, strict=True)),
            )


def _map(member: Member, one: Picture) -> str:
    store = Store(member.audit.folder)
    return picture(store.pixels(one.images[0]), store.pixels(one.maps[0])[0])


def _truth(audit: Audit, one: Picture) -> str:
    truth = audit.targets[one.place]
    if not audit.task.multilabel:
        return audit.task.classes[int(truth)]
    return ", ".join(audit.task.classes[k] for k in np.flatnonzero(truth == 1)) or "no finding"


def _notes(members: Sequence[Member], explained: Sequence[tuple[Member, Explanation]]) -> Iterator[str]:
    """What stands between these explanations and a fair comparison."""
    known = {member.name for member, _ in explained}
    if silent := [member.name for member in members if member.name not in known]:
        yield f"Not explained: {', '.join(silent)}."
    if len({attack_of(member.audit, found) for member, found in explained}) > 1:
        yield (
            "Each model was attacked where its own main attack turns about half of the images, so attacked areas and drift are "
            "of attacks of different sizes and compare only roughly. Areas on unchanged images and distances do compare."
        )
    if len({found.names for _, found in explained}) > 1:
        yield "Each was asked about the images that it reads rightly: not all of them are the same."
    if len({found.size for _, found in explained}) > 1:
        yield "Maps are of layers of different fineness; a coarser one spreads wider."
