"""Pruning: the smallest weights of a network set to 0, in place, at once, step by step, or as long as the accuracy holds.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015,
https://arxiv.org/abs/1506.02626
Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, https://arxiv.org/abs/1608.08710
Chen, Zhao, Chen, "Enhancing adversarial defense for medical image analysis systems with pruning and attention mechanism",
Medical Physics 48 (2021), https://doi.org/10.1002/mp.15208

Han et al. take a threshold for each layer from the standard deviation of its weights; here a share is taken, as Chen et al. do.
A share is of what remains: a weight that is 0 stays 0 and is not counted again, so shares of 0.2, 0.4, 0.6 and 0.8 in turn, as
in the repository of Chen et al., leave 0.8, 0.48, 0.192 and 0.0384 of the weights. A pruned weight is one that is exactly 0 and
nothing besides: no mask is kept, and every architecture and checkpoint stays what it was. So a weight that is 0 by chance, as
about one of a ResNet-34's at random is, counts as pruned; torch's own pruning keeps masks and counts it among what remains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.errors import SettingsError, WeightsError
from antivenom.models.parameters import CONVOLUTIONS, LayerCount, layer_counts, weights_of
from antivenom.randomness import Draws, image_keys

By = Literal["l1", "random"]
Scope = Literal["layer", "network"]
Layers = tuple[type[nn.Module], ...]

SHARES = (0.2, 0.4, 0.6, 0.8)  # Chen et al., Tables 1 to 5
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Pruned:
    """What a pruning left.

    Attributes:
        share: that was asked for, of what remained.
        by: what decided which weights fell: their absolute value, or chance.
        scope: within what they were compared: each layer, the network, or the channels of a layer.
        fallen: weights that were not 0 and are now.
        layers: what each layer has kept.
    """

    share: float
    by: By
    scope: Literal["layer", "network", "channels"]
    fallen: int
    layers: tuple[LayerCount, ...]

    @property
    def weights(self) -> int:
        """Weights of the layers that were pruned, zeros included."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Those of them that are 0, from this pruning or before."""
        return self.weights - sum(layer.kept for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The share of them that is 0."""
        return self.zeros / self.weights

    def __str__(self) -> str:
        """One line."""
        return f"{self.zeros:,} of {self.weights:,} weights are 0 ({self.sparsity:.2%}), {self.fallen:,} of them newly"


@torch.no_grad()
def prune(
    network: nn.Module,
    share: float,
    *,
    by: By = "l1",
    scope: Scope = "layer",
    seed: int = 0,
    layers: Layers = CONVOLUTIONS,
) -> Pruned:
    """Set a share of the remaining weights to 0, in place: the smallest of them, or any.

    round(share * remaining) weights fall, in each layer or in all together; of equal ones the first in the network's order. The
    counts are those of torch's `l1_unstructured` and `global_unstructured`, called once or several times.

    Args:
        network: whose weights are set; biases and norms are left.
        share: of the weights that are not 0 yet, in [0, 1).
        by: `l1`, the smallest in absolute value; `random`, in an order that seed and name of a layer decide, so that several
            prunings with one seed take what one pruning of their joint share would.
        scope: compare weights within their `layer`, or in the `network`.
        seed: of `random`.
        layers: kinds of layers to prune.

    Raises:
        SettingsError: the share is outside [0, 1), `by` or `scope` is another word, or there is no such layer.
        WeightsError: a weight is not finite.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    >>> print(prune(network, 0.2))
    20 of 100 weights are 0 (20.00%), 20 of them newly
    >>> print(prune(network, 0.4))
    52 of 100 weights are 0 (52.00%), 32 of them newly
    """
    _check_word("by", by, get_args(By))
    _check_word("scope", scope, get_args(Scope))
    weights, fallen = _prunable(network, share, layers), 0
    for names in [[name] for name in weights] if scope == "layer" else [list(weights)]:
        merit = torch.cat([_merit(name, weights[name], by, seed) for name in names])
        alive = torch.cat([weights[name].flatten() for name in names]) != 0
        number = round(share * int(alive.count_nonzero()))
        gone = ~alive
        gone.masked_scatter_(alive, _smallest(merit[alive], number))
        for name, part in zip(names, torch.split(gone, [weights[name].numel() for name in names]), strict=True):
            weights[name].masked_fill_(part.reshape(weights[name].shape), 0.0)
        fallen += number
    return Pruned(share, by, scope, fallen, layer_counts(network, layers))


@torch.no_grad()
def structured(network: nn.Module, share: float, *, layers: Layers = CONVOLUTIONS) -> Pruned:
    """Silence a share of the remaining output channels of each layer, in place: those of the smallest L1 norm.

    A channel that falls answers 0: its weights, its bias, and weight and bias of the norm that is registered right behind the
    layer and has as many channels. Nothing shrinks: the tensors keep their shapes, and the network takes as long as before.
    Behind an addition or a concatenation the sum or the other parts of the map go on. One channel of every layer stays.

    Args:
        network: whose weights are set.
        share: of the channels that are not all 0 yet, in [0, 1); rounded as in `prune`.
        layers: kinds of layers to prune.

    Raises:
        SettingsError: the share is outside [0, 1), or there is no such layer.
        WeightsError: a weight is not finite.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4))
    >>> print(structured(network, 0.5))
    50 of 100 weights are 0 (50.00%), 50 of them newly
    >>> int(network(torch.rand(3, 1, 8, 8)).any(0).any(1).any(1).sum())
    2
    """
    weights, behind, fallen = _prunable(network, share, layers), _behind(network, layers), 0
    for name, weight in weights.items():
        size = weight.abs().flatten(1).sum(1)
        alive = size > 0
        remaining = int(alive.count_nonzero())
        falls = torch.zeros_like(alive)
        falls.masked_scatter_(alive, _smallest(size[alive], max(0, min(round(share * remaining), remaining - 1))))
        fallen += int(weight[falls].count_nonzero())
        weight[falls] = 0.0
        for follower in behind.get(name, ()):
            network.get_parameter(follower)[falls] = 0.0
    return Pruned(share, "l1", "channels", fallen, layer_counts(network, layers))


def masks(network: nn.Module, layers: Layers = CONVOLUTIONS) -> dict[str, Tensor]:
    """Say where the weights of each layer are exactly 0: bool, by the name of the weight and in its shape."""
    return {name: weight.detach() == 0 for name, weight in weights_of(network, layers).items()}


def frozen(network: nn.Module, layers: Layers = CONVOLUTIONS) -> dict[str, Tensor]:
    """Say what training must leave at 0: the zeros of every layer that has some, and what `structured` silenced behind them.

    Bool, by the name of the parameter and in its shape. A norm's weight that is 0 for itself, as some networks start, is not
    among them.
    """
    held = {name: mask for name, mask in masks(network, layers).items() if mask.any()}
    for name, followers in _behind(network, layers).items():
        if name in held:
            silent = torch.stack([network.get_parameter(follower) == 0 for follower in followers]).all(0)
            silent &= held[name].flatten(1).all(1)
            if silent.any():
                held |= dict.fromkeys(followers, silent)
    return held


@torch.no_grad()
def hold(network: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Set the gradients of what is held to 0, in place; to be called between the backward pass and the optimiser's step.

    With it SGD, with momentum and weight decay, leaves every held weight exactly where it is, as its decay is a share of 0 and
    its momentum sums zeros; only a momentum from before the pruning would still move it, so the optimiser begins anew.

    Args:
        held: see `frozen`; on the device of the network.
    """
    for name, mask in held.items():
        gradient = network.get_parameter(name).grad
        if gradient is not None:
            gradient.masked_fill_(mask, 0.0)  # a product would turn an infinite gradient into NaN


def ladder(shares: Sequence[float] = SHARES) -> tuple[float, ...]:
    """Give the share of the weights that is left after each pruning, where each takes its share of what remains.

    Raises:
        SettingsError: a share is outside [0, 1).

    >>> [round(density, 4) for density in ladder()]
    [0.8, 0.48, 0.192, 0.0384]
    """
    densities, left = [], 1.0
    for share in shares:
        _check_share(share)
        left *= 1 - share
        densities.append(left)
    return tuple(densities)


def sweep(
    network: nn.Module,
    shares: Sequence[float] = SHARES,
    *,
    cumulative: bool = True,
    by: By = "l1",
    scope: Scope = "layer",
    seed: int = 0,
    layers: Layers = CONVOLUTIONS,
) -> Iterator[tuple[nn.Module, Pruned]]:
    """Prune copies of a network, one for each share; the network itself is left as it is.

    Args:
        cumulative: prune each copy further than the one before it, as the caller has left that one, so it may be finetuned in
            between. False: prune each from the dense network, which leaves 1 - share of it.
        shares, by, scope, seed, layers: see `prune`.

    Raises:
        SettingsError, WeightsError: see `prune`.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 25))
    >>> [pruned.sparsity for _, pruned in sweep(network)]
    [0.2, 0.52, 0.808, 0.9616]
    >>> [pruned.sparsity for _, pruned in sweep(network, cumulative=False)]
    [0.2, 0.4, 0.6, 0.8]
    """
    last = network
    for share in shares:
        following = copy.deepcopy(last)
        pruned = prune(following, share, by=by, scope=scope, seed=seed, layers=layers)
        yield following, pruned
        last = following if cumulative else network


@dataclass(frozen=True)
class Round:
    """One pruning and what finetuning made of it.

    Attributes:
        share: that was taken of what remained; 0 of the network as it came.
        sparsity: share of the weights of the pruned layers that was 0 then.
        score: after finetuning.
        held: whether the score had fallen by no more than was tolerated.
    """

    share: float
    sparsity: float
    score: float
    held: bool


def iterate(
    network: nn.Module,
    finetune: Callable[[nn.Module], None],
    score: Callable[[nn.Module], float],
    *,
    fall: float,
    step: float = 0.2,
    rounds: int = 20,
    by: By = "l1",
    scope: Scope = "layer",
    seed: int = 0,
    layers: Layers = CONVOLUTIONS,
) -> tuple[Round, ...]:
    """Prune and finetune in turn, in place, until the score falls; the network is left as it stood when it last held.

    Nothing is written: with the same callables the course is the same, so one that was cut off is repeated, and `finetune` is
    where a caller keeps what has been done, such as a training folder for each round. Whatever is raised on the way, the
    network is left as it last held.

    Args:
        finetune: trains the network in place and leaves its zeros; see `frozen` and `hold`.
        score: of the network, higher is better; on validation images, never on those that are reported on.
        fall: the largest that is tolerated, from the score of the network as it came, in the units of the score.
        step: share of the remaining weights that falls in each round, in (0, 1).
        rounds: the most there are; 20 of 0.2 leave 1.2 %.
        by, scope, seed, layers: see `prune`.

    Returns:
        The network as it came, then every round; only the last can be one that did not hold.

    Raises:
        SettingsError: `step`, `fall` or `rounds` cannot be, or finetuning has moved weights that were pruned; as `prune`.
        WeightsError: as `prune`.
    """
    _check_course(step, fall, rounds)
    _prunable(network, step, layers)
    first = score(network)
    history = [Round(0.0, _sparsity(network, layers), first, True)]
    last = copy.deepcopy(network.state_dict())
    try:
        for _ in range(rounds):
            pruned = prune(network, step, by=by, scope=scope, seed=seed, layers=layers)
            if not pruned.fallen:
                break
            _finetuned(network, finetune, layers)
            reached = score(network)
            history.append(Round(step, pruned.sparsity, reached, reached >= first - fall))
            if not history[-1].held:
                break
            last = copy.deepcopy(network.state_dict())
    finally:
        network.load_state_dict(last)
    return tuple(history)


def _finetuned(network: nn.Module, finetune: Callable[[nn.Module], None], layers: Layers) -> None:
    held = frozen(network, layers)
    finetune(network)
    moved = sum(int(network.get_parameter(name)[mask].count_nonzero()) for name, mask in held.items())
    if moved:
        raise SettingsError(f"finetuning has moved {moved:,} pruned weight(s) from 0; hold their gradients at 0, see `hold`")


def _smallest(values: Tensor, number: int) -> Tensor:
    """Where the `number` smallest of values `(N,)` are, bool; of equal ones the first."""
    if not number:
        return torch.zeros_like(values, dtype=torch.bool)
    # NumPy's selection takes a tenth of the time of torch's `kthvalue` on a CPU, and knows no bfloat16.
    numbers = values.cpu().to(torch.promote_types(values.dtype, torch.float32)).numpy()
    limit = float(np.partition(numbers, number - 1)[number - 1])
    chosen = values < limit
    chosen[(values == limit).nonzero()[: number - int(chosen.count_nonzero()), 0]] = True
    return chosen


def _merit(name: str, weight: Tensor, by: By, seed: int) -> Tensor:
    """What keeps a weight, flat; the least of it falls first."""
    if by == "l1":
        return weight.abs().flatten()
    return Draws.of(seed, image_keys([name])).uniform(weight.numel())[0].to(weight.device)


def _behind(network: nn.Module, layers: Layers) -> dict[str, tuple[str, ...]]:
    """By the name of a layer's weight, the names of what must be 0 as well for a channel of it to be silent."""
    weights = weights_of(network, layers)
    own = [(name, module) for name, module in network.named_modules() if any(True for _ in module.parameters(recurse=False))]
    found = {}
    for (name, layer), (after, following) in pairwise([*own, ("", nn.Identity())]):
        weight = weights.get(_joined(name, "weight"))
        if weight is not None:
            names = _own(name, layer, "bias")
            if isinstance(following, _NORMS) and following.affine and len(following.weight) == len(weight):
                names += _own(after, following, "weight", "bias")
            if names:
                found[_joined(name, "weight")] = tuple(names)
    return found


def _own(place: str, module: nn.Module, *kinds: str) -> list[str]:
    """The full names of a module's own parameters of these kinds."""
    return [_joined(place, kind) for kind, _ in module.named_parameters(recurse=False) if kind in kinds]


def _joined(place: str, kind: str) -> str:
    return f"{place}.{kind}" if place else kind


def _prunable(network: nn.Module, share: float, layers: Layers) -> dict[str, nn.Parameter]:
    _check_share(share)
    weights = weights_of(network, layers)
    if not weights:
        kinds = ", ".join(kind.__name__ for kind in layers)
        raise SettingsError(f"{type(network).__name__} has no weights of {kinds} to prune; name other kinds of layers")
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise WeightsError(f"{name} holds values that are not finite; prune the network as it was before they came")
    return weights


def _sparsity(network: nn.Module, layers: Layers) -> float:
    table = layer_counts(network, layers)
    return 1 - sum(layer.kept for layer in table) / sum(layer.weights for layer in table)


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise SettingsError(f"a share of the remaining weights is at least 0 and below 1, got {share}")


def _check_course(step: float, fall: float, rounds: int) -> None:
    if not 0 < step < 1:
        raise SettingsError(f"a step takes more than 0 and less than 1 of the remaining weights, got {step}")
    if not fall >= 0:
        raise SettingsError(f"the fall that is tolerated is at least 0, got {fall}")
    if rounds < 1:
        raise SettingsError(f"there is at least one round, got {rounds}")


def _check_word(name: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        raise SettingsError(f"{name} is {' or '.join(words)}, got {word!r}")
