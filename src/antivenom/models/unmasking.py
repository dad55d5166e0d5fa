"""Gradients of models that hide them: through what has none, and through what is random.

Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, https://arxiv.org/abs/1802.00420:
BPDA, the backward pass of a stand-in; EOT, the gradient of an expectation over draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from antivenom.errors import SettingsError
from antivenom.models.execution import BATCH, Forward, Victim

Change = Callable[[Tensor], Tensor]  # images (B, C, H, W) to images


def straight_through(model: Forward, change: Change, stand_in: Change | None = None, *, batch: int = BATCH) -> Victim:
    """A model behind a change of its images that has no useful gradient: rounding, JPEG, a median, a projection.

    Args:
        model: images to answers, differentiable.
        change: what is done to an image first.
        stand_in: a differentiable function near it, whose gradient is taken; None: the identity.
        batch: images to keep in flight.

    Returns:
        A victim that answers as `model(change(x))`, judged so too, with the gradient of `model` at `change(x)` by way of
        `stand_in`.

    >>> victim = straight_through(lambda x: x.flatten(1), lambda x: (x * 4).round() / 4)
    >>> z = torch.full((1, 1, 1, 2), 0.3, requires_grad=True)
    >>> victim.propose(z).sum().backward()
    >>> z.grad.flatten().tolist()
    [1.0, 1.0]
    """

    def propose(images: Tensor) -> Tensor:
        near = images if stand_in is None else stand_in(images)
        return model(near + (change(images.detach()) - near).detach())

    return Victim(lambda images: model(change(images)), propose, batch, "BPDA")


def expected(model: Forward, *, draws: int = 16, judged: int = 64, seed: int = 0, batch: int = BATCH) -> Victim:
    """A randomised model as its expectation: the mean answer over draws, for gradients and, over more of them, for success.

    The model draws from torch's global generators, which are seeded here and left as they were. Every judgement meets the same
    luck, so that it can be repeated; every proposal meets its own.

    Args:
        model: images to answers, with dropout, noise or a random transform left switched on.
        draws: answers averaged for a gradient; each counts as one query of the attack all the same.
        judged: answers averaged to decide.
        seed: of all draws.
        batch: images to keep in flight.

    Raises:
        SettingsError: fewer than one draw.
    """
    if draws < 1 or judged < 1:
        raise SettingsError(f"an expectation needs at least one draw, got {draws} and {judged}")
    asked = 0

    def propose(images: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return _mean(model, images, draws, seed + asked)

    def judge(images: Tensor) -> Tensor:
        return _mean(model, images, judged, seed)

    return Victim(judge, propose, batch, f"EOT over {draws} draws")


def _mean(model: Forward, images: Tensor, draws: int, seed: int) -> Tensor:
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        answer = model(images)
        for _ in range(draws - 1):
            answer = answer + model(images)
    return answer / draws
