"""What an audit runs, as a frozen value: attacks, perturbation sets and epsilons, images and seeds; to and from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from antivenom.attacks import ATTACKS, Sees, attack
from antivenom.errors import SettingsError
from antivenom.task import Task
from antivenom.threat.card import EVERY_FINDING, UNTARGETED, goal_for, number, perturbation_set
from antivenom.threat.objectives import EVADING, OBJECTIVES

CLEAN = "none"


def default_goal(task: Task) -> str:
    """What an adversary of this task wants where nothing else is said."""
    return EVERY_FINDING if task.multilabel else UNTARGETED


class Frozen(BaseModel):
    """A value whose fields are known and do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(Frozen):
    """One attack under one threat at one epsilon; the clean images are the row of the attack `none`."""

    attack: str
    settings: dict[str, int | float | str | bool] = {}
    goal: str = UNTARGETED
    threat: str = "linf"
    epsilon: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 0.0
    until: Literal["fooled", "spent"] = "fooled"

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings as the attack takes them: an objective is a function."""
        return arguments(self.settings)

    @property
    def cost(self) -> float:
        """Expected work per image in forward passes, a gradient counting as three: for showing the time left."""
        if self.attack == CLEAN or ATTACKS[self.attack].sees is Sees.NOTHING:
            return 2.0
        passes = ATTACKS[self.attack].passes(self.settings)
        # Most images fall at once to a large epsilon and leave; those that resist pay in full.
        large = 1 / 255 / max(self.epsilon, 1e-6) if self.threat.startswith("linf") else 0.5
        return 2 + passes * (1 if self.until == "spent" else min(1.0, large))


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings as an attack takes them: an objective is a function."""
    return {name: EVADING[value] if name == "objective" else value for name, value in settings.items()}


class Protocol(Frozen):
    """Everything that fixes an audit's records but the model and the images themselves.

    Attributes:
        plan: rows in the order in which they run; the first is the clean one.
        images: at most so many test images, drawn by the seed; None: all.
        seed: of every draw.
        shard: images that are attacked and stored together.
        batch: images in flight.
        keep: images whose pixels are kept, for the report's panels.
        examined: images on which the main attack itself is examined at the end; 0 leaves that out.
        execution: `auto` for the fastest way to the gradient that this machine was measured to have, `as given` for none.
    """

    version: Literal[1] = 1
    plan: tuple[Row, ...]
    images: Annotated[int, Field(gt=0)] | None = 500
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    shard: Annotated[int, Field(gt=0)] = 256
    batch: Annotated[int, Field(gt=0)] = 64
    keep: Annotated[int, Field(ge=0)] = 8
    examined: Annotated[int, Field(ge=0)] = 32
    execution: Literal["auto", "as given"] = "auto"

    def for_task(self, task: Task) -> Protocol:
        """The same protocol with the task's own goal in its clean row, so that every image is looked at clean.

        Raises:
            SettingsError: a goal that means nothing for this task.
            LabelError: a goal that names a class or finding that the task does not have.
        """
        one = torch.zeros((1, len(task.classes)) if task.multilabel else 1, dtype=torch.int64)
        for row in self.plan[1:]:
            goal_for(row.goal, task, one, torch.zeros(len(task.classes)))
        clean = self.plan[0].model_copy(update={"goal": default_goal(task)})
        return self.model_copy(update={"plan": (clean, *self.plan[1:])})

    def model_post_init(self, _: Any) -> None:
        """Check what no single field can."""
        if not self.plan or self.plan[0].attack != CLEAN or any(row.attack == CLEAN for row in self.plan[1:]):
            raise SettingsError(f"a plan has exactly one row of the attack '{CLEAN}', its first")
        for row in self.plan[1:]:
            if type(perturbation_set(row.threat, row.epsilon)) not in attack(row.attack).norms:
                raise SettingsError(f"{row.attack} does not take the threat {row.threat!r}")
            objective = row.settings.get("objective", "log_odds")
            if objective not in OBJECTIVES:
                raise SettingsError(f"no objective {objective!r}; there are {', '.join(OBJECTIVES)}")
            known = attack(row.attack).settings
            if unknown := set(row.settings) - known:
                raise SettingsError(
                    f"{row.attack} has no setting {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
                )
        if len(set(map(repr, self.plan))) != len(self.plan):
            raise SettingsError("a plan holds each row once")


def read_protocol(path: str | Path) -> Protocol:
    """Read a protocol from a JSON file; epsilons may be written as '8/255'.

    Raises:
        SettingsError: the file is missing, is not JSON, or names an unknown field, attack or threat.
    """
    try:
        return Protocol.model_validate_json(Path(path).read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the protocol {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"{path}: {place}: {first['msg']} (got {first['input']!r})") from None
