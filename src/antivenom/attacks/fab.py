"""Fast adaptive boundary: steps to the boundary as the gradients show it, drawn towards the image, and back once it is crossed.

Croce, Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020,
https://arxiv.org/abs/1907.02044
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks.ascent import Gathered, Look, State, climb, climb_each_way, linearised, nearest, wide
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import SPENT, AttackResult, Until
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.perturbations import L2, TINY, Linf, PerturbationSet
from antivenom.threat.sparse import L1

SEARCHES = 3  # points that the final search tries (the authors' code)
MIXED, MENDED = 10, 3  # turns at most, towards boundaries that are all to be crossed
SLACK = 0.01  # of the way may be left: less than a step goes beyond
BEYOND = 0.01  # of the way from the boundary to the point that fools: exactly on a boundary, rounding decides


def fab(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 0,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    candidates: int = 10,
    until: Until = SPENT,
    generator: torch.Generator | Draws,
) -> AttackResult:
    """Find a small perturbation by steps to the boundary that stay as near to the image as they can.

    Each step goes to the nearest point, in the norm and the range at once, of the boundary as the gradients show it; a share of
    it goes to that boundary's nearest point from the image instead, which draws the walk towards the image without a step size.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`.
        x: images `(B, C, H, W)` in the range of `allowed.pixels`.
        goal: what is wanted. For `Untargeted` there is a boundary with each other class, as in the paper; where all conditions
            are wanted (a target, findings), which the paper does not treat, each step goes across all of their boundaries.
        allowed: the norm, and the largest perturbation that counts; an infinite epsilon counts any.
        steps: of each walk; each costs two queries and a gradient per condition that is linearised.
        restarts: walks per image. All but the first go on from a random point within half of epsilon, where that is infinite
            within half the distance to the boundary that the gradients at the image show. The paper takes the smallest
            perturbation found so far for epsilon where it is less, which a walk does not know here.
        targets: 0 goes to the nearest of the boundaries; more go to that of so many classes (findings, where any does) in turn,
            the likeliest first, for one gradient a step: the paper's targeted form, with 9 in AutoAttack. Success is any other
            class all the same.
        alpha_max: the largest share of a step that is drawn towards the image; 0.1 in the paper.
        eta: by what factor a step goes to the boundary; 1.05 in the paper, a little beyond.
        beta: the share of a perturbation that is kept once it fools; 0.9 in the paper.
        candidates: so many conditions, those that decide by margin, are linearised at each step; each costs a backward pass.
            Towards a target it is one, the target against the class that leads.
        until: `SPENT`, which goes on to nearer points and ends on a search between the nearest and the image, for four queries
            more; or `FOOLED`, which takes the first.
        generator: the only source of randomness; only restarts draw.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`.
    """
    problem = Problem.of(model, x, goal, allowed, generator, takes=(Linf, L2, L1), endless=True)
    walk = _Walk(steps, alpha_max, eta, beta, 1 if targets and not problem.goal.every else candidates)
    if targets:
        found = climb_each_way(problem, walk, targets, restarts=restarts, until=until, merit=nearest)
    else:
        found = climb(problem, walk, restarts=restarts, until=until, merit=nearest)
    if until is SPENT:
        _draw_in(problem, found)
    return found.result


@dataclass(frozen=True)
class _Walk:
    """State: the point, and which restart it belongs to."""

    steps: int
    alpha_max: float
    eta: float
    beta: float
    candidates: int

    @property
    def looks(self) -> int:
        return self.steps

    def start(self, problem: Problem, restart: Tensor) -> State:
        return problem.x.clone(), restart

    def look(self, problem: Problem, state: State, step: Tensor) -> Look:
        point, restart = state
        x, allowed = problem.x, problem.allowed
        here = problem.as_stored(point)
        met, margins, slopes, broken = linearised(problem, here, self.candidates)
        planes = _Planes.of(problem, margins, slopes)
        onward, afresh = planes.way(problem, point, point), planes.way(problem, point, x)
        near, far = allowed.size(onward), allowed.size(afresh)
        alpha = wide((near / (near + far).clamp_min(TINY)).clamp_max(self.alpha_max))
        following = (1 - alpha) * (point + self.eta * onward) + alpha * (x + self.eta * afresh)
        begins = (step == 0) & (restart > 0)
        if bool(begins.any()):
            epsilon = torch.as_tensor(allowed.epsilon).to(far)
            ball = allowed.within(torch.where(epsilon < math.inf, epsilon, far) / 2)
            following = following.where(~wide(begins), x + ball.sample(x, problem.draws.at(restart)))
        following = x + allowed.pixels.clip(allowed.pixels.free(following - x), x)
        there = problem.as_stored(following)
        with torch.no_grad():
            tried = problem.goal.margin(problem.victim.propose(there))
        zero = (slopes == 0).flatten(1).all(1) & (met <= 0)
        nearer = nearest(problem, here, met) >= nearest(problem, there, tried)
        shown, margin = torch.where(wide(nearer), here, there), torch.where(nearer, met, tried)
        following = torch.where(wide(tried > 0), x + self.beta * (following - x), following)
        return Look(shown, margin, (following, restart), slopes.shape[1], zero, broken, queries=2)


@dataclass(frozen=True)
class _Planes:
    """The linearised boundaries that a step goes to, each scaled so that it rises by 1 at most per unit of size.

    Their slopes are whole: a value that stands at the end of its range at the point does not stand there at the image. With
    slopes cut to what can still move, the walks in L1 on a small network missed 10 of 64 images that they find so.
    """

    slopes: Tensor  # (B, K, C, H, W)
    missing: Tensor  # (B, K) what each condition lacks at the point where it was linearised; below 0 where it is met

    @staticmethod
    def of(problem: Problem, margins: Tensor, slopes: Tensor) -> _Planes:
        """All of them where all conditions are wanted, else the nearest, on whichever side of it the point is."""
        gain = torch.stack([problem.allowed.dual(slope) for slope in slopes.unbind(1)], 1)
        missing = -margins.nan_to_num(0, 0, 0) / gain.clamp_min(TINY)
        if problem.goal.aim.every:  # what has no slope cannot be gone to
            chosen = torch.arange(slopes.shape[1], device=gain.device).expand_as(gain)
            missing = missing.where(gain > 0, 0)
        else:
            chosen = missing.abs().where(margins.isfinite(), math.inf).argmin(1, keepdim=True)
        images = torch.arange(len(gain), device=gain.device)[:, None]
        scale = gain[images, chosen].clamp_min(TINY)[..., None, None, None]
        return _Planes(slopes[images, chosen] / scale, missing[images, chosen])

    def way(self, problem: Problem, point: Tensor, start: Tensor) -> Tensor:
        """The smallest way from `start` across them all, as seen from `point`: of one plane exactly, of several nearly.

        A mixture of conditions is met wherever all are, so the way across its plane is never too long; it is the right one
        for the mixture that needs the longest. That is found by turns: each gives a vote to the condition that is farthest
        from being met yet, and the votes make the mixture. The last turns make up for what is left, one after the other.
        """
        allowed, images = problem.allowed, torch.arange(len(point), device=point.device)
        missing = self.missing - self._rise(start - point)
        way, votes = torch.zeros_like(start), torch.zeros_like(missing)
        for turn in range(MIXED + MENDED if missing.shape[1] > 1 else 1):
            left, farthest = (missing - self._rise(way)).max(1)
            lacks = (left > SLACK * allowed.size(way)) | (turn == 0)
            if not bool(lacks.any()):
                break
            if turn < MIXED:
                votes[images, farthest] += 1
                mixture = votes / (turn + 1)
                slope, rise = torch.einsum("bk,bkchw->bchw", mixture, self.slopes), (mixture * missing).sum(1)
                tried = allowed.reach(slope, rise.clamp_min(0 if turn else -math.inf), *allowed.pixels.limits(start))
            else:
                tried = way + allowed.reach(self.slopes[images, farthest], left, *allowed.pixels.limits(start + way))
            way = torch.where(wide(lacks), tried, way)
        return way

    def _rise(self, way: Tensor) -> Tensor:
        return torch.einsum("bkchw,bchw->bk", self.slopes, way)


def _draw_in(problem: Problem, found: Gathered) -> None:
    """The paper's final search: nearer points on the line to the image, each where the margin would be zero were it straight.

    It asks the judge, at the image and at each point: the last percents are no matter for a twin.
    """
    images = ((found.margin > 0) & found.merit.isfinite()).nonzero()[:, 0]  # the nearest to an image that is wrong is itself
    for some in torch.split(images, problem.victim.batch) if len(images) else ():
        part = problem.take(some)
        near, far, high = part.x, found.x_adv[some], found.margin[some]
        stored, low = part.judged(near)
        found.judge(part, some, stored, low)
        found.queries[some] += 1
        for _ in range(SEARCHES):
            share = low / (low - high)
            point = near + wide(share + BEYOND * (1 - share)) * (far - near)
            stored, margin = part.judged(point)
            found.judge(part, some, stored, margin)
            found.queries[some] += 1
            fools = margin > 0
            near, low = torch.where(wide(fools), near, point), torch.where(fools, low, margin)
            far, high = torch.where(wide(fools), point, far), torch.where(fools, margin, high)
