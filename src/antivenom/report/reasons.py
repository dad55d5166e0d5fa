"""What a report says of the reasons: how changes grow through the model, where attacked images lie, how normal features are.

Each reason that li2020 gives is put beside what was measured, and said to be supported by these figures or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Detection
from antivenom.records.plan import size
from antivenom.records.reasons import (
    BLACK,
    CLEAN,
    FEATURES,
    HELD_OUT,
    LOGITS,
    PIXELS,
    SINGLE,
    STRANGER,
    WHITE,
    Normal,
    Reasons,
    noise_like,
    read_reasons,
)
from antivenom.records.trials import CLEAN_ROW, TrialRow
from antivenom.report import words
from antivenom.report.charts import Chart
from antivenom.report.figures import Figure, Ledger, plain_number
from antivenom.report.panels import change_in_colour, data_uri
from antivenom.report.reason_charts import Scatter, growth_chart, quantile_chart, scatter_chart

Array = np.ndarray[Any, Any]

SUPPORTED, IN_PART, NOT, OPEN = "supported", "supported in part", "not supported", "undecided"
LEVEL = 0.05  # of a test
TILE = 64  # pixels along an edge of a small picture of a map
PART_NAMES = {
    "growth": "how changes grow from stage to stage",
    "neighbours": "where attacked images lie among clean ones",
    "maps": "maps of the first block",
    "normality": "whether features are normally distributed",
}
ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "pgd": "PGD", "mim": "MIM", "ddn": "DDN", "deepfool": "DeepFool", "square": "Square"}
WORKS = (
    (
        "Map of neighbours",
        "van der Maaten, Hinton, ‘Visualizing data using t-SNE’, JMLR 9, 2008",
        "https://jmlr.org/papers/v9/vandermaaten08a.html",
    ),
    (
        "Tests of normality",
        "Mardia, ‘Measures of multivariate skewness and kurtosis with applications’, Biometrika 57, 1970; distances of fresh "
        "images: Anderson, ‘An introduction to multivariate statistical analysis’, Wiley 2003, section 5.2",
        "https://doi.org/10.1093/biomet/57.3.519",
    ),
)


@dataclass(frozen=True)
class Claim:
    """A reason of the paper, and what these figures say of it."""

    name: str
    verdict: str
    text: str


@dataclass(frozen=True)
class StageLine:
    """The change of one stage, by what made it."""

    name: str
    detail: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class NormalLine:
    """The tests on some images, as texts."""

    name: str
    n: int
    fitted: int
    directions: str
    skewness: Figure
    kurtosis: Figure
    detail: str
    departing: str
    gap: Figure
    p: Figure


@dataclass(frozen=True)
class MapsPanel:
    """One image and what the first block puts out for it: unchanged, the change, attacked; PNG data URIs."""

    image: str
    pictures: tuple[str, str, str]
    factor: int
    maps: tuple[str, str, str]
    maps_factor: int
    pixelated: bool


@dataclass(frozen=True)
class Why:
    """The section."""

    opening: str
    claims: tuple[Claim, ...]
    headers: tuple[str, ...]
    stages: tuple[StageLine, ...]
    growth: Chart | None
    scatter: Scatter | None
    quantiles: Chart | None
    normality: tuple[NormalLine, ...]
    tested: str
    block: str
    panels: tuple[MapsPanel, ...]


def why_of(found: Detection, ledger: Ledger) -> Why | None:
    """The section; None where nobody looked for reasons, or nothing of it is measured yet."""
    seen = read_reasons(found)
    if seen is None or not any(seen.has(part) for part in PART_NAMES):
        return None
    tests = (seen.normality(), *seen.normality_of_answers()) if seen.has("normality") else ()
    grown = seen.has("growth")
    stages = tuple(_stages(seen, ledger)) if grown else ()
    return Why(
        opening=_opening(found, seen),
        claims=tuple(_claims(seen, ledger, tests)),
        headers=tuple(_called(seen, kind) for kind in seen.kinds) if grown else (),
        stages=stages,
        growth=_growth_chart(seen, stages) if grown else None,
        scatter=_scatter(seen) if seen.has("neighbours") else None,
        quantiles=_quantiles(tests) if tests else None,
        normality=tuple(_normal_line(one, ledger) for one in tests),
        tested=_tested(tests[0]) if tests else "",
        block=seen.block if seen.has("maps") else "",
        panels=tuple(_panels(seen)) if seen.has("maps") else (),
    )


def unreasoned(found: Detection) -> Iterator[str]:
    """What was begun and not measured."""
    seen = read_reasons(found)
    if seen is None:
        return
    if seen.missing:
        parts = words.listed([PART_NAMES[name] for name in seen.missing])
        yield f"Of the reasons why detectors notice: {parts}; that work is not finished, and no figure of it is stated."
    for name, reason in seen.impossible.items():
        yield f"Of the reasons why detectors notice: {PART_NAMES[name]} ({reason})."


# -- in words ----------------------------------------------------------------------------------------------------------


def _opening(found: Detection, seen: Reasons) -> str:
    groups = len(np.unique(seen.groups))
    of = "" if groups == len(seen.names) else f" of {words.counted(groups, found.unit)}"
    made = words.listed([f"{_attack(row)} {_where(row)}" for kind, row in seen.rows.items() if kind in SINGLE])
    return (
        f"Li and Zhu give reasons why their detector works, and measure none. Here they are measured on "
        f"{words.counted(len(seen.names), 'test image')}{of}, attacked again as before: {made}."
    )


def _claims(seen: Reasons, ledger: Ledger, tests: Sequence[Normal]) -> Iterator[Claim]:
    if seen.has("growth"):
        yield _layer_by_layer(seen, ledger)
        if SINGLE[WHITE] in seen.kinds and _steps(seen.rows[WHITE]) > 1:
            yield _many_steps(seen, ledger)
    if seen.has("neighbours"):
        yield _apart(seen, ledger)
    if tests:
        yield _one_normal(tests)


def _layer_by_layer(seen: Reasons, ledger: Ledger) -> Claim:
    steps, growth = seen.steps(WHITE), seen.growth(WHITE)
    last = _stage_name(seen, seen.climb[-1])
    names = [_stage_name(seen, stage) for stage in seen.climb]
    flat = [
        f"{a} to {b} × {step.value:.2f} {_ends(step)}"
        for (a, b), step in zip(pairwise(names), steps, strict=True)
        if not step.low > 1
    ]
    verdict = IN_PART if growth.low > 1 else NOT if growth.high < 1 else OPEN
    if growth.low > 1 and not flat:
        verdict = SUPPORTED
    rows = {
        kind: _noted(seen, ledger, kind, f"growth of the change, pixels to {seen.climb[-1]}", seen.growth(kind))
        for kind in seen.kinds
    }
    others = [
        f"{_called(seen, kind)} × {rows[kind].value:.1f}"
        for kind in seen.kinds
        if kind != WHITE and kind not in SINGLE.values()
    ]
    rising = _noted(seen, ledger, WHITE, "images whose change grows at every stage", seen.rising(WHITE))
    where = f" It does not surely grow from {words.listed(flat)}." if flat else ""
    text = (
        f"From the pixels to the {last} the relative change of {_attack(seen.rows[WHITE])} on the model is multiplied by "
        f"{growth.value:.1f} {_ends(growth, 1)} in the median; {words.listed(others)}. It grows at every stage in "
        f"{words.percent(rising)} of the images.{where}"
    )
    return Claim("“The magnitude of perturbations increases layer by layer”", verdict, text)


def _many_steps(seen: Reasons, ledger: Ledger) -> Claim:
    stage = seen.climb[-1]

    def compared(kind: str) -> Estimate:
        found = seen.times(kind, SINGLE[kind], stage)
        return _noted(seen, ledger, kind, f"change of {stage}, times that of one step", found)

    white = compared(WHITE)
    text = (
        f"At the {_stage_name(seen, stage)}, {_attack(seen.rows[WHITE])} on the model moves an image "
        f"{white.value:.2f} {_ends(white)} times as far as {_attack(seen.rows[SINGLE[WHITE]])} of the same size, in the median"
    )
    if SINGLE[BLACK] not in seen.kinds or _steps(seen.rows[BLACK]) < 2:
        verdict = SUPPORTED if white.low > 1 else NOT if white.high < 1 else OPEN
        return Claim("Many steps make more of it at the features than one", verdict, f"{text}. No other model was attacked.")
    black = compared(BLACK)
    both = (white.low > 1, black.high < 1)
    against = (white.high < 1, black.low > 1)
    verdict = SUPPORTED if all(both) else IN_PART if any(both) else NOT if any(against) else OPEN
    return Claim(
        "Many steps make more of it at the features than one; made on another model, it is “reversed”",
        verdict,
        f"{text}; made on another model, {black.value:.2f} {_ends(black)} times.",
    )


def _apart(seen: Reasons, ledger: Ledger) -> Claim:
    shares = {
        kind: _noted(seen, ledger, kind, "nearest neighbour is attacked", seen.beside_attacked(kind))
        for kind in (WHITE, BLACK)
        if kind in seen.points
    }
    white = shares[WHITE]
    verdict = SUPPORTED if white.low > 0.5 else NOT if white.high < 0.5 else OPEN
    told = [f"{words.percent(share, 0)} {_ends(share, 0, 100)} of {_called(seen, kind)}" for kind, share in shares.items()]
    return Claim(
        "In features, clean and attacked images lie apart",
        verdict,
        f"The nearest of as many clean and attacked images is an attacked one for {words.listed(told)}; 50 % is chance. An "
        "image’s own unchanged self does not count. The map below keeps neighbours and no distances: it proves nothing alone.",
    )


def _one_normal(tests: Sequence[Normal]) -> Claim:
    whole = tests[0]
    departs = whole.p < LEVEL
    alone = [f"‘{one.answer}’" for one in tests[1:] if one.p < LEVEL]
    each = "" if len(tests) == 1 else " Images of one answer alone do not depart."
    if alone:
        each = f" Images of one answer alone depart too: {words.listed(alone)}."
    end = (
        "A detector may rank images rightly all the same; its densities are no probabilities." if departs else "It is no proof."
    )
    return Claim(
        "Features of clean images have a “unimodal multivariate density”, a normal one",
        NOT if departs else "not contradicted",
        f"{words.counted(whole.whole.n, 'held-out image')}, one a patient, in {words.counted(whole.directions, 'direction')}: "
        f"{_departures(whole)}, at 5 % over three tests.{each} {end}",
    )


def _departures(whole: Normal) -> str:
    tests = (
        ("skewness or kurtosis over all directions", whole.whole.p),
        ("some directions alone", whole.directions * min(one.p for one in whole.alone)),
        ("distances from the mean", whole.distances.p),
    )
    failed = [name for name, p in tests if 3 * p < LEVEL]
    return f"{words.listed(failed)} differ from normal draws" if failed else "nothing tells them from normal draws"


def _tested(whole: Normal) -> str:
    return (
        f"Each test needs many more images than dimensions, so the {whole.width} features are reduced to "
        f"{words.counted(whole.directions, 'direction')}, those in which training images differ most: as few as hold 95 % of "
        f"their variance, and no more than a tenth of the images. They hold {100 * whole.share:.1f} % of the variance of the "
        "held-out images; nothing is added to the covariance, and what lies outside them is not tested. Distances are from the "
        "mean of other clean images, which were not trained on either."
    )


# -- tables ------------------------------------------------------------------------------------------------------------


def _stages(seen: Reasons, ledger: Ledger) -> Iterator[StageLine]:
    for stage in seen.stages:
        name = _stage_name(seen, stage)
        figures = tuple(
            _figure(seen, ledger, kind, f"relative change of {stage}", seen.change(kind, stage)) for kind in seen.kinds
        )
        yield StageLine(name, "" if name == stage else stage, figures)


def _normal_line(one: Normal, ledger: Ledger) -> NormalLine:
    part = f"clean held-out images{f' answered {one.answer}' if one.answer else ''}"

    def noted(quantity: str, value: float, method: str) -> Figure:
        return ledger.note_detection(quantity, plain_number(value, one.whole.n, one.whole.n, method), CLEAN_ROW, part)

    simulated = "share of samples of normal draws with as large a gap"
    return NormalLine(
        f"answered {one.answer}" if one.answer else "all",
        one.whole.n,
        one.distances.fitted,
        f"{one.directions}",
        noted("p of the skewness", one.whole.skewness_p, "Mardia, chi-square"),
        noted("p of the kurtosis", one.whole.kurtosis_p, "Mardia, normal"),
        f"{one.whole.kurtosis:.1f}, normal {one.whole.expected:.1f}",
        f"{one.departing} of {one.directions}",
        noted("gap of the distances", one.distances.gap, "Kolmogorov-Smirnov"),
        noted("p of the distances", one.distances.p, simulated),
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


def _growth_chart(seen: Reasons, stages: Sequence[StageLine]) -> Chart:
    styles = {WHITE: "harm", BLACK: "s0", noise_like(WHITE): "noise", noise_like(BLACK): "s4", STRANGER: "s2"}
    curves = [
        (_called(seen, kind), styles[kind], [line.figures[place].estimate for line in stages])
        for place, kind in enumerate(seen.kinds)
        if kind in styles
    ]
    return growth_chart("why-growth", "Change from stage to stage", [_short(seen, stage) for stage in seen.stages], curves)


def _scatter(seen: Reasons) -> Scatter:
    styles = {HELD_OUT: "noise", CLEAN: "s2", WHITE: "harm", BLACK: "s0"}
    kinds = [(_called(seen, kind), styles[kind], places) for kind, places in seen.points.items()]
    return scatter_chart("why-neighbours", f"Features laid out by t-SNE (perplexity {seen.perplexity:.0f})", kinds)


def _quantiles(tests: Sequence[Normal]) -> Chart:
    styles = ["worst", *(f"s{place}" for place in range(6))]
    curves = [
        (f"answered {one.answer}" if one.answer else "all", style, one.distances.expected, one.distances.observed)
        for one, style in zip(tests, styles, strict=False)
    ]
    return quantile_chart("why-quantiles", "Distances of clean images from the mean", curves)


def _panels(seen: Reasons) -> Iterator[MapsPanel]:
    for one in seen.pictures:
        clean, attacked = (seen.store.pixels(digest) for digest in one.images)
        before, after = (seen.store.pixels(digest) for digest in one.maps)
        low, spread = before.min((1, 2), keepdims=True), np.ptp(before, axis=(1, 2), keepdims=True)
        unit = [(part - low) / np.where(spread > 0, spread, np.inf) for part in (before, after)]
        factor, maps_factor = _factor(attacked - clean), _factor(unit[1] - unit[0])
        yield MapsPanel(
            one.name,
            (data_uri(clean), data_uri(change_in_colour(attacked - clean, factor)), data_uri(attacked)),
            factor,
            (
                data_uri(_tiled(unit[0])[None]),
                data_uri(change_in_colour(_tiled(unit[1] - unit[0])[None], maps_factor)),
                data_uri(_tiled(unit[1])[None]),
            ),
            maps_factor,
            max(clean.shape[1:]) < 100,
        )


def _factor(change: Array) -> int:
    """The largest whole number that leaves a change within half of the range; 1 where it is beyond."""
    reach = float(np.abs(change).max())
    return max(1, math.floor(0.5 / reach + 1e-3)) if reach > 0 else 1


def _tiled(maps: Array) -> Array:
    """Maps `(K, h, w)` in a square of squares, each enlarged by whole pixels; the rest is 0."""
    side = math.ceil(math.sqrt(len(maps)))
    zoom = max(1, math.ceil(TILE / max(maps.shape[1:])))
    large = maps.repeat(zoom, 1).repeat(zoom, 2)
    tall, wide = large.shape[1] + 2, large.shape[2] + 2
    sheet = np.zeros((side * tall - 2, side * wide - 2))
    for place, one in enumerate(large):
        top, left = place // side * tall, place % side * wide
        sheet[top : top + tall - 2, left : left + wide - 2] = one
    return sheet


# -- names -------------------------------------------------------------------------------------------------------------


def _called(seen: Reasons, kind: str) -> str:
    """What changed the images, as a column or a line is called."""
    named = {STRANGER: "another image", HELD_OUT: "clean, held out", CLEAN: "clean, tested"}
    if kind in named:
        return named[kind]
    for made, name in ((WHITE, "on the model"), (BLACK, "on another model")):
        if kind == noise_like(made):
            return f"noise as large as {_attack(seen.rows[made])} {name}"
    row = seen.rows[kind]
    return f"{_attack(row)} on {'another' if row.carried_over else 'the'} model"


def _attack(row: TrialRow) -> str:
    name = ATTACKS.get(row.attack, row.attack.replace("_", " "))
    return f"{name}-{_steps(row)}" if "steps" in row.settings else name


def _steps(row: TrialRow) -> int:
    return int(row.settings.get("steps", 1))


def _where(row: TrialRow) -> str:
    return (
        f"on {'another' if row.carried_over else 'the'} model, {words.threat_name(row.threat)} {size(row.threat, row.epsilon)}"
    )


def _stage_name(seen: Reasons, stage: str) -> str:
    if stage in (PIXELS, FEATURES, LOGITS):
        return stage
    place = seen.stages.index(stage) - 1
    return f"stage {place}" if place else "stem"


def _short(seen: Reasons, stage: str) -> str:
    return _stage_name(seen, stage).removeprefix("stage ")


def _noted(seen: Reasons, ledger: Ledger, kind: str, quantity: str, estimate: Estimate) -> Estimate:
    return _figure(seen, ledger, kind, quantity, estimate).estimate


def _figure(seen: Reasons, ledger: Ledger, kind: str, quantity: str, estimate: Estimate) -> Figure:
    """Note a figure of an attack; noise and other images stand with the clean ones, told apart by their part."""
    row = seen.rows.get(kind, CLEAN_ROW)
    return ledger.note_detection(quantity, estimate, row, "" if row.number else _called(seen, kind))


def _ends(estimate: Estimate, digits: int = 2, factor: float = 1) -> str:
    if math.isnan(estimate.low):
        return "[no interval]"
    return f"[{factor * estimate.low:.{digits}f}, {factor * estimate.high:.{digits}f}]"
