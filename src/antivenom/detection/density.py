"""How dense clean images lie around an image: a Gaussian kernel on each of them.

Feinman, Curtin, Shintre, Gardner, "Detecting Adversarial Samples from Artifacts", 2017, https://arxiv.org/abs/1703.00410
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from antivenom.detection.bank import MOST, SAME, distance, gather, nearest, squared_distances, squares, unless_odd, wide
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading
from antivenom.errors import InputError

# Tried bandwidths, in units of the distance to the nearest image over the square root of the width: where the kernel of the
# nearest image alone is likeliest.
_TRIED = tuple(2 ** (step / 4) for step in range(-12, 13))
_TUNED_BY = 1000  # held-out images that choose among them


class KernelDensity(Detector):
    """Minus the logarithm of the density of clean images.

    Attributes:
        bank: activations `(N, D)` of clean images.
        answers: the model's answer to each of them `(N,)`, a class.
        bandwidth: standard deviation of the kernel, in units of the activations.
        by_class: whether an image is compared with those alone that the model answers alike; where it answers none of the
            bank so, with all.
    """

    bank: Tensor
    answers: Tensor
    _lengths: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        bandwidth: float,
        by_class: bool,
        bank: Tensor,
        answers: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.bandwidth, self.by_class = bandwidth, by_class
        if not 0 < bandwidth < math.inf:
            raise InputError(f"a bandwidth is above 0 and finite, got {bandwidth}")
        self.register_buffer("bank", bank)
        self.register_buffer("answers", answers)
        self.register_buffer("_lengths", squares(bank), persistent=False)

    def settings(self) -> dict[str, Any]:
        """The layer, the bandwidth and whether the model's answer counts."""
        return {**super().settings(), "bandwidth": self.bandwidth, "by_class": self.by_class}

    def measure(self, reading: Reading) -> Tensor:
        """Minus the log-density `(B,)`, in nats."""
        points = wide(reading.layer(self.layers[0]))
        squared = squared_distances(points, self.bank.to(points.dtype), self._lengths)
        alike = _alike(reading.logits, self.answers) if self.by_class else torch.ones_like(squared, dtype=torch.bool)
        return unless_odd(-_log_density(squared, alike, self.widths[0], self.bandwidth), points, reading.logits)


def fit_density(
    clean: Iterable[Reading], *, tune: Reading, layer: str = FEATURES, by_class: bool = True, most: int = MOST, seed: int
) -> KernelDensity:
    """Keep a bank of clean images, and take the bandwidth under which held-out ones are likeliest.

    The paper chooses it by cross-validation on the training images, and gives the density, with a second figure, to a logistic
    regression trained on attacked images; here the density is the score. A class is the model's answer, not the truth.

    Args:
        clean: readings of clean images, as a stream.
        tune: held-out clean images, not among `clean`; those that are found in the bank are left out.
        layer: whose activations count.
        by_class: whether an image is compared with those alone that the model answers alike.
        most: images kept.
        seed: of the choice of the images.

    Raises:
        InputError: `tune` holds nothing new, or there are values that are not finite.
    """
    kept = gather(clean, [layer], most, seed=seed)
    held = gather([tune], [layer], _TUNED_BY, seed=seed)
    bank, answers, points = kept.layer(layer), kept.logits.argmax(1), held.layer(layer)
    lengths = squares(bank)
    near = distance(points, bank[nearest(points, bank, lengths, 1)[:, 0]])
    new = near > SAME * points.norm(dim=1)
    if not bool(new.any()):
        raise InputError(
            f"none of the {len(points)} held-out images differs in layer {layer!r} from all that were fitted: "
            "a bandwidth needs clean images of its own; the layer may also be constant, then name another"
        )
    squared = squared_distances(points[new].double(), bank.double(), lengths)
    alike = _alike(held.logits[new], answers) if by_class else torch.ones_like(squared, dtype=torch.bool)
    bandwidth, told = _likeliest(squared, alike, bank.shape[1], float(near[new].double().median()))
    return KernelDensity(
        layers=[layer],
        widths=[bank.shape[1]],
        notes=[*told, *_unseen(answers, kept.logits.shape[1], by_class)],
        bandwidth=bandwidth,
        by_class=by_class,
        bank=bank,
        answers=answers,
    )


def _likeliest(squared: Tensor, alike: Tensor, width: int, near: float) -> tuple[float, list[str]]:
    """The bandwidth under which held-out images are likeliest, and what must be said of it."""
    tried = [near / math.sqrt(width) * unit for unit in _TRIED]
    likely = [float(_log_density(squared, alike, width, bandwidth).mean()) for bandwidth in tried]
    best = likely.index(max(likely))
    if best not in {0, len(tried) - 1}:
        return tried[best], []
    side = "smallest" if best == 0 else "largest"
    return tried[best], [f"the bandwidth is the {side} that was tried: held-out images lie unlike those that were fitted"]


def _log_density(squared: Tensor, alike: Tensor, width: int, bandwidth: float) -> Tensor:
    exponents = (-squared / (2 * bandwidth**2)).masked_fill(~alike, -torch.inf)
    each = width * (math.log(bandwidth) + math.log(2 * math.pi) / 2)
    return exponents.logsumexp(1) - alike.sum(1).log() - each


def _alike(logits: Tensor, answers: Tensor) -> Tensor:
    """Which of the bank count for each image `(B, N)`: those answered alike, or all where there are none."""
    alike = logits.argmax(1, keepdim=True) == answers
    return alike | ~alike.any(1, keepdim=True)


def _unseen(answers: Tensor, classes: int, by_class: bool) -> list[str]:
    unseen = sorted(set(range(classes)) - set(answers.tolist())) if by_class else []
    if not unseen:
        return []
    listed = ", ".join(map(str, unseen))
    return [f"no clean image in the bank was answered with class {listed}: images answered so are compared with all"]
