"""Batteries: what an audit runs where nobody writes a plan of their own. Each is a value, made for a task and its images.

`quick` looks for the worst case of small pixel changes at a fraction of the cost; `standard` shows which attack does what;
`exhaustive` runs everything that needs no other model: every norm, least changes, black boxes, AutoAttack, stripes and what
scanners and technicians do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from antivenom.attacks import ATTACKS, attack
from antivenom.data.imageset import ImageSet
from antivenom.errors import SettingsError
from antivenom.evaluation.protocol import CLEAN, Protocol, Row, default_goal
from antivenom.task import Task

Settings = dict[str, int | float | str | bool]

LEVELS = (0.25, 0.5, 1, 2, 4, 8)  # epsilons of the default security curve, in grey levels of 8 bits
QUICK = ("spearhead", "noise")
STANDARD = ("fgsm", "bim", "pgd", "mim", "spearhead", "square", "noise")
UNBOUNDED = 1.0  # the whole range of a value: what no model withstands
BATTERIES = ("quick", "standard", "exhaustive")
LIMITS = (0.5, 1.0)  # shares of a transformation's limits
FEW = 5  # pixels of the few-pixel attack
SPARSE = 0.05  # share of the values that may change in L0


def battery(name: str, data: ImageSet, *, images: int | None = 500, seed: int = 0) -> Protocol:
    """The protocol of a battery for these images.

    Args:
        name: `quick`, `standard` or `exhaustive`.
        images: at most so many test images, drawn by the seed; None: all.
        seed: of every draw.

    Raises:
        SettingsError: there is no such battery.
    """
    sample = data[0].image
    return Protocol(plan=plan(name, data.task, sample.numel(), channels=len(sample)), images=images, seed=seed)


def plan(
    name: str,
    task: Task,
    values: int,
    *,
    channels: int = 1,
    attacks: Sequence[str] | None = None,
    levels: Sequence[float] = LEVELS,
    steps: int = 40,
    queries: int = 500,
    goal: str | None = None,
) -> tuple[Row, ...]:
    """The rows of a battery: every epsilon in Linf, PGD in L2 too, noise beside them, and one unbounded row.

    Multi-label tasks are attacked in all findings at once and to the end of the budget, since no single step wins.

    Args:
        name: `quick`, `standard` or `exhaustive`.
        task: what the model decides.
        values: channels x height x width of an image. Budgets of equal visibility grow with it in other norms: the mean squared
            change per value is that of half the Linf level in L2, the mean change an eighth of it in L1 (on images of 32 px in
            colour that is near the 8/255, 0.5 and 12 that the literature compares).
        channels: of an image.
        attacks: names from `ATTACKS`, instead of the battery's own in Linf.
        levels: Linf epsilons in grey levels of 8 bits, at least one.
        steps: of PGD and other climbs; BIM and MIM take a quarter, as their papers' ten stand to Madry's forty.
        queries: of each black-box attack.
        goal: as in `threat.card`; None for the default of the task.

    Raises:
        SettingsError: no level, an unknown battery or attack.
    """
    if name not in BATTERIES:
        raise SettingsError(f"no battery {name!r}; there are {', '.join(BATTERIES)}")
    if not levels:
        raise SettingsError("a security curve needs at least one epsilon")
    maker = _Maker(task, steps, queries, goal or default_goal(task))
    chosen = tuple(attacks) if attacks else QUICK if name == "quick" else STANDARD
    rows = [Row(attack=CLEAN, goal=default_goal(task))]
    rows += [maker.row(one, "linf", level / 255) for level in levels for one in chosen]
    if name != "quick":
        both = [one for one in ("noise", "pgd") if one in chosen]
        rows += [maker.row(one, "l2", level / 2 / 255 * math.sqrt(values)) for level in levels for one in both]
    if name == "exhaustive":
        rows += _everything_else(maker, levels, values, channels)
    climbs = next((one for one in ("pgd", "spearhead") if one in chosen), None)
    if climbs:
        rows.append(maker.row(climbs, "linf", UNBOUNDED))
    return tuple(rows)


def _everything_else(maker: _Maker, levels: Sequence[float], values: int, channels: int) -> Iterator[Row]:
    """What `exhaustive` has beyond `standard`."""
    largest, middle = max(levels), sorted(levels)[len(levels) // 2]
    euclidean = {level: level / 2 / 255 * math.sqrt(values) for level in levels}
    for level in levels:
        yield maker.row("autoattack", "linf", level / 255)
        yield maker.row("autoattack", "l2", euclidean[level])
        for one in ("noise", "apgd"):
            yield maker.row(one, "l1", level / 8 / 255 * values)
        for one in ("worst_of", "parameter_ascent"):
            yield maker.row(one, "stripes", level / 255)
    for one in ("deepfool", "fmn"):
        yield maker.row(one, "linf", largest / 255)
    for one in ("deepfool", "ddn", "fmn", "cw"):
        yield maker.row(one, "l2", euclidean[largest])
    for one in ("noise", "sigma_zero", "jsma"):
        yield maker.row(one, "l0", float(math.ceil(SPARSE * values)))
    yield maker.row("few_pixel", "l0", float(FEW * channels))
    for one in ("simba", "spsa"):
        yield maker.row(one, "linf", middle / 255)
    yield maker.row("hop_skip_jump", "l2", euclidean[largest])
    for threat in ("placement", "exposure", "bias field"):
        for share in LIMITS:
            for one in ("worst_of", "parameter_ascent"):
                yield maker.row(one, threat, share)


@dataclass(frozen=True)
class _Maker:
    """Rows with the settings of one battery."""

    task: Task
    steps: int
    queries: int
    goal: str

    def row(self, name: str, threat: str, epsilon: float) -> Row:
        """One attack under one threat at one epsilon."""
        until: Literal["fooled", "spent"] = "spent" if self.task.multilabel or attack(name).nearest else "fooled"
        settings = self._settings.get(name, {})
        if self.task.multilabel and "objective" in ATTACKS[name].settings:
            settings = {**settings, "objective": "log_likelihood"}
        return Row(attack=name, settings=settings, goal=self.goal, threat=threat, epsilon=epsilon, until=until)

    @property
    def _settings(self) -> Mapping[str, Settings]:
        few = max(1, self.steps // 4)
        return {
            "pgd": {"steps": self.steps, "step_size": 0.1, "restarts": 1},
            "bim": {"steps": few, "step_size": 1 / few},
            "mim": {"steps": few, "step_size": 1 / few},
            "apgd": {"steps": self.steps, "restarts": 1},
            "spearhead": {"steps": max(1, self.steps // 2)},
            "autoattack": {"steps": max(100, self.steps), "queries": max(1000, self.queries)},
            "deepfool": {"steps": 50},
            "ddn": {"steps": 100},
            "fmn": {"steps": 100},
            "cw": {"steps": 100, "searches": 5, "constant": 0.1},
            "sigma_zero": {"steps": 300},
            "jsma": {},
            "parameter_ascent": {"steps": self.steps},
            "worst_of": {"tries": 10},
            "noise": {"tries": 1},
            **{name: {"queries": self.queries} for name in ("square", "simba", "spsa", "few_pixel", "hop_skip_jump")},
        }
