"""Find out how a medical-image classifier can be fooled, make it harder to fool, and keep watch over it in use.

>>> import antivenom
>>> "pgd" in antivenom.ATTACKS
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from antivenom.attacks import ATTACKS, FOOLED, SPENT, AttackResult
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
    from antivenom.attacks.sigma_zero import sigma_zero
    from antivenom.attacks.simba import simba
    from antivenom.attacks.speckle import speckle
    from antivenom.attacks.spsa import spsa
    from antivenom.attacks.square import square
    from antivenom.attacks.structure_invariance import structure_invariance
    from antivenom.attacks.translation import translation
    from antivenom.attacks.worst_case import autoattack, spearhead, worst_case
    from antivenom.attacks.worst_of import worst_of
    from antivenom.data.datasets import DATASETS
    from antivenom.data.datasets import load as load_data
    from antivenom.data.phantoms import phantoms
    from antivenom.evaluation.batteries import battery
    from antivenom.evaluation.protocol import Protocol
    from antivenom.evaluation.run import run as audit
    from antivenom.models.classifier import Classifier
    from antivenom.models.weights import load as load_model
    from antivenom.randomness import Draws
    from antivenom.records.audit import Audit
    from antivenom.report.write import write_report
    from antivenom.task import Task
    from antivenom.threat.goals import Findings, Targeted, Untargeted
    from antivenom.threat.perturbations import L2, Linf
    from antivenom.threat.pixels import Pixels
    from antivenom.threat.sparse import L0, L1
    from antivenom.threat.transforms import BiasField, Exposure, Placement, Stripes
    from antivenom.training.loop import train

# Where each public name lives; looked up when it is first used, so that `import antivenom` loads nothing heavy.
_HOMES = {
    "ATTACKS": "attacks",
    "FOOLED": "attacks",
    "SPENT": "attacks",
    "AttackResult": "attacks",
    "apgd": "attacks.apgd",
    "autoattack": "attacks.worst_case",
    "bim": "attacks.bim",
    "carlini_wagner": "attacks.carlini_wagner",
    "ddn": "attacks.ddn",
    "deepfool": "attacks.deepfool",
    "escalating_fgsm": "attacks.escalating_fgsm",
    "fab": "attacks.fab",
    "few_pixel": "attacks.few_pixel",
    "fgsm": "attacks.fgsm",
    "fmn": "attacks.fmn",
    "hop_skip_jump": "attacks.hop_skip_jump",
    "input_diversity": "attacks.input_diversity",
    "jsma": "attacks.jsma",
    "mim": "attacks.mim",
    "noise": "attacks.noise",
    "parameter_ascent": "attacks.parameter_ascent",
    "pgd": "attacks.pgd",
    "sigma_zero": "attacks.sigma_zero",
    "simba": "attacks.simba",
    "spearhead": "attacks.worst_case",
    "speckle": "attacks.speckle",
    "spsa": "attacks.spsa",
    "square": "attacks.square",
    "structure_invariance": "attacks.structure_invariance",
    "translation": "attacks.translation",
    "worst_case": "attacks.worst_case",
    "worst_of": "attacks.worst_of",
    "DATASETS": "data.datasets",
    "load_data": "data.datasets:load",
    "phantoms": "data.phantoms",
    "battery": "evaluation.batteries",
    "Protocol": "evaluation.protocol",
    "audit": "evaluation.run:run",
    "Classifier": "models.classifier",
    "load_model": "models.weights:load",
    "Draws": "randomness",
    "Audit": "records.audit",
    "write_report": "report.write",
    "Task": "task",
    "Findings": "threat.goals",
    "Targeted": "threat.goals",
    "Untargeted": "threat.goals",
    "L2": "threat.perturbations",
    "Linf": "threat.perturbations",
    "Pixels": "threat.pixels",
    "L0": "threat.sparse",
    "L1": "threat.sparse",
    "BiasField": "threat.transforms",
    "Exposure": "threat.transforms",
    "Placement": "threat.transforms",
    "Stripes": "threat.transforms",
    "train": "training.loop",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"antivenom has no name {name!r}")
    module, _, original = _HOMES[name].partition(":")
    return getattr(import_module(f"antivenom.{module}"), original or name)


def __dir__() -> list[str]:
    return sorted(__all__)
