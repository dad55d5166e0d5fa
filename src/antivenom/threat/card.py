"""A threat model in words, as protocols, records and reports write it, and what the words mean.

threat    `linf`, `l2`, `l1` or `l0`, or `placement`, `exposure`, `bias field` or `stripes`; then any of `tied channels`,
          `grid 1/255` and, for a transformation, limits of its own such as `degrees 30`, parted by commas
goal      `untargeted`, `targeted: CLASS`, `against every finding`, `hide: FINDING, ...`, `invent: FINDING, ...`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from antivenom.errors import SettingsError
from antivenom.task import Task
from antivenom.threat.goals import Findings, Goal, Targeted, Untargeted
from antivenom.threat.perturbations import L2, Capability, Linf, PerturbationSet
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1
from antivenom.threat.transforms import TRANSFORMS

NORMS: dict[str, type[PerturbationSet]] = {kind.name: kind for kind in (Linf, L2, L1, L0)}
CAPABILITIES: dict[str, type[Capability]] = {**NORMS, **TRANSFORMS}

UNTARGETED, EVERY_FINDING = "untargeted", "against every finding"


def number(value: Any) -> float:
    """A number, or a fraction written as text, such as '8/255'.

    Raises:
        ValueError: it is neither.

    >>> number("8/255") == 8 / 255, number("0.5/255") == 0.5 / 255
    (True, True)
    """
    above, _, below = str(value).partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"write a number or a fraction such as '8/255', not {value!r}") from None


def perturbation_set(threat: str, epsilon: float) -> Capability:
    """The perturbation set or transformation that a threat and an epsilon name; the reverse of `Capability.describe`.

    Raises:
        SettingsError: a word that means nothing, or a limit that cannot be.

    >>> perturbation_set("linf, grid 1/255", 2 / 255).describe()
    'linf, grid 1/255'
    >>> perturbation_set("placement, degrees 30, tied channels", 1.0).describe()
    'placement, degrees 30.0, tied channels'
    """
    name, *words = [word.strip() for word in threat.split(",")]
    if name not in CAPABILITIES:
        raise SettingsError(f"a threat begins with {' or '.join(CAPABILITIES)}, got {threat!r}")
    usual = TRANSFORMS[name].limits() if name in TRANSFORMS else {}
    tied, grid, limits = False, None, {}
    for word in words:
        match = re.fullmatch(r"grid 1/([1-9]\d{0,6})", word)
        limit, _, size = word.partition(" ")
        if word == "tied channels":
            tied = True
        elif match:
            grid = 1 / int(match[1])
        elif limit in usual:
            limits[limit] = _limit(threat, word, size, type(usual[limit]))
        else:
            known = ("tied channels", "grid 1/255", *(f"{limit} {size}" for limit, size in usual.items()))
            raise SettingsError(f"{word!r} in the threat {threat!r} means nothing; {_listed(known)} do")
    return CAPABILITIES[name](epsilon, Pixels(tied=tied, grid=grid), **limits)


def _limit(threat: str, word: str, size: str, kind: type[float]) -> float:
    try:
        return kind(size)
    except ValueError:
        whole = "whole " if kind is int else ""
        raise SettingsError(f"{word!r} in the threat {threat!r} needs a {whole}number") from None


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(map(repr, words[:-1]))} and {words[-1]!r}"


def goal_for(text: str, task: Task, targets: Tensor, thresholds: Tensor) -> tuple[Goal, Tensor]:
    """The goal that a text names, and the images that it concerns.

    Args:
        text: see the module's head.
        task: what the model decides.
        targets: `(B,)` class indices or `(B, K)` 0/1.
        thresholds: `(A,)` logits above which a finding counts as present; only multi-label goals use them.

    Returns:
        The goal for the images concerned, and `(B,)` bool saying which they are: an image that shows the target already,
        or shows no finding that could be hidden, is not concerned.

    Raises:
        SettingsError: the text means nothing for this task.
        LabelError: a class or finding that the task does not have.
    """
    kind, _, names = (part.strip() for part in text.partition(":"))
    everyone = torch.ones(len(targets), dtype=torch.bool)
    if not task.multilabel and text == UNTARGETED:
        return Untargeted(targets), everyone
    if not task.multilabel and kind == "targeted" and names:
        target = task.index(names)
        others = targets != target
        return Targeted(torch.full_like(targets[others], target)), others
    if task.multilabel and text == EVERY_FINDING:
        return Findings.against(targets, thresholds), everyone
    if task.multilabel and kind in ("hide", "invent") and names:
        chosen = torch.zeros_like(targets[0], dtype=torch.bool)
        chosen[[task.index(name.strip()) for name in names.split(",")]] = True
        present = targets == 1
        moved = chosen & (present if kind == "hide" else ~present)
        concerned = moved.any(1)
        wanted = moved.long() * (-1 if kind == "hide" else 1)
        return Findings(wanted[concerned], thresholds), concerned
    known = (
        "'against every finding', 'hide: FINDING' or 'invent: FINDING'"
        if task.multilabel
        else "'untargeted' or 'targeted: CLASS'"
    )
    raise SettingsError(f"the goal {text!r} means nothing for this task; write {known}")
