"""The examination of a guard read back: what its detectors flag of clean, changed and attacked images, and what that costs.

    run/detection/
      asked.json        trials, detectors with their thresholds, model, data
      provenance.json   command, code digest, versions, machine
      operating.json    where findings count as present
      scans.parquet     held-out clean images (`val`), test images (`test`), images of other sets under their names
      shards/NAME/      examples, answers of the guarded model, scores of the detectors

An attack here overturns the model's own answer, right or wrong. A detector notices an image whose score is above a threshold:
its own, or that which keeps a rate of false alarms on the held-out clean images. Who knows the detector stops just below its
own threshold, so only that one tells what such an attack is worth. Intervals are clustered by patient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.errors import InputError, NotMeasuredError, RecordsError
from antivenom.metrics import classification, ranking
from antivenom.metrics.false_alarms import held_out_threshold, micro_f1_estimate, positive_f1_estimate
from antivenom.metrics.intervals import Estimate, estimate, proportion
from antivenom.metrics.selective import RiskCoverage, WeightedAuroc, area_estimate, risk_coverage, weighted_auroc
from antivenom.records.outcomes import Split
from antivenom.records.store import Store
from antivenom.records.trials import HELD_OUT, TEST, Scored, TrialRow, Tried, WatchRow, read_sets, trial_rows
from antivenom.task import Task

Array = np.ndarray[Any, Any]

HOME = "detection"
ASKED, ORIGIN = "asked", "provenance"
RATES = (0.01, 0.05, 0.1)  # of false alarms at which detectors are compared
ROUNDING = 1e-3  # what two forward passes may differ by, as a share of the largest logit
DRAWS = 200  # resamples of figures that have no interval in closed form


@dataclass(frozen=True, eq=False)
class Passed:
    """What attackers of one size get past a detector; each image meets every attack of its kind.

    Attributes:
        overturned: share of images whose answer any white-box attack of this size overturns, noticed or not.
        naive: share overturned and unnoticed where the attacker knows nothing of the detector.
        adaptive: the same of attacks that are made with knowledge of it.
        known: the same where the attacker knows it, who may do what one does who does not.
        naive_evasion, adaptive_evasion, evasion: the last three as shares of what is overturned.
        trials: numbers of the adaptive trials that it was taken over.
    """

    overturned: Estimate
    naive: Estimate
    adaptive: Estimate
    known: Estimate
    naive_evasion: Estimate
    adaptive_evasion: Estimate
    evasion: Estimate
    trials: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Accepted:
    """What a model is worth on the images that a detector lets through.

    Attributes:
        coverage: share of the images let through.
        accuracy: share of decisions about these that are right.
        auroc: of the classes or findings over these, weighted by positives. Of a selected sample: it may rise because the hard
            images are gone.
        positives: by class or finding, how many of these have it.
    """

    coverage: Estimate
    accuracy: Estimate
    auroc: WeightedAuroc
    positives: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Detection:
    """An examination, joined. `Detection.read(folder)` makes one; figures are methods.

    `detector` is a name; None is the guard as it decides: what any of its deciding detectors flags at its own threshold. `rate`
    is a rate of false alarms, at whose threshold is judged; None is the detector's own threshold.

    Attributes:
        folder: of the examination's records.
        task: of the guarded model.
        asked, origin: the documents as they were written.
        watches: the detectors.
        rows: the clean images, then the trials.
        splits: `val`, `test` and other sets by name.
        tried: by trial and split, for what is measured.
        progress: by trial and split, images measured and wanted.
        operating: `(A,)` logits above which a finding counts as present; None where classes exclude each other.
    """

    folder: Path
    task: Task
    asked: Mapping[str, Any]
    origin: Mapping[str, Any]
    watches: tuple[WatchRow, ...]
    rows: tuple[TrialRow, ...]
    splits: Mapping[str, Split]
    tried: Mapping[tuple[int, str], Tried]
    progress: Mapping[tuple[int, str], tuple[int, int]]
    operating: Array | None

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Detection:
        """Read the examination in a run's folder; one that is not finished can be read, and says how far it is.

        Raises:
            RecordsError: there is none, a document or table is missing or damaged, or records contradict each other.
        """
        found = read_detection(Store(folder))
        if found is None:
            raise RecordsError(f"{folder} holds no examination of a guard; examine one into it first")
        return found

    # -- the trials and how far they are -------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every trial is measured on all of its images."""
        return all(key in self.tried for key in self.progress)

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the other sets."""
        return tuple(self.asked["others"])

    @property
    def unit(self) -> str:
        """What a group of images is: `patient`, `subject` or `lesion`."""
        return str(self.asked["data"].get("unit") or "patient")

    @property
    def deciding(self) -> tuple[str, ...]:
        """The detectors that make the guard reject."""
        return tuple(watch.name for watch in self.watches if watch.decides)

    def measured(self, number: int, split: str = TEST) -> bool:
        """Whether a trial is measured on every image of a split that it concerns."""
        return (number, split) in self.tried

    def trial(self, number: int, split: str = TEST) -> Tried:
        """What a trial left of a split.

        Raises:
            NotMeasuredError: it is not measured on all of its images.
        """
        if (number, split) not in self.tried:
            done, wanted = self.progress.get((number, split), (0, 0))
            state = f"{done} of {wanted} images are measured" if wanted else "no such trial was asked for"
            raise NotMeasuredError(f"trial {number} of {self.folder} is not measured on '{split}' ({state}); examine on")
        return self.tried[number, split]

    def watch(self, detector: str) -> WatchRow:
        """A detector by its name.

        Raises:
            NotMeasuredError: the guard has none of this name.
        """
        for watch in self.watches:
            if watch.name == detector:
                return watch
        raise NotMeasuredError(f"the guard has no detector {detector!r}; it has {', '.join(w.name for w in self.watches)}")

    @property
    def sizes(self) -> tuple[tuple[str, float], ...]:
        """Perturbation sets and epsilons at which an attacker who knows a detector was measured."""
        return tuple(dict.fromkeys(row.size for row in self.rows if row.adaptive and self.measured(row.number)))

    def knowing(self, detector: str | None, size: tuple[str, float]) -> tuple[TrialRow, ...]:
        """The measured trials within a size whose attacker knows the detector; of the guard, all that decide."""
        names = set(self.deciding if detector is None else (detector,))
        mine = (row for row in self.rows if row.adaptive and _within(row, size) and names <= set(row.evading))
        return tuple(row for row in mine if names and self.measured(row.number))

    def unknowing(self, size: tuple[str, float]) -> tuple[TrialRow, ...]:
        """The measured trials within a size, on the guarded model, of an attacker who knows nothing of detectors."""
        return tuple(row for row in self.rows if row.naive and _within(row, size) and self.measured(row.number))

    # -- alarms --------------------------------------------------------------------------------------------------------

    def threshold(self, detector: str, rate: float | None = None) -> float:
        """A detector's own threshold, or that which keeps a rate on held-out clean images; NaN where these are too few."""
        if rate is None:
            return self.watch(detector).value
        scores = self.trial(0, HELD_OUT).scores[self.watch(detector).name]
        try:
            found = held_out_threshold(scores, rate, self.splits[HELD_OUT].groups)
        except InputError:
            return math.nan
        return found if math.isfinite(found) else math.nan

    def flagged(self, number: int, detector: str | None = None, rate: float | None = None, split: str = TEST) -> Array:
        """Which images are flagged `(N,)`: 0 or 1, NaN where the trial does not concern one or no threshold is known.

        Raises:
            NotMeasuredError: the trial is not measured, or a rate is asked of the guard as a whole.
        """
        tried = self.trial(number, split)
        if detector is None:
            if rate is not None:
                raise NotMeasuredError("the guard as a whole has its own thresholds; name a detector to judge at another rate")
            parts = [self.flagged(number, name, None, split) for name in self.deciding]
            return np.max(parts, axis=0) if parts else np.where(tried.concerned, 0.0, np.nan)
        threshold = self.threshold(detector, rate)
        known = tried.concerned & (not math.isnan(threshold))
        return np.where(known, ~(tried.scores[detector] <= threshold), np.nan)

    def alarms(
        self,
        detector: str | None = None,
        rate: float | None = None,
        number: int = 0,
        split: str = TEST,
        where: Array | None = None,
    ) -> Estimate:
        """Share of images that are flagged: false alarms of clean images, and of those that no adversary changed.

        Args:
            detector, rate: as for all figures.
            number: 0 for clean images, else a trial.
            split: `test`, `val` or the name of another set.
            where: `(N,)` bool; only these images count.
        """
        flagged = self.flagged(number, detector, rate, split)
        return proportion(flagged if where is None else np.where(where, flagged, np.nan), self.splits[split].groups)

    def alarms_by_class(self, detector: str | None = None, rate: float | None = None) -> dict[str, Estimate]:
        """False alarms on the clean test images of each class, or that show each finding."""
        truth = classification.one_hot(self.targets, len(self.task.classes), multilabel=self.task.multilabel)
        return {name: self.alarms(detector, rate, where=truth[:, k]) for k, name in enumerate(self.task.classes)}

    def alarms_by_source(self, detector: str | None = None, rate: float | None = None) -> dict[str, Estimate]:
        """False alarms on the clean test images of each hospital or camera; empty where none is named."""
        sources = self.splits[TEST].sources
        return {str(name): self.alarms(detector, rate, where=sources == name) for name in np.unique(sources) if name}

    def noticed(
        self, number: int, detector: str | None = None, rate: float | None = None, *, fooling: bool = False
    ) -> Estimate:
        """Share of a trial's images that are flagged; where `fooling`, of those whose answer it overturns."""
        return self.alarms(detector, rate, number, where=self.overturned(number) == 1 if fooling else None)

    # -- attacks -------------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> Array:
        """Truth of the test images: `(N,)` class numbers, or `(N, K)` 0 and 1."""
        return self.splits[TEST].targets

    @property
    def groups(self) -> Array:
        """Patient, subject or lesion of each test image, `(N,)`."""
        return self.splits[TEST].groups

    def overturned(self, number: int) -> Array:
        """Which answers of the model a trial overturns `(N,)`: 0 or 1, NaN where it does not concern the image."""
        tried, lead = self.trial(number), self._lead(number)
        # What the run judged stands; for a detector that was to be passed it judged more than the answer.
        found = tried.reached | (lead > 0) if self.rows[number].adaptive else tried.reached
        return np.where(tried.concerned, found, np.nan)

    def success(self, number: int) -> Estimate:
        """Share of a trial's images whose answer it overturns, noticed or not."""
        return proportion(self.overturned(number), self.groups)

    def unnoticed(self, number: int, detector: str | None = None, rate: float | None = None) -> Estimate:
        """Share of a trial's images whose answer is overturned while nothing is flagged."""
        return proportion(self._past(number, detector, rate), self.groups)

    def passed(self, detector: str | None, size: tuple[str, float]) -> Passed:
        """Let each image meet every white-box attack of one size, made without and with knowledge of a detector.

        Raises:
            NotMeasuredError: no attacker of this size who knows the detector is measured.
        """
        knowing, unknowing = self.knowing(detector, size), self.unknowing(size)
        if not knowing:
            raise NotMeasuredError(f"no attacker who knows {detector or 'the guard'} is measured at {size[0]} {size[1]:g}")
        overturned = self._any([self.overturned(row.number) for row in (*knowing, *unknowing)])
        adaptive = self._any([self._past(row.number, detector) for row in knowing])
        naive = self._any([self._past(row.number, detector) for row in unknowing])
        known = self._any([naive, adaptive])

        def of_overturned(past: Array) -> Estimate:
            return proportion(np.where(overturned == 1, past, np.nan), self.groups)

        return Passed(
            proportion(overturned, self.groups),
            proportion(naive, self.groups),
            proportion(adaptive, self.groups),
            proportion(known, self.groups),
            of_overturned(naive),
            of_overturned(adaptive),
            of_overturned(known),
            tuple(row.number for row in knowing),
        )

    # -- detectors without a threshold ---------------------------------------------------------------------------------

    def auroc(self, number: int, detector: str) -> Estimate:
        """The chance that an image of a trial scores above a clean test image."""
        return ranking.auroc_estimate(*self._against_clean(number, detector))

    def average_precision(self, number: int, detector: str, *, draws: int = DRAWS) -> Estimate:
        """Mean precision of telling the images of a trial from the clean test images; half is chance where both are as many."""
        scores, truth, groups = self._against_clean(number, detector)
        return estimate(lambda rows: ranking.average_precision(scores[rows], truth[rows]), groups, draws=draws)

    def roc(self, number: int, detector: str) -> tuple[Array, Array]:
        """Shares flagged of clean test images and of a trial's, `(M,)` each, from the highest threshold down."""
        scores, truth, _ = self._against_clean(number, detector)
        order = np.argsort(-scores, kind="stable")
        last = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
        alarms, hits = np.cumsum(~truth[order])[last], np.cumsum(truth[order])[last]
        return np.append(0, alarms / max(1, alarms[-1])), np.append(0, hits / max(1, hits[-1]))

    # -- as the paper counts -------------------------------------------------------------------------------------------

    def micro_f1(self, number: int, detector: str | None = None, rate: float | None = None) -> Estimate:
        """F1 over both answers, attacked and clean, as Li and Zhu count it: over a trial's images and the same unchanged."""
        return micro_f1_estimate(*self._both(number, detector, rate), self.groups)

    def positive_f1(self, number: int, detector: str | None = None, rate: float | None = None) -> Estimate:
        """F1 of the alarm alone, over a trial's images and the same images unchanged."""
        return positive_f1_estimate(*self._both(number, detector, rate), self.groups)

    def accepted(
        self, number: int = 0, detector: str | None = None, rate: float | None = None, *, all_: bool = False
    ) -> Accepted:
        """What the model is worth on the images let through, of a trial's and the same unchanged; 0: of clean images alone.

        Args:
            all_: let everything through: what there is without a detector.

        Raises:
            NotMeasuredError: the trial is not measured, or no threshold of this rate is known.
        """
        rows, logits = self._mixture(number)
        passes = np.concatenate([1 - self.flagged(n, detector, rate)[rows] for n in self._mixed(number)])
        if all_:
            passes = np.ones_like(passes)
        if np.isnan(passes).any():
            raise NotMeasuredError(f"{detector} has no threshold at a rate of {rate}: too few held-out clean images")
        kept, targets = passes == 1, np.tile(self.targets[rows].T, len(self._mixed(number))).T
        groups = np.tile(self.groups[rows], len(self._mixed(number)))
        right = self._right(logits, targets)
        scores = classification.class_scores(logits, multilabel=self.task.multilabel)[kept]
        truth = classification.one_hot(targets[kept], len(self.task.classes), multilabel=self.task.multilabel)
        return Accepted(
            proportion(passes, groups),
            proportion(right[kept], groups[kept]),
            weighted_auroc(scores, truth, groups[kept]),
            tuple(truth.sum(0).tolist()),
        )

    def risk_coverage(self, number: int, detector: str) -> RiskCoverage:
        """What is right when the most suspicious of a trial's images and the same unchanged are rejected; 0: clean ones alone.

        An image of several findings is right by the share of its decisions that are.
        """
        suspicion, right, _ = self._suspicion(number, detector)
        return risk_coverage(suspicion, right)

    def risk_coverage_area(self, number: int, detector: str) -> Estimate:
        """Mean of what is right over all coverages; the curve's `random` is what random rejection has."""
        return area_estimate(*self._suspicion(number, detector), draws=DRAWS)

    # -- joins ---------------------------------------------------------------------------------------------------------

    def _past(self, number: int, detector: str | None, rate: float | None = None) -> Array:
        """Where the answer is overturned and nothing flagged `(N,)`, NaN where the image is not concerned."""
        return np.asarray(self.overturned(number) * (1 - self.flagged(number, detector, rate)))

    def _any(self, parts: Sequence[Array]) -> Array:
        """Where any of these is 1 `(N,)`; NaN where none concerns the image."""
        if not parts:
            return np.full(len(self.groups), np.nan)
        known = ~np.isnan(parts)
        return np.where(known.any(0), (np.asarray(parts) == 1).any(0), np.nan)

    def _lead(self, number: int) -> Array:
        """How far each answer of a trial is from the model's own on the clean image `(N,)`; positive where it is overturned."""
        clean, logits = self.trial(0).logits, self.trial(number).logits
        images, own = np.arange(len(clean)), clean.argmax(1)
        if self.operating is not None:
            return np.asarray(self.operating[own] - logits[images, own])
        rest = logits.copy()
        rest[images, own] = -np.inf
        return np.asarray(rest.max(1) - logits[images, own])

    def _against_clean(self, number: int, detector: str) -> tuple[Array, Array, Array]:
        clean, tried = self.trial(0).scores[self.watch(detector).name], self.trial(number)
        attacked = tried.scores[detector][tried.concerned]
        truth = np.repeat([False, True], [len(clean), len(attacked)])
        return np.concatenate([clean, attacked]), truth, np.concatenate([self.groups, self.groups[tried.concerned]])

    def _both(self, number: int, detector: str | None, rate: float | None) -> tuple[Array, Array]:
        """What is flagged of a trial's images unchanged, and changed."""
        attacked = self.flagged(number, detector, rate)
        return np.where(np.isnan(attacked), np.nan, self.flagged(0, detector, rate)), attacked

    def _mixed(self, number: int) -> tuple[int, ...]:
        return (0, number) if number else (0,)

    def _mixture(self, number: int) -> tuple[Array, Array]:
        """Places of the images in a mixture, and all its answers: the unchanged ones first."""
        rows = np.flatnonzero(self.trial(number).concerned)
        return rows, np.concatenate([self.trial(n).logits[rows] for n in self._mixed(number)])

    def _suspicion(self, number: int, detector: str) -> tuple[Array, Array, Array]:
        rows, logits = self._mixture(number)
        mixed = self._mixed(number)
        suspicion = np.concatenate([self.trial(n).scores[self.watch(detector).name][rows] for n in mixed])
        right = self._right(logits, np.tile(self.targets[rows].T, len(mixed)).T)
        return suspicion, right.mean(1), np.tile(self.groups[rows], len(mixed))

    def _right(self, logits: Array, targets: Array) -> Array:
        return classification.right(logits, targets, multilabel=self.task.multilabel, thresholds=self.operating)

    # -- contradictions ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse records that contradict each other.

        Raises:
            RecordsError: an image outside its ball, a goal reached against the answer, or unnoticed against the score.
        """
        for number, split in self.tried:
            row, tried = self.rows[number], self.tried[number, split]
            if row.kind != "attack":
                if tried.reached.any():
                    raise RecordsError(f"{self._named(row)} wants nothing, but its records say that it reached a goal")
                continue
            norm = row.threat.split(",")[0]
            size = getattr(tried, norm) if norm in ("linf", "l2", "l1", "l0") else None
            if size is not None and (size > row.epsilon * (1 + 1e-3) + 1e-6).any():
                raise RecordsError(
                    f"{self._named(row)} allows {row.epsilon:g} in {row.threat}, but an image moved by {np.nanmax(size):g}"
                )
            self._check_reached(row, tried)

    def _check_reached(self, row: TrialRow, tried: Tried) -> None:
        for detector in row.evading:
            loud = tried.reached & ~(tried.scores[detector] <= self.watch(detector).value)
            if loud.any():
                self._refuse(row, loud, f"passed {detector} unnoticed", "its score is above the threshold")
        lead, slack = self._lead(row.number), ROUNDING * np.maximum(1, np.abs(np.nan_to_num(tried.logits)).max(1))
        if (said := tried.reached & ~(lead > -slack)).any():
            self._refuse(row, said, "was overturned", "the answer stands")
        if not row.evading and (said := tried.concerned & ~tried.reached & (lead > slack)).any():
            self._refuse(row, said, "was not overturned", "the answer is another")

    def _refuse(self, row: TrialRow, where: Array, said: str, seen: str) -> None:
        image = self.splits[TEST].images[int(np.flatnonzero(where)[0])]
        raise RecordsError(
            f"{self._named(row)} says that {image} {said}, but {seen}: records were changed, or come from another model; "
            "examine the guard again into a new folder"
        )

    def _named(self, row: TrialRow) -> str:
        return f"{self.folder}: trial {row.number} ({row.label})"


def read_detection(store: Store, model: str | None = None) -> Detection | None:
    """The examination of a guard in a run; None where there is none.

    Args:
        store: of the run.
        model: digest of the model that the run is about; None: any.

    Raises:
        RecordsError: it is of another model, a document or table is missing or damaged, or records contradict each other.
    """
    home = Store(store.folder / HOME)
    if not home.has_document(ASKED):
        return None
    asked = home.document(ASKED)
    try:
        found = _joined(home, asked, model)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordsError(
            f"a document of {home.folder} was written by another version of antivenom or changed by hand ({error!r}); read it "
            "with that version, or examine the guard again into a new folder"
        ) from error
    found.check()
    return found


def _joined(home: Store, asked: Mapping[str, Any], model: str | None) -> Detection:
    if model not in (None, asked["model"]):
        raise RecordsError(
            f"{home.folder} examines a guard of another model than the run is about; give it a folder of its own"
        )
    task = Task.from_dict(asked["task"])
    watches, rows = tuple(WatchRow.of(one) for one in asked["detectors"]), trial_rows(asked["trials"])
    names, others = [watch.name for watch in watches], tuple(asked["others"])
    if strange := sorted({name for row in rows for name in row.evading} - set(names)):
        raise RecordsError(f"{home.folder}: a trial passes {strange[0]!r}, a detector that the guard does not have")
    splits = read_sets(home.scans(), task, others)
    counts = {HELD_OUT: asked["data"]["held-out"], TEST: asked["data"]["test"]}
    for name, count in {**counts, **{name: asked["others"][name]["images"] for name in others}}.items():
        if len(splits[name]) != count:
            raise RecordsError(
                f"{home.folder}: {count} images of '{name}' were asked for, scans.parquet has {len(splits[name])}"
            )
    operating = None
    if task.multilabel:
        values = home.document("operating")["thresholds"] if home.has_document("operating") else [None] * len(task.classes)
        # As the run did: a finding without an operating point is judged at a probability of one half.
        operating = np.array([0.0 if value is None else float(value) for value in values], dtype=np.float32).astype(float)
    origin = home.document(ORIGIN) if home.has_document(ORIGIN) else {}
    scored = Scored.of(home, asked["model"], len(task.classes), names)
    tried: dict[tuple[int, str], Tried] = {}
    progress: dict[tuple[int, str], tuple[int, int]] = {}
    for row in rows:
        for name in splits if row.number == 0 else (TEST,):
            if row.number and (0, TEST) not in tried:
                progress[row.number, name] = 0, len(splits[name])
                continue
            part = scored.of_trial(row, splits[name], name)
            wanted = _wanted(row, tried.get((0, TEST)), operating, len(splits[name]))
            progress[row.number, name] = int((part.concerned & wanted).sum()), int(wanted.sum())
            if bool(part.concerned[wanted].all()):
                tried[row.number, name] = part
    return Detection(home.folder, task, asked, origin, watches, rows, splits, tried, progress, operating)


def _wanted(row: TrialRow, clean: Tried | None, operating: Array | None, images: int) -> Array:
    """Which images a trial concerns for sure: of findings, those whose most probable one counts as present."""
    if row.kind != "attack" or operating is None or clean is None:
        return np.ones(images, dtype=bool)
    top = clean.logits.argmax(1)
    most = clean.logits[np.arange(images), top]
    return np.asarray(most - operating[top] > ROUNDING * np.maximum(1, np.abs(clean.logits).max(1)))


def _within(row: TrialRow, size: tuple[str, float]) -> bool:
    """Whether an attack stays within a perturbation set: it is as large or smaller."""
    return row.threat == size[0] and row.epsilon <= size[1] * (1 + 1e-9)
