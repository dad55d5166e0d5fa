"""Certificates read back: one radius an image (and finding) that an L2 change of it cannot undo, under one noise.

run/certificates/sigma-0.25/
  asked.json        noise, copies, alpha, which images, of which model
  provenance.json   command, code digest, versions, machine
  000000.json       certificates of some images; whole or absent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.metrics.certificates import ABSTAINED, certified_radius
from antivenom.metrics.classification import balanced_accuracy_estimate
from antivenom.metrics.intervals import Estimate, proportion
from antivenom.records.outcomes import Split
from antivenom.records.store import Store
from antivenom.task import Task

Array = np.ndarray[Any, Any]

HOME = "certificates"
ASKED, ORIGIN = "asked", "provenance"
COLUMNS = ("class", "radius", "votes")
STEPS_A_SIGMA = 2  # radii told per standard deviation of the noise


def folder_of(sigma: float) -> str:
    """Where certificates under one noise stand in a run.

    >>> folder_of(0.25)
    'certificates/sigma-0.25'
    """
    return f"{HOME}/sigma-{sigma:g}"


@dataclass(frozen=True, eq=False)
class Certification:
    """The certificates of some test images of an audit under one noise.

    Attributes:
        sigma: standard deviation of the noise, in units of the [0, 1] range.
        n0, n: copies that chose a class, and that proved it.
        alpha: chance that an image's certificate is wrong, at most.
        wanted: images to be certified.
        places: `(N,)` of the images certified so far, in the order of the test images.
        right: `(N, D)` whether a decision is right; an abstention is not.
        abstained: `(N, D)` whether no decision was certain enough.
        radius: `(N, D)`, L2 in units of the [0, 1] range; 0 where it abstained.
        targets: `(N,)` class numbers, or `(N, K)` 0 and 1.
        groups: `(N,)` patient, subject or lesion.
        task: what the model decides.
    """

    sigma: float
    n0: int
    n: int
    alpha: float
    wanted: int
    places: Array
    right: Array
    abstained: Array
    radius: Array
    targets: Array
    groups: Array
    task: Task

    @classmethod
    def of(cls, asked: Mapping[str, Any], found: Mapping[str, Sequence[Any]], split: Split, task: Task) -> Self:
        """Join what was asked for and found with what the data set says of the images.

        Raises:
            RecordsError: an image that is not among them, a decision that cannot be, or a radius that its votes do not prove.
        """
        sigma, n, alpha = float(asked["sigma"]), int(asked["n"]), float(asked["alpha"])
        where = {str(name): place for place, name in enumerate(split.images.tolist())}
        if strange := [name for name in found["image"] if name not in where]:
            raise RecordsError(f"{len(strange)} certified images are no test images of this run, such as {strange[0]}")
        places = np.array([where[name] for name in found["image"]], dtype=np.int64)
        width = task.decisions
        classes, votes = (np.array(found[name], dtype=np.int64).reshape(-1, width) for name in ("class", "votes"))
        radius = np.array(found["radius"], dtype=float).reshape(-1, width)
        top = 1 if task.multilabel else len(task.classes) - 1
        proven = certified_radius(votes, n, sigma, alpha / width)
        wrong = ~np.isclose(radius, proven, rtol=1e-6, atol=1e-9) | ((classes == ABSTAINED) != (radius == 0)) | (classes > top)
        if wrong.any():
            image = found["image"][int(np.flatnonzero(wrong.any(1))[0])]
            raise RecordsError(f"the certificate of {image} does not follow from its votes: records were changed")
        right = classes == split.targets.reshape(len(split), width)[places]
        return cls(
            sigma,
            int(asked["n0"]),
            n,
            alpha,
            int(asked["images"]),
            places,
            right,
            classes == ABSTAINED,
            radius,
            split.targets[places],
            split.groups[places],
            task,
        )

    @property
    def finished(self) -> bool:
        """Whether every image has its certificate."""
        return len(self.places) == self.wanted

    @property
    def reach(self) -> float:
        """The largest radius that so many copies can prove: that of a unanimous vote."""
        return float(certified_radius(np.array(self.n), self.n, self.sigma, self.alpha / self.right.shape[1]))

    @property
    def radii(self) -> tuple[float, ...]:
        """Where certified accuracy is told: at every half of sigma within reach, from 0 on."""
        step = self.sigma / STEPS_A_SIGMA
        return tuple(step * i for i in range(int(self.reach / step) + 1))

    def certified(self, radius: float) -> Array:
        """Which decisions are right and proven to stay so under any change up to this L2 norm, `(N, D)` bool."""
        return np.asarray(self.right & (self.radius > radius))

    def accuracy(self, radius: float = 0.0) -> Estimate:
        """Certified accuracy: the share of decisions of which that is proven.

        Raises:
            NotMeasuredError: images are missing.
        """
        return self.share(self.certified(radius))

    def balanced_accuracy(self, radius: float = 0.0) -> Estimate:
        """The same, averaged over classes; over findings, the mean of certified sensitivity and specificity.

        Raises:
            NotMeasuredError: images are missing.
        """
        self._check_finished()
        multilabel, classes = self.task.multilabel, len(self.task.classes)
        return balanced_accuracy_estimate(self.certified(radius), self.targets, classes, self.groups, multilabel=multilabel)

    @property
    def abstention(self) -> Estimate:
        """Share of decisions that the smoothed model does not take.

        Raises:
            NotMeasuredError: images are missing.
        """
        return self.share(self.abstained)

    def curve(self) -> list[tuple[float, Estimate]]:
        """Certified accuracy at each of `radii`.

        Raises:
            NotMeasuredError: images are missing.
        """
        return [(radius, self.accuracy(radius)) for radius in self.radii]

    def share(self, decisions: Array) -> Estimate:
        """Share of some decisions `(N, D)` about the certified images.

        Raises:
            NotMeasuredError: images are missing.
        """
        self._check_finished()
        return proportion(decisions, self.groups)

    def _check_finished(self) -> None:
        if not self.finished:
            raise NotMeasuredError(
                f"{len(self.places)} of {self.wanted} images are certified under noise of {self.sigma:g}; "
                "certify again, it goes on where it stopped"
            )


def shards(store: Store, sigma: float) -> list[str]:
    """Documents of the certificates that are finished, in the order of the images."""
    home = folder_of(sigma)
    names = (path.stem for path in (store.folder / home).glob("[0-9]*.json"))
    return [f"{home}/{name}" for name in sorted(names)]


def read_certifications(store: Store, split: Split, task: Task) -> tuple[Certification, ...]:
    """Every certification of a run, by its noise.

    Raises:
        RecordsError: a document is damaged, or contradicts what the run holds.
    """
    found = []
    for path in (store.folder / HOME).glob(f"*/{ASKED}.json"):
        asked = store.document(f"{HOME}/{path.parent.name}/{ASKED}")
        parts = [store.document(name) for name in shards(store, float(asked["sigma"]))]
        columns = {name: [value for part in parts for value in part[name]] for name in ("image", *COLUMNS)}
        try:
            found.append(Certification.of(asked, columns, split, task))
        except ValueError as error:  # votes that cannot be, columns of other lengths
            raise RecordsError(f"{path.parent} is damaged ({error}); remove it and certify again") from None
    return tuple(sorted(found, key=lambda one: one.sigma))
