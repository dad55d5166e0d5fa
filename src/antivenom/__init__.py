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
    from antivenom.attacks.fgsm import fgsm
    from antivenom.attacks.fmn import fmn
    from antivenom.attacks.mim import mim
    from antivenom.attacks.noise import noise
    from antivenom.attacks.pgd import pgd
    from antivenom.attacks.square import square
    from antivenom.data.datasets import DATASETS
    from antivenom.data.datasets import load as load_data
    from antivenom.data.phantoms import phantoms
    from antivenom.evaluation.protocol import Protocol, standard
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
    from antivenom.training.loop import train

# Where each public name lives; looked up when it is first used, so that `import antivenom` loads nothing heavy.
_HOMES = {
    "ATTACKS": "attacks",
    "FOOLED": "attacks",
    "SPENT": "attacks",
    "AttackResult": "attacks",
    "apgd": "attacks.apgd",
    "bim": "attacks.bim",
    "carlini_wagner": "attacks.carlini_wagner",
    "ddn": "attacks.ddn",
    "deepfool": "attacks.deepfool",
    "fgsm": "attacks.fgsm",
    "fmn": "attacks.fmn",
    "mim": "attacks.mim",
    "noise": "attacks.noise",
    "pgd": "attacks.pgd",
    "square": "attacks.square",
    "DATASETS": "data.datasets",
    "load_data": "data.datasets:load",
    "phantoms": "data.phantoms",
    "Protocol": "evaluation.protocol",
    "standard": "evaluation.protocol",
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
