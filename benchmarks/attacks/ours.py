"""Our attacks, asked for in the same words as those of the peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from peers import Setting
from torch import Tensor

from antivenom.attacks import ATTACKS, AttackResult, Until
from antivenom.models.execution import Victim
from antivenom.randomness import Draws, image_keys
from antivenom.threat.card import NORMS
from antivenom.threat.goals import Goal, Targeted, Untargeted
from antivenom.threat.objectives import OBJECTIVES

OURS = "antivenom"
PLAIN = "antivenom, model as given"  # gradients in float32 from the model itself
AS_MANY_STEPS = "antivenom, as many steps"  # as the peers, whatever the judge's passes come to; not in the pool

# Forward and backward passes of one step, by the number of classes, where they are not two.
A_STEP: dict[str, Callable[[int], int]] = {
    "deepfool": lambda classes: 1 + min(classes - 1, 10),
    "fab": lambda classes: 2 + min(classes - 1, 10),
}
AT_THE_END = {"cw": 0, "fab": 4}  # passes after the last step, where it is not one look at the last point
# Share of a budget that goes into steps where the judge is another model, asked at each nearer point: as it was seen to be.
ASKED = {"cw": 0.86, "sigma_zero": 0.9, "ddn": 0.86, "fab": 0.9}
ASKED_BY_OTHERS = 0.8


def here(name: str) -> bool:
    """Whether the table has an attack; says so where it has not."""
    if name not in ATTACKS:
        print(f"{name} is left out: not in the table of attacks", flush=True)
    return name in ATTACKS


def takes(setting: Setting) -> bool:
    """Whether our attack is there and written for the norm."""
    return setting.attack in ATTACKS and NORMS[setting.norm] in ATTACKS[setting.attack].norms


def run(
    victim: Victim, setting: Setting, x: Tensor, y: Tensor, keys: tuple[str, ...], until: Until | None = None
) -> AttackResult:
    """Run the attack of the table; `until` as it has it where none is given."""
    row = ATTACKS[setting.attack]
    known: dict[str, Any] = {"steps": setting.steps, "queries": setting.steps, "step_size": setting.step_size}
    if setting.attack in ("fgsm", "bim", "pgd", "mim", "apgd"):  # others have their own, as in their papers
        known["objective"] = OBJECTIVES[setting.objective]
    if setting.targets:
        known["targets"] = setting.targets
    if setting.attack == "cw":
        known |= {"learning_rate": setting.learning_rate, "searches": setting.searches, "constant": setting.constant}
    if setting.attack == "jsma":
        known = {}  # the pairs of the paper; the number of values that may change is what limits it
    given = {name: value for name, value in known.items() if name in row.settings}
    if until is not None:
        given["until"] = until
    goal: Goal = Targeted(y) if setting.targeted else Untargeted(y)
    allowed = NORMS[setting.norm](setting.epsilon)  # in L0 the number of values that may change
    return row(victim, x, goal, allowed, **given, generator=Draws.of(setting.seed, image_keys(keys)))


def steps_for(setting: Setting, budget: int, *, share: float = 1.0) -> int:
    """Steps that a share of a budget of passes pays for."""
    a_step = A_STEP.get(setting.attack, lambda _: 2)(setting.classes) * setting.searches
    return max(1, math.floor((budget - AT_THE_END.get(setting.attack, 1)) * share / a_step))


def as_many_steps(setting: Setting, budget: int) -> int:
    """Steps that a budget pays for if nothing but steps is counted, as for the peers."""
    return max(1, budget // (A_STEP.get(setting.attack, lambda _: 2)(setting.classes) * setting.searches))
