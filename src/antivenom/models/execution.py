"""How a model is run by an attack: one side proposes, the other judges.

Gradients may come from a faster twin of the model; whether an image fools is always asked of the caller's own model in
float32. A twin is a copy of one moment: make it anew after every change of the weights.

Batch-norm folding: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3.2.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from antivenom.errors import SettingsError
from antivenom.models.classifier import check_ready
from antivenom.models.kwta import smoothed
from antivenom.models.small_maps import on_small_maps

Forward = Callable[[Tensor], Tensor]  # images (B, C, H, W) to answers (B, A)

AS_GIVEN = "as given"
BATCH = 64
# A twin must agree with its model this far on the images it is tried on. Its only harm would be a wasted step, since it
# judges nothing; bf16 twins of ResNets agree on 94 to 99 % of gradient signs, a wrongly folded one on about half.
SIGNS, LOGITS = 0.85, 0.05
REPEATS = 3


@dataclass(frozen=True)
class Victim:
    """A model as an attack meets it.

    Attributes:
        judge: the caller's own model, in float32: its answer is success.
        propose: what gradients come from: the same, a faster twin, or a surrogate for what has no gradient (BPDA).
        batch: images to keep in flight.
        execution: how `propose` runs, as a record says it.
        oddities: what masks gradients, by name, where an attack has already looked; None: nobody has.
        smooth: answers like the judge, with gradients of a stand-in where the judge's own jump; None: none is known.
    """

    judge: Forward
    propose: Forward
    batch: int = BATCH
    execution: str = AS_GIVEN
    oddities: Mapping[str, bool] | None = None
    smooth: Forward | None = None

    @staticmethod
    def of(model: Forward | Victim) -> Victim:
        """A plain model is its own judge.

        Raises:
            ModelError: the model, or a part of it, is in training mode.
        """
        if isinstance(model, Victim):
            return model
        if not isinstance(model, nn.Module):
            return Victim(model, model)
        check_ready(model)
        return Victim(model, model, smooth=smoothed(model))

    @property
    def untwinned(self) -> Victim:
        """The same without its twin, for an attack that takes one gradient: no later step would mend a rounded one."""
        return replace(self, propose=self.judge, execution=AS_GIVEN) if self.execution in TWINS else self


def accelerate(model: nn.Module, like: Tensor, *, batch: int = BATCH) -> Victim:
    """Find the fastest way to get this model's input gradients on this machine, by trying.

    Tried are the model itself, a copy with batch-norm folded into convolutions, and a folded bfloat16 copy in channels-last
    order whose first convolution sees the images unrounded and whose last linear layer stays in float32 (so that small
    perturbations and small margins are not rounded away). A copy that answers differently, or is not faster, is not used.

    Args:
        model: any module in evaluation mode, images `(B, C, H, W)` to logits `(B, A)`; left exactly as it is.
        like: a few real images `(B, C, H, W)`; repeated to the batch for timing.
        batch: images to keep in flight.

    Raises:
        ModelError: the model is in training mode.
    """
    check_ready(model)
    like = like[torch.arange(batch, device=like.device) % len(like)]
    plain = Victim(model, model, batch, smooth=smoothed(model))
    truth, best = _gradients(model, like), (_seconds(model, like), plain)
    for execution in TWINS:
        twin = _tried(TWINS[execution], model, like)
        if twin is None or not _agrees(twin, like, truth):
            continue
        found = replace(plain, propose=twin, execution=execution)
        best = min(best, (_seconds(twin, like), found), key=lambda pair: pair[0])
    return best[1]


def execute(model: nn.Module, like: Tensor, execution: str, *, batch: int = BATCH) -> Victim:
    """Run a model the way `execution` names, such as `Victim.execution` of an earlier run, without measuring.

    Raises:
        SettingsError: there is no such way, or it does not work for this model on this machine.
        ModelError: the model is in training mode.
    """
    check_ready(model)
    plain = Victim(model, model, batch, smooth=smoothed(model))
    if execution == AS_GIVEN:
        return plain
    twin = _tried(TWINS[execution], model, like) if execution in TWINS else None
    if twin is None:
        raise SettingsError(f"this model cannot be run as {execution!r} here; there are {', '.join((AS_GIVEN, *TWINS))}")
    return replace(plain, propose=twin, execution=execution)


def _tried(make: Callable[[nn.Module, Tensor], nn.Module], model: nn.Module, like: Tensor) -> nn.Module | None:
    try:
        twin = make(model, like[:2])
        twin(like[:2])
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):  # a model that cannot be copied or mixed
        return None
    return twin


def _gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        answer = model(z)
        top = answer.gather(1, answer.argmax(1, keepdim=True)).sum()
        (gradient,) = torch.autograd.grad(2 * top - answer.sum(), z, allow_unused=True)
    return answer.detach().float(), torch.zeros_like(z) if gradient is None else gradient


def _agrees(twin: nn.Module, like: Tensor, truth: tuple[Tensor, Tensor]) -> bool:
    answer, gradient = _gradients(twin, like)
    scale = truth[0].abs().amax().clamp_min(1e-6)
    steep = truth[1].abs() > truth[1].abs().flatten(1).median(1).values.reshape(-1, 1, 1, 1)
    same = (gradient.sign() == truth[1].sign())[steep]
    return bool((answer - truth[0]).abs().amax() <= LOGITS * scale and same.float().mean() >= SIGNS)


def _seconds(model: nn.Module, like: Tensor) -> float:
    def once() -> float:
        started = time.perf_counter()
        _gradients(model, like)
        if like.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(REPEATS))


# -- twins -------------------------------------------------------------------------------------------------------------


def _folded(model: nn.Module, like: Tensor) -> nn.Module:
    twin = copy.deepcopy(model).requires_grad_(False)
    for convolution, norm in _meetings(model, like):
        _fold(twin, convolution, norm)
    return on_small_maps(twin).eval()  # a new layer begins in training mode


def _halved(model: nn.Module, like: Tensor) -> nn.Module:
    order = _order(model, like)
    twin = _folded(model, like)
    convolutions = [name for name in order if isinstance(twin.get_submodule(name), nn.Conv2d)]
    linears = [name for name in order if isinstance(twin.get_submodule(name), nn.Linear)]
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear | nn.BatchNorm2d):
            module.to(torch.bfloat16)
    for name in convolutions[:1]:
        twin.set_submodule(name, _FineStem(twin.get_submodule(name)))
    for name in linears[-1:]:
        twin.set_submodule(name, _FineHead(twin.get_submodule(name).float()))
    twin.to(memory_format=torch.channels_last)
    return twin.eval()


class _FineStem(nn.Module):
    """A bfloat16 convolution that does not round its float32 images: their rest is given to it beside them, weighed alike.

    The gradient goes by the rounded half alone, which is all of it: half the work of a float32 convolution's, or less.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        self.layer = layer
        self.layer.weight = nn.Parameter(torch.cat([layer.weight, layer.weight], 1), requires_grad=False)
        self.layer.in_channels *= 2

    def forward(self, x: Tensor) -> Tensor:
        rounded = x.to(torch.bfloat16)
        rest = (x - rounded).detach().to(torch.bfloat16)
        n, channels, height, width = x.shape
        halves = [half.reshape(n, self.layer.groups, -1, height, width) for half in (rounded, rest)]
        both = torch.cat(halves, 2).reshape(n, 2 * channels, height, width)
        answer: Tensor = self.layer(both.contiguous(memory_format=torch.channels_last))
        return answer


class _FineHead(nn.Module):
    """A last layer in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x.float())
        return answer


def _order(model: nn.Module, like: Tensor) -> list[str]:
    """Names of convolutions and linear layers in the order in which they run."""
    ran: list[str] = []
    with _watching(model, (nn.Conv2d, nn.Linear), after=lambda name, *_: ran.append(name)):
        model(like)
    return ran


def _meetings(model: nn.Module, like: Tensor) -> list[tuple[str, str]]:
    """(convolution, batch-norm) pairs where the one's answer was handed to the other, and each ran once."""
    made: dict[int, tuple[str, Tensor]] = {}  # holding the tensor keeps its id from being given away
    ran: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def after(name: str, module: nn.Module, given: Tensor, answer: Tensor) -> None:
        ran[name] = ran.get(name, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(answer)] = (name, answer)
        elif id(given) in made:
            pairs.append((made[id(given)][0], name))

    with _watching(model, (nn.Conv2d, nn.BatchNorm2d), after=after):
        model(like)
    return [pair for pair in pairs if ran[pair[0]] == ran[pair[1]] == 1]


@contextmanager
def _watching(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], after: Callable[[str, nn.Module, Tensor, Tensor], None]
) -> Iterator[None]:
    """Forward hooks on some kinds of layer, gone when the block ends."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, answer: after(name, module, given[0], answer)

    watched = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_hook(hook(name)) for name, module in watched]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def _fold(twin: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = twin.get_submodule(convolution), twin.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    if bn.running_mean is None or bn.running_var is None:
        return  # normalises by the batch it sees: nothing to fold
    scale = (bn.running_var + bn.eps).rsqrt()
    scale = scale if bn.weight is None else scale * bn.weight
    shift = -bn.running_mean * scale
    shift = shift if bn.bias is None else shift + bn.bias
    before = 0 if conv.bias is None else conv.bias * scale
    conv.weight = nn.Parameter(conv.weight * scale.reshape(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(before + shift, requires_grad=False)
    after = [getattr(bn, part) for part in ("drop", "act") if isinstance(getattr(bn, part, None), nn.Module)]
    twin.set_submodule(norm, nn.Sequential(*after))  # timm's batch-norm layers may carry drop-out and activation along


TWINS = {"float32, folded": _folded, "bfloat16, folded, channels-last": _halved}
