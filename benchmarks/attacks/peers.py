"""The attacks of other libraries behind one call, each set to do what ours does.

Every peer is imported when it is first wanted; one that does not import is left out, with a line that says so. Settings are
those of `Setting`: steps, step size as a share of epsilon, random start, constants and objective mean the same for all. What a
peer does otherwise, or wrongly, stands in its `remark` and goes into the results beside its figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Bounds = tuple[float, float]
Run = Callable[[Tensor, Tensor], Tensor]  # images and labels (targets where targeted) to attacked images

LIBRARIES = {  # what is imported, and the distribution that it comes from
    "torchattacks": ("torchattacks", "torchattacks"),
    "Foolbox": ("foolbox", "foolbox"),
    "ART": ("art.attacks.evasion", "adversarial-robustness-toolbox"),
    "adv-lib": ("adv_lib.attacks", "adv-lib"),
}
FAR = 1e6  # an epsilon that limits nothing, for libraries that do not take infinity


@dataclass(frozen=True)
class Setting:
    """What an attack is asked to do.

    Attributes:
        attack: a name of our table, or that of an attack which only peers have.
        norm: `linf`, `l2`, `l1` or `l0`.
        epsilon: how far; infinite for attacks that look for the smallest perturbation.
        shape, classes: of one image, and of the answer.
        steps: gradients, or queries where there are no gradients.
        step_size: as a share of epsilon.
        objective: `log_odds` (for peers cross-entropy, which points the same way) or `dlr`.
        searches, constant, learning_rate: of Carlini and Wagner's attack.
        share: of an image's values that the saliency attack may change.
        targets: classes that a targeted form tries in turn; 0 for the untargeted one.
        targeted: whether labels handed to the attack are the wanted ones.
        batch, seed: images at a time, and of all random numbers.
    """

    attack: str
    norm: str
    epsilon: float
    shape: tuple[int, ...]
    classes: int
    steps: int = 40
    step_size: float = 0.1
    objective: str = "log_odds"
    searches: int = 1
    constant: float = 1.0
    learning_rate: float = 0.01
    share: float = 0.002
    targets: int = 0
    targeted: bool = False
    batch: int = 64
    seed: int = 0

    @property
    def p(self) -> float:
        """The norm as a number."""
        return {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}[self.norm]

    @property
    def step(self) -> float:
        """The step size in units of the image's range."""
        return self.step_size * self.epsilon


def _two(classes: int) -> int:  # noqa: ARG001 - a forward and a backward pass, whatever the classes
    return 2


@dataclass(frozen=True)
class Peer:
    """An attack of another library.

    Attributes:
        attack: the name that it goes by here.
        library: one of `LIBRARIES`.
        norms: that it is written for.
        make: model, bounds and setting to the attack.
        a_step: classes to forward and backward passes of one step, by which a budget of passes becomes steps.
        most: images that it is given at most where time is taken, since it is slow; None: all.
        objectives, targeted: what it can be asked to climb, and whether it takes wanted classes as labels.
        remark: what a reader of its figures must know.
    """

    attack: str
    library: str
    norms: frozenset[str]
    make: Callable[[nn.Module, Bounds, Setting], Run]
    a_step: Callable[[int], int] = _two
    most: int | None = None
    objectives: frozenset[str] = field(default_factory=lambda: frozenset({"log_odds"}))
    targets: bool = False
    remark: str = ""

    def takes(self, setting: Setting) -> bool:
        """Whether the attack can do what is asked."""
        small = setting.objective == "dlr" and setting.classes < (4 if setting.targets else 3)  # where DLR is undefined
        fits = self.attack == setting.attack and setting.norm in self.norms and setting.objective in self.objectives
        return fits and self.targets == bool(setting.targets) and not small


@cache
def version(library: str) -> str | None:
    """The version of a peer, or None, with a printed line, where it does not import."""
    module, distribution = LIBRARIES[library]
    try:
        import_module(module)
        return metadata.version(distribution)
    except (ImportError, metadata.PackageNotFoundError, AttributeError) as error:
        print(f"{library} is left out: {type(error).__name__}: {error}", flush=True)
        return None


def peers_for(setting: Setting) -> list[Peer]:
    """The peers that can do what is asked, of those that import."""
    return [peer for peer in PEERS if peer.takes(setting) and version(peer.library)]


def remember_nothing(model: nn.Module, seed: int) -> None:
    """Before an attack: the same random numbers for all, and no gradient left on the weights by the one before."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # ART draws from NumPy's
    for parameter in model.parameters():
        parameter.grad = None


# -- torchattacks ------------------------------------------------------------------------------------------------------


def _torchattacks(name: str, settings: Callable[[Setting], dict[str, Any]]) -> Callable[[nn.Module, Bounds, Setting], Run]:
    def make(model: nn.Module, bounds: Bounds, setting: Setting) -> Run:  # noqa: ARG001 - [0, 1] is the only range it knows
        import torchattacks

        attack = getattr(torchattacks, name)(model, **settings(setting))
        if setting.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return in_batches(attack, setting.batch)

    return make


def _norm_of_torchattacks(setting: Setting) -> dict[str, Any]:
    return {"norm": {"linf": "Linf", "l2": "L2"}[setting.norm], "seed": setting.seed}


def _eps(setting: Setting) -> dict[str, Any]:
    return {"eps": setting.epsilon}


def _eps_steps(setting: Setting) -> dict[str, Any]:
    return {"eps": setting.epsilon, "alpha": setting.step, "steps": setting.steps}


def _apgd_of_torchattacks(setting: Setting) -> dict[str, Any]:
    loss = {} if setting.targets else {"loss": {"log_odds": "ce", "dlr": "dlr"}[setting.objective]}
    classes = {"n_classes": min(setting.targets, setting.classes - 1) + 1} if setting.targets else {}
    return {**_norm_of_torchattacks(setting), "eps": setting.epsilon, "steps": setting.steps, **loss, **classes}


def _pgd_of_torchattacks(model: nn.Module, bounds: Bounds, setting: Setting) -> Run:
    return _torchattacks({"linf": "PGD", "l2": "PGDL2"}[setting.norm], _eps_steps)(model, bounds, setting)


# -- Foolbox -----------------------------------------------------------------------------------------------------------


def _foolbox(
    names: dict[str, str], settings: Callable[[Setting], dict[str, Any]]
) -> Callable[[nn.Module, Bounds, Setting], Run]:
    def make(model: nn.Module, bounds: Bounds, setting: Setting) -> Run:
        import foolbox

        device = next(model.parameters()).device
        wrapped = foolbox.PyTorchModel(model, bounds=bounds, device=device)
        attack = getattr(foolbox.attacks, names[setting.norm])(**settings(setting))
        epsilon = setting.epsilon if math.isfinite(setting.epsilon) else None

        def run(x: Tensor, y: Tensor) -> Tensor:
            found: Tensor = attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=epsilon)[1]
            return found

        return in_batches(run, setting.batch)

    return make


def _none(setting: Setting) -> dict[str, Any]:  # noqa: ARG001 - the attack has nothing to set
    return {}


def _steps_of_foolbox(setting: Setting) -> dict[str, Any]:
    return {"steps": setting.steps, "abs_stepsize": setting.step}


def _start_of_foolbox(setting: Setting) -> dict[str, Any]:
    return {**_steps_of_foolbox(setting), "random_start": True}


def _only_steps(setting: Setting) -> dict[str, Any]:
    return {"steps": setting.steps}


def _carlini_wagner_of_foolbox(setting: Setting) -> dict[str, Any]:
    return {
        "binary_search_steps": setting.searches,
        "steps": setting.steps,
        "stepsize": setting.learning_rate,
        "initial_const": setting.constant,
        "abort_early": False,
    }


def _elastic_net_of_foolbox(setting: Setting) -> dict[str, Any]:
    return {"binary_search_steps": setting.searches, "steps": setting.steps, "decision_rule": "L1", "abort_early": False}


# -- ART ---------------------------------------------------------------------------------------------------------------


def _art(name: str, settings: Callable[[Setting], dict[str, Any]]) -> Callable[[nn.Module, Bounds, Setting], Run]:
    def make(model: nn.Module, bounds: Bounds, setting: Setting) -> Run:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        device = next(model.parameters()).device
        wrapped = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=setting.shape,
            nb_classes=setting.classes,
            clip_values=bounds,
            device_type="gpu" if device.type == "cuda" else "cpu",
        )
        attack = getattr(evasion, name)(wrapped, batch_size=setting.batch, **settings(setting))
        if hasattr(attack, "verbose"):
            attack.set_params(verbose=False)

        def run(x: Tensor, y: Tensor) -> Tensor:
            return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)

        return run

    return make


def _norm_of_art(setting: Setting) -> dict[str, Any]:
    return {"norm": np.inf if setting.norm == "linf" else int(setting.p), "eps": setting.epsilon}


def _once_of_art(setting: Setting) -> dict[str, Any]:
    return {**_norm_of_art(setting), "eps_step": setting.epsilon}


def _bim_of_art(setting: Setting) -> dict[str, Any]:
    return {"eps": setting.epsilon, "eps_step": setting.step, "max_iter": setting.steps}


def _steps_of_art(setting: Setting) -> dict[str, Any]:
    return {**_norm_of_art(setting), "eps_step": setting.step, "max_iter": setting.steps}


def _start_of_art(setting: Setting) -> dict[str, Any]:
    return {**_steps_of_art(setting), "num_random_init": 1}


def _apgd_of_art(setting: Setting) -> dict[str, Any]:
    loss = {"log_odds": "cross_entropy", "dlr": "difference_logits_ratio"}[setting.objective]
    first = {"eps_step": 2 * setting.epsilon, "max_iter": setting.steps}  # the paper's first step
    return {**_norm_of_art(setting), **first, "nb_random_init": 1, "loss_type": loss}


def _square_of_art(setting: Setting) -> dict[str, Any]:
    return {**_norm_of_art(setting), "max_iter": setting.steps, "p_init": 0.8}


def _carlini_wagner_of_art(setting: Setting) -> dict[str, Any]:
    return {
        "binary_search_steps": setting.searches,
        "max_iter": setting.steps,
        "learning_rate": setting.learning_rate,
        "initial_const": setting.constant,
    }


def _deepfool_of_art(setting: Setting) -> dict[str, Any]:
    return {"max_iter": setting.steps, "epsilon": 0.02}


# -- adv-lib -----------------------------------------------------------------------------------------------------------


def _advlib(name: str, settings: Callable[[Setting], dict[str, Any]]) -> Callable[[nn.Module, Bounds, Setting], Run]:
    def make(model: nn.Module, bounds: Bounds, setting: Setting) -> Run:  # noqa: ARG001 - [0, 1] is the only range it knows
        attack = getattr(import_module("adv_lib.attacks"), name)
        given = settings(setting)
        return in_batches(lambda x, y: attack(model, x.clone(), y, **given), setting.batch)

    return make


def _pgd_of_advlib(setting: Setting) -> dict[str, Any]:
    return {"ε": setting.epsilon, "steps": setting.steps, "absolute_step_size": setting.step}


def _apgd_of_advlib(setting: Setting) -> dict[str, Any]:
    loss = {"log_odds": "ce", "dlr": "dlr"}[setting.objective]
    targets = {"num_targets": min(setting.targets, setting.classes - 1)} if setting.targets else {}
    first = {"use_large_reps": True} if setting.norm == "l1" else {}
    return {"eps": setting.epsilon, "norm": setting.p, "n_iter": setting.steps, "loss_function": loss, **targets, **first}


def _carlini_wagner_of_advlib(setting: Setting) -> dict[str, Any]:
    return {
        "binary_search_steps": setting.searches,
        "max_iterations": setting.steps,
        "learning_rate": setting.learning_rate,
        "initial_const": setting.constant,
        "abort_early": False,
    }


def _ddn_of_advlib(setting: Setting) -> dict[str, Any]:
    return {"steps": setting.steps, "levels": None}  # ours does not round to 8 bits either


def _steps_norm(setting: Setting) -> dict[str, Any]:
    return {"norm": setting.p, "steps": setting.steps}


def in_batches(attack: Run, batch: int) -> Run:
    """The attack on so many images at a time."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        parts = zip(torch.split(x, batch), torch.split(y, batch), strict=True)
        return torch.cat([attack(*part).detach() for part in parts])

    return run


LINF, L2, L1, L0 = (frozenset({norm}) for norm in ("linf", "l2", "l1", "l0"))
BOTH = frozenset({"log_odds", "dlr"})
NOT_THE_PAIR = "the paper scores pairs by the gradients of all classes; this one takes the two largest of the target's"


def _peers() -> Iterator[Peer]:
    yield Peer("fgsm", "torchattacks", LINF, _torchattacks("FGSM", _eps))
    yield Peer("fgsm", "Foolbox", LINF | L2, _foolbox({"linf": "LinfFastGradientAttack", "l2": "L2FastGradientAttack"}, _none))
    yield Peer("fgsm", "ART", LINF | L2, _art("FastGradientMethod", _once_of_art))

    yield Peer("bim", "torchattacks", LINF, _torchattacks("BIM", _eps_steps))
    names = {"linf": "LinfBasicIterativeAttack", "l2": "L2BasicIterativeAttack"}
    yield Peer("bim", "Foolbox", LINF | L2, _foolbox(names, _steps_of_foolbox))
    yield Peer("bim", "ART", LINF, _art("BasicIterativeMethod", _bim_of_art))

    yield Peer("pgd", "torchattacks", LINF | L2, _pgd_of_torchattacks)
    names = {"linf": "LinfProjectedGradientDescentAttack", "l2": "L2ProjectedGradientDescentAttack"}
    yield Peer("pgd", "Foolbox", LINF | L2, _foolbox(names, _start_of_foolbox))
    yield Peer("pgd", "ART", LINF | L2, _art("ProjectedGradientDescentPyTorch", _start_of_art))
    yield Peer("pgd", "adv-lib", LINF, _advlib("pgd_linf", _pgd_of_advlib))

    yield Peer("mim", "torchattacks", LINF, _torchattacks("MIFGSM", _eps_steps))
    names = {"linf": "LinfMomentumIterativeFastGradientMethod", "l2": "L2MomentumIterativeFastGradientMethod"}
    signs = "adds up gradients after its own step's normalisation (in Linf: signs), not gradients of unit L1 norm as the paper"
    yield Peer("mim", "Foolbox", LINF | L2, _foolbox(names, _steps_of_foolbox), remark=signs)
    yield Peer("mim", "ART", LINF | L2, _art("MomentumIterativeMethod", _steps_of_art))

    yield Peer("apgd", "torchattacks", LINF | L2, _torchattacks("APGD", _apgd_of_torchattacks), objectives=BOTH)
    yield Peer("apgd", "ART", LINF | L2, _art("AutoProjectedGradientDescent", _apgd_of_art), objectives=BOTH)
    yield Peer("apgd", "adv-lib", LINF | L2 | L1, _advlib("apgd", _apgd_of_advlib), objectives=BOTH)
    dlr = frozenset({"dlr"})
    yield Peer("apgd", "torchattacks", LINF | L2, _torchattacks("APGDT", _apgd_of_torchattacks), objectives=dlr, targets=True)
    yield Peer("apgd", "adv-lib", LINF | L2, _advlib("apgd_targeted", _apgd_of_advlib), objectives=dlr, targets=True)

    def square(setting: Setting) -> dict[str, Any]:
        return {**_norm_of_torchattacks(setting), "eps": setting.epsilon, "n_queries": setting.steps, "p_init": 0.8}

    yield Peer("square", "torchattacks", LINF | L2, _torchattacks("Square", square))
    thrice = "evaluates three times for each query, with the same square for all images of a batch"
    yield Peer("square", "ART", LINF | L2, _art("SquareAttack", _square_of_art), most=32, remark=thrice)

    yield Peer("deepfool", "torchattacks", L2, _torchattacks("DeepFool", _only_steps), a_step=lambda classes: 1 + classes)
    names = {"linf": "LinfDeepFoolAttack", "l2": "L2DeepFoolAttack"}
    yield Peer("deepfool", "Foolbox", LINF | L2, _foolbox(names, _only_steps), lambda classes: 2 * (min(classes, 10) - 1))
    yield Peer("deepfool", "ART", L2, _art("DeepFool", _deepfool_of_art), a_step=lambda classes: 2 + classes, most=16)
    yield Peer("deepfool", "adv-lib", LINF | L2, _advlib("df", _steps_norm), a_step=lambda classes: classes)

    def fixed(setting: Setting) -> dict[str, Any]:
        return {"c": setting.constant, "steps": setting.steps, "lr": setting.learning_rate}

    stuck = (
        "one constant, no search; a value that is exactly 0 or 1 cannot move; the margin is wrong where the other logits are "
        "negative; stops when the sum over the batch rises, so that an image's result depends on its company"
    )
    yield Peer("cw", "torchattacks", L2, _torchattacks("CW", fixed), remark=stuck)
    yield Peer("cw", "Foolbox", L2, _foolbox({"l2": "L2CarliniWagnerAttack"}, _carlini_wagner_of_foolbox))
    yield Peer("cw", "ART", L2, _art("CarliniL2Method", _carlini_wagner_of_art), a_step=lambda _: 10, most=16)
    yield Peer("cw", "adv-lib", L2, _advlib("carlini_wagner_l2", _carlini_wagner_of_advlib))

    yield Peer("ddn", "Foolbox", L2, _foolbox({"l2": "DDNAttack"}, _only_steps))
    yield Peer("ddn", "adv-lib", L2, _advlib("ddn", _ddn_of_advlib))

    names = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack", "l0": "L0FMNAttack"}
    yield Peer("fmn", "Foolbox", LINF | L2 | L1 | L0, _foolbox(names, _only_steps), remark="its L2 projection does nothing")
    enlarged = "its L2 projection enlarges perturbations that lie inside the ball"
    yield Peer("fmn", "adv-lib", LINF | L2 | L1 | L0, _advlib("fmn", _steps_norm), remark=enlarged)

    def fab(setting: Setting) -> dict[str, Any]:
        return {
            **_norm_of_torchattacks(setting),
            "eps": min(setting.epsilon, FAR),
            "steps": setting.steps,
            "n_classes": setting.classes,
        }

    def fab_of_advlib(setting: Setting) -> dict[str, Any]:
        return {"norm": setting.p, "n_iter": setting.steps}

    yield Peer("fab", "torchattacks", LINF | L2, _torchattacks("FAB", fab), a_step=lambda classes: 2 + classes)
    yield Peer("fab", "adv-lib", LINF | L2 | L1, _advlib("fab", fab_of_advlib), a_step=lambda classes: 1 + classes)

    def steps_alone(name: str) -> Callable[[Setting], dict[str, Any]]:
        return lambda setting: {name: setting.steps}

    yield Peer("sigma_zero", "adv-lib", L0, _advlib("sigma_zero", steps_alone("num_steps")))

    def pairs(setting: Setting) -> dict[str, Any]:
        return {"theta": 1.0, "gamma": setting.share}

    square_table = "its table of pairs grows with the square of the values; without wanted classes it takes (label + 1) % 10"
    yield Peer("jsma", "torchattacks", L0, _torchattacks("JSMA", pairs), lambda classes: 1 + classes, 4, remark=square_table)
    yield Peer("jsma", "ART", L0, _art("SaliencyMapMethod", pairs), remark=NOT_THE_PAIR)

    # Attacks that only peers have: they are in the pool, where the best that any attack reaches is the measure of all.
    yield Peer("sdf", "adv-lib", L2, _advlib("sdf", steps_alone("steps")), a_step=lambda classes: 4 + classes)
    yield Peer("alma", "adv-lib", L2, _advlib("alma", lambda setting: {"num_steps": setting.steps, "distance": "l2"}))
    yield Peer("pdpgd", "adv-lib", LINF | L2 | L1, _advlib("pdpgd", lambda s: {"norm": s.p, "num_steps": s.steps}))
    yield Peer("tr", "adv-lib", LINF | L2, _advlib("tr", lambda s: {"p": s.p, "iter": s.steps, "adaptive": True}), lambda _: 3)
    yield Peer("vfga", "adv-lib", L0, _advlib("vfga", lambda _: {"targeted": False}))
    yield Peer("ead", "Foolbox", L1, _foolbox({"l1": "EADAttack"}, _elastic_net_of_foolbox))


PEERS = tuple(_peers())
ONLY_PEERS = tuple(dict.fromkeys(peer.attack for peer in PEERS if peer.attack in ("sdf", "alma", "pdpgd", "tr", "vfga", "ead")))
