"""Why a detector may notice attacks, read back: how changes grow through the model, where attacked images lie among clean ones,
and whether the features of clean images are those of one normal distribution.

run/detection/reasons/
  asked.json        images, attacks, stages of the model
  provenance.json   command, code digest, versions, machine
  growth.json       how much the output of each stage changes, by image
  neighbours.json   features laid out in a plane, and whose neighbour each attacked image is
  maps.json         digests of what the first block puts out for a few images
  normality.json    digests of features of clean images, one image a patient
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from antivenom.errors import InputError, NotMeasuredError, RecordsError
from antivenom.metrics.intervals import Estimate, estimate, proportion
from antivenom.metrics.normality import Distances, Mardia, by_direction, held_out_distances, mardia, room
from antivenom.records.detection import DRAWS, Detection
from antivenom.records.parts import Documents, InParts, read_parts
from antivenom.records.store import Store
from antivenom.records.trials import TEST, TrialRow

Array = np.ndarray[Any, Any]

HOME = "reasons"
ASKED, ORIGIN = f"{HOME}/asked", f"{HOME}/provenance"
PARTS = ("growth", "neighbours", "maps", "normality")

WHITE, BLACK = "white", "black"  # made on the model, and on the surrogate, in many steps
SINGLE = {WHITE: "white, one step", BLACK: "black, one step"}
ATTACKS = (WHITE, BLACK, *SINGLE.values())
STRANGER = "another image"
PIXELS, FEATURES, LOGITS = "pixels", "features", "logits"
HELD_OUT, CLEAN = "held-out", "clean"


def noise_like(kind: str) -> str:
    """Random noise as large as the change of an attack."""
    return f"noise like {kind}"


@dataclass(frozen=True)
class Picture:
    """What the first block put out for one image, as digests of pixels.

    Attributes:
        name: of the image.
        images: `(C, H, W)`, unchanged and attacked.
        maps: `(K, h, w)`, unchanged and attacked; of all that the block puts out those that vary most on unchanged images.
    """

    name: str
    images: tuple[str, str]
    maps: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Normal:
    """Tests of features of clean held-out images, one image a patient, in the directions in which training images differ most.

    Attributes:
        answer: the class that all of these images are taken for; empty where they are all images.
        width: of the features before the reduction.
        share: of the variance of the held-out images that the directions hold.
        whole: skewness and kurtosis over all directions.
        alone: the same of each direction by itself, the largest variance first.
        distances: from the mean of other clean images that were not trained on either.
    """

    answer: str
    width: int
    share: float
    whole: Mardia
    alone: tuple[Mardia, ...]
    distances: Distances

    @property
    def directions(self) -> int:
        """How many."""
        return self.whole.dimensions

    @property
    def departing(self) -> int:
        """Directions that depart from a normal distribution by themselves, at 5 % over all of them."""
        return sum(self.directions * one.p < 0.05 for one in self.alone)

    @property
    def p(self) -> float:
        """Of all three tests at once (Bonferroni)."""
        alone = self.directions * min(one.p for one in self.alone)
        return min(1.0, 3 * min(self.whole.p, alone, self.distances.p))


@dataclass(frozen=True, eq=False)
class Reasons(InParts):
    """What was measured on some test images of an examination. A median is over images; its interval resamples patients.

    Attributes:
        store: of the examination.
        rows: the attacks, by `WHITE`, `BLACK` and the `SINGLE` steps beside them; those that were tried.
        names: `(N,)` of the images.
        groups: `(N,)` patient, subject or lesion.
        stages: from the pixels to the logits; what is between has the names of the model's layers.
        parts: the documents that are there.
        classes: of the model's task.
        multilabel: whether these are findings.
    """

    all_parts: ClassVar = PARTS
    store: Store
    rows: Mapping[str, TrialRow]
    names: tuple[str, ...]
    groups: Array
    stages: tuple[str, ...]
    parts: Documents
    classes: tuple[str, ...]
    multilabel: bool

    # -- growth --------------------------------------------------------------------------------------------------------

    @property
    def kinds(self) -> tuple[str, ...]:
        """What changed the images: attacks, those of one step, noise as large as the former, and another image."""
        order = (*ATTACKS, noise_like(WHITE), noise_like(BLACK), STRANGER)
        changes = self.part("growth")["changes"]
        return tuple(kind for kind in order if kind in changes)

    def changes(self, kind: str, stage: str) -> Array:
        """By how much a stage's output changes, as a share of its own size, `(N,)`; NaN where that is 0.

        Raises:
            NotMeasuredError: no such change or stage was measured.
        """
        found = self.part("growth")["changes"].get(kind, {}).get(stage)
        if found is None:
            raise NotMeasuredError(f"no change of {stage} by {kind} is measured in {self.store.folder / HOME}")
        return np.array([np.nan if value is None else float(value) for value in found])

    def change(self, kind: str, stage: str) -> Estimate:
        """Median relative change of a stage."""
        return self._median(self.changes(kind, stage))

    @property
    def climb(self) -> tuple[str, ...]:
        """The stages that a change is said to grow through: from the pixels to the features, or to the last that is there."""
        return self.stages[: self.stages.index(FEATURES) + 1] if FEATURES in self.stages else self.stages[:-1]

    def steps(self, kind: str) -> tuple[Estimate, ...]:
        """By what the change is multiplied from each stage of `climb` to the next, in the median."""
        seen = [self.changes(kind, stage) for stage in self.climb]
        return tuple(self._ratio(after, before) for before, after in pairwise(seen))

    def growth(self, kind: str) -> Estimate:
        """By what the change is multiplied from the first to the last stage of `climb`, in the median."""
        return self._ratio(self.changes(kind, self.climb[-1]), self.changes(kind, self.climb[0]))

    def rising(self, kind: str) -> Estimate:
        """Share of images whose change grows at every step of `climb`."""
        seen = np.stack([self.changes(kind, stage) for stage in self.climb])
        return proportion(np.where(np.isnan(seen).any(0), np.nan, (np.diff(seen, axis=0) > 0).all(0)), self.groups)

    def times(self, kind: str, other: str, stage: str) -> Estimate:
        """How many times as much one change moves a stage as another does, in the median over images."""
        return self._ratio(self.changes(kind, stage), self.changes(other, stage))

    # -- neighbours ----------------------------------------------------------------------------------------------------

    @property
    def points(self) -> dict[str, Array]:
        """Places in the plane `(M, 2)`, by whose features they are: `held-out`, `clean`, and attacks."""
        document = self.part("neighbours")
        kinds, places = np.array(document["kinds"], dtype=np.str_), np.array(document["points"], dtype=float).reshape(-1, 2)
        return {str(kind): places[kinds == kind] for kind in dict.fromkeys(document["kinds"])}

    @property
    def perplexity(self) -> float:
        """Of the embedding: about how many neighbours each point is kept near."""
        return float(self.part("neighbours")["perplexity"])

    def beside_attacked(self, kind: str) -> Estimate:
        """Share of an attack's images whose nearest, of as many clean and attacked ones, is attacked; half is chance."""
        return proportion(np.array(self.part("neighbours")["nearest"][kind], dtype=float), self.groups)

    # -- maps ----------------------------------------------------------------------------------------------------------

    @property
    def block(self) -> str:
        """The layer whose maps are kept."""
        return str(self.part("maps")["layer"])

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Images of which maps are kept."""
        return tuple(
            Picture(str(one["image"]), (one["clean"], one["attacked"]), (one["maps"][0], one["maps"][1]))
            for one in self.part("maps")["pictures"]
        )

    # -- normality -----------------------------------------------------------------------------------------------------

    def normality(self) -> Normal:
        """The tests on all images."""
        document = self.part("normality")
        fitted, fresh = (self._coordinates(document[name]) for name in ("fitted", "fresh"))
        return self._tested("", fitted, fresh, float(document["share"]))

    def normality_of_answers(self) -> tuple[Normal, ...]:
        """The same of the images that are taken for one class, which may have a distribution each; of findings none.

        In as many directions as there are images enough for; classes with too few are left out.
        """
        document, found = self.part("normality"), []
        fitted, fresh = (self._coordinates(document[name]) for name in ("fitted", "fresh"))
        one, other = (np.array(document[name]) for name in ("fitted answers", "fresh answers"))
        for number, name in enumerate(self.classes if not self.multilabel else ()):
            mine, theirs = fitted[one == number], fresh[other == number]
            few = min(room(len(mine)), room(len(theirs)), fitted.shape[1])
            if few:
                share = float(document["share"]) * theirs[:, :few].var(0).sum() / max(theirs.var(0).sum(), 1e-300)
                try:
                    found.append(self._tested(name, mine[:, :few], theirs[:, :few], share))
                except InputError:  # of one class the directions of all may be constant
                    continue
        return tuple(found)

    def _tested(self, answer: str, fitted: Array, fresh: Array, share: float) -> Normal:
        width = int(self.part("normality")["width"])
        return Normal(answer, width, share, mardia(fresh), by_direction(fresh), held_out_distances(fitted, fresh))

    def _coordinates(self, digest: str) -> Array:
        return np.asarray(self.store.pixels(digest)[0], dtype=float)

    # -- estimates -----------------------------------------------------------------------------------------------------

    def _ratio(self, above: Array, below: Array) -> Estimate:
        return self._median(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))

    def _median(self, values: Array) -> Estimate:
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return Estimate(np.nan, np.nan, np.nan, 0, 0, "nothing to count")
        return estimate(lambda rows: float(np.median(values[known[rows]])), self.groups[known], draws=DRAWS)

    def check(self) -> None:
        """Refuse documents with another number of values than of images.

        Raises:
            RecordsError: naming the first such document.
        """
        columns: list[tuple[str, Any]] = []
        if self.has("growth"):
            columns += [
                (f"{kind}, {stage}", c) for kind, by in self.parts["growth"]["changes"].items() for stage, c in by.items()
            ]
        if self.has("neighbours"):
            document = self.parts["neighbours"]
            columns += [(f"nearest, {kind}", column) for kind, column in document["nearest"].items()]
            if len(document["kinds"]) != len(document["points"]):
                raise RecordsError(f"{self.store.folder / HOME}: points without a name, or names without a point")
        for name, column in columns:
            if len(column) != len(self.names):
                raise RecordsError(
                    f"{self.store.folder / HOME}, {name}: {len(column)} values of {len(self.names)} images; "
                    "records were changed"
                )


def read_reasons(found: Detection) -> Reasons | None:
    """What an examination says of the reasons; None where nobody looked for them.

    Raises:
        RecordsError: a document is missing or damaged, or contradicts the examination.
    """
    store = Store(found.folder)
    if not store.has_document(ASKED):
        return None
    asked = store.document(ASKED)
    parts = read_parts(store, HOME, PARTS)
    try:
        where = {str(name): place for place, name in enumerate(found.splits[TEST].images.tolist())}
        names = tuple(map(str, asked["images"]))
        if strange := [name for name in names if name not in where]:
            raise RecordsError(f"{store.folder / HOME}: {strange[0]} is no test image of the examination")
        reasons = Reasons(
            store,
            {kind: found.rows[int(asked["trials"][kind])] for kind in ATTACKS if kind in asked["trials"]},
            names,
            found.groups[[where[name] for name in names]],
            tuple(map(str, asked["stages"])),
            parts,
            found.task.classes,
            found.task.multilabel,
        )
        reasons.check()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RecordsError(
            f"a document of {store.folder / HOME} was written by another version of antivenom or changed by hand ({error!r}); "
            "remove that folder and run the examination again"
        ) from error
    return reasons
