"""The tables of a run, laid out by row of the plan and by split: plain arrays in the order of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from antivenom.errors import RecordsError
from antivenom.records.plan import PlanRow
from antivenom.records.store import Store
from antivenom.task import Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Split:
    """What the data set says of the images of one split; the order of all arrays of that split.

    Attributes:
        images: `(N,)` names.
        targets: `(N,)` class numbers, or `(N, K)` 0 and 1.
        groups: `(N,)` patient, subject or lesion.
        sources: `(N,)` hospital or camera; empty where unknown.
    """

    images: Array
    targets: Array
    groups: Array
    sources: Array

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one row of the plan left of the images of one split, in the split's order.

    Attributes:
        logits: `(N, A)` float32 answers of the audited model; the clean ones where an image was left alone.
        concerned: `(N,)` whether the goal concerns the image; where not, it was left alone.
        reached: `(N,)` whether the goal was met, as judged when the attack ran.
        linf, l2, l1, l0: `(N,)` size of the change in units of the [0, 1] range; the last in values changed.
        queries, gradients: `(N,)` forward and backward passes spent.
        flags: by name, `(N,)` bool.
        pixels: position to digest, of images whose pixels are kept.
    """

    logits: Array
    concerned: Array
    reached: Array
    linf: Array
    l2: Array
    l1: Array
    l0: Array
    queries: Array
    gradients: Array
    flags: Mapping[str, Array]
    pixels: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Examples with the answers of one model, before they are laid out by split."""

    examples: pa.Table
    logits: Array

    @staticmethod
    def of(store: Store, model: str, classes: int) -> Gathered:
        examples, answers = store.examples(), store.answers()
        answers = answers.filter(pc.equal(answers["model"], model))
        lengths = set(pc.unique(pc.list_value_length(answers["logits"])).to_pylist())
        if lengths - {classes}:
            raise RecordsError(f"{store.folder}: answers have {sorted(lengths)} logits, the task has {classes} classes")
        place = pc.index_in(examples["example"], value_set=answers["example"].combine_chunks())
        if place.null_count:
            # An example without an answer is not measured yet: a killed run leaves none, a copied folder may.
            known = pc.is_valid(place)
            examples, place = examples.filter(known), place.filter(known)
        flat = answers["logits"].combine_chunks()
        flat = flat.flatten() if isinstance(flat, pa.ListArray) else pa.array([], pa.float32())
        logits = flat.to_numpy(zero_copy_only=False).reshape(-1, classes)
        return Gathered(examples, logits[np.asarray(place.to_numpy(), dtype=np.int64)])

    def of_row(self, row: PlanRow) -> Gathered:
        """The examples of one row of the plan, which must be what the plan says."""
        mine = np.asarray(pc.equal(self.examples["row"], row.number).to_numpy(), dtype=bool)
        part = self.examples.filter(pa.array(mine))
        for name in ("attack", "goal", "until") if row.clean else ("attack", "goal", "threat", "until"):
            strange = set(pc.unique(part[name]).to_pylist()) - {getattr(row, name)}
            if strange:
                raise RecordsError(
                    f"row {row.number} of the plan has {name} '{getattr(row, name)}', its records say '{sorted(strange)[0]}': "
                    "the folder holds the shards of another protocol; run again into a new folder"
                )
        return Gathered(part, self.logits[mine])

    def on(self, split: Split) -> Placed:
        """Those that belong to a split."""
        place = pc.index_in(self.examples["image"], value_set=pa.array(split.images, pa.string()))
        known = np.asarray(pc.is_valid(place).to_numpy(), dtype=bool)
        positions = np.asarray(place.filter(pa.array(known)).to_numpy(), dtype=np.int64)
        if len(np.unique(positions)) != len(positions):
            raise RecordsError("an image was measured twice under one row of the plan; run again into a new folder")
        return Placed(self.examples.filter(pa.array(known)), self.logits[known], np.argsort(positions), np.sort(positions))


@dataclass(frozen=True, eq=False)
class Placed:
    """Examples of one row on one split; `order` sorts them as the split is sorted, `positions` are their places in it."""

    examples: pa.Table
    logits: Array
    order: Array
    positions: Array

    def outcome(self, concerned: Array, clean: Outcome | None) -> Outcome:
        """Laid out over the split; an image without an example keeps its clean answer."""
        n, places = len(concerned), self.positions
        found = self.logits[self.order]
        logits = np.empty((n, found.shape[1]), dtype=np.float32) if clean is None else clean.logits.copy()
        logits[places] = found

        def column(name: str) -> Array:
            values = self.examples[name].to_numpy()[self.order]
            whole = np.zeros(n, dtype=values.dtype)
            whole[places] = values
            return whole

        flags = self.examples["flags"].to_pylist()
        digests = self.examples["pixels"].to_pylist()
        raised: dict[str, Array] = {}
        for place, i in zip(places, self.order, strict=True):
            for name in flags[i]:
                raised.setdefault(name, np.zeros(n, dtype=bool))[place] = True
        return Outcome(
            logits,
            concerned,
            column("reached"),
            column("linf"),
            column("l2"),
            column("l1"),
            column("l0"),
            column("queries"),
            column("gradients"),
            {name: raised[name] for name in sorted(raised)},
            {int(p): digests[i] for p, i in zip(places, self.order, strict=True) if digests[i]},
        )


def read_splits(scans: pa.Table, task: Task) -> dict[str, Split]:
    """The validation and test images of a run."""
    found = {}
    for name in ("val", "test"):
        part = scans.filter(pc.equal(scans["split"], name))
        targets = part["target"].combine_chunks().flatten().to_numpy(zero_copy_only=False) if len(part) else np.empty(0)
        targets = targets.astype(np.int64).reshape((-1, len(task.classes)) if task.multilabel else -1)
        columns = [np.array(part[column].to_pylist(), dtype=np.str_) for column in ("image", "group", "source")]
        found[name] = Split(columns[0], targets, columns[1], columns[2])
    return found
