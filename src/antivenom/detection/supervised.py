"""A detector that has seen attacked images: logistic regression on the classifier's features, or a small network.

Metzen, Genewein, Fischer, Bischoff, "On Detecting Adversarial Perturbations", ICLR 2017, https://arxiv.org/abs/1702.04267: the
idea, there with a larger network. Li and Zhu (ISBI 2020) argue against it that it knows the attacks it was shown and no
others; it is here to be compared with, and stands in no table of detectors fitted on clean images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.detection.bank import gather, unless_odd, wide
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading
from antivenom.errors import InputError, SettingsError

MOST = 2000  # images of each kind
_DECAY = 1e-3  # half of it times the squared weights is added to the loss: images that can be told apart have an answer, too
_ROUNDS = 100


class Supervised(Detector):
    """The logarithm of the odds that an image was attacked, had as many been attacked as not.

    Attributes:
        centre, scale: subtracted from the activations `(D,)`, and what they are divided by.
        linear: weights `(D,)` of the standardised activations.
        bias: a scalar.
        hidden, hidden_bias: weights `(H, D)` and biases `(H,)` of the layer between; H is 0 for logistic regression.
        outer: weights `(H,)` of that layer.
    """

    centre: Tensor
    scale: Tensor
    linear: Tensor
    bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    outer: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        centre: Tensor,
        scale: Tensor,
        linear: Tensor,
        bias: Tensor,
        hidden: Tensor,
        hidden_bias: Tensor,
        outer: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.register_buffer("linear", linear)
        self.register_buffer("bias", bias)
        self.register_buffer("hidden", hidden)
        self.register_buffer("hidden_bias", hidden_bias)
        self.register_buffer("outer", outer)

    def measure(self, reading: Reading) -> Tensor:
        """The log-odds `(B,)`; 0 where it cannot tell."""
        seen = wide(reading.layer(self.layers[0]))
        centre, scale, *weights = (tensor.to(seen.dtype) for tensor in self.buffers())
        return unless_odd(_odds((seen - centre) / scale, weights), seen)


def fit_supervised(
    clean: Iterable[Reading],
    attacked: Iterable[Reading],
    *,
    layer: str = FEATURES,
    hidden: int = 0,
    most: int = MOST,
    seed: int,
) -> Supervised:
    """Learn to tell attacked images from clean ones.

    Both kinds count alike, however many there are of each. All images are used in every round (L-BFGS, at most 100), so the
    seed decides which images are kept and, with a layer between, where its weights start.

    Args:
        clean: readings of clean images, as a stream.
        attacked: readings of attacked images, as a stream; of other images than those that it is scored on later.
        layer: whose activations count.
        hidden: units of a layer between, added to the straight way; 0: none, logistic regression.
        most: images of each kind that are kept.
        seed: see above.

    Raises:
        InputError: an empty stream, values that are not finite, or two models.
        SettingsError: fewer than no units.
    """
    if hidden < 0:
        raise SettingsError(f"a layer between has at least 0 units, got {hidden}")
    one, other = (gather(stream, [layer], most, seed=seed).layer(layer) for stream in (clean, attacked))
    if one.shape[1] != other.shape[1]:
        raise InputError(f"layer {layer!r} gives clean images {one.shape[1]} values and attacked ones {other.shape[1]}")
    seen = torch.cat([one, other]).double()
    constant = (seen == seen[0]).all(0)
    centre, scale = seen.mean(0).float(), seen.std(0, correction=0).masked_fill(constant, 1).float()
    points = (seen - centre) / scale
    weights = _start(hidden, points.shape[1], seed)

    def loss() -> Tensor:
        odds = _odds(points, weights)
        error = F.softplus(odds[: len(one)]).mean() + F.softplus(-odds[len(one) :]).mean()
        return (error + _DECAY * torch.stack([weight.square().sum() for weight in weights]).sum()) / 2

    _descend(weights, loss)
    told = f"trained on {len(other)} attacked images: how it does on attacks that it was not shown is another question"
    found = [weight.detach().float() for weight in weights]
    return Supervised(
        layers=[layer],
        widths=[points.shape[1]],
        notes=[told],
        centre=centre,
        scale=scale,
        linear=found[0],
        bias=found[1],
        hidden=found[2],
        hidden_bias=found[3],
        outer=found[4],
    )


def _start(hidden: int, width: int, seed: int) -> list[Tensor]:
    """Weights in float64 from which to learn: random ones for a layer between, else 0."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(hidden, width, generator=generator, dtype=torch.float64) * math.sqrt(2 / width)
    outer = torch.randn(hidden, generator=generator, dtype=torch.float64) / math.sqrt(max(hidden, 1))
    return [outer.new_zeros(width), outer.new_zeros(()), inner, outer.new_zeros(hidden), outer]


def _odds(points: Tensor, weights: Sequence[Tensor]) -> Tensor:
    linear, bias, hidden, hidden_bias, outer = weights
    return points @ linear + bias + (points @ hidden.T + hidden_bias).relu() @ outer


def _descend(weights: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
    learnt = [weight.requires_grad_() for weight in weights if weight.numel()]
    walk = torch.optim.LBFGS(learnt, max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def look() -> float:
        walk.zero_grad()
        now = loss()
        now.backward()  # type: ignore[no-untyped-call]
        return float(now.detach())

    walk.step(look)  # type: ignore[no-untyped-call]
