"""An explanation read back: where a model looks on some test images, one value an image, so that every figure has its n.

run/explanation/
  asked.json        images, the attack, the layer of the maps
  provenance.json   command, code digest, versions, machine
  focus.json        maps unchanged and attacked: areas, drift, lesions, share of the change; digests of a few maps
  regions.json      whether the attack fools inside or outside an area only
  distances.json    how far the nearest boundary is
  artefacts.json    a pin and dust drawn on the images
  shuffled.json     blocks in another order
  surface.json      the loss around a few images
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from antivenom.errors import RecordsError
from antivenom.metrics.intervals import Estimate, estimate, proportion
from antivenom.records.outcomes import Split
from antivenom.records.parts import Documents, InParts, read_parts
from antivenom.records.plan import PlanRow
from antivenom.records.store import Store
from antivenom.task import Task

Array = np.ndarray[Any, Any]

HOME = "explanation"
ASKED, ORIGIN = "asked", "provenance"
PARTS = ("focus", "regions", "distances", "artefacts", "shuffled", "surface")
OUTSIDE_PLAN = -1  # number of an attack that is no row of the audit's plan
DRAWS = 500  # resamples of patients behind the interval of a mean or a median
CLEAN, ATTACKED = "clean", "attacked"


@dataclass(frozen=True)
class Attention:
    """Digests of what one attention layer gave one image, unchanged and attacked; empty where it weighs no such thing."""

    stage: str
    kind: str
    places: tuple[str, str]
    channels: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of which maps are kept, as digests of pixels.

    Attributes:
        place: among the test images.
        answers: logits `(2, A)`, unchanged and attacked.
        images, maps: unchanged and attacked.
        mask: of the lesion; empty where none is known.
        attention: by stage.
    """

    place: int
    answers: Array
    images: tuple[str, str]
    maps: tuple[str, str]
    mask: str
    attention: tuple[Attention, ...]


@dataclass(frozen=True)
class Drawn:
    """A thing drawn on the images at one severity.

    Attributes:
        name, strength, unit: which, and how large or how many.
        kept: of the decisions that were right before, those that stay right.
        mass: share of the map that lies on it; `before` the share that the unchanged image's map has there; `area` the share of
            the pixels, which is what an even map has.
    """

    title: str
    severity: int
    strength: float
    unit: str
    kept: Estimate
    mass: Estimate
    before: Estimate
    area: Estimate


@dataclass(frozen=True, eq=False)
class Plane:
    """The loss around images, less its value at them; the mean over images.

    Attributes:
        values: `(S, S)`, rows along the gradient and columns across it, the images in the middle.
        distances: `(S,)` in units of epsilon.
        epsilon, norm: the unit.
        rise: the most that the loss rises within epsilon on the plane.
        bend: how far it is from flat within epsilon.
    """

    values: Array
    distances: Array
    epsilon: float
    norm: str
    rise: Estimate
    bend: Estimate


@dataclass(frozen=True, eq=False)
class Explanation(InParts):
    """Where a model looks.

    Attributes:
        row: the attack; its number is that of the audit's plan, or `OUTSIDE_PLAN`.
        places: `(N,)` of the images among the test images.
        groups: `(N,)` patient, subject or lesion.
        targets: `(N,)` class numbers, or `(N, K)` 0 and 1.
        right: `(N, D)` which decisions were right before.
        layer, size: whose maps Grad-CAM weighs, and how fine they are; an empty name where the model has none.
        parts: the documents that are there.
        task: what the model decides.
    """

    all_parts: ClassVar = PARTS
    row: PlanRow
    places: Array
    groups: Array
    targets: Array
    right: Array
    layer: str
    size: tuple[int, int]
    parts: Documents
    task: Task
    names: tuple[str, ...]

    @classmethod
    def of(cls, asked: Mapping[str, Any], parts: Documents, split: Split, task: Task) -> Self:
        """Join what was asked for and found with what the data set says of the images.

        Raises:
            RecordsError: an image that is not among them, or another number of values than of images.
        """
        where = {str(name): place for place, name in enumerate(split.images.tolist())}
        names = tuple(map(str, asked["images"]))
        if strange := [name for name in names if name not in where]:
            raise RecordsError(f"{len(strange)} explained images are no test images of this run, such as {strange[0]}")
        places = np.array([where[name] for name in names], dtype=np.int64)
        right = np.array(asked["right"], dtype=bool).reshape(len(names), -1)
        found = cls(
            PlanRow(**asked["row"], until="spent"),
            places,
            split.groups[places],
            split.targets[places],
            right,
            str(asked["layer"]),
            (int(asked["map"][0]), int(asked["map"][1])),
            parts,
            task,
            names,
        )
        found._check()
        return found

    # -- maps ----------------------------------------------------------------------------------------------------------

    def drift(self, name: str) -> Array:
        """A figure of `explanation.focus.Drift`, by image; NaN where it is undefined.

        Raises:
            NotMeasuredError: the maps are not measured.
        """
        return _floats(self.part("focus")["drift"][name])

    def area(self, when: str = CLEAN, *, effective: bool = False) -> Estimate:
        """Share of the image attended to: where the map is above half of its largest value, or, effective, without a level."""
        return self.mean(self.drift(f"{when}_effective_area" if effective else f"{when}_area"))

    def mass(self, when: str = CLEAN) -> Estimate:
        """Share of the map on the lesion, of images that have one."""
        return self.mean(self.drift(f"{when}_mass"))

    def hit(self, when: str = CLEAN) -> Estimate:
        """Share of images whose map is largest on the lesion."""
        return self.share(self.drift(f"{when}_hit"))

    @property
    def lesion_area(self) -> Estimate:
        """Share of the image under the lesion: what mass and hits come to by chance."""
        area = self.drift("mask_area")
        return self.mean(np.where(area > 0, area, np.nan))

    @property
    def has_lesions(self) -> bool:
        """Whether any image has a known lesion."""
        return self.has("focus") and bool((self.drift("mask_area") > 0).any())

    def moved(self, name: str, by: str = ATTACKED) -> Estimate:
        """How alike two maps are: `overlap`, `shift_share` or `correlation`.

        Args:
            by: `attacked` compares the unchanged image's map with the attacked one's, `noise` with that under noise of the same
                size, `strangers` with another image's.
        """
        document = self.part("focus")
        column = document["drift"] if by == ATTACKED else document.get(by, {})
        values = _floats(column[name]) if name in column else np.full(len(self.places), np.nan)
        return self.mean(values)

    def change_outside(self) -> Estimate:
        """Share of the perturbation, by its absolute values, outside the attended area."""
        return self.mean(self.drift("change_outside"))

    def chance_outside(self) -> Estimate:
        """Share of the image outside the attended area."""
        return self.mean(1 - self.drift("clean_area"))

    def loss_part(self, where: str) -> Estimate:
        """What the perturbation's part `inside` or `outside` the attended area raises the loss by, as a share of the whole.

        The two need not add up to 1: pixels may work together. Images whose loss the whole does not raise do not count.
        """
        loss = self.part("focus")["loss"]
        whole, part = _floats(loss["whole"]), _floats(loss[where])
        return self.mean(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))

    @property
    def fooled(self) -> Estimate:
        """Share of images that the attack turned as wanted, of those first right."""
        return self.share(self._counted(_floats(self.part("focus")["fooled"])))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Images of which maps are kept; none where the maps are not measured."""
        if not self.has("focus"):
            return ()
        where = dict(zip(self.names, self.places.tolist(), strict=True))
        return tuple(_picture(one, where[str(one["image"])]) for one in self.parts["focus"]["pictures"])

    # -- parts of the image --------------------------------------------------------------------------------------------

    @property
    def areas(self) -> tuple[str, ...]:
        """Areas that attacks were confined to: `focus`, where the model attends, and `lesion`."""
        return tuple(name for name in ("focus", "lesion") if name in self.part("regions"))

    def fooled_in(self, area: str, part: str) -> Estimate:
        """Share of images fooled by changes `inside`, `outside` or `elsewhere` alone, of those first right that have one."""
        return self.share(self._counted(_floats(self.part("regions")[area][part])))

    def fooled_whole(self, area: str) -> Estimate:
        """The same of changes anywhere, on the same images."""
        document = self.part("regions")
        known = ~np.isnan(_floats(document[area]["area"]))
        return self.share(np.where(known, self._counted(_floats(document["whole"])), np.nan))

    def region_area(self, area: str) -> Estimate:
        """Share of the image that the area covers."""
        return self.mean(_floats(self.part("regions")[area]["area"]))

    # -- distances -----------------------------------------------------------------------------------------------------

    def distances(self, norm: str) -> Array:
        """Distance of each image to the nearest other decision, `linf` or `l2`; infinite where none was found.

        NaN of an image that the model has wrong; of findings every image counts.
        """
        values = np.array([math.inf if value is None else float(value) for value in self.part("distances")[norm]])
        return self._counted(values)

    def distance(self, norm: str, quantile: float = 0.5) -> Estimate:
        """A quantile of the distances; the median where nothing else is asked for."""
        values = self.distances(norm)

        def at(rows: Array) -> float:
            # No interpolation: between a finite and an infinite distance there is nothing.
            return float(np.quantile(values[known][rows], quantile, method="lower"))

        known = ~np.isnan(values)
        return estimate(at, self.groups[known], draws=DRAWS)

    # -- what is drawn on the image ------------------------------------------------------------------------------------

    def drawn(self) -> tuple[Drawn, ...]:
        """Pins and dust, by severity."""
        return tuple(self._drawn(line) for line in self.part("artefacts")["lines"])

    def _drawn(self, line: Mapping[str, Any]) -> Drawn:
        blank = [None] * len(self.places)
        mass, before, area = (self.mean(_floats(line.get(name, blank))) for name in ("mass", "before", "area"))
        return Drawn(
            str(line["title"]),
            int(line["severity"]),
            float(line["strength"]),
            str(line["unit"]),
            self._still(line["right"]),
            mass,
            before,
            area,
        )

    def shuffled(self) -> tuple[tuple[int, Estimate], ...]:
        """By the number of blocks along a side: of the decisions right before, those right with the blocks in another order."""
        return tuple((int(line["blocks"]), self._still(line["right"])) for line in self.part("shuffled")["lines"])

    @property
    def constant(self) -> Estimate:
        """Share of the decisions right before that the best constant answer has right too."""
        if self.task.multilabel:
            same = self.targets == (self.targets.mean(0) > 0.5)
        else:
            same = (self.targets == np.bincount(self.targets[self.right[:, 0]], minlength=1).argmax())[:, None]
        return self.share(np.where(self.right, same, np.nan))

    # -- loss ----------------------------------------------------------------------------------------------------------

    def plane(self) -> Plane:
        """The loss around a few images."""
        document = self.part("surface")
        where = {name: place for place, name in enumerate(self.names)}
        groups = self.groups[[where[str(name)] for name in document["image"]]]
        rise, bend = (_average(_floats(document[name]), groups) for name in ("rise", "bend"))
        values, distances = np.array(document["values"], dtype=float), np.array(document["distances"], dtype=float)
        return Plane(values, distances, float(document["epsilon"]), str(document["norm"]), rise, bend)

    # -- estimates -----------------------------------------------------------------------------------------------------

    def share(self, values: Array) -> Estimate:
        """The share of what is yes or no, `(N,)` or `(N, D)`; NaN does not count."""
        return proportion(values, self.groups)

    def mean(self, values: Array) -> Estimate:
        """The mean of values of any size `(N,)`, by resampling patients; NaN does not count.

        Shares of an image's pixels vary far less than a yes or no does, on whose spread `share` rests.
        """
        return _average(values, self.groups)

    def _counted(self, values: Array) -> Array:
        """Values of images that were right; of findings, of all."""
        return values if self.task.multilabel else np.where(self.right.all(1), values, np.nan)

    def _still(self, right: Sequence[Any]) -> Estimate:
        now = np.array(right, dtype=float).reshape(self.right.shape)
        return self.share(np.where(self.right, now, np.nan))

    def _check(self) -> None:
        """Refuse documents with another number of values than of images."""
        columns: list[tuple[str, Sequence[Any]]] = [("asked", self.right.tolist())]
        if self.has("focus"):
            focus = self.parts["focus"]
            columns += [(f"focus {name}", column) for name, column in (*focus["drift"].items(), *focus["loss"].items())]
        if self.has("regions"):
            columns += [(f"{area} {n}", column) for area in self.areas for n, column in self.parts["regions"][area].items()]
        if self.has("distances"):
            columns += [(f"distances {norm}", self.parts["distances"][norm]) for norm in ("linf", "l2")]
        for name in ("artefacts", "shuffled"):
            if self.has(name):
                columns += [(name, line["right"]) for line in self.parts[name]["lines"]]
        for name, column in columns:
            if len(column) != len(self.places):
                raise RecordsError(
                    f"explanation, {name}: {len(column)} values of {len(self.places)} images; records were changed"
                )


def read_explanation(store: Store, split: Split, task: Task) -> Explanation | None:
    """The explanation of a run; None where nobody began one.

    Raises:
        RecordsError: a document is damaged, or contradicts what the run holds.
    """
    if not store.has_document(f"{HOME}/{ASKED}"):
        return None
    parts = read_parts(store, HOME, PARTS)
    try:
        return Explanation.of(store.document(f"{HOME}/{ASKED}"), parts, split, task)
    except ValueError as error:  # columns of other lengths
        raise RecordsError(f"{store.folder / HOME} is damaged ({error}); remove it and explain again") from None


def _picture(one: Mapping[str, Any], place: int) -> Picture:
    def pair(found: Mapping[str, Any], name: str) -> tuple[str, str]:
        return str(found.get(f"{CLEAN}{name}", "")), str(found.get(f"{ATTACKED}{name}", ""))

    attention = (
        Attention(str(layer["stage"]), str(layer["kind"]), pair(layer, "_places"), pair(layer, "_channels"))
        for layer in one["attention"]
    )
    answers = np.array(one["answers"], dtype=float)
    return Picture(place, answers, pair(one, ""), pair(one, "_map"), str(one["mask"]), tuple(attention))


def _floats(values: Sequence[Any]) -> Array:
    return np.array([math.nan if value is None else float(value) for value in values])


def _average(values: Array, groups: Array) -> Estimate:
    known = ~np.isnan(values)
    return estimate(lambda rows: float(values[known][rows].mean()), groups[known], draws=DRAWS)
