"""What a report says of where the model looks: maps unchanged and attacked, and figures for what pictures only show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.metrics.classification import decide
from antivenom.metrics.intervals import Estimate
from antivenom.records.audit import Audit
from antivenom.records.explanation import ATTACKED, CLEAN, OUTSIDE_PLAN, Attention, Explanation, Picture
from antivenom.records.plan import size
from antivenom.records.store import Store
from antivenom.report import words
from antivenom.report.figures import Figure, Ledger
from antivenom.report.heat import field, picture, strip

Array = np.ndarray[Any, Any]

PART_NAMES = {
    "focus": "where it looks, unchanged and attacked",
    "regions": "attacks on parts of the image only",
    "distances": "the distance to the boundary",
    "artefacts": "a pin and dust",
    "shuffled": "blocks in another order",
    "surface": "the loss around images",
}
AREA_NAMES = {"focus": "the attended area", "lesion": "the lesion"}
EVEN = 0.05  # of its largest value: a map of attention that varies by less is shown as even, for its stretched picture is noise
SMALL = 64  # pixels along an edge of a small picture


@dataclass(frozen=True)
class Stage:
    """What one attention layer gave one image: pictures unchanged and attacked, empty where it has none, and their range."""

    name: str
    kind: str
    places: tuple[str, str]
    places_range: str
    channels: str
    channels_range: str


@dataclass(frozen=True)
class Look:
    """One image as the model looks at it, in the order of the paper's panels."""

    image: str
    truth: str
    before: str
    after: str
    right: bool
    turned: bool
    clean: str
    clean_map: str
    attacked: str
    attacked_map: str
    empty: tuple[bool, bool]  # whether nothing in the map speaks for the answer
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Line:
    """One measure in several columns; None where it has no such figure."""

    name: str
    meaning: str
    figures: tuple[Figure | None, ...]


@dataclass(frozen=True)
class Confined:
    """Attacks that may change an area only."""

    name: str
    bars: tuple[tuple[str, str, Figure], ...]  # where, how much of the image, share fooled


@dataclass(frozen=True)
class DrawnLine:
    """A thing drawn on the images at one severity."""

    title: str
    severity: int
    strength: str
    kept: Figure
    mass: Figure
    before: Figure
    area: Figure


@dataclass(frozen=True)
class Distance:
    """How far the boundary is in one norm, as texts; the figures are in the ledger."""

    norm: str
    median: str
    interval: str
    quartiles: tuple[str, str]
    in_words: str
    n: int


@dataclass(frozen=True)
class Ground:
    """The loss around images: a picture, its scale and two figures."""

    picture: str
    low: float
    high: float
    reach: float
    diamond: str
    unit: str
    images: int
    rise: Figure
    bend: Figure


@dataclass(frozen=True)
class Explained:
    """The chapter."""

    opening: str
    sentences: tuple[str, ...]
    attack: str
    colour: bool
    lesions: bool
    looks: tuple[Look, ...]
    where: tuple[Line, ...]
    drift: tuple[Line, ...]
    outside: tuple[Line, ...]
    confined: tuple[Confined, ...]
    drawn: tuple[DrawnLine, ...]
    shuffled: tuple[tuple[int, Figure], ...]
    constant: Figure | None
    distances: tuple[Distance, ...]
    ground: Ground | None


def explained_of(audit: Audit, ledger: Ledger) -> Explained | None:
    """The chapter; None where nothing of it is measured."""
    found = audit.explanation
    if found is None or not any(found.has(part) for part in PART_NAMES):
        return None
    attack = attack_of(audit, found)
    where, drift, outside = _maps(found, ledger) if found.has("focus") else ((), (), ())
    shuffled = found.shuffled() if found.has("shuffled") else ()
    return Explained(
        opening=_opening(audit, found, attack),
        sentences=tuple(_sentences(found, attack)),
        attack=attack,
        colour=int(audit.protocol["data"]["channels"]) == 3,
        lesions=found.has_lesions,
        looks=tuple(_look(audit, Store(audit.folder), one) for one in found.pictures),
        where=where,
        drift=drift,
        outside=outside,
        confined=tuple(_confined(found, ledger)) if found.has("regions") else (),
        drawn=tuple(_drawn(found, ledger)) if found.has("artefacts") else (),
        shuffled=tuple((n, ledger.note("still right, shuffled", e, part=f"{n} x {n} blocks")) for n, e in shuffled),
        constant=ledger.note("constant answer", found.constant, part="explained images") if shuffled else None,
        distances=tuple(_distances(audit, found, ledger)) if found.has("distances") else (),
        ground=_ground(found, ledger) if found.has("surface") else None,
    )


def unexplained(audit: Audit) -> Iterator[str]:
    """What an explanation that was begun did not measure."""
    found = audit.explanation
    if found is None:
        return
    if found.missing:
        parts = words.listed([PART_NAMES[name] for name in found.missing])
        yield f"Of where the model looks: {parts}; the explanation is not finished, and no figure of them is stated."
    for name, reason in found.impossible.items():
        yield f"Of where the model looks: {PART_NAMES[name]} ({reason})."


def attack_of(audit: Audit, found: Explanation) -> str:
    """The attack of an explanation, with its size."""
    facts = audit.attacks.get(found.row.attack)
    title = facts.title if facts else found.row.attack.upper()
    goal = "" if found.row.goal in audit.goals[:1] else f" for {words.goal_in_words(found.row.goal)}"
    return f"{title}, {words.threat_name(found.row.threat)} {size(found.row.threat, found.row.epsilon)}{goal}"


# -- in words ----------------------------------------------------------------------------------------------------------


def _opening(audit: Audit, found: Explanation, attack: str) -> str:
    images, groups = len(found.places), len(np.unique(found.groups))
    of = "" if groups == images else f" of {words.counted(groups, audit.unit)}"
    asked = f"Asked on {words.counted(images, 'test image')}{of}"
    if not found.has("focus"):
        return f"{asked}. The model has no maps to show, so what follows is about its answers."
    clean, after = found.area(CLEAN), found.area(ATTACKED)
    turned = "" if not found.fooled.measured else f", which turns {words.of_hundred(found.fooled)} of 100 right readings,"
    noise, stranger = found.moved("overlap", "noise"), found.moved("overlap", "strangers")
    beside = [f"under random noise of the same size they share {_decimal(noise)}"] if noise.measured else []
    beside += [f"those of two different images {_decimal(stranger)}"] if stranger.measured else []
    return (
        f"{asked}, the model attends to {words.percent(clean)} of an unchanged image. Under attack ({attack}){turned} it "
        f"attends to {words.percent(after)}, and the two areas share {_decimal(found.moved('overlap'))} of what either covers; "
        f"{words.listed(beside)}."
    )


def _sentences(found: Explanation, attack: str) -> Iterator[str]:
    if not found.task.multilabel:
        right = int(found.right.all(1).sum())
        many = "All of these images are" if right == len(found.places) else f"{right} of these images are"
        yield f"{many} read rightly unchanged; what is said of readings turned, kept or near the boundary is said of those."
    if found.has("focus"):
        tall, wide = found.size
        yield (
            f"Maps are Grad-CAM of the answer given on the unchanged image, from {found.layer}: {tall} × {wide} places over "
            "the whole image, drawn smoothly. What is finer than a place they cannot tell. Attended to is where a map lies "
            "above half of its largest value."
        )
        if (blank := int(np.isnan(found.drift("clean_area")).sum())) > 0:
            yield (
                f"{words.counted(blank, 'map is', 'maps are')} empty, since no place of {found.layer} speaks for the answer; "
                "no figure about maps counts them."
            )
    if found.row.number == OUTSIDE_PLAN:
        yield f"The audit has no gradient climb of its own, so this attack was taken: {attack}."
    if found.has("focus"):
        yield "The attack is run until its budget is spent, not until the answer turns: it shows how far a map can be moved."


def _decimal(share: Estimate) -> str:
    return words.percent(share, 0)


# -- tables ------------------------------------------------------------------------------------------------------------


def _maps(found: Explanation, ledger: Ledger) -> tuple[tuple[Line, ...], tuple[Line, ...], tuple[Line, ...]]:
    row = found.row

    def pair(name: str, clean: Estimate, attacked: Estimate) -> tuple[Figure, Figure]:
        return ledger.note(name, clean, part="explained"), ledger.note(name, attacked, row, part="explained")

    where = [
        Line("Attended area", "share of the image", (*pair("attended area", found.area(), found.area(ATTACKED)), None)),
        Line(
            "Effective area",
            "the same without a level: 100 of an even map",
            (*pair("effective area", found.area(effective=True), found.area(ATTACKED, effective=True)), None),
        ),
    ]
    if found.has_lesions:
        chance = ledger.note("area of the lesion", found.lesion_area, part="explained")
        where += [
            Line("Of the map on the lesion", "", (*pair("map on the lesion", found.mass(), found.mass(ATTACKED)), chance)),
            Line(
                "Largest on the lesion",
                "share of images",
                (*pair("largest on the lesion", found.hit(), found.hit(ATTACKED)), chance),
            ),
        ]
    return tuple(where), tuple(_drift(found, ledger)), tuple(_outside(found, ledger))


def _drift(found: Explanation, ledger: Ledger) -> Iterator[Line]:
    for key, name, meaning in (
        ("overlap", "Areas shared", "intersection over union of the attended areas, %; 100: the same"),
        ("shift_share", "Centre moved by", "% of the image's diagonal; 0: not at all"),
        ("correlation", "Rank correlation", "of the maps' pixels, times 100; 100: the same order, 0: none in common"),
    ):
        figures = [ledger.note(f"map: {key.replace('_', ' ')}", found.moved(key), found.row, part="explained")]
        for by in ("noise", "strangers"):
            estimate = found.moved(key, by)
            what = {"noise": "noise of the same size", "strangers": "another image's map"}[by]
            figures.append(ledger.note(f"map: {key.replace('_', ' ')}", estimate, part=f"explained, {what}"))
        yield Line(name, meaning, tuple(figures))


def _outside(found: Explanation, ledger: Ledger) -> Iterator[Line]:
    even = ledger.note("image outside the attended area", found.chance_outside(), part="explained")
    inside = ledger.note("attended area", found.area(), part="explained")

    def noted(name: str, estimate: Estimate) -> Figure:
        return ledger.note(name, estimate, found.row, part="explained")

    change = noted("change outside the attended area", found.change_outside())
    yield Line("Of the change, outside", "absolute values", (change, even))
    loss = "of what the whole change raises it by"
    yield Line("Loss raised by the part outside", loss, (noted("loss raised outside", found.loss_part("outside")), even))
    yield Line("Loss raised by the part inside", loss, (noted("loss raised inside", found.loss_part("inside")), inside))


def _confined(found: Explanation, ledger: Ledger) -> Iterator[Confined]:
    for area in found.areas:
        share = found.region_area(area)
        if not share.measured:
            continue
        name, covered = AREA_NAMES[area], words.percent(share, 0)
        rest = f"{100 * (1 - share.value):.0f} %"

        def noted(part: str, estimate: Estimate, area: str = area) -> Figure:
            return ledger.note("fooled", estimate, found.row, part=f"explained, {area}: {part}")

        yield Confined(
            name,
            (
                ("whole image", "100 %", noted("whole", found.fooled_whole(area))),
                (f"outside {name} only", rest, noted("outside", found.fooled_in(area, "outside"))),
                (f"inside {name} only", covered, noted("inside", found.fooled_in(area, "inside"))),
                ("as large an area elsewhere", covered, noted("elsewhere", found.fooled_in(area, "elsewhere"))),
            ),
        )


def _drawn(found: Explanation, ledger: Ledger) -> Iterator[DrawnLine]:
    for one in found.drawn():
        part = f"{one.title.lower()}, severity {one.severity}"
        yield DrawnLine(
            one.title,
            one.severity,
            f"{one.strength:g}, {one.unit}",
            ledger.note("still right", one.kept, part=part),
            ledger.note("map on it", one.mass, part=part),
            ledger.note("map there before", one.before, part=part),
            ledger.note("area", one.area, part=part),
        )


def _distances(audit: Audit, found: Explanation, ledger: Ledger) -> Iterator[Distance]:
    data = audit.protocol["data"]
    sides = data["size"] if isinstance(data["size"], list) else [data["size"]] * 2
    values = int(data["channels"]) * int(np.prod(sides))
    for norm in ("linf", "l2"):
        median = found.distance(norm)
        if not median.measured:
            continue
        ledger.note(f"distance to the boundary, {norm}", median, part="explained")
        quartiles = tuple(found.distance(norm, q) for q in (0.25, 0.75))
        for name, quartile in zip(("lower quartile", "upper quartile"), quartiles, strict=True):
            ledger.note(f"distance to the boundary, {norm}, {name}", quartile, part="explained")
        low, high = (distance_text(norm, quartile.value) for quartile in quartiles)
        yield Distance(
            words.threat_name(norm), *interval_text(norm, median), (low, high), _levels(norm, median.value, values), median.n
        )


def interval_text(norm: str, distance: Estimate) -> tuple[str, str]:
    """A distance and its interval."""
    value, low, high = (distance_text(norm, end) for end in (distance.value, distance.low, distance.high))
    return value, "" if np.isnan(distance.low) else f"[{low}, {high}]"


def distance_text(norm: str, distance: float) -> str:
    """A distance as a label; an infinite one was not found."""
    return "none found" if np.isinf(distance) else size(norm, distance)


def _levels(norm: str, distance: float, values: int) -> str:
    return "" if np.isinf(distance) else words.size_in_words(norm, distance, values)


def _ground(found: Explanation, ledger: Ledger) -> Ground:
    plane = found.plane()
    reach = float(plane.distances[-1])
    # In the largest norm two steps of signs add up: what lies within epsilon is a diamond; in L2 it is a circle.
    return Ground(
        field(plane.values),
        float(plane.values.min()),
        float(plane.values.max()),
        reach,
        "diamond" if plane.norm == "linf" else "circle",
        f"{words.threat_name(plane.norm)} {size(plane.norm, plane.epsilon)}",
        plane.rise.n,
        ledger.note("rise of the loss", plane.rise, part=f"explained, within {plane.norm} {plane.epsilon:g}"),
        ledger.note("bend of the loss", plane.bend, part=f"explained, within {plane.norm} {plane.epsilon:g}"),
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


def _look(audit: Audit, store: Store, one: Picture) -> Look:
    images, maps = ([store.pixels(digest) for digest in pair] for pair in (one.images, one.maps))
    mask = store.pixels(one.mask)[0] > 0 if one.mask else None
    limits = {"thresholds": np.nan_to_num(audit.thresholds)} if audit.task.multilabel else {}
    before, after = decide(one.answers, multilabel=audit.task.multilabel, **limits)
    truth = audit.targets[one.place]
    return Look(
        image=str(audit.splits["test"].images[one.place]),
        truth=_named(audit, truth),
        before=_named(audit, before),
        after=_named(audit, after),
        right=bool(np.all(before == truth)),
        turned=bool(np.any(before != after)),
        clean=picture(images[0], mask=mask),
        clean_map=picture(images[0], maps[0][0], mask),
        attacked=picture(images[1], mask=mask),
        attacked_map=picture(images[1], maps[1][0], mask),
        empty=(not maps[0].any(), not maps[1].any()),
        stages=tuple(_stage(store, images, layer) for layer in one.attention),
    )


def _named(audit: Audit, answer: Array) -> str:
    classes = audit.task.classes
    if not audit.task.multilabel:
        return classes[int(answer)] if answer >= 0 else "no answer"
    return ", ".join(classes[k] for k in np.flatnonzero(answer == 1)) or "no finding"


def _stage(store: Store, images: list[Array], layer: Attention) -> Stage:
    """Both are stretched alike, between the smallest and the largest value of the two."""
    places, places_range, channels, channels_range = ("", ""), "", "", ""
    if all(layer.places):
        found, places_range = _stretched([store.pixels(digest)[0] for digest in layer.places])
        clean, attacked = (picture(*pair, line=False, side=SMALL) for pair in zip(images, found, strict=True))
        places = clean, attacked
    if all(layer.channels):
        found, channels_range = _stretched([store.pixels(digest) for digest in layer.channels])
        order = np.argsort(-found[0], kind="stable")
        channels = strip(found[0][order], found[1][order])
    return Stage(layer.stage, layer.kind, places, places_range, channels, channels_range)


def _stretched(pair: list[Array]) -> tuple[list[Array], str]:
    low, high = min(float(part.min()) for part in pair), max(float(part.max()) for part in pair)
    if high - low <= EVEN * high:
        return [np.zeros_like(part) for part in pair], f"even, {words.plain(low, 2)}"
    spread = high - low
    return [(part - low) / spread for part in pair], f"{words.plain(low, 2)} to {words.plain(high, 2)}"
