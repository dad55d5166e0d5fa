"""What was seen, as tables: every published figure is a join of these.

A `Scan` is what the data set says of one image. An `Example` is one image as one attack left it (the clean image is the
example of the attack `none`). An `Answer` is what one model said of one example, a `Score` how suspicious one detector
found it. These are kept apart, since transfer is an answer of another model to the same example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Scan:
    """One image as the data set describes it."""

    image: str  # unique name in the data set
    split: str  # 'val' (operating points, calibration) or 'test' (figures)
    target: tuple[int, ...]  # one class index; or one 0/1 per finding
    group: str  # patient, subject or lesion; the image's own name where the set names none
    source: str  # hospital or camera; empty where unknown


@dataclass(frozen=True)
class Example:
    """One image as one attack left it, measured on the stored image in float32."""

    example: str  # unique: plan row and image
    image: str
    row: int  # which row of the protocol's plan
    attack: str  # 'none' for the clean image, 'noise' for the control
    settings: str  # the attack's own settings, as JSON
    goal: str  # what the adversary wanted, e.g. 'untargeted'
    threat: str  # norm and pixels, without epsilon, e.g. 'linf'
    epsilon: float  # in units of the [0, 1] range
    until: str  # 'fooled' or 'spent'
    seed: int
    reached: bool  # whether the goal was met by the stored image
    linf: float
    l2: float
    l1: float
    l0: int  # values changed
    queries: int  # forward passes spent on this image
    gradients: int  # backward passes spent on this image
    flags: tuple[str, ...]  # what was suspicious, e.g. 'zero-gradient'
    pixels: str  # digest under which the image's pixels are kept; empty where they are not


@dataclass(frozen=True)
class Answer:
    """One model's answer to one example."""

    example: str
    model: str  # digest of the model's weights
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """One detector's score of one example; higher is more suspicious."""

    example: str
    detector: str  # name in the guard
    score: float


SCHEMAS: Mapping[type, pa.Schema] = {
    Scan: pa.schema(
        [
            ("image", pa.string()),
            ("split", pa.string()),
            ("target", pa.list_(pa.int16())),
            ("group", pa.string()),
            ("source", pa.string()),
        ]
    ),
    Example: pa.schema(
        [
            ("example", pa.string()),
            ("image", pa.string()),
            ("row", pa.int32()),
            ("attack", pa.string()),
            ("settings", pa.string()),
            ("goal", pa.string()),
            ("threat", pa.string()),
            ("epsilon", pa.float64()),
            ("until", pa.string()),
            ("seed", pa.int64()),
            ("reached", pa.bool_()),
            ("linf", pa.float32()),
            ("l2", pa.float32()),
            ("l1", pa.float32()),
            ("l0", pa.int32()),
            ("queries", pa.int64()),
            ("gradients", pa.int64()),
            ("flags", pa.list_(pa.string())),
            ("pixels", pa.string()),
        ]
    ),
    Answer: pa.schema(
        [
            ("example", pa.string()),
            ("model", pa.string()),
            ("logits", pa.list_(pa.float32())),
        ]
    ),
    Score: pa.schema(
        [
            ("example", pa.string()),
            ("detector", pa.string()),
            ("score", pa.float64()),
        ]
    ),
}


def to_table(kind: type, rows: Iterable[Any]) -> pa.Table:
    """Rows of one kind as an Arrow table with that kind's schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMAS[kind])
