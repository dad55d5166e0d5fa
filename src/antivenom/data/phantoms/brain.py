"""Axial T1-weighted brain MR slices after contrast agent: each pixel has the brightness of its tissue.

Coordinates: u from the patient's right (-1, left side of the picture) to left, v from the forehead (-1) to the occiput (1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from antivenom.data.phantoms.canvas import Array, Canvas, Frame, Random
from antivenom.data.phantoms.cohort import Chance
from antivenom.data.phantoms.scan import Scan
from antivenom.task import Task

TASKS = {
    "tumour": Task(("control", "tumour")),
    "dementia": Task(("control", "dementia")),
}

_FLUID, _CORTEX, _NUCLEUS, _WHITE, _FAT, _MARROW, _BONE = 0.13, 0.46, 0.53, 0.70, 0.88, 0.42, 0.06


@dataclass(frozen=True)
class _Wear:
    """How far tissue has given way to fluid."""

    ventricles: float  # widening of the ventricles, in half pictures
    sulci: float  # widening of the sulci, in units of the folding noise


@dataclass(frozen=True)
class _Slice:
    """The fixed anatomy of one slice: distances, from which tissues follow once the wear is known."""

    depth: Array  # below the surface of the brain, negative outside
    fold: Array  # folding noise: 0 in the bottom of a sulcus
    cleft: Array  # distance from the fissure between the hemispheres
    ventricles: Array  # depth inside the ventricles, before wear
    nuclei: Array  # share of deep grey matter
    u: Array
    v: Array


def draw(canvas: Canvas, task: str, target: Array, chance: Chance) -> Scan:
    """Draw one slice.

    Args:
        canvas: where to draw.
        task: a key of `TASKS`.
        target: class index.
        chance: the picture's random streams.
    """
    body, pose, disease = chance.body, chance.pose, chance.disease
    frame = Frame(pose.normal(0, 6), pose.uniform(0.88, 1.06), pose.normal(0, 0.035), pose.normal(0, 0.035))
    u, v = frame.positions(canvas)
    wear = _Wear(body.uniform(-0.012, 0.022), body.uniform(-0.05, 0.12))
    tumour = task == "tumour" and bool(target)
    mass = _mass(disease) if tumour else None
    if mass is not None:
        u, v = mass.pushed(u, v)
    anatomy = _anatomy(canvas, body, u, v)
    fluid, brain = _tissues(canvas, anatomy, wear)
    mask = np.zeros(u.shape, dtype=bool)
    if task == "dementia" and target:
        worn = _Wear(wear.ventricles + disease.uniform(0.03, 0.05), wear.sulci + disease.uniform(0.16, 0.26))
        before = fluid
        fluid, brain = _tissues(canvas, anatomy, worn)
        mask = (fluid - before > 0.5) & (anatomy.depth > -0.02)
    image = brain
    if mass is not None:
        image, mask = mass.grown(canvas, frame, image, anatomy.depth, disease)
    image = _wrapped(canvas, body, anatomy, image)
    return Scan(_received(canvas, image, chance)[None], mask)
