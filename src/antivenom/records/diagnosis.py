"""What an examination of the main attack found, read back: one value an image, so that every share has its n and interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """An examined attack.

    Attributes:
        row: number of the plan's row whose attack was examined.
        images: `(N,)` names of the images it was examined on.
        convergence: by how hard it tried, `(N,)` whether the image was fooled; the first is as it was run.
        vanished: `(N,)` whether the first gradient was zero in every value.
        rough: `(N,)` how ragged the objective is around the image, as a share of its rise.
        unfinished: `(N,)` share of the rise that the last quarter of the steps brought.
        refused: `(N,)` whether only the source of gradients was fooled, not the model.
        fooled: `(N,)` whether the watched climb fooled the model.
        posed, found: `(N,)` whether an example could be planted, and whether the attack found it; None where the model has no
            features to plant it in.
        chance: `(N,)` share of random points that find it; NaN where none was planted.
    """

    row: int
    images: Array
    convergence: Mapping[str, Array]
    vanished: Array
    rough: Array
    unfinished: Array
    refused: Array
    fooled: Array
    posed: Array | None = None
    found: Array | None = None
    chance: Array | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the document that a run wrote."""
        signs, planted = document["signs"], document.get("planted")
        return cls(
            int(document["row"]),
            np.array(document["images"], dtype=np.str_),
            {name: np.array(values, dtype=bool) for name, values in document["convergence"].items()},
            np.array(signs["vanished"], dtype=bool),
            np.array(signs["rough"], dtype=float),
            np.array(signs["unfinished"], dtype=float),
            np.array(signs["refused"], dtype=bool),
            np.array(signs["fooled"], dtype=bool),
            None if planted is None else np.array(planted["posed"], dtype=bool),
            None if planted is None else np.array(planted["found"], dtype=bool),
            None if planted is None else np.array(planted["chance"], dtype=float),
        )

    @property
    def gains(self) -> dict[str, int]:
        """By how much harder it tried, how many images more were fooled than as run."""
        first, *others = self.convergence
        return {name: int(self.convergence[name].sum() - self.convergence[first].sum()) for name in others}
