"""A set of phantoms: the cohort, the drawing of each modality and the pictures already drawn."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from antivenom.data.imageset import ImageSet, Index
from antivenom.data.phantoms import brain, chest, fundus, skin
from antivenom.data.phantoms.canvas import Array, Canvas, canvas
from antivenom.data.phantoms.cohort import ROUND, Chance, Cohort, cohort
from antivenom.data.phantoms.scan import Scan
from antivenom.errors import SettingsError
from antivenom.task import Task

SIZES = (28, 1024)
_MEMORY = 128 * 2**20  # bytes of pictures kept by one set; what comes later is drawn anew each time
_VERSION = 2  # part of the digest: raise it whenever any picture changes


@dataclass(frozen=True)
class Modality:
    """How one kind of picture is drawn and what can be asked of it."""

    draw: Callable[[Canvas, str, Array, Chance], Scan]
    tasks: dict[str, Task]  # the first one is the default
    channels: int


MODALITIES = {
    "chest": Modality(chest.draw, chest.TASKS, 1),
    "fundus": Modality(fundus.draw, fundus.TASKS, 3),
    "skin": Modality(skin.draw, skin.TASKS, 3),
    "brain": Modality(brain.draw, brain.TASKS, 1),
}


@dataclass(frozen=True)
class Album:
    """Pictures by position, drawn when first asked for and kept as 8 bits while there is room."""

    modality: str
    task: str
    size: int
    seed: int
    patients: Array  # (N,)
    targets: Array  # (N,) or (N, K)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kept", {})

    def image(self, position: int) -> Tensor:
        """Picture `(C, H, W)` float32 in [0, 1], in steps of 1/255."""
        return torch.from_numpy(self._drawn(position)[0]).float() / 255

    def mask(self, position: int) -> Tensor:
        """Where the lesions are, `(H, W)` bool."""
        return torch.from_numpy(self._drawn(position)[1].copy())

    def draw(self, position: int) -> Scan:
        """Draw a picture, whether it is kept or not."""
        chance = Chance.of(self.modality, self.seed, int(self.patients[position]), position)
        # On small matrices, threads that wait for each other cost ten times what they save when the machine is busy.
        with _threads().limit(limits=1, user_api="blas"):
            return MODALITIES[self.modality].draw(canvas(self.size), self.task, self.targets[position], chance)

    def _drawn(self, position: int) -> tuple[Array, Array]:
        kept: dict[int, tuple[Array, Array]] = self.__dict__["_kept"]
        if position in kept:
            return kept[position]
        scan = self.draw(position)
        pair = (np.rint(scan.image * 255).astype(np.uint8), scan.mask)
        # First come, first kept: a set that is read round and round would find nothing in a cache of the latest.
        if (len(kept) + 1) * (pair[0].nbytes + pair[1].nbytes) <= _MEMORY:
            kept[position] = pair
        return pair

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


@cache
def _threads() -> Any:
    return ThreadpoolController()


def collect(modality: str, *, n: int, size: int, seed: int, task: str | None) -> ImageSet:
    """Check what is asked and lay out the set; nothing is drawn yet.

    Raises:
        SettingsError: an unknown modality or task, or a number out of range.
    """
    if modality not in MODALITIES:
        raise SettingsError(f"no phantoms of modality {modality!r}; there are {', '.join(MODALITIES)}")
    kind = MODALITIES[modality]
    task = next(iter(kind.tasks)) if task is None else task
    if task not in kind.tasks:
        raise SettingsError(f"no task {task!r} for {modality} phantoms; there are {', '.join(kind.tasks)}")
    n = _between("n", n, ROUND, 10_000_000)
    size = _between("size", size, *SIZES)
    seed = _between("seed", seed, 0, 2**63 - 1)
    members = cohort(n)
    targets = _targets(kind.tasks[task], members, seed)
    album = Album(modality, task, size, seed, members.patient, targets)
    index = Index.of(
        [f"{modality}-{seed}-{position:06d}" for position in range(n)],
        targets,
        groups=[f"{modality}-patient-{seed}-{patient:06d}" for patient in members.patient],
        splits=members.split.tolist(),
    )
    return ImageSet(
        f"{modality} phantoms",
        kind.tasks[task],
        index,
        album.image,
        channels=kind.channels,
        mask=album.mask,
        caveats=("Drawn by formula: figures on phantoms show that the software works, not how a model does on patients.",),
        origin=f"phantoms {_VERSION}|{modality}|{task}|size {size}|seed {seed}",
    )


def _targets(task: Task, members: Cohort, seed: int) -> Array:
    if not task.multilabel:
        return members.place % len(task.classes)
    people = [np.random.Generator(np.random.PCG64([seed, patient])) for patient in range(int(members.patient.max()) + 1)]
    present = np.stack([person.random(len(task.classes)) < 1 / 3 for person in people])
    chosen: Array = present[members.patient].astype(np.int8)
    return chosen


def _between(name: str, value: int, low: int, high: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise SettingsError(f"{name} must be a whole number, got {value!r}") from None
    if not low <= whole <= high:
        raise SettingsError(f"{name} must lie between {low} and {high}, got {whole}")
    return whole
