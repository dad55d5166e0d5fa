"""What a run was to do: the rows of its plan, and what their goals concern."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.errors import RecordsError
from antivenom.task import Task

Array = np.ndarray[Any, Any]

CLEAN, NOISE = "none", "noise"
CONTROLS = (NOISE, "speckle")


@dataclass(frozen=True)
class PlanRow:
    """One row of the protocol's plan.

    Attributes:
        number: its place in the plan, `Example.row`.
        attack: `none` for the clean images, `noise` for the control, else the attack's name.
        label: the attack's name, with those settings that tell it from other rows of the same attack, size and goal.
        settings: the attack's own settings.
        goal: what the adversary wants.
        threat: norm and pixels, without epsilon.
        epsilon: in units of the [0, 1] range.
        until: `fooled` or `spent`.
    """

    number: int
    attack: str
    label: str
    settings: Mapping[str, Any]
    goal: str
    threat: str
    epsilon: float
    until: str

    @property
    def clean(self) -> bool:
        """Whether it holds the unchanged images."""
        return self.attack == CLEAN

    @property
    def control(self) -> bool:
        """Whether it holds random noise of some kind, which wants nothing."""
        return self.attack in CONTROLS

    @property
    def unbounded(self) -> bool:
        """Whether every value may become any other: a check of the attack, and no point of a security curve."""
        return self.threat.split(",")[0] == "linf" and self.epsilon >= 1

    @property
    def target(self) -> str | None:
        """The class that the adversary wants, where it wants one."""
        kind, _, name = self.goal.partition(":")
        return name.strip() if kind == "targeted" else None


def size(threat: str, epsilon: float) -> str:
    """An epsilon as a label: in 255ths of the range where it is the change of a value, in values for L0, else as it is.

    >>> size("linf", 2 / 255), size("l2", 0.5), size("l0", 12.0), size("placement", 0.5)
    ('2/255', '0.5', '12 values', '50 % of its limits')
    """
    kind = threat.split(",")[0].strip()
    if kind in ("linf", "stripes"):
        return f"{epsilon * 255:.3g}/255"
    if kind == "l0":
        return f"{epsilon:g} values"
    return f"{epsilon:.3g}" if kind in ("l1", "l2") else f"{100 * epsilon:.3g} % of its limits"


@dataclass(frozen=True)
class AttackFacts:
    """What is known of an attack: for the threat model and the bibliography."""

    name: str
    title: str
    sees: str  # 'gradient', 'scores', 'labels' or 'nothing'
    summary: str
    paper: str
    url: str


def plan_rows(plan: Sequence[Mapping[str, Any]]) -> tuple[PlanRow, ...]:
    """The plan's rows, labelled so that rows of one attack, size and goal can be told apart."""
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in plan:
        alike.setdefault((row["attack"], row["threat"], row["epsilon"], row["goal"]), []).append(row)
    telling: dict[str, list[str]] = {}
    for (attack, *_), rows in alike.items():
        traits = [{**row["settings"], "until": row["until"]} for row in rows]
        for name in sorted({name for trait in traits for name in trait}):
            if len({json.dumps(trait.get(name)) for trait in traits}) > 1 and name not in telling.setdefault(attack, []):
                telling[attack].append(name)

    def label(row: Mapping[str, Any]) -> str:
        traits = {**row["settings"], "until": row["until"]}
        return " ".join([row["attack"], *(f"{name}={traits.get(name, 'default')}" for name in telling.get(row["attack"], []))])

    return tuple(
        PlanRow(
            number, row["attack"], label(row), row["settings"], row["goal"], row["threat"], float(row["epsilon"]), row["until"]
        )
        for number, row in enumerate(plan)
    )


def open_to(goal: str, task: Task, targets: Array) -> Array:
    """Say which decisions a goal concerns, `(N, D)` bool: those that are not yet as the adversary wants them to be.

    Raises:
        RecordsError: the goal means nothing to this version.

    >>> open_to("targeted: ill", Task(("well", "ill")), np.array([0, 1])).tolist()
    [[True], [False]]
    """
    kind, _, names = (part.strip() for part in goal.partition(":"))
    if not task.multilabel and goal == "untargeted":
        return np.ones((len(targets), 1), dtype=bool)
    if not task.multilabel and kind == "targeted":
        return np.asarray(targets[:, None] != task.index(names))
    if task.multilabel and goal == "against every finding":
        return np.ones(targets.shape, dtype=bool)
    if task.multilabel and kind in ("hide", "invent"):
        chosen = np.isin(np.arange(len(task.classes)), [task.index(name.strip()) for name in names.split(",")])
        return np.asarray(chosen & (targets == (kind == "hide")))
    raise RecordsError(
        f"the goal {goal!r} means nothing to this version of antivenom; read these records with the one that wrote them"
    )
