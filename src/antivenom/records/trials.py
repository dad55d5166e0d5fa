"""What an examination of a guard asked for, and what each trial left, laid out by split: arrays in the order of the images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from antivenom.errors import RecordsError
from antivenom.metrics.intervals import Estimate
from antivenom.records.outcomes import Gathered, Split, read_splits
from antivenom.records.plan import CLEAN, CONTROLS
from antivenom.records.store import Store
from antivenom.task import Task

Array = np.ndarray[Any, Any]

HELD_OUT, TEST = "val", "test"
MODEL, SURROGATE = "model", "surrogate"


@dataclass(frozen=True)
class WatchRow:
    """One detector of the guard.

    Attributes:
        name: as the guard calls it.
        title: name in a report.
        summary: what a high score means; empty where the records do not say.
        paper, url: where it comes from; empty where the records do not say.
        value: its own threshold: the largest score that is not flagged.
        rate: of false alarms that the threshold was set for.
        alarms: that were expected of it when it was set.
        taken: from which scores it was taken.
        decides: whether the guard rejects what it flags.
        baseline: whether it is no part of the guard, only compared with it.
        differentiable: whether its score has a useful gradient.
        notes: of detector and threshold, one sentence each.
    """

    name: str
    title: str
    summary: str
    paper: str
    url: str
    value: float
    rate: float
    alarms: Estimate
    taken: str
    decides: bool
    baseline: bool
    differentiable: bool
    notes: tuple[str, ...]

    @staticmethod
    def of(asked: Mapping[str, Any]) -> WatchRow:
        """The detector that the document names."""
        threshold = asked["threshold"]
        return WatchRow(
            str(asked["name"]),
            str(asked.get("title") or asked["name"]),
            str(asked.get("summary", "")),
            str(asked.get("paper", "")),
            str(asked.get("url", "")),
            float(threshold["value"]),
            float(threshold["rate"]),
            Estimate.from_dict(threshold["alarms"]),
            str(threshold["taken"]),
            bool(asked["decides"]),
            not asked.get("part of the guard", True),
            bool(asked["differentiable"]),
            tuple(map(str, [*asked["notes"], *threshold["notes"]])),
        )


@dataclass(frozen=True)
class TrialRow:
    """One way in which images came before the guard.

    Attributes:
        number: `Example.row`; 0 is the clean images.
        kind: `clean`, `attack`, `corruption` or `other set`.
        attack: name of the attack, corruption or set; `none` for clean images.
        label: the attack's name, with those settings that tell it from other trials of the same attack, size and maker.
        settings: the attack's own; a corruption's severity.
        threat, epsilon: perturbation set of an attack.
        until: `fooled` or `spent`.
        made_on: the `model` that is guarded, or a `surrogate`.
        evading: detectors that the attacker knows and passes.
    """

    number: int
    kind: str
    attack: str
    label: str
    settings: Mapping[str, Any]
    threat: str
    epsilon: float
    until: str
    made_on: str
    evading: tuple[str, ...]

    @property
    def control(self) -> bool:
        """Whether it is random noise, which wants nothing."""
        return self.kind == "attack" and self.attack in CONTROLS

    @property
    def naive(self) -> bool:
        """Whether an attacker made it on the guarded model, knowing nothing of any detector."""
        return self.kind == "attack" and not self.control and self.made_on == MODEL and not self.evading

    @property
    def carried_over(self) -> bool:
        """Whether it was made on another model."""
        return self.kind == "attack" and not self.control and self.made_on == SURROGATE

    @property
    def adaptive(self) -> bool:
        """Whether the attacker knows a detector."""
        return bool(self.evading)

    @property
    def size(self) -> tuple[str, float]:
        """Perturbation set and epsilon."""
        return self.threat, self.epsilon


CLEAN_ROW = TrialRow(0, "clean", CLEAN, CLEAN, {}, "none", 0.0, "spent", MODEL, ())


def trial_rows(asked: Sequence[Mapping[str, Any]]) -> tuple[TrialRow, ...]:
    """The clean images, then the trials, labelled so that those of one attack, size and maker can be told apart."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for trial in asked:
        alike.setdefault(_sort(trial), []).append({**trial["settings"], "until": trial["until"]})

    def label(trial: Mapping[str, Any]) -> str:
        traits, others = {**trial["settings"], "until": trial["until"]}, alike[_sort(trial)]
        names = sorted({name for other in others for name in other})
        telling = [name for name in names if len({json.dumps(other.get(name)) for other in others}) > 1]
        return " ".join([trial["attack"], *(f"{name}={traits.get(name, 'default')}" for name in telling)])

    rows = (
        TrialRow(
            number,
            str(trial["kind"]),
            str(trial["attack"]),
            label(trial),
            trial["settings"],
            str(trial["threat"]),
            float(trial["epsilon"]),
            str(trial["until"]),
            str(trial["made_on"]),
            tuple(trial["evading"]),
        )
        for number, trial in enumerate(asked, 1)
    )
    return CLEAN_ROW, *rows


def _sort(trial: Mapping[str, Any]) -> str:
    return json.dumps([trial[name] for name in ("kind", "attack", "threat", "epsilon", "made_on", "evading")])


@dataclass(frozen=True, eq=False)
class Tried:
    """What one trial left of the images of one split, in the split's order.

    Attributes:
        concerned: `(N,)` whether the trial has an example of the image; a model that finds nothing has nothing to overturn.
        logits: `(N, A)` answers of the guarded model; NaN where not concerned, as in all that follows.
        scores: by detector `(N,)`, infinity where it cannot tell.
        reached: `(N,)` whether the model's own answer was overturned and, where detectors were to be passed, none noticed.
        linf, l2, l1, l0: `(N,)` size of the change in units of the [0, 1] range; the last in values changed.
    """

    concerned: Array
    logits: Array
    scores: Mapping[str, Array]
    reached: Array
    linf: Array
    l2: Array
    l1: Array
    l0: Array


@dataclass(frozen=True, eq=False)
class Scored:
    """Every example with the answer of the guarded model and the scores of all detectors, before they are laid out by split."""

    gathered: Gathered
    scores: Mapping[str, Array]

    @staticmethod
    def of(store: Store, model: str, classes: int, detectors: Sequence[str]) -> Scored:
        """Join the tables of an examination.

        Raises:
            RecordsError: an example that stands twice or lacks a score, or a score of an unknown detector.
        """
        gathered, table = Gathered.of(store, model, classes), store.scores()
        names = gathered.examples["example"].combine_chunks()
        if len(pc.unique(names)) != len(names):
            raise RecordsError(f"{store.folder}: examples of one name stand twice; examine the guard again into a new folder")
        if strange := sorted(set(pc.unique(table["detector"]).to_pylist()) - set(detectors)):
            raise RecordsError(f"{store.folder}: scores of a detector {strange[0]!r} that the guard does not have")
        scores = {}
        for detector in detectors:
            mine = table.filter(pc.equal(table["detector"], detector))
            place = pc.index_in(names, value_set=mine["example"].combine_chunks())
            if place.null_count or len(pc.unique(mine["example"])) != len(mine):
                raise RecordsError(
                    f"{store.folder}: {place.null_count} examples have no score of {detector}, or one has several: "
                    "the folder was copied in part or changed; examine the guard again into a new folder"
                )
            values = mine["score"].to_numpy()[np.asarray(place.to_numpy(zero_copy_only=False), dtype=np.int64)]
            scores[detector] = np.where(np.isnan(values), np.inf, values)
        return Scored(gathered, scores)

    def of_trial(self, row: TrialRow, split: Split, name: str) -> Tried:
        """What a trial left of a split, which must be what was asked for."""
        examples = self.gathered.examples
        attack = name if row.number == 0 and name not in (HELD_OUT, TEST) else row.attack
        mine = np.asarray(pc.equal(examples["row"], row.number).to_numpy(), dtype=bool)
        if row.number == 0:
            mine &= np.asarray(pc.equal(examples["attack"], attack).to_numpy(), dtype=bool)
        self._check(row, examples.filter(pa.array(mine)))
        known = np.flatnonzero(mine)
        part = Gathered(examples.filter(pa.array(mine)), self.gathered.logits[mine]).on(split)
        # Where the split has the image, as `part` has it.
        within = np.asarray(pc.is_in(examples["image"], value_set=pa.array(split.images, pa.string())).to_numpy(), dtype=bool)
        chosen, places = known[within[known]][part.order], part.positions
        n = len(split)

        def laid(values: Array) -> Array:
            whole = np.full((n, *values.shape[1:]), np.nan)
            whole[places] = values
            return whole

        columns = {column: laid(examples[column].to_numpy()[chosen]) for column in ("linf", "l2", "l1", "l0")}
        reached, concerned = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        reached[places], concerned[places] = examples["reached"].to_numpy()[chosen], True
        scores = {detector: laid(values[chosen]) for detector, values in self.scores.items()}
        return Tried(concerned, laid(self.gathered.logits[chosen]), scores, reached, **columns)

    @staticmethod
    def _check(row: TrialRow, part: pa.Table) -> None:
        if row.number == 0:
            return
        wanted = {"attack": row.attack, "epsilon": row.epsilon, "until": row.until}
        if row.kind == "attack":
            wanted["threat"] = row.threat
        for name, value in wanted.items():
            if strange := set(pc.unique(part[name]).to_pylist()) - {value}:
                raise RecordsError(
                    f"trial {row.number} has {name} '{value}', its records say '{sorted(strange)[0]}': the folder holds the "
                    "shards of another examination; examine the guard again into a new folder"
                )


def read_sets(scans: pa.Table, task: Task, others: Sequence[str]) -> dict[str, Split]:
    """Held-out and test images, and the images of other sets, of which the guarded model's question is not asked."""
    mine = scans.filter(pc.is_in(scans["split"], value_set=pa.array([HELD_OUT, TEST])))
    found = read_splits(mine, task)
    for name in others:
        part = scans.filter(pc.equal(scans["split"], name))
        images, groups, sources = (np.array(part[column].to_pylist(), dtype=np.str_) for column in ("image", "group", "source"))
        found[name] = Split(images, np.empty((len(images), 0), dtype=np.int64), groups, sources)
    return found
