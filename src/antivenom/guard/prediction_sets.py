"""Sets of classes that hold the truth as often as promised, by split conformal prediction.

Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", Journal of the American
Statistical Association 114 (2019), https://doi.org/10.1080/01621459.2017.1395341: a class is in the set where its probability
is high enough.
Angelopoulos, Bates, "A Gentle Introduction to Conformal Prediction and Distribution-Free Uncertainty Quantification", 2021,
https://arxiv.org/abs/2107.07511: the order statistic of held-out images, and the one for each class of its own (Mondrian).

What is promised: of a fresh image exchangeable with the held-out ones (the same scanner, the same kind of patients, read by the
same model), the set holds the true class with at least the stated coverage, on average over held-out samples; where a class has
a threshold of its own, of the images of that class. With `groups` it is patients that are exchangeable, and an unseen one is
reckoned with as large as they are on average, which is exact where all have as many images; without them images of one patient
count as independent, and coverage varies more from sample to sample than it seems. What is not promised: coverage of a single
image, of a subgroup, after the domain has shifted, of an attacked image, or among the images that a detector or a policy has
let pass. Where a temperature was fitted on the same images, sets of three or more exclusive classes are exact only nearly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.errors import InputError, SettingsError
from antivenom.guard.temperature import truths
from antivenom.metrics.intervals import Estimate, group_codes, proportion
from antivenom.task import Task

Array = np.ndarray[Any, Any]

ALL = "all"  # the key of `measured` under which no image is left out
_ROUNDING = 1e-6  # by which a float32 probability may differ between two batches that hold the same image
_SLACK = 1e-9  # a share such as 0.29 times 100 is 28.999999999999996


@dataclass(frozen=True)
class PredictionSets:
    """From which probability on a class belongs to an image's set; for findings, from which on each decision does.

    Attributes:
        coverage: promised share of images whose set holds the truth, in (0, 1).
        present: `(A,)` least probability of each class, or of each finding being present.
        absent: `(A,)` least probability of each finding being absent; empty for exclusive classes.
        n: held-out images that these were taken from; 0 where every set holds everything.
        groups: patients that these come from.
        notes: what a reader of a set must be told, one sentence each.

    Raises:
        SettingsError: a coverage outside (0, 1), or thresholds that are no probabilities.

    >>> sets = PredictionSets(0.9, (0.3, 0.6))
    >>> sets.members(torch.tensor([[0.4, 0.6], [0.9, 0.1]])).tolist()
    [[True, True], [True, False]]
    """

    coverage: float
    present: tuple[float, ...]
    absent: tuple[float, ...] = ()
    n: int = 0
    groups: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise SettingsError(f"a coverage lies between 0 and 1, got {self.coverage}; 0.9 is usual")
        if not all(0 <= value <= 1 for value in (*self.present, *self.absent)):
            raise SettingsError(f"least probabilities lie between 0 and 1, got {[*self.present, *self.absent]}")
        if not self.present or len(self.absent) not in {0, len(self.present)}:
            raise SettingsError(f"expected one least probability a class, got {len(self.present)} and {len(self.absent)}")

    @staticmethod
    def none(task: Task) -> PredictionSets:
        """Let every set hold everything."""
        everything = (0.0,) * len(task.classes)
        notes = ("no prediction sets were fitted: each holds everything",)
        return PredictionSets(0.9, everything, everything if task.multilabel else (), notes=notes)

    def members(self, probabilities: Tensor) -> Tensor:
        """Which classes are in the set `(B, A)` bool; of findings, which of absent and present are `(B, A, 2)`.

        NaN is in no set.
        """
        return memberships(probabilities, self.bounds.to(probabilities))

    @property
    def bounds(self) -> Tensor:
        """The least probabilities `(A,)` float64; of findings `(A, 2)`, absent before present."""
        present = torch.tensor(self.present, dtype=torch.float64)
        return torch.stack([torch.tensor(self.absent, dtype=torch.float64), present], 1) if self.absent else present

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "coverage": self.coverage,
            "present": list(self.present),
            "absent": list(self.absent),
            "n": self.n,
            "groups": self.groups,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> PredictionSets:
        """The sets that `to_dict` wrote."""
        return PredictionSets(
            float(values["coverage"]),
            tuple(float(value) for value in values["present"]),
            tuple(float(value) for value in values["absent"]),
            int(values["n"]),
            int(values["groups"]),
            tuple(str(note) for note in values["notes"]),
        )


def memberships(probabilities: Tensor, bounds: Tensor) -> Tensor:
    """Which classes or decisions reach their least probability: `(B, A)` for bounds `(A,)`, `(B, A, 2)` for `(A, 2)`."""
    if bounds.ndim == 1:
        return probabilities >= bounds
    return torch.stack([1 - probabilities, probabilities], 2) >= bounds


def fit_prediction_sets(
    probabilities: Tensor,
    targets: Tensor | Array,
    task: Task,
    *,
    coverage: float = 0.9,
    groups: Array | Sequence[Any] | None = None,
) -> PredictionSets:
    """Take the least probabilities under which held-out images are covered as often as stated.

    Args:
        probabilities: `(N, A)` of clean images that neither trained the classifier nor fitted its temperature, calibrated by
            the temperature that will be in use.
        targets: `(N,)` class numbers, or `(N, A)` 0/1.
        task: of the classifier.
        coverage: share of fresh images whose set shall hold the truth.
        groups: `(N,)` patient of each image; None where each image has its own.

    A class (a finding present, a finding absent) has a threshold of its own where it has enough images, or patients: at least
    `1 / (1 - coverage) - 1`. Else it takes that of all images together, with a note: nothing is then promised of its images.

    Raises:
        InputError: no image, probabilities that are not finite, or targets or groups that do not go with them.
        SettingsError: a coverage outside (0, 1).

    >>> chances = torch.linspace(0.5, 0.99, 50)
    >>> sets = fit_prediction_sets(torch.stack([chances, 1 - chances], 1), [0] * 50, Task(("normal", "ill")))
    >>> round(sets.present[0], 2), len(sets.notes)
    (0.54, 1)
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"a coverage lies between 0 and 1, got {coverage}; 0.9 is usual")
    chances = _checked(probabilities, task)
    truth = truths(targets, len(chances), task)
    codes = group_codes(None if groups is None else np.asarray(groups), len(chances))
    notes: list[str] = []
    if task.multilabel:
        columns = [
            _column(chances[:, place], truth[:, place], codes, coverage, name, notes) for place, name in enumerate(task.classes)
        ]
        absent, present = tuple(low for low, _ in columns), tuple(high for _, high in columns)
    else:
        together = _least(chances[truth], codes, coverage)
        notes += _unbounded(together, "", codes, coverage)
        own = [
            _own(chances[truth[:, place], place], codes[truth[:, place]], coverage, together, name, notes)
            for place, name in enumerate(task.classes)
        ]
        absent, present = (), tuple(own)
    return PredictionSets(coverage, present, absent, len(chances), len(np.unique(codes)), tuple(notes))


def measured(
    members: Tensor,
    targets: Tensor | Array,
    task: Task,
    *,
    groups: Array | Sequence[Any] | None = None,
    strata: Array | Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Measure how often sets hold the truth: of all images, by class, and by stratum.

    Args:
        members: `(N, A)` or, of findings, `(N, A, 2)`, of images that the sets were not fitted on.
        targets: `(N,)` class numbers, or `(N, A)` 0/1.
        task: of the classifier.
        groups: `(N,)` patient of each image; None where each image has its own.
        strata: `(N,)` a name for each image, such as its hospital; None: there are none.

    Returns:
        Shares in [0, 1] under `all`, under the name of each class (`Mass present`, `Mass absent` of findings), and under each
        stratum; of findings each decision counts.

    Raises:
        InputError: targets, groups or strata of another length.

    >>> found = measured(torch.tensor([[True, False], [True, True]]), [0, 1], Task(("normal", "ill")))
    >>> found["all"].value, found["ill"].n
    (1.0, 1)
    """
    held, truth = members.cpu().numpy(), truths(targets, len(members), task)
    hit = np.where(truth, held[..., 1], held[..., 0]) if task.multilabel else held[truth][:, None]
    counted = {ALL: np.ones_like(hit, dtype=bool)}
    for place, name in enumerate(task.classes):
        if task.multilabel:
            for word, there in (("present", truth[:, place]), ("absent", ~truth[:, place])):
                counted[f"{name} {word}"] = there[:, None] & (np.arange(len(task.classes)) == place)
        else:
            counted[name] = truth[:, place : place + 1]
    if strata is not None:
        labels = np.asarray(strata)
        if labels.shape != (len(hit),):
            raise InputError(f"{len(hit)} images need one stratum each, got {labels.shape}")
        counted |= {str(name): np.broadcast_to((labels == name)[:, None], hit.shape) for name in np.unique(labels)}
    patients = None if groups is None else np.asarray(groups)
    return {name: proportion(np.where(which, hit, np.nan), patients) for name, which in counted.items()}


def _column(chances: Array, truth: Array, codes: Array, coverage: float, name: str, notes: list[str]) -> tuple[float, float]:
    """The least probabilities of one finding being absent and present."""
    together = _least(np.where(truth, chances, 1 - chances), codes, coverage)
    notes += _unbounded(together, name, codes, coverage)
    sides = ((f"{name} absent", ~truth, 1 - chances), (f"{name} present", truth, chances))
    low, high = (_own(values[there], codes[there], coverage, together, side, notes) for side, there, values in sides)
    return low, high


def _own(chances: Array, codes: Array, coverage: float, together: float | None, name: str, notes: list[str]) -> float:
    """The least probability of a class: its own, or that of all images, or 0 where not even these are enough."""
    own = _least(chances, codes, coverage)
    if own is None and together is not None:
        notes.append(
            f"{name}: {_counted(codes)}, of at least {_needed(coverage)} that a threshold of its own takes at {coverage:.0%} "
            "coverage; it has that of all images together, which promises nothing of its own images"
        )
    least = together if own is None else own
    return 0.0 if least is None else max(0.0, least - _ROUNDING)


def _least(chances: Array, codes: Array, coverage: float) -> float | None:
    """The probability below which no more than 1 - coverage of fresh images are expected; None where there are too few."""
    n, patients = len(chances), len(np.unique(codes))
    if not n:
        return None
    unseen = n / patients  # images of a patient yet to come, all of which may be missed
    missed = math.floor((n + unseen) * (1 - coverage) - unseen + _SLACK * n)
    return None if missed < 0 else float(np.sort(chances)[missed])


def _unbounded(together: float | None, name: str, codes: Array, coverage: float) -> list[str]:
    if together is not None:
        return []
    start = f"{name}: " if name else ""
    return [
        f"{start}{_counted(codes)} held out, of at least {_needed(coverage)} that {coverage:.0%} coverage takes: "
        "every set holds all"
    ]


def _counted(codes: Array) -> str:
    patients = len(np.unique(codes))
    return f"{len(codes)} images of {patients} patients" if patients < len(codes) else f"{patients} images"


def _needed(coverage: float) -> int:
    return math.ceil(1 / (1 - coverage) - 1 - _SLACK)


def _checked(probabilities: Tensor, task: Task) -> Array:
    values = probabilities.detach().cpu().double().numpy()
    if values.ndim != 2 or values.shape[1] != len(task.classes) or not len(values):
        raise InputError(f"sets need probabilities (N, {len(task.classes)}) of at least 1 image, got {values.shape}")
    odd = int((~np.isfinite(values)).any(1).sum())
    if odd:
        raise InputError(f"{odd} of {len(values)} held-out images have probabilities that are not finite: look into them")
    return values
