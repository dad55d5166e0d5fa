"""The attacks, one paper a file, and the table of what each can do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from antivenom.attacks.apgd import apgd
from antivenom.attacks.bim import bim
from antivenom.attacks.carlini_wagner import carlini_wagner
from antivenom.attacks.ddn import ddn
from antivenom.attacks.deepfool import deepfool
from antivenom.attacks.escalating_fgsm import escalating_fgsm
from antivenom.attacks.fab import fab
from antivenom.attacks.few_pixel import few_pixel
from antivenom.attacks.fgsm import fgsm
from antivenom.attacks.fmn import fmn
from antivenom.attacks.hop_skip_jump import hop_skip_jump
from antivenom.attacks.input_diversity import input_diversity
from antivenom.attacks.jsma import jsma
from antivenom.attacks.mim import mim
from antivenom.attacks.noise import noise
from antivenom.attacks.parameter_ascent import parameter_ascent
from antivenom.attacks.pgd import pgd
from antivenom.attacks.result import FOOLED, SPENT, AttackResult, Until
from antivenom.attacks.sigma_zero import sigma_zero
from antivenom.attacks.simba import simba
from antivenom.attacks.simba_universal import fit_simba_universal
from antivenom.attacks.speckle import speckle
from antivenom.attacks.spsa import spsa
from antivenom.attacks.square import square
from antivenom.attacks.structure_invariance import structure_invariance
from antivenom.attacks.translation import translation
from antivenom.attacks.universal import apply_universal, fit_universal
from antivenom.attacks.worst_case import autoattack, spearhead
from antivenom.attacks.worst_of import worst_of
from antivenom.errors import SettingsError
from antivenom.threat.perturbations import L2, Capability, Linf
from antivenom.threat.sparse import L0, L1
from antivenom.threat.transforms import TRANSFORMS


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
        norms: perturbation sets, or transformations, that it takes.
        iterative: whether it spends a budget of steps or queries.
        summary: what it does, in a sentence for a reader who attacks no models.
        nearest: whether it looks for the smallest perturbation, so that epsilon only limits what counts and may be infinite.
    """

    run: Callable[..., AttackResult]
    title: str
    sees: Sees
    norms: frozenset[type[Capability]]
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

    def passes(self, settings: Mapping[str, Any]) -> float:
        """Forward passes that an image costs which resists to the end, a gradient counting as three; about."""
        given = {p.name: p.default for p in inspect.signature(self.run).parameters.values() if p.default is not p.empty}
        told = {**given, **settings}
        climbs = told.get("restarts", 1) * told.get("searches", 1) * max(1, told.get("targets", 0)) * told.get("copies", 1)
        black = float(told.get("queries", told.get("tries", 0)))
        return black if self.sees is not Sees.GRADIENT else 3 * told.get("steps", 1) * told.get("sizes", 1) * climbs + black

    @property
    def reference(self) -> tuple[str, str]:
        """The paper and its address, as the head of the attack's module cites them."""
        head = " ".join((inspect.getdoc(inspect.getmodule(self.run)) or "").split())
        match = re.search(r"([A-Z][^.]*?, [\"“].*?)[,.]? (https://\S+?)[,.]?(?: |$)", head)
        return (match[1], match[2]) if match else ("", "")


BALLS = frozenset({Linf, L2, L1})
ALL = frozenset({Linf, L2, L1, L0})
TRANSFORMATIONS = frozenset(TRANSFORMS.values())

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
    "fab": Attack(
        fab,
        "FAB",
        Sees.GRADIENT,
        BALLS,
        True,
        "steps to the model's boundary and back, drawn towards the image all the way: the least change, not a given one",
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
    "jsma": Attack(
        jsma,
        "JSMA",
        Sees.GRADIENT,
        frozenset({L0}),
        True,
        "changes the one or two values a step that matter most to the model, as far as they go, until it is fooled",
        nearest=True,
    ),
    "sigma_zero": Attack(
        sigma_zero,
        "Sigma-zero",
        Sees.GRADIENT,
        frozenset({L0}),
        True,
        "changes many values and puts back as many as the model allows: the fewest values, not a given number",
        nearest=True,
    ),
    "mim": Attack(
        mim, "MIM", Sees.GRADIENT, BALLS, True, "takes small steps along an average of past directions, which transfers better"
    ),
    "di": Attack(
        input_diversity,
        "DI-MIM",
        Sees.GRADIENT,
        BALLS,
        True,
        "climbs as MIM does, on randomly resized and padded views, so that what it finds serves on other models",
    ),
    "ti": Attack(
        translation,
        "TI-MIM",
        Sees.GRADIENT,
        BALLS,
        True,
        "climbs as MIM does, along blurred directions, so that what it finds serves on other models",
    ),
    "sia": Attack(
        structure_invariance,
        "SIA",
        Sees.GRADIENT,
        BALLS,
        True,
        "climbs as MIM does, on views changed block by block, so that what it finds serves on other models",
    ),
    "square": Attack(
        square,
        "Square",
        Sees.SCORES,
        frozenset({Linf, L2}),
        True,
        "tries random squares and keeps those that help, seeing scores only",
    ),
    "simba": Attack(
        simba,
        "SimBA",
        Sees.SCORES,
        frozenset({Linf, L2}),
        True,
        "adds one wave or value after another, forth or back, and keeps what helps, seeing scores only",
    ),
    "spsa": Attack(
        spsa,
        "SPSA",
        Sees.SCORES,
        frozenset({Linf, L2}),
        True,
        "climbs the model's error along a direction that it guesses from the scores of random pairs of images nearby",
    ),
    "few_pixel": Attack(
        few_pixel,
        "Few pixels",
        Sees.SCORES,
        frozenset({L0}),
        True,
        "breeds changes of one pixel or a few, of which those that help survive, seeing scores only",
    ),
    "hop_skip_jump": Attack(
        hop_skip_jump,
        "HopSkipJump",
        Sees.LABELS,
        frozenset({Linf, L2}),
        True,
        "walks along the model's boundary towards the image, seeing its decisions only: the least change, not a given one",
        nearest=True,
    ),
    "worst_of": Attack(
        worst_of,
        "Worst of N",
        Sees.SCORES,
        TRANSFORMATIONS,
        True,
        "tries transformations by chance or on a grid and keeps the one that harms most, seeing scores only",
    ),
    "parameter_ascent": Attack(
        parameter_ascent,
        "Parameter ascent",
        Sees.GRADIENT,
        TRANSFORMATIONS,
        True,
        "climbs the model's error along the few parameters of a transformation, such as its angle, not along pixels",
    ),
    "spearhead": Attack(
        spearhead,
        "Spearhead",
        Sees.GRADIENT,
        BALLS,
        True,
        "climbs twice for a short while, away from the truth and towards the likeliest other answers, and keeps the worst",
    ),
    "autoattack": Attack(
        autoattack,
        "AutoAttack",
        Sees.GRADIENT,
        BALLS,
        True,
        "runs four different attacks, each on the images that withstood those before it, and keeps the worst",
    ),
    "noise": Attack(
        noise, "Random noise", Sees.NOTHING, ALL, False, "adds random noise of the same size without looking at the model"
    ),
    "speckle": Attack(
        speckle,
        "Speckle",
        Sees.NOTHING,
        frozenset({Linf, L2}),
        False,
        "multiplies every value by random noise of the same size, as coherent imaging does, without looking at the model",
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


__all__ = [
    "ATTACKS",
    "FOOLED",
    "SPENT",
    "Attack",
    "AttackResult",
    "Sees",
    "Until",
    "apply_universal",
    "attack",
    "fit_simba_universal",
    "fit_universal",
]
