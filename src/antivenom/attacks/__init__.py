"""The attacks, one paper a file, and the table of what each can do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from antivenom.attacks.apgd import apgd
from antivenom.attacks.bim import bim
from antivenom.attacks.carlini_wagner import carlini_wagner
from antivenom.attacks.ddn import ddn
from antivenom.attacks.deepfool import deepfool
from antivenom.attacks.escalating_fgsm import escalating_fgsm
from antivenom.attacks.fgsm import fgsm
from antivenom.attacks.fmn import fmn
from antivenom.attacks.mim import mim
from antivenom.attacks.noise import noise
from antivenom.attacks.pgd import pgd
from antivenom.attacks.result import FOOLED, SPENT, AttackResult, Until
from antivenom.attacks.square import square
from antivenom.errors import SettingsError
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L0, L1


class Sees(Enum):
    """What an attack needs of the model."""

    GRADIENT = "gradient"  # white box
    SCORES = "scores"  # black box, logits or probabilities
    LABELS = "labels"  # black box, the decision alone
    NOTHING = "nothing"  # a control


@dataclass(frozen=True)
class Attack:
    """One row of the table.

    Attributes:
        run: the attack; called as the row itself is called.
        title: name in a report.
        sees: what it needs of the model.
        norms: perturbation sets that it takes.
        iterative: whether it spends a budget of steps or queries.
        summary: what it does, in a sentence for a reader who attacks no models.
        nearest: whether it looks for the smallest perturbation, so that epsilon only limits what counts and may be infinite.
    """

    run: Callable[..., AttackResult]
    title: str
    sees: Sees
    norms: frozenset[type[PerturbationSet]]
    iterative: bool
    summary: str
    nearest: bool = False

    def __call__(self, *args: Any, **settings: Any) -> AttackResult:
        """Run the attack."""
        return self.run(*args, **settings)

    @property
    def settings(self) -> frozenset[str]:
        """Names of what can be set, beside what every attack takes."""
        common = {"model", "x", "goal", "allowed", "until", "generator"}
        return frozenset(inspect.signature(self.run).parameters) - common

    @property
    def reference(self) -> tuple[str, str]:
        """The paper and its address, as the head of the attack's module cites them."""
        head = " ".join((inspect.getdoc(inspect.getmodule(self.run)) or "").split())
        match = re.search(r"([A-Z][^.]*?, [\"“].*?)[,.]? (https://\S+?)[,.]?(?: |$)", head)
        return (match[1], match[2]) if match else ("", "")


BALLS = frozenset({Linf, L2, L1})
ALL = frozenset({Linf, L2, L1, L0})

ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(
        fgsm,
        "FGSM",
        Sees.GRADIENT,
        frozenset({Linf, L2}),
        False,
        "moves every pixel once, in the direction that raises the model's error",
    ),
    "escalating_fgsm": Attack(
        escalating_fgsm,
        "FGSM, escalating",
        Sees.GRADIENT,
        frozenset({Linf}),
        True,
        "takes full steps of one size after another until the model is fooled, as AdvBox's FGSM does",
        nearest=True,
    ),
    "bim": Attack(
        bim, "BIM", Sees.GRADIENT, BALLS, True, "takes small steps up the model's error, starting from the image itself"
    ),
    "pgd": Attack(
        pgd, "PGD", Sees.GRADIENT, BALLS, True, "takes small steps up the model's error, starting from random points nearby"
    ),
    "apgd": Attack(
        apgd,
        "APGD",
        Sees.GRADIENT,
        BALLS,
        True,
        "climbs the model's error in large steps first, and halves them when they stop helping",
    ),
    "deepfool": Attack(
        deepfool,
        "DeepFool",
        Sees.GRADIENT,
        frozenset({Linf, L2}),
        True,
        "goes to the nearest boundary of the model as its gradients show it: the least change, not a given one",
        nearest=True,
    ),
    "cw": Attack(
        carlini_wagner,
        "C&W",
        Sees.GRADIENT,
        frozenset({L2}),
        True,
        "weighs the size of the change against the model's error, and searches for the weight: the least change",
        nearest=True,
    ),
    "ddn": Attack(
        ddn,
        "DDN",
        Sees.GRADIENT,
        frozenset({L2}),
        True,
        "walks along the model's boundary towards the image: the least change, not a given one",
        nearest=True,
    ),
    "fmn": Attack(
        fmn,
        "FMN",
        Sees.GRADIENT,
        ALL,
        True,
        "climbs inside a ball that it shrinks as far as the model allows: the least change, not a given one",
        nearest=True,
    ),
    "mim": Attack(
        mim, "MIM", Sees.GRADIENT, BALLS, True, "takes small steps along an average of past directions, which transfers better"
    ),
    "square": Attack(
        square,
        "Square",
        Sees.SCORES,
        frozenset({Linf}),
        True,
        "tries random squares and keeps those that help, seeing scores only",
    ),
    "noise": Attack(
        noise, "Random noise", Sees.NOTHING, ALL, False, "adds random noise of the same size without looking at the model"
    ),
}


def attack(name: str) -> Attack:
    """The row of an attack.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in ATTACKS:
        raise SettingsError(f"no attack {name!r}; there are {', '.join(ATTACKS)}")
    return ATTACKS[name]


__all__ = ["ATTACKS", "FOOLED", "SPENT", "Attack", "AttackResult", "Sees", "Until", "attack"]
