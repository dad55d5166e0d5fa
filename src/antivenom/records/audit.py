"""An audit read back: every figure is a join of the tables, and what no record shows is not stated.

The unit of a figure is the decision: one an image, or one an image and finding where findings are judged each for itself. A
decision of several classes is the largest logit; that of a finding is its logit against the operating point, which the run
chose on clean validation images. Intervals are clustered by patient.

A row of the plan counts as measured when every image that its goal concerns has an example and an answer; an image that
already is as the adversary wants it is left alone, and its clean answer stands. Reading refuses records that contradict
each other: an example that says it fooled the model and an answer that is right, an example outside its own ball, a row made
by another attack than the plan says.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.metrics import calibration, classification, ranking, robustness
from antivenom.metrics.intervals import Estimate, estimate, paired_difference, proportion
from antivenom.records.certification import Certification, read_certifications
from antivenom.records.detection import Detection, read_detection
from antivenom.records.diagnosis import Diagnosis
from antivenom.records.explanation import Explanation, read_explanation
from antivenom.records.outcomes import Gathered, Outcome, Split, read_splits
from antivenom.records.plan import AttackFacts, PlanRow, open_to, plan_rows
from antivenom.records.store import Store
from antivenom.task import Task

Array = np.ndarray[Any, Any]

# What two forward passes may differ by, as a share of the largest logit: batches, threads and devices round otherwise.
ROUNDING = 1e-3


# A figure is not to be believed until this is cleared; or: read the figures with this in mind.
SERIOUS, NOTE = "serious", "note"


@dataclass(frozen=True)
class Flag:
    """A suspicion about the run or the model: what was seen, what it means, what to do."""

    name: str
    severity: str
    evidence: str
    meaning: str
    next_step: str

    @staticmethod
    def on(name: str, severity: str, evidence: Sequence[str], meaning: str, next_step: str, most: int = 3) -> Flag | None:
        """A flag if there is evidence, of which the first few pieces are told."""
        if not evidence:
            return None
        more = [f"and {len(evidence) - most} more"] if len(evidence) > most else []
        return Flag(name, severity, "; ".join([*evidence[:most], *more]), meaning, next_step)


@dataclass(frozen=True, eq=False)
class WorstCase:
    """What is left when each image meets the worst of what was tried within one ball.

    Attributes:
        right: `(N, D)` decisions that stay right; per image one example has to do all the harm.
        row: `(N,)` number of the row that holds that example.
        accuracy: share of decisions that stay right.
        success: share turned wrong of those first right.
        rows: the rows it was taken over: the clean images, and all of the same threat and goal that are no larger.
    """

    right: Array
    row: Array
    accuracy: Estimate
    success: Estimate
    rows: tuple[PlanRow, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far stated probabilities come true.

    Attributes:
        error: expected calibration error (top class, or mean over findings); few images per bin bias it upwards, and its
            resamples more so, hence its interval is stretched to hold it.
        gap: mean stated probability of what was answered less the share that came true; above 0 the model is too sure.
        brier: squared error of the probabilities, summed over classes (0 to 2) or mean over findings (0 to 1).
        reliability: the bins of the diagram; over all findings together where there are several.
        n: decisions.
    """

    error: Estimate
    gap: Estimate
    brier: Estimate
    reliability: calibration.Reliability


@dataclass(frozen=True, eq=False)
class Audit:
    """The records of one run, joined. `Audit.read(folder)` makes one; figures are methods.

    Attributes:
        folder: the run's folder.
        task: what the model decides.
        protocol, provenance: the documents as they were written.
        operating: rule, n and thresholds of the operating point; None where the run has not chosen one yet.
        flags: suspicions; empty where none were raised, None where nobody has looked yet.
        attacks: facts by attack name.
        rows: the whole plan.
        progress: by row number, images measured and images wanted.
        splits: `val` and `test`.
        outcomes: by row number and split, for measured rows.
        diagnosis: what an examination of the main attack found, image by image; None where it was not examined.
        certifications: what is certified of the model smoothed by noise, by its sigma; empty where nothing is.
        detection: what detectors around the model notice; None where no guard was examined.
        explanation: where the model looks; None where nobody began to ask.
    """

    folder: Path
    task: Task
    protocol: Mapping[str, Any]
    provenance: Mapping[str, Any]
    operating: Mapping[str, Any] | None
    flags: tuple[Flag, ...] | None
    attacks: Mapping[str, AttackFacts]
    rows: tuple[PlanRow, ...]
    progress: Mapping[int, tuple[int, int]]
    splits: Mapping[str, Split]
    outcomes: Mapping[tuple[int, str], Outcome]
    diagnosis: Diagnosis | None = None
    certifications: tuple[Certification, ...] = ()
    detection: Detection | None = None
    explanation: Explanation | None = None

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a run's folder; a run that is not finished can be read, and says how far it is.

        Raises:
            RecordsError: a document or table is missing or damaged, or records contradict each other.
        """
        store = Store(folder)
        protocol, provenance = store.document("protocol"), store.document("provenance")
        with _understood(store.folder):
            task = Task.from_dict(provenance["card"]["task"])
            rows = plan_rows(protocol["plan"])
            model = str(protocol["model"]["digest"])
            operating = store.document("operating") if store.has_document("operating") else None
            flags = tuple(Flag(**flag) for flag in store.document("flags")) if store.has_document("flags") else None
            facts = store.document("attacks") if store.has_document("attacks") else {}
            attacks = {name: AttackFacts(name, **fact) for name, fact in facts.items()}
        splits = read_splits(store.scans(), task)
        for name, count in (("val", protocol["data"]["val"]), ("test", protocol["data"]["test"])):
            if len(splits[name]) != count:
                raise RecordsError(f"{store.folder}: the protocol has {count} {name} images, scans.parquet {len(splits[name])}")
        found = Gathered.of(store, model, len(task.classes))
        progress: dict[int, tuple[int, int]] = {}
        outcomes: dict[tuple[int, str], Outcome] = {}
        for row in rows:
            mine = found.of_row(row)
            done = wanted = 0
            # Only clean images are measured on both splits: an operating point is chosen without an adversary.
            for name in ("val", "test") if row.clean else ("test",):
                concerned = np.asarray(open_to(row.goal, task, splits[name].targets).any(1) | row.clean)
                part = mine.on(splits[name])
                found_here = int(concerned[part.positions].sum())
                done, wanted = done + found_here, wanted + int(concerned.sum())
                if found_here == concerned.sum() and (row.clean or (0, name) in outcomes):
                    outcomes[row.number, name] = part.outcome(concerned, outcomes.get((0, name)))
            progress[row.number] = done, wanted
        with _understood(store.folder):
            diagnosis = Diagnosis.of(store.document("diagnosis")) if store.has_document("diagnosis") else None
            certifications = read_certifications(store, splits["test"], task)
            explanation = read_explanation(store, splits["test"], task)
        detection = read_detection(store, model)
        audit = cls(
            store.folder,
            task,
            protocol,
            provenance,
            operating,
            flags,
            attacks,
            rows,
            progress,
            splits,
            outcomes,
            diagnosis,
            certifications,
            detection,
            explanation,
        )
        audit._check()
        return audit

    # -- the plan and how far it is ------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every row of the plan is measured."""
        return all(self.measured(row.number) for row in self.rows) and self.measured(0, "val")

    @property
    def goals(self) -> tuple[str, ...]:
        """What the adversary wants, in the order of the plan; the first is meant where a figure names none."""
        return tuple(dict.fromkeys(row.goal for row in self.rows if not (row.clean or row.control))) or (self.rows[0].goal,)

    @property
    def threats(self) -> tuple[str, ...]:
        """Norms and pixels in the order of the plan."""
        return tuple(dict.fromkeys(row.threat for row in self.rows if not row.clean))

    def measured(self, number: int, split: str = "test") -> bool:
        """Whether every image of the split was measured under this row."""
        return (number, split) in self.outcomes

    def select(self, threat: str, goal: str | None = None, *, epsilon: float | None = None) -> tuple[PlanRow, ...]:
        """Give the measured rows of a threat (and size) with this goal, the noise among them.

        Noise wants nothing, so that of another goal stands in where a goal has none of its own.
        """
        goal = goal or self.goals[0]
        lonely = not any(row.control and row.goal == goal for row in self.rows)
        return tuple(
            row
            for row in self.rows
            if row.threat == threat
            and not row.clean
            and (row.goal == goal or (row.control and lonely))
            and (epsilon is None or _same_size(row.epsilon, epsilon))
            and self.measured(row.number)
        )

    def epsilons(self, threat: str, goal: str | None = None) -> tuple[float, ...]:
        """Give the sizes at which something was measured, ascending, the unbounded one left out."""
        return tuple(sorted({row.epsilon for row in self.select(threat, goal) if not row.unbounded}))

    def outcome(self, number: int, split: str = "test") -> Outcome:
        """Give what a row left of a split.

        Raises:
            NotMeasuredError: the row is not measured on all of its images.
        """
        if (number, split) not in self.outcomes:
            done, wanted = self.progress.get(number, (0, 0))
            state = f"{done} of {wanted} images are measured" if wanted else "the plan has no such row"
            raise NotMeasuredError(f"row {number} of {self.folder} is not measured on '{split}' ({state}); run the audit on")
        return self.outcomes[number, split]

    # -- the images ----------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> Array:
        """Truth of the test images: `(N,)` class numbers, or `(N, K)` 0 and 1."""
        return self.splits["test"].targets

    @property
    def groups(self) -> Array:
        """Patient, subject or lesion of each test image, `(N,)`."""
        return self.splits["test"].groups

    @property
    def unit(self) -> str:
        """What a group of images is: `patient`, `subject` or `lesion`."""
        return str(self.protocol["data"].get("unit", "patient"))

    @property
    def sources(self) -> Array:
        """Hospital or camera of each test image, `(N,)`; empty where unknown."""
        return self.splits["test"].sources

    @property
    def thresholds(self) -> Array:
        """Operating point of each class on its log-odds, `(A,)`; NaN where the validation images lack a class.

        Raises:
            NotMeasuredError: the run has not chosen them yet.
        """
        if self.operating is None:
            raise NotMeasuredError(f"{self.folder} has no operating point yet: the clean validation images come first; run on")
        return np.array([math.nan if t is None else float(t) for t in self.operating["thresholds"]])

    def logits(self, number: int, split: str = "test") -> Array:
        """Answers `(N, A)` of the audited model under a row."""
        return self.outcome(number, split).logits

    def decisions(self, number: int, split: str = "test") -> Array:
        """Decisions of the audited model under a row, shaped as the targets."""
        return classification.decide(self.logits(number, split), **self._convention())

    def right(self, number: int, split: str = "test") -> Array:
        """Which decisions are right under a row, `(N, D)` bool."""
        return classification.right(self.logits(number, split), self.splits[split].targets, **self._convention())

    def _convention(self) -> dict[str, Any]:
        """How logits become decisions. A finding without an operating point is judged at 0, a probability of one half."""
        if not self.task.multilabel:
            return {"multilabel": False}
        return {"multilabel": True, "thresholds": np.nan_to_num(self.thresholds, nan=0.0)}

    # -- figures of one row --------------------------------------------------------------------------------------------

    def accuracy_of(self, right: Array) -> Estimate:
        """Share of test decisions `(N, D)` that are right."""
        return proportion(right, self.groups)

    def balanced_accuracy_of(self, right: Array) -> Estimate:
        """Mean recall over the classes; over findings, the mean of sensitivity and specificity."""
        return classification.balanced_accuracy_estimate(
            right, self.targets, len(self.task.classes), self.groups, multilabel=self.task.multilabel
        )

    def accuracy(self, number: int = 0) -> Estimate:
        """Share of decisions that are right under a row."""
        return self.accuracy_of(self.right(number))

    def balanced_accuracy(self, number: int = 0) -> Estimate:
        """Balanced accuracy under a row."""
        return self.balanced_accuracy_of(self.right(number))

    @property
    def constant_accuracy(self) -> Estimate:
        """Accuracy of the best constant answer on the test images; its balanced accuracy is `constant_balanced_accuracy`."""
        if self.task.multilabel:
            return self.accuracy_of(self.targets == (self.targets.mean(0) > 0.5))
        return self.accuracy_of(self.targets == np.bincount(self.targets).argmax())

    @property
    def constant_balanced_accuracy(self) -> float:
        """Balanced accuracy of any constant answer."""
        if self.task.multilabel:
            return 0.5
        return 1 / len(np.unique(self.targets))

    @property
    def constant_answer(self) -> str:
        """The best constant answer, in words."""
        if self.task.multilabel:
            return "each finding's more frequent state"
        return self.task.classes[int(np.bincount(self.targets).argmax())]

    def success(self, number: int) -> Array:
        """Whether the adversary got what it wanted, `(N, D)`: NaN where nothing was to be gained.

        Decisions that were wrong before the attack do not count, nor do those that the goal does not concern.
        """
        return self._gained(self.rows[number].goal, self._resisted(number))

    def _resisted(self, number: int) -> Array:
        """Which decisions are not as the adversary wants them, `(N, D)` bool."""
        row = self.rows[number]
        if row.target is None:
            return self.right(number)
        return np.asarray(self.decisions(number)[:, None] != self.task.index(row.target))

    def _gained(self, goal: str, resisted: Array) -> Array:
        return np.where(self.right(0) & open_to(goal, self.task, self.targets), ~resisted, np.nan)

    def success_rate(self, number: int) -> Estimate:
        """Share of decisions that the adversary turned as wanted, of those first right."""
        return proportion(self.success(number), self.groups)

    def queries(self, number: int) -> float:
        """Mean forward passes per test image."""
        return float(self.outcome(number).queries.mean())

    def gradients(self, number: int) -> float:
        """Mean backward passes per test image."""
        return float(self.outcome(number).gradients.mean())

    def auroc(self, number: int = 0) -> list[Estimate]:
        """AUROC of each class's log-odds against all others, or of each finding; undefined where either kind is absent."""
        scores, truth = self._scores_and_truth(number)
        return [ranking.auroc_estimate(scores[:, k], truth[:, k], self.groups) for k in range(scores.shape[1])]

    def mean_auroc(self, number: int = 0) -> Estimate:
        """Plain mean of the classes' AUROC, over those that have one; for two classes their common AUROC."""
        scores, truth = self._scores_and_truth(number)
        return ranking.mean_auroc_estimate(scores, truth, self.groups)

    def sensitivity_specificity(self, number: int = 0) -> list[tuple[Estimate, Estimate]]:
        """Sensitivity and specificity of each class at its operating point; not measured where it has none."""
        scores, truth = self._scores_and_truth(number)
        pairs = []
        for k, threshold in enumerate(self.thresholds):
            called = np.where(np.isnan(threshold), np.nan, scores[:, k] > threshold)
            found = proportion(np.where(truth[:, k], called, np.nan), self.groups)
            cleared = proportion(np.where(truth[:, k], np.nan, 1 - called), self.groups)
            pairs.append((found, cleared))
        return pairs

    def calibration(self, number: int = 0, *, bins: int = 10, draws: int = 500) -> Calibration:
        """How far stated probabilities come true under a row; the calibration error's interval resamples patients."""
        logits, targets, multilabel = self.logits(number), self.targets, self.task.multilabel

        def error(rows: Array) -> float:
            return calibration.expected_calibration_error(logits[rows], targets[rows], multilabel=multilabel, bins=bins)

        found = estimate(error, self.groups, draws=draws)
        confidence, happened = calibration.stated(logits, targets, multilabel=multilabel)
        chances = calibration.probabilities(logits, multilabel=multilabel)
        squares = (chances - classification.one_hot(targets, chances.shape[1], multilabel=multilabel)) ** 2
        # As shares: the sum over classes is 2 at most.
        brier = proportion(squares.mean(1) if multilabel else squares.sum(1) / 2, self.groups)
        factor = 1 if multilabel else 2
        return Calibration(
            replace(found, low=min(found.low, found.value)),
            paired_difference(confidence, happened, self.groups),
            replace(brier, value=factor * brier.value, low=factor * brier.low, high=factor * brier.high),
            calibration.reliability(confidence, happened, bins=bins),
        )

    def confusion(self, number: int = 0) -> Array:
        """Counts `(A, A)` by true class (row) and decided class (column).

        Raises:
            NotMeasuredError: findings are not exclusive, so nothing is confused with anything.
        """
        if self.task.multilabel:
            raise NotMeasuredError("findings do not exclude each other: a multi-label task has no confusion matrix")
        return classification.confusion(self.decisions(number), self.targets, len(self.task.classes))

    def answer_share(self, number: int = 0) -> float:
        """Share of test images with the most frequent answer."""
        return classification.answer_share(self.decisions(number))

    def _scores_and_truth(self, number: int) -> tuple[Array, Array]:
        multilabel = self.task.multilabel
        scores = classification.class_scores(self.logits(number), multilabel=multilabel)
        return scores, classification.one_hot(self.targets, len(self.task.classes), multilabel=multilabel)

    # -- parts of the images -------------------------------------------------------------------------------------------

    def by_class(self, right: Array) -> list[Estimate]:
        """Share of right decisions on the images of each class; on those that show each finding, of that finding's."""
        parts = classification.recalls(right, self.targets, len(self.task.classes), multilabel=self.task.multilabel)
        if self.task.multilabel:
            parts = np.where(self.targets == 1, np.asarray(right, dtype=float), np.nan)
        return [proportion(parts[:, k], self.groups) for k in range(len(self.task.classes))]

    def by_source(self, right: Array) -> dict[str, Estimate]:
        """Share of right decisions on the images of each hospital or camera; empty where none is named."""
        names = [str(name) for name in np.unique(self.sources) if name]
        return {name: proportion(right[self.sources == name], self.groups[self.sources == name]) for name in names}

    # -- figures over rows ---------------------------------------------------------------------------------------------

    def worst_case(self, threat: str, epsilon: float, goal: str | None = None) -> WorstCase:
        """Let each image meet the worst of what was tried within a ball.

        That is every attack and the noise at this size and, since a smaller ball lies inside a larger one, at every smaller
        size of the same threat and goal; and the clean image, which lies in all of them. So it bounds robust accuracy from
        above: an adversary may do better.

        Raises:
            NotMeasuredError: no row of this threat, size and goal is measured.
        """
        goal = goal or self.goals[0]
        if not self.select(threat, goal, epsilon=epsilon):
            raise NotMeasuredError(f"nothing is measured for {threat} at epsilon {epsilon:g} and goal '{goal}'")
        rows = (self.rows[0], *(row for row in self.select(threat, goal) if row.epsilon <= epsilon * (1 + 1e-9)))
        resisted = [self._resisted(row.number) for row in rows]
        # What the goal does not concern cannot make one example worse than another.
        idle = ~open_to(goal, self.task, self.targets)
        worst = robustness.worst_example([kept | idle for kept in resisted])
        images = np.arange(len(worst))
        right = np.stack([self.right(row.number) for row in rows])[worst, images]
        success = self._gained(goal, np.stack(resisted)[worst, images])
        return WorstCase(
            right,
            np.array([row.number for row in rows])[worst],
            self.accuracy_of(right),
            proportion(success, self.groups),
            rows,
        )

    def curve(self, label: str, threat: str, goal: str | None = None) -> list[tuple[float, Estimate]]:
        """Give an attack's security curve: (epsilon, accuracy), from the clean images at 0 on.

        Raises:
            NotMeasuredError: no row of it is measured.
        """
        chosen = (row for row in self.select(threat, goal) if row.label == label and not row.unbounded)
        rows = sorted(chosen, key=lambda row: row.epsilon)
        if not rows:
            raise NotMeasuredError(f"no row of {label} is measured for {threat} and goal '{goal or self.goals[0]}'")
        return [(0.0, self.accuracy()), *((row.epsilon, self.accuracy(row.number)) for row in rows)]

    def worst_curve(self, threat: str, goal: str | None = None) -> list[tuple[float, Estimate]]:
        """Give the worst case's security curve; its points never rise."""
        points = [(epsilon, self.worst_case(threat, epsilon, goal).accuracy) for epsilon in self.epsilons(threat, goal)]
        return [(0.0, self.accuracy()), *points]

    # -- contradictions ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse records that contradict each other."""
        known = self.provenance["weights"] == self.protocol["model"]["digest"]
        if not known:
            raise RecordsError(f"{self.folder}: provenance and protocol name different weights; run again into a new folder")
        for (number, split), outcome in self.outcomes.items():
            row = self.rows[number]
            norm = row.threat.split(",")[0]
            size = getattr(outcome, norm) if norm in ("linf", "l2", "l1", "l0") else None
            if size is not None and not row.clean and (size > row.epsilon * (1 + 1e-3) + 1e-6).any():
                raise RecordsError(
                    f"{self.folder}: row {number} ({row.label}) allows {row.epsilon:g} in {row.threat}, "
                    f"but an image moved by {float(size.max()):g}; it proves nothing about this threat"
                )
            if self.task.multilabel and self.operating is None:
                continue
            targets = self.splits[split].targets
            margins = self._margins(row, outcome.logits, targets)
            slack = ROUNDING * np.maximum(1, np.abs(outcome.logits).max(1))
            wrong = np.where(outcome.reached, margins < -slack, margins > slack) & open_to(row.goal, self.task, targets).any(1)
            if wrong.any():
                first = int(np.flatnonzero(wrong)[0])
                raise RecordsError(
                    f"{self.folder}: row {number} ({row.label}) says that the goal '{row.goal}' was "
                    f"{'' if outcome.reached[first] else 'not '}reached on {self.splits[split].images[first]}, but the answer "
                    "says otherwise: records were changed, or come from another model; run again into a new folder"
                )

    def _margins(self, row: PlanRow, logits: Array, targets: Array) -> Array:
        """How far a row's goal is met by each answer `(N,)`."""
        if self.task.multilabel:
            ahead = (1 - 2 * targets) * (logits - self._convention()["thresholds"])
            return np.asarray(np.where(open_to(row.goal, self.task, targets), ahead, np.inf).min(1))
        own = targets if row.target is None else np.full(len(targets), self.task.index(row.target))
        lead = _lead(logits, own)
        return lead if row.target is not None else -lead


@contextlib.contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """Turn a document that lacks what it should hold into one sentence."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordsError(
            f"a document of {folder} was written by another version of antivenom or changed by hand ({error!r}); "
            "read it with that version, or run the audit again into a new folder"
        ) from error


def _lead(logits: Array, own: Array) -> Array:
    """How far the logit of one class `(N,)` lies above all others, `(N,)`."""
    rest = logits.copy()
    rest[np.arange(len(own)), own] = -np.inf
    return np.asarray(logits[np.arange(len(own)), own] - rest.max(1))


def _same_size(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9)
