"""The worst of several attacks, image by image: each is run on the images that withstood those before it.

AutoAttack is one such union: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from antivenom.attacks.apgd import apgd
from antivenom.attacks.fab import fab
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.attacks.square import square
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import Objective, dlr, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.sparse import L0, L1

Attempt = Callable[..., AttackResult]  # called as every attack is, its settings already given


def worst_case(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    attempts: Sequence[Attempt],
    *,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Run attacks in turn and keep of each image the point that meets the goal by most.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        attempts: attacks with their settings, such as `partial(pgd, steps=100)`; the cheapest first, since with
            `until=FOOLED` an image that fools the model meets none of the others.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness; each attempt has its own draws.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; also where there is no attempt.
    """
    if not attempts:
        raise SettingsError("the worst of no attack is nothing; name at least one")
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1, L0))
    left, worst = torch.arange(len(x), device=x.device), _unharmed(problem)
    for place, attempt in enumerate(attempts):
        part = problem.take(left)
        draws = part.draws.at(place)
        found = attempt(part.victim, part.x, part.goal, part.allowed, until=until, generator=draws)
        worst = _worse(worst, found, left)
        if until is FOOLED:
            left = left[~found.success]
        if not len(left):
            break
    return worst


def autoattack(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """AutoAttack's standard composition: APGD away from the truth, APGD and FAB towards each other class, Square.

    Two and three classes, for which the paper leaves its ratio undefined, and findings take the replacements that
    `threat.objectives.dlr` states. There are as many targets as other classes, nine at most. In L1 the authors give it more
    restarts and a Square of that norm, which is not written here and has no part.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients of each climb.
        targets: other classes that are aimed at, the likeliest first.
        queries: of Square.
        objective: of the first climb; `log_odds` points where cross-entropy does.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    attempts: list[Attempt] = [
        partial(apgd, steps=steps, objective=objective),
        partial(apgd, steps=steps, targets=targets, objective=dlr),
        partial(fab, steps=steps, targets=targets),
    ]
    if not isinstance(allowed, L1):
        attempts.append(partial(square, queries=queries))
    return worst_case(model, x, goal, allowed, attempts, until=until, generator=generator)


def spearhead(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 20,
    targets: int = 2,
    objective: Objective = log_odds,
    until: Until = FOOLED,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """The part of a worst case that finds nearly all of it: short climbs of APGD, first away from the truth, then at a target.

    It costs a fraction of AutoAttack, whose first two climbs it shortens; what it misses has to be measured on the model at
    hand. Where the model's own gradient jumps and a smooth one is known (`Victim.smooth`), that one is climbed as well.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted and what is allowed.
        steps: gradients of each climb.
        targets: other classes that are aimed at, the likeliest first.
        objective: of the first climb.
        until: `FOOLED` or `SPENT`.
        generator: the only source of randomness.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    victim = Victim.of(model)
    attempts: list[Attempt] = [
        partial(apgd, steps=steps, objective=objective),
        partial(apgd, steps=steps, targets=targets, objective=dlr),
    ]
    if victim.smooth is not None:
        attempts.append(partial(_smoothly, steps=steps, objective=objective))
    return worst_case(victim, x, goal, allowed, attempts, until=until, generator=generator)


def _smoothly(victim: Victim, *problem: Any, **settings: Any) -> AttackResult:
    """APGD along the smooth gradient."""
    assert victim.smooth is not None
    return apgd(replace(victim, propose=victim.smooth), *problem, **settings)


def _unharmed(problem: Problem) -> AttackResult:
    """What is known before the first attempt: nothing was judged yet."""
    none = torch.zeros(len(problem), dtype=torch.int64, device=problem.x.device)
    margin = torch.full(none.shape, -torch.inf, device=none.device)
    return AttackResult(problem.x.clone(), none.bool(), none, none.clone(), {}, margin)


def _worse(before: AttackResult, found: AttackResult, images: Tensor) -> AttackResult:
    """Both together, where the second is of some of the images only."""
    x_adv, margin = before.x_adv.clone(), before.margin.clone()
    better = found.margin > margin[images]
    x_adv[images[better]], margin[images[better]] = found.x_adv[better], found.margin[better]
    queries = before.queries.index_add(0, images, found.queries)
    gradients = before.gradients.index_add(0, images, found.gradients)
    flags = dict(before.flags)
    for name, raised in found.flags.items():
        flag = flags.get(name, torch.zeros_like(before.success)).clone()
        flag[images] |= raised
        flags[name] = flag
    return AttackResult(x_adv, margin > 0, queries, gradients, flags, margin)
