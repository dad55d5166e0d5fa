"""How near an attack comes to the best that any attack of a pool reaches, image by image.

The optimality of Cinà, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed, Roli, "AttackBench: Evaluating Gradient-based
Attacks for Adversarial Examples", AAAI 2025, https://arxiv.org/abs/2404.19460:

    1 - (A - A*) / (c e - A*)

where A is the area below the attack's security curve (accuracy against epsilon) from 0 to e, A* that below the curve of the
pool's smallest distance to each image, e the largest of these smallest distances, and c the clean accuracy. 1: the attack finds
every smallest perturbation that the pool knows; 0: it fools no image below e. The area below a curve of steps is the mean of
min(d, e).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def envelope(distances: list[Array]) -> Array:
    """The smallest distance of each image that any attack found; infinite where none fooled it."""
    found: Array = np.minimum.reduce([np.asarray(d, dtype=float) for d in distances])
    return found


def optimality(distances: Array, best: Array) -> float:
    """How near the distances `(n,)` of an attack, infinite where it failed, come to the `best` known ones `(n,)`.

    >>> best = np.array([0.1, 0.2, 0.4])
    >>> optimality(best, best), round(abs(optimality(np.full(3, np.inf), best)), 9)
    (1.0, 0.0)
    >>> round(optimality(np.array([0.1, 0.3, np.inf]), best), 3)
    0.8
    """
    end = best[np.isfinite(best)].max(initial=0)
    clean = float((best > 0).mean())
    area, least = (float(np.minimum(d, end).mean()) for d in (np.asarray(distances, dtype=float), best))
    most = float(clean * end)
    return 1.0 if most == least else 1 - (area - least) / (most - least)


def curve(distances: Array) -> list[list[float]]:
    """The security curve as its steps: pairs of an epsilon and the accuracy from there on."""
    finite = np.sort(distances[np.isfinite(distances)])
    return [[0.0, 1.0]] + [[float(d), 1 - (i + 1) / len(distances)] for i, d in enumerate(finite)]
