"""The audit of the audit: the plan's main attack is repeated harder, watched on its way, and sent after planted examples.

What is found is kept image by image, as a document beside the records; `suspicion` and the report read it from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from antivenom.attacks import ATTACKS, AttackResult
from antivenom.errors import ModelError
from antivenom.evaluation.binarisation import binarisation
from antivenom.evaluation.indicators import indicators
from antivenom.evaluation.protocol import arguments
from antivenom.models.classifier import Classifier
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import PerturbationSet

PREFERRED = (("pgd", "apgd"), ("spearhead",))  # the second where a plan has none of the first


def main_row(audit: Audit) -> PlanRow | None:
    """The row of the main attack that says most: in the first threat, the one that fools nearest to half of the images."""
    measured = [
        row
        for threat in audit.threats[:1]
        for row in audit.select(threat)
        if not row.unbounded and row.epsilon > 0 and audit.success_rate(row.number).measured
    ]
    rows = next((found for names in PREFERRED if (found := [row for row in measured if row.attack in names])), [])
    return min(rows, key=lambda row: abs(audit.success_rate(row.number).value - 0.5), default=None)


def diagnose(
    model: Classifier, victim: Victim, row: PlanRow, x: Tensor, goal: Goal, draws: Draws, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Examine the attack of one row on some images.

    Args:
        model: the audited one.
        victim: how it was attacked.
        row: which attack, how and within what.
        x: images `(B, C, H, W)`.
        goal: of the row, for these images.
        draws: the same streams that the row had.
        tell: told what is being done.

    Returns:
        By name, one value an image: `convergence` (fooled as run, with twice the steps and, where the attack has any, twice the
        restarts), `signs` (see `Indicators`) and, where the model has features, `planted` (see `Binarisation`).
    """
    allowed = perturbation_set(row.threat, row.epsilon)
    assert isinstance(allowed, PerturbationSet)
    settings = arguments(row.settings)
    steps, restarts = int(row.settings.get("steps", 40)), int(row.settings.get("restarts", 1))
    harder: Mapping[str, Mapping[str, Any]] = {
        "as run": {},
        "twice the steps": {"steps": 2 * steps},
        "twice the restarts": {"restarts": 2 * restarts},
    }
    if "restarts" not in ATTACKS[row.attack].settings:
        harder = {name: change for name, change in harder.items() if "restarts" not in change}
    convergence = {}
    for name, change in harder.items():
        tell(f"{row.label} {name}")
        found = ATTACKS[row.attack](victim, x, goal, allowed, generator=draws, **{**settings, **change})
        convergence[name] = found.success.tolist()
    tell("signs of failure on the way")
    stride = {name: settings[name] for name in ("step_size",) if name in settings}
    seen = indicators(victim, x, goal, allowed, steps=steps, generator=draws, **stride)
    signs = {name: getattr(seen, name).tolist() for name in ("vanished", "rough", "unfinished", "refused", "fooled")}
    document: dict[str, Any] = {"row": row.number, "convergence": convergence, "signs": signs}
    tell("examples planted for it to find")
    effort = {name: value for name, value in settings.items() if name != "objective"}  # the planted task has classes
    attack: Callable[..., AttackResult] = partial(ATTACKS[row.attack].run, **effort)
    with contextlib.suppress(ModelError):  # a model without features has no last layer to replace
        planted = binarisation(model, x, allowed, attack, generator=draws.at(7))
        document["planted"] = {
            "posed": planted.posed.tolist(),
            "found": planted.found.tolist(),
            "chance": [None if value != value else value for value in planted.chance.tolist()],
        }
    return document
