"""k-winners-take-all: an activation that keeps the largest values of an image's map, whatever their sign, and no others.

Xiao, Zhong, Zheng, "Enhancing Adversarial Defense by k-Winners-Take-All", ICLR 2020, https://arxiv.org/abs/1905.10510

Which values win changes everywhere in the space of images, so the gradient says little beyond the nearest point: it hides
from attacks that climb it rather than withstanding them (Tramèr, Carlini, Brendel, Madry, "On Adaptive Attacks to Adversarial
Example Defenses", NeurIPS 2020, https://arxiv.org/abs/2002.08347).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from antivenom.errors import SettingsError

RATIO = 0.2  # the authors' configuration for CIFAR-10, and the repository of Chen et al., Med. Phys. 48:6198, 2021


class KWinners(nn.Module):
    """Keep the k largest values of each image over channels and places together, k = int(ratio C H W); ties are kept too.

    The gradient passes where a value was kept, and nowhere else. The ratio is part of `state_dict`, as it changes the answers.

    Args:
        ratio: share of the values that is kept, in (0, 1]; at least one value always is.

    Raises:
        SettingsError: the ratio is outside.

    >>> KWinners(0.5)(torch.tensor([[-3.0, -1.0, 2.0, -2.0]])).tolist()
    [[0.0, -1.0, 2.0, 0.0]]
    """

    def __init__(self, ratio: float = RATIO) -> None:
        super().__init__()
        self.ratio = _checked(ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Values `(B, ...)` to the same, 0 where they lost."""
        return x.masked_fill(x < self.least(x), 0.0)

    def least(self, x: Tensor) -> Tensor:
        """The smallest value of each image that is kept, to be compared with `(B, ...)`."""
        values = x.detach().flatten(1)
        k = max(1, int(self.ratio * values.shape[1]))
        return values.topk(k, sorted=False).values.amin(1).reshape(-1, *[1] * (x.ndim - 1))

    def get_extra_state(self) -> Tensor:
        """The ratio, in double precision: rounded, it could move k."""
        return torch.tensor(self.ratio, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the ratio of the weights that are being loaded."""
        self.ratio = _checked(float(state))

    def extra_repr(self) -> str:
        """The ratio, as `str` shows it."""
        return f"ratio={self.ratio}"


class _Smooth(KWinners):
    """The same answer, with a gradient that passes to losers too, the less the farther they are from winning."""

    def forward(self, x: Tensor) -> Tensor:
        """Values `(B, ...)` to the same, 0 where they lost."""
        values, least = x.detach(), self.least(x)
        spread = values.flatten(1).std(1).clamp_min(1e-12).reshape(least.shape)
        soft = x * torch.sigmoid((values - least) / spread)
        return soft + (values.masked_fill(values < least, 0.0) - soft).detach()


def smoothed(network: nn.Module) -> nn.Module | None:
    """A copy that answers alike and has a gradient to climb: a value that did not win counts by how nearly it would have.

    Who wins changes with every step, so what the winners alone say of the next step is worth little; here the gradient is as
    if each value had won by a chance that falls off over one standard deviation of its map (a backward pass that stands in,
    as Athalye, Carlini, Wagner, ICML 2018, https://arxiv.org/abs/1802.00420, do for what has no gradient).

    Returns:
        The copy, whose weights take no gradient; None: there are no k-winners layers.
    """
    if not _layers(network):
        return None
    twin = copy.deepcopy(network).requires_grad_(False)
    for layer in _layers(twin).values():
        layer.__class__ = _Smooth
    return twin


def set_ratio(network: nn.Module, ratio: float) -> None:
    """Set how much every k-winners layer of a network keeps, so that training can come to a small share step by step.

    At 1 nothing is cut, and what lies between the norms is linear. Xiao et al. come from 0.2 down by 0.005 every two epochs
    (their configuration). A running average of the network is another network, to be set as well.

    Args:
        ratio: in (0, 1].

    Raises:
        SettingsError: it is outside, or there is no such layer.
    """
    layers = _layers(network)
    if not layers:
        raise SettingsError(f"{type(network).__name__} has no k-winners layers to set; build it as a name with +kwta")
    for layer in layers.values():
        layer.ratio = _checked(ratio)


def ratios(network: nn.Module) -> dict[str, float]:
    """How much each k-winners layer of a network keeps, by the layer's name; empty where there are none."""
    return {name: layer.ratio for name, layer in _layers(network).items()}


def _layers(network: nn.Module) -> dict[str, KWinners]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, KWinners)}


def _checked(ratio: float) -> float:
    if not 0 < ratio <= 1:
        raise SettingsError(f"the ratio of values that win is above 0 and at most 1, got {ratio}")
    return ratio
