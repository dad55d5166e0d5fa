"""Objectives: what a gradient attack climbs. Each is a function of a goal, by its aim, and the model's answer, `(B,)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from antivenom.errors import SettingsError
from antivenom.threat.evading import Evading, Matching
from antivenom.threat.goals import Findings, Goal

Objective = Callable[[Goal, Tensor], Tensor]
HALF = 0.5


def margin(goal: Goal, answer: Tensor) -> Tensor:
    """The deciding margin alone (Carlini and Wagner 2017, f6)."""
    return goal.aim.margin(answer)


def log_odds(goal: Goal, answer: Tensor) -> Tensor:
    """All margins, softly.

    For a class goal this is the log-odds of success: its gradient points where that of cross-entropy does, but does not
    vanish when the model is sure of itself (with logits times 1000 cross-entropy's is zero for 97 % of images in float32).
    """
    margins = goal.aim.margins(answer)
    return -(-margins).logsumexp(1) if goal.aim.every else margins.logsumexp(1)


def in_turn(done: Tensor) -> Objective:
    """All margins while less than half of a walk is done, then the nearest alone.

    The nearest at the image is often not the one that gives way first: of several classes a walk towards it ended up to twice
    as far away. All of them together lead to the class that gives way, and end a few percent farther than need be.

    Args:
        done: `(B,)`, share of each image's walk.
    """

    def objective(goal: Goal, answer: Tensor) -> Tensor:
        return torch.where(done.to(answer.device) < HALF, log_odds(goal, answer), margin(goal, answer))

    return objective


def log_likelihood(goal: Goal, answer: Tensor) -> Tensor:
    """Log-probability that every condition is met, each for itself: binary cross-entropy of findings, towards the goal.

    Where all of many findings are wanted, this goes on gaining on the easy ones, while `log_odds` heeds the hardest.
    """
    margins = goal.aim.margins(answer)
    return -softplus(-margins).where(margins.isfinite(), 0).sum(1)


def dlr(goal: Goal, answer: Tensor) -> Tensor:
    """The deciding margin over the spread of the answer: a ratio, which no scale or shift of the logits changes.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
    2020, equations 6 and 7. The spread is from the largest logit to the third largest; where a class is targeted, to the mean
    of the third and fourth. The paper leaves small tasks undefined. Here a target among three classes takes the third; two
    classes have no spread beside their margin, so the margin itself is climbed; of findings, which do not compete, the spread
    is the mean distance of the wanted ones from their thresholds. Beside scores of detectors, which no scale of the logits
    changes, the deciding margin is climbed.
    """
    goal = goal.aim
    margins = goal.margins(answer)
    deciding = margins.amin(1) if goal.every else margins.amax(1)
    classes = answer.shape[1]
    if isinstance(goal, Findings):
        applies = margins.isfinite()
        spread = margins.abs().where(applies, 0).sum(1) / applies.sum(1)
    elif classes < 3 or isinstance(goal, Evading):
        return deciding
    else:
        top = answer.topk(min(classes, 4)).values
        low = top[:, 2:4].mean(1) if goal.every else top[:, 2]
        spread = top[:, 0] - low
    return deciding / spread.clamp_min(torch.finfo(answer.dtype).tiny)


def selective(goal: Goal, answer: Tensor) -> Tensor:
    """Whatever is wanting: the goal of the logits until it is met, then the scores that are still noticed.

    Bryniarski, Hingun, Pachuca, Wang, Carlini, "Evading Adversarial Example Detection Defenses with Orthogonal Projected
    Gradient Descent", ICLR 2022, https://arxiv.org/abs/2106.15023, section 4: a sum lets what is easy pay for what is not.

    Raises:
        SettingsError: the goal is not `Evading`.
    """
    fooling, unnoticed, met = both_sides(goal, answer)
    return torch.where(met, unnoticed, fooling)


def both_sides(goal: Goal, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of an `Evading` goal: log-odds of the goal of the logits, the hardest score's way below its threshold, and whether the
    former is met; each `(B,)`.

    Raises:
        SettingsError: the goal is another.
    """
    evading = goal.aim
    if not isinstance(evading, Evading):
        raise SettingsError(f"this needs the goal Evading, got {type(evading).__name__}: without a detector use log_odds")
    logits, scores = evading.parts(answer)
    return log_odds(evading.goal, logits), evading.unnoticed(scores).amin(1), evading.goal.reached(logits)


def likeness(goal: Goal, answer: Tensor) -> Tensor:
    """How near the features are to those of the guide, which fools model and detectors at once where it succeeds.

    Raises:
        SettingsError: the goal is not `Matching`.
    """
    if not isinstance(goal.aim, Matching):
        raise SettingsError(f"likeness needs the goal Matching, got {type(goal.aim).__name__}")
    return -goal.aim.distance(answer)


OBJECTIVES: dict[str, Objective] = {"margin": margin, "log_odds": log_odds, "log_likelihood": log_likelihood, "dlr": dlr}
EVADING: dict[str, Objective] = {**OBJECTIVES, "selective": selective, "likeness": likeness}  # past a detector
