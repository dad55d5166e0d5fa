"""Branching trees: blood vessels of the lung and of the retina."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antivenom.data.phantoms.canvas import Array, Random


@dataclass(frozen=True)
class Tree:
    """Polylines with a width at every point."""

    paths: Array  # (P, S, 2)
    width: Array  # (P, S)


def grow(
    random: Random,
    start: Array,
    heading: Array,
    length: Array,
    width: Array,
    *,
    bend: Array | float = 0.0,
    wander: float = 0.15,
    branches: tuple[int, ...] = (3, 2),
    spread: float = 0.7,
    shrink: float = 0.6,
    points: int = 14,
) -> Tree:
    """Grow trees from roots, with all their branches.

    Args:
        random: the patient's stream.
        start: `(R, 2)` where each root begins.
        heading: `(R,)` first direction in radians.
        length: `(R,)` length of the root.
        width: `(R,)` width at its beginning; it tapers to half.
        bend: `(R,)` total turn of the root in radians, on top of which it wanders.
        wander: standard deviation of the turn at each point, in radians.
        branches: how many each path of a generation sends off.
        spread: mean angle between a branch and its parent, to either side.
        shrink: length and width of a branch relative to its parent.
        points: points of each path.
    """
    grown = []
    for generation in range(len(branches) + 1):
        count = len(start)
        turn = random.normal(0, wander, (count, points)) + np.broadcast_to(np.asarray(bend) / points, (count,))[:, None]
        direction = heading[:, None] + np.cumsum(turn, axis=1)
        step = np.stack([np.cos(direction), np.sin(direction)], -1) * (length / (points - 1))[:, None, None]
        paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(step[:, :-1], axis=1)], axis=1)
        taper = width[:, None] * np.linspace(1, 0.5, points)
        grown.append((paths, taper))
        if generation == len(branches):
            break
        many = branches[generation]
        parent = np.repeat(np.arange(count), many)
        leave = ((np.tile(np.arange(many), count) + random.random(count * many)) / many * 0.75 + 0.15) * points
        leave = leave.astype(np.int64).clip(1, points - 2)
        side = np.where((np.tile(np.arange(many), count) + random.integers(2)) % 2 == 0, 1, -1)
        start = paths[parent, leave]
        heading = direction[parent, leave] + side * spread * random.uniform(0.6, 1.3, len(parent))
        length = length[parent] * shrink * random.uniform(0.7, 1.2, len(parent))
        width = taper[parent, leave] * shrink * random.uniform(0.8, 1.15, len(parent))
        bend = -0.6 * side * spread
    return Tree(np.concatenate([paths for paths, _ in grown]), np.concatenate([taper for _, taper in grown]))
