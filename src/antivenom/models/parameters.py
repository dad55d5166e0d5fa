"""How many parameters a network has, how many of them are exactly 0, and the figure in millions that papers print.

Chen, Zhao, Chen, "Enhancing adversarial defense for medical image analysis systems with pruning and attention mechanism",
Medical Physics 48 (2021), https://doi.org/10.1002/mp.15208: its Tables 1 and 2 fit all parameters of a ResNet-18 without the
zeros, its Tables 3 to 5 the weights alone of a ResNet-34.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["all", "weights"]

CONVOLUTIONS = (nn.Conv2d,)  # what Chen et al. prune: neither linear layers nor norms


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a network.

    Attributes:
        all: every element of every parameter.
        weights: the elements of those called weight: of convolutions, linear layers and norms.
        zeros: the exact zeros in weights of two and more dimensions. A norm or a bias at 0 is not among them: many networks
            start so, and learn.
    """

    all: int
    weights: int
    zeros: int

    def left(self, kind: Kind) -> int:
        """All parameters, or the weights, without the zeros."""
        return (self.all if kind == "all" else self.weights) - self.zeros

    def printed(self, kind: Kind) -> str:
        """What is left, in millions with two decimals, as the tables of Chen et al. have it.

        >>> ParameterCount(all=11_181_642, weights=11_176_832, zeros=2_233_383).printed("all")
        '8.95'
        """
        return f"{self.left(kind) / 1e6:.2f}"


@dataclass(frozen=True)
class LayerCount:
    """The weights of one layer.

    Attributes:
        name: of the layer's weight in the network, such as `layer1.0.conv1.weight`.
        shape: of that weight; output channels first.
        kept: weights that are not 0.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int

    @property
    def share(self) -> float:
        """The share of the weights that is kept."""
        return self.kept / self.weights


def count(network: nn.Module) -> ParameterCount:
    """Count the parameters of a network; one that several layers share counts once.

    >>> count(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    ParameterCount(all=48, weights=40, zeros=0)
    """
    named = dict(network.named_parameters())
    weights = [parameter for name, parameter in named.items() if name.rpartition(".")[2] == "weight"]
    return ParameterCount(
        all=sum(parameter.numel() for parameter in named.values()),
        weights=sum(weight.numel() for weight in weights),
        zeros=sum(weight.numel() - int(weight.count_nonzero()) for weight in weights if weight.ndim > 1),
    )


def layer_counts(network: nn.Module, layers: tuple[type[nn.Module], ...] = CONVOLUTIONS) -> tuple[LayerCount, ...]:
    """Count the weights of each layer of these kinds, in the order of the network: the rows of a table.

    >>> layer_counts(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)))
    (LayerCount(name='0.weight', shape=(4, 1, 3, 3), weights=36, kept=36),)
    """
    return tuple(
        LayerCount(name, tuple(weight.shape), weight.numel(), int(weight.count_nonzero()))
        for name, weight in weights_of(network, layers).items()
    )


def weights_of(network: nn.Module, layers: tuple[type[nn.Module], ...] = CONVOLUTIONS) -> dict[str, nn.Parameter]:
    """Give the weights of the layers of these kinds, by name; one that several layers share appears once."""
    wanted = {id(module.weight) for module in network.modules() if isinstance(module, layers)}
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) in wanted}
