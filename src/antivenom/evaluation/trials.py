"""What a guard is tried on: clean images, attacks that know nothing of it, attacks that do, natural change and foreign images.

Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020,
https://doi.org/10.1109/ISBI45749.2020.9098628: FGSM, BIM, PGD and MIM against the class that the model holds most probable, of
0.02 where the model is known and of 0.05 where the images are made on another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from antivenom.attacks import ATTACKS
from antivenom.corruptions.table import CORRUPTIONS
from antivenom.corruptions.table import natural as natural_names
from antivenom.errors import SettingsError
from antivenom.evaluation.protocol import CLEAN, Frozen, arguments
from antivenom.records.plan import size
from antivenom.threat.card import number, perturbation_set

OWN_ANSWER = "overturn the model's own answer"
NAIVE = ("fgsm", "bim", "pgd", "mim")  # of li2020
EPSILON = 0.02  # of li2020 where the model is known, in units of the [0, 1] range
SEVERITIES = (1, 3, 5)
ORTHOGONAL, MATCHING = "orthogonal_pgd", "feature_matching"
KNOWS_THE_DETECTOR = (ORTHOGONAL, MATCHING)

Kind = Literal["clean", "attack", "corruption", "other set"]


class Trial(Frozen):
    """One way in which images come before the guard.

    Attributes:
        kind: `clean`; an `attack`; a `corruption`, which no adversary made; or images of an `other set`.
        attack: name of the attack, the corruption or the set; `none` for clean images.
        settings: of the attack; of a corruption its severity.
        threat, epsilon: perturbation set of an attack.
        until: `fooled` or `spent`.
        made_on: the model whose gradients or answers the attack sees: the guarded one, or a `surrogate`.
        evading: detectors that the attacker knows and passes; empty: one who knows of none.
    """

    kind: Kind = "attack"
    attack: str = CLEAN
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    threat: str = "linf"
    epsilon: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 0.0
    until: Literal["fooled", "spent"] = "spent"
    made_on: Literal["model", "surrogate"] = "model"
    evading: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings as the attack takes them."""
        return arguments(self.settings)

    @property
    def goal(self) -> str:
        """What the adversary wants, in words."""
        if self.kind != "attack":
            return "nothing"
        return OWN_ANSWER + (f", unnoticed by {' and '.join(self.evading)}" if self.evading else "")

    @property
    def told(self) -> str:
        """The trial in a few words."""
        if self.kind == "clean":
            return "clean"
        if self.kind != "attack":
            return self.attack + "".join(f", {name} {value}" for name, value in self.settings.items())
        against = f" past {' and '.join(self.evading)}" if self.evading else ""
        return f"{self.attack}{against} on the {self.made_on}, {self.threat} {size(self.threat, self.epsilon)}"

    @property
    def cost(self) -> float:
        """Expected work per image in forward passes, a gradient counting as three."""
        if self.kind != "attack":
            return 1.0
        if self.attack in KNOWS_THE_DETECTOR:
            return 1 + 3.0 * float(self.settings.get("steps", 40)) * (2 if self.attack == ORTHOGONAL else 1)
        return 1 + ATTACKS[self.attack].passes(self.settings)

    def model_post_init(self, _: Any) -> None:
        """Check what no single field can."""
        if self.kind == "attack":
            if self.attack not in ATTACKS and self.attack not in KNOWS_THE_DETECTOR:
                raise SettingsError(f"no attack {self.attack!r}; there are {', '.join([*ATTACKS, *KNOWS_THE_DETECTOR])}")
            if self.attack in KNOWS_THE_DETECTOR and not self.evading:
                raise SettingsError(f"{self.attack} passes detectors; name them in `evading`")
            perturbation_set(self.threat, self.epsilon)
        if self.kind == "corruption" and self.attack not in CORRUPTIONS:
            raise SettingsError(f"no corruption {self.attack!r}; there are {', '.join(CORRUPTIONS)}")
        if self.kind != "attack" and self.evading:
            raise SettingsError(f"{self.kind} images evade nothing; only an attack does")


def naive(
    *,
    epsilon: float = EPSILON,
    steps: int = 10,
    attacks: Sequence[str] = NAIVE,
    made_on: Literal["model", "surrogate"] = "model",
) -> Iterator[Trial]:
    """The attacks of li2020, which know nothing of a detector: to the end of their budget as in the paper, and until fooled.

    Steps and step sizes are not in the paper: here `steps` of 2.5 epsilon over their number (FGSM one of epsilon). An attack
    that stops as soon as it fools changes less, and is harder to detect.
    """
    for name in attacks:
        settings: dict[str, int | float | str | bool] = {} if name == "fgsm" else {"steps": steps, "step_size": 2.5 / steps}
        for until in ("spent", "fooled") if name != "fgsm" else ("spent",):
            yield Trial(attack=name, settings=settings, epsilon=epsilon, until=until, made_on=made_on)


def unseen(*, epsilon: float = EPSILON, queries: int = 500) -> Iterator[Trial]:
    """Attacks of other families: least change, and answers alone."""
    yield Trial(attack="ddn", settings={"steps": 100}, threat="l2", epsilon=1e6, until="spent")
    yield Trial(attack="deepfool", settings={"steps": 50}, threat="linf", epsilon=1.0, until="spent")
    yield Trial(attack="square", settings={"queries": queries}, epsilon=epsilon, until="fooled")
    yield Trial(attack="noise", settings={"tries": 1}, epsilon=epsilon, until="spent")


def adaptive(
    detectors: Mapping[str, bool],
    *,
    together: Sequence[str] = (),
    epsilon: float = EPSILON,
    steps: int = 100,
    queries: int = 1000,
) -> Iterator[Trial]:
    """Attackers who know a detector, each detector in several ways; the worst of them counts.

    Args:
        detectors: names, and whether the score has a gradient. Where it has none, gradients come from a detector that has one
            while success is judged by the one attacked; and answers alone are asked.
        together: of these, those that decide; where they are several, all of them are passed at once as well.
    """
    climb: dict[str, int | float | str | bool] = {"steps": steps, "step_size": 0.1}
    for names in [*((name,) for name in detectors), *([tuple(together)] if len(together) > 1 else [])]:
        ways = [
            ("pgd", {**climb, "objective": "selective"}, epsilon),
            ("pgd", {**climb, "objective": "log_odds"}, epsilon),
            (ORTHOGONAL, {**climb, "steps": max(1, steps // 2)}, epsilon),
            (MATCHING, climb, epsilon),
        ]
        if not all(detectors[name] for name in names):
            # It goes to the border of its ball, where a detector may notice it; so a smaller ball too.
            ways += [("square", {"queries": queries}, within) for within in (epsilon, epsilon / 4)]
        for attack, settings, within in ways:
            yield Trial(attack=attack, settings=settings, epsilon=within, until="fooled", evading=names)


def natural(modality: str, severities: Sequence[int] = SEVERITIES) -> Iterator[Trial]:
    """What happens to scans of a modality without an adversary."""
    for name in natural_names(modality):
        for severity in severities:
            yield Trial(kind="corruption", attack=name, settings={"severity": severity}, threat="none")
