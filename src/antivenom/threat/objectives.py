"""Objectives: what a gradient attack climbs. Each is a function of a goal and the model's answer, `(B,)`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import softplus

from antivenom.threat.goals import Goal

Objective = Callable[[Goal, Tensor], Tensor]


def margin(goal: Goal, answer: Tensor) -> Tensor:
    """The deciding margin alone (Carlini and Wagner 2017, f6)."""
    return goal.margin(answer)


def log_odds(goal: Goal, answer: Tensor) -> Tensor:
    """All margins, softly.

    For a class goal this is the log-odds of success: its gradient points where that of cross-entropy does, but does not
    vanish when the model is sure of itself (with logits times 1000 cross-entropy's is zero for 97 % of images in float32).
    """
    margins = goal.margins(answer)
    return -(-margins).logsumexp(1) if goal.every else margins.logsumexp(1)


def log_likelihood(goal: Goal, answer: Tensor) -> Tensor:
    """Log-probability that every condition is met, each for itself: binary cross-entropy of findings, towards the goal.

    Where all of many findings are wanted, this goes on gaining on the easy ones, while `log_odds` heeds the hardest.
    """
    margins = goal.margins(answer)
    return -softplus(-margins).where(margins.isfinite(), 0).sum(1)


OBJECTIVES: dict[str, Objective] = {"margin": margin, "log_odds": log_odds, "log_likelihood": log_likelihood}
