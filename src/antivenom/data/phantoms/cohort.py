"""Who is on the pictures: patients, splits, targets and random streams, all functions of the position alone.

Positions come in rounds of 20 with 13 patients: 14 pictures to train on, 2 to choose by, 4 to test on. A set of 2,000 pictures
therefore begins with the set of 1,000.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from antivenom.data.phantoms.canvas import Array, Random

# One round: the split of each patient and how many pictures there are of this patient.
_ROUND = (
    ("train", 3),
    ("test", 2),
    ("val", 1),
    ("train", 3),
    ("train", 2),
    ("test", 1),
    ("train", 2),
    ("val", 1),
    ("train", 1),
    ("train", 1),
    ("test", 1),
    ("train", 1),
    ("train", 1),
)
ROUND = sum(pictures for _, pictures in _ROUND)


@dataclass(frozen=True)
class Cohort:
    """The first `n` positions; one row a picture."""

    patient: Array  # (N,) int64
    split: Array  # (N,) of train, val, test
    place: Array  # (N,) int64: the patient's number within the split; classes take turns along it


def cohort(n: int) -> Cohort:
    """Assign `n` pictures to patients and splits.

    >>> cohort(40).patient[:7].tolist()
    [0, 0, 0, 1, 1, 2, 3]
    """
    split, pictures = zip(*_ROUND, strict=True)
    place = [split[:i].count(name) for i, name in enumerate(split)]
    member = np.repeat(np.arange(len(_ROUND)), pictures)
    turn, within = np.divmod(np.arange(n), ROUND)
    person = member[within]
    # The shift by one each turn keeps classes and numbers of pictures apart.
    return Cohort(turn * len(_ROUND) + person, np.asarray(split)[person], np.asarray(place)[person] + turn)


@dataclass(frozen=True)
class Chance:
    """The random streams of one picture, apart, so that a sick body is the healthy one with the disease added."""

    body: Random  # the patient's anatomy, the same in all pictures of a patient
    pose: Random  # this exposure: position, settings, devices
    disease: Random  # where and how the lesions lie
    film: Random  # noise of the detector; the only stream whose numbers depend on the size

    @staticmethod
    def of(modality: str, seed: int, patient: int, position: int) -> Chance:
        """Streams named by what they belong to."""
        name = zlib.crc32(modality.encode())

        def stream(kind: int, whose: int) -> Random:
            return np.random.Generator(np.random.PCG64([seed, name, kind, whose]))

        return Chance(stream(0, patient), stream(1, position), stream(2, position), stream(3, position))
