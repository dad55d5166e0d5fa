"""What the examination of the main attack gives rise to suspect; see `diagnosis`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from antivenom.records.audit import SERIOUS, Audit, Flag

MANY_ZERO = 0.01  # share of images with vanished gradients from which on it is no accident
MORE = 0.05  # share of images that twice the effort may fool beyond the attack as run
PLANTED = 0.9  # share of planted examples that an attack in order finds
ROUGH = 0.5  # of the rise: above that, what is climbed is mostly noise
UNFINISHED = 0.1  # of the rise, in the last quarter of the steps
REFUSED = 0.05  # share of images


def not_converged(audit: Audit) -> Flag | None:
    """Twice the steps or twice the restarts fool notably more images than the attack as it was run."""
    found = audit.diagnosis
    if found is None:
        return None
    least = max(2, math.ceil(MORE * len(found.images)))
    return Flag.on(
        "attack not converged",
        SERIOUS,
        [f"{name}: {gain} of {len(found.images)} images more" for name, gain in found.gains.items() if gain >= least],
        "An attack that has done its work gains little from being given twice as much. This one does, so robust accuracy is "
        "lower than its figure.",
        "Run the audit again with more steps and restarts, until doubling them changes nothing.",
    )


def planted_not_found(audit: Audit) -> Flag | None:
    """Examples that were put there for it to find, the attack did not find."""
    diagnosis = audit.diagnosis
    if diagnosis is None or diagnosis.posed is None or diagnosis.found is None or not diagnosis.posed.any():
        return None
    found = int(diagnosis.found[diagnosis.posed].sum())
    posed = int(diagnosis.posed.sum())
    return Flag.on(
        "planted examples not found",
        SERIOUS,
        [f"{found} of {posed} found"] if found < PLANTED * posed else [],
        "Every image was given an adversarial example by construction (a new last layer on the model's own features). An "
        "attack that does not find what is there cannot say that nothing is.",
        "The gradient does not lead through this model: look for rounding, saturation or randomness in front of its features, "
        "and attack through a stand-in (BPDA) or an expectation (EOT).",
    )


def signs_of_failure(audit: Audit) -> Flag | None:
    """The main attack was watched: no gradient at first, a slope that is mostly noise, or a rise that had not ended."""
    found = audit.diagnosis
    if found is None:
        return None
    n, resisted = len(found.images), ~found.fooled
    evidence = []
    if found.vanished.mean() > MANY_ZERO:
        evidence.append(f"no gradient at the start on {found.vanished.sum()} of {n} images")
    if np.median(found.rough) > ROUGH:
        evidence.append(f"the objective is ragged: its spread close to the image is {np.median(found.rough):.2f} of its rise")
    if resisted.any() and np.median(found.unfinished[resisted]) > UNFINISHED:
        late = 100 * np.median(found.unfinished[resisted])
        evidence.append(f"still rising at the end: {late:.0f} % of the rise came in the last quarter of the steps")
    if found.refused.mean() > REFUSED:
        evidence.append(f"{found.refused.sum()} of {n} images fooled only what gradients were taken from")
    return Flag.on(
        "attack in difficulty",
        SERIOUS,
        evidence,
        "These are the known signs of an attack that fails for reasons of its own and not for the model's strength.",
        "Give it more and smaller steps where it was still rising; a smooth stand-in where the objective is ragged; the model "
        "itself as the source of gradients where its stand-in misleads.",
    )


DIFFICULTIES: tuple[Callable[[Audit], Flag | None], ...] = (not_converged, planted_not_found, signs_of_failure)
