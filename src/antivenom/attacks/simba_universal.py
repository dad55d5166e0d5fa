"""Black-box universal perturbations: waves of low frequency, tried one by one and kept where they help on average.

Koga, Takemoto, "Simple Black-Box Universal Adversarial Attacks on Deep Neural Networks for Medical Image Classification",
Algorithms 2022, https://arxiv.org/abs/2108.04979
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antivenom.attacks.problem import Problem
from antivenom.attacks.universal import KINDS, shared_ball
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import PerturbationSet

ENOUGH = 0.99  # share of the images that meet the goal at which the search ends (the authors' code)


def fit_simba_universal(
    model: Forward | Victim,
    x: Tensor,
    goal: Goal,
    allowed: PerturbationSet,
    *,
    steps: int = 1000,
    step_size: float = 0.2,
    share: float = 28 / 299,
    generator: torch.Generator | Draws,
) -> Tensor:
    """Find one perturbation that brings as many of these images as it can to the goal, from the model's answers alone.

    Each step draws a wave, a vector of the discrete cosine transform in one channel, and adds or subtracts it, whichever raises
    the mean probability of the goal, if either does. All low waves are tried in random order before any is tried again; the
    authors go on to higher ones.

    Args:
        model: images `(B, C, H, W)` to logits `(B, A)`, in evaluation mode, or a `Victim`, whose `propose` is asked.
        x: images `(N, C, H, W)` in the range of `allowed.pixels`.
        goal, allowed: what is wanted of each image and what is allowed.
        steps: waves that are tried, at two forward passes per image each, and one before the first.
        step_size: size of a wave as a fraction of epsilon, in the norm of `allowed`.
        share: of the frequencies along each axis that are tried, the lowest; 28 of 299 in the authors' code.
        generator: the only source of randomness: the order of the waves, drawn by the stream of the first image.

    Returns:
        `(C, H, W)`; see `universal.fit_universal`, and `universal.apply_universal` for what it is worth on other images.

    Raises:
        ImageError, LabelError, ModelError, SettingsError: see `Problem.of`; or no share of the frequencies.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"the share of the frequencies lies above 0 and up to 1, got {share}")
    problem = Problem.of(model, x, goal, allowed, generator, takes=KINDS)
    ball = shared_ball(allowed)
    delta = torch.zeros_like(problem.x[:1])
    height, met = _probability(problem, delta)
    channels, tall, across = 1 if ball.pixels.tied else x.shape[1], *(math.ceil(share * side) for side in x.shape[2:])
    first, waves = problem.draws.take(torch.tensor([0])), channels * tall * across
    for step in range(steps):
        if met >= ENOUGH:
            break
        if step % waves == 0:
            order = first.at(step // waves).uniform(waves)[0].argsort()
        channel, row, column = torch.unravel_index(order[step % waves], (channels, tall, across))
        wave = ball.pixels.free(_wave(delta, int(channel), int(row), int(column)))
        wave = wave * step_size * float(ball.epsilon) / ball.size(wave)
        tried = [ball.shrink(delta + sign * wave) for sign in (-1, 1)]
        found = [_probability(problem, candidate) for candidate in tried]
        best = 0 if found[0][0] > found[1][0] else 1
        if found[best][0] > height:
            delta, (height, met) = tried[best], found[best]
    return delta[0]


def _wave(like: Tensor, channel: int, row: int, column: int) -> Tensor:
    """One vector of the discrete cosine transform (DCT-II), shaped as `like` `(1, C, H, W)`; its length is for the caller."""
    down, across = (
        torch.cos(math.pi * frequency * (torch.arange(side, dtype=like.dtype) + 0.5) / side).to(like.device)
        for frequency, side in zip((row, column), like.shape[2:], strict=True)
    )
    wave = torch.zeros_like(like)
    wave[:, channel] = down[:, None] * across
    return wave


@torch.no_grad()
def _probability(problem: Problem, delta: Tensor) -> tuple[float, float]:
    """Of all images with this perturbation: the mean probability of the goal, and the share that meets it.

    For a class goal the probability is that of softmax, as in the paper. A NaN counts as none.
    """
    answers = []
    for images in torch.split(torch.arange(len(problem), device=problem.x.device), problem.victim.batch):
        part = problem.take(images)
        answers.append(problem.victim.propose(part.allowed.project(part.x + delta, part.x)))
    answer = torch.cat(answers)
    sure = torch.sigmoid(log_odds(problem.goal, answer)).double().nan_to_num(0)
    return sure.mean().item(), problem.goal.reached(answer).double().mean().item()
