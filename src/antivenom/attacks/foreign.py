"""Attacks of other libraries as attacks of this one: run as they are, counted, fenced in and judged here.

What an attack claims of itself is not asked. Its images are brought into the perturbation set, put on the grid and shown to
the caller's model in float32, as those of every attack here; where one had to be brought back, the flag `left-the-set` says
so. The library never holds the model itself, only something that answers and gives gradients as it does: modes, weights and
`.grad` cannot be touched, gradients by weights are never computed, and every image shown is counted.

A foreign attack is called like any other:

    theirs = from_torchattacks(lambda model, epsilon: torchattacks.PGD(model, eps=epsilon, steps=40), title="torchattacks PGD")
    result = theirs(model, x, Untargeted(y), Linf(2 / 255), generator=generator)

Only what stands in the table `ATTACKS` can be named in a protocol; a foreign attack is run from Python.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.attacks import ALL, Attack, Sees
from antivenom.attacks.ascent import Gathered, highest
from antivenom.attacks.problem import Problem
from antivenom.attacks.result import FOOLED, AttackResult, Until
from antivenom.errors import SettingsError
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Goal, Targeted, Untargeted
from antivenom.threat.perturbations import PerturbationSet
from antivenom.threat.pixels import EDGE, per_image

SLACK = 1e-4  # of epsilon: what float32 and another order of additions leave of a projection
SUMMARY = "an attack of another library, run as it is there and judged here"

Run = Callable[[nn.Module, Tensor, Tensor], Any]  # model, images, labels (or targets) to images
Make = Callable[[Any, float], Any]  # the model in the library's own form and epsilon to the library's attack
_Bound = Callable[[nn.Module, Tensor, Tensor, PerturbationSet], Any]


def foreign(run: Run, *, title: str, targeted: bool = False, nearest: bool = False) -> Attack:
    """Make an attack of ours of any function `(model, x, y) -> x_adv`.

    The function is called with at most `Victim.batch` images at a time. It must attack the model that it is given: one that
    was built on the caller's own model beforehand cannot be counted.

    Its luck is that of the global generators of torch, numpy and Python, seeded for each batch from the draws of its images
    and set back afterwards. So the same images give the same result, but unlike attacks of our own other company may change
    it. Queries and gradients are counted image by image; where a function shows the model other than whole batches, each
    image counts for the one that it resembles most.

    With `until=FOOLED` images that are wrong as they stand are not handed over. When else the function stops is its own affair.

    Args:
        run: gets `(B, C, H, W)` images and `(B,)` int64 labels; returns a floating-point tensor or array of images.
        title: name in reports and messages.
        targeted: whether it takes the classes wanted instead of labels; it is then for the goal `Targeted`, else for
            `Untargeted`.
        nearest: whether it looks for the smallest perturbation, so that epsilon may be infinite.

    >>> def darker(model, x, y):
    ...     return x - 0.1
    >>> from antivenom.attacks import SPENT
    >>> from antivenom.threat.perturbations import Linf
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    >>> x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    >>> attack = foreign(darker, title="darker")
    >>> result = attack(model, x, Untargeted(y), Linf(0.05), until=SPENT, generator=torch.Generator())
    >>> bool(result.flags["left-the-set"].all()), float((result.x_adv - x).abs().max()) <= 0.05 + 1e-6
    (True, True)
    """
    return _adapted(lambda model, x, y, _: run(model, x, y), title, targeted, nearest)


def from_torchattacks(make: Make, *, title: str, targeted: bool = False, nearest: bool = False) -> Attack:
    """Make an attack of ours of one of torchattacks.

    Args:
        make: model and epsilon to the attack, such as `lambda model, epsilon: torchattacks.PGD(model, eps=epsilon)`.
        title, targeted, nearest: as in `foreign`.

    Raises:
        SettingsError: when called: images outside [0, 1], or an epsilon for each image.
    """

    def run(model: nn.Module, x: Tensor, y: Tensor, allowed: PerturbationSet) -> Any:
        if _bounds(allowed, title) != (0, 1):
            raise SettingsError(f"{title}: torchattacks knows images in [0, 1] only, not in {_bounds(allowed, title)}")
        attack = make(model, _epsilon(allowed, title))
        if targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, y)

    return _adapted(run, title, targeted, nearest)


def from_foolbox(make: Make, *, title: str, targeted: bool = False, nearest: bool = False) -> Attack:
    """Make an attack of ours of one of Foolbox.

    Args:
        make: `foolbox.PyTorchModel` and epsilon to the attack, such as `lambda model, epsilon: foolbox.attacks.LinfPGD()`. It
            is then called with that epsilon, or with None where it is infinite.
        title, targeted, nearest: as in `foreign`.

    Raises:
        SettingsError: when called: an epsilon or a range for each image.
    """

    def run(model: nn.Module, x: Tensor, y: Tensor, allowed: PerturbationSet) -> Any:
        import foolbox

        epsilon = _epsilon(allowed, title)
        theirs = foolbox.PyTorchModel(model, bounds=_bounds(allowed, title), device=x.device)
        wanted = foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.criteria.Misclassification(y)
        return make(theirs, epsilon)(theirs, x, wanted, epsilons=None if math.isinf(epsilon) else epsilon)[1]

    return _adapted(run, title, targeted, nearest)


def from_art(make: Make, *, title: str, targeted: bool = False, nearest: bool = False) -> Attack:
    """Make an attack of ours of one of the Adversarial Robustness Toolbox.

    Args:
        make: `art.estimators.classification.PyTorchClassifier` and epsilon to the attack, such as
            `lambda model, epsilon: ProjectedGradientDescent(model, eps=epsilon, verbose=False)`.
        title, targeted, nearest: as in `foreign`.

    Raises:
        SettingsError: when called: an epsilon or a range for each image.
    """

    def run(model: nn.Module, x: Tensor, y: Tensor, allowed: PerturbationSet) -> Any:
        from art.estimators.classification import PyTorchClassifier

        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        theirs = PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=_bounds(allowed, title),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        attack = make(theirs, _epsilon(allowed, title))
        if targeted:
            attack.set_params(targeted=True)
        return attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())

    return _adapted(run, title, targeted, nearest)


def _adapted(run: _Bound, title: str, targeted: bool, nearest: bool) -> Attack:
    def attack(
        model: Forward | Victim,
        x: Tensor,
        goal: Goal,
        allowed: PerturbationSet,
        *,
        until: Until = FOOLED,
        generator: torch.Generator | Draws,
    ) -> AttackResult:
        _check_goal(goal, targeted, title)
        problem = Problem.of(model, x, goal, allowed, generator, takes=tuple(ALL), endless=nearest)
        found = Gathered(problem, highest)
        left = torch.zeros(len(problem), dtype=torch.bool, device=x.device)
        for images in torch.split(torch.arange(len(problem), device=x.device), problem.victim.batch):
            if until is FOOLED:
                images = images[~found.judge(problem.take(images), images, problem.x[images], None)]
            if not len(images):
                continue
            part = problem.take(images)
            x_adv = _returned(_fenced(run, part, _Tally(found, images, part.x)), part.x, title)
            left[images] = _left(part, x_adv)
            found.judge(part, images, x_adv.where(x_adv.isfinite(), part.x), None)
        return replace(found.result, flags={**found.result.flags, "left-the-set": left})

    return Attack(attack, title, Sees.GRADIENT, ALL, True, SUMMARY, nearest)


# -- what a library is shown -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tally:
    """Counts what the images of a batch are asked, wherever they turn up."""

    found: Gathered
    images: Tensor  # (b,) their places in the problem
    x: Tensor  # (b, C, H, W)

    def owners(self, z: Tensor) -> Tensor:
        """Which image each of `z` came from."""
        if len(z) == len(self.x) or z.shape[1:] != self.x.shape[1:]:
            return self.images[torch.arange(len(z), device=self.images.device) % len(self.images)]
        return self.images[torch.cdist(z.detach().flatten(1), self.x.flatten(1)).argmin(1)]

    def shown(self, owners: Tensor) -> None:
        self.found.queries.index_add_(0, owners, torch.ones_like(owners))

    def climbed(self, owners: Tensor, gradient: Tensor) -> None:
        flat = gradient.flatten(1)
        self.found.gradients.index_add_(0, owners, torch.ones_like(owners))
        self.found.zero.index_add_(0, owners, (flat == 0).all(1).long())
        self.found.broken[owners[~flat.isfinite().all(1)]] = True


class _Shown(nn.Module):
    """The model as a library sees it: it answers and gives gradients; nothing behind it can be reached from here."""

    def __init__(self, model: Forward, tally: _Tally) -> None:
        super().__init__()
        self.stand_in = nn.Parameter(torch.zeros(1, dtype=tally.x.dtype, device=tally.x.device))  # tells the device
        self._hidden = (model,)  # in a tuple, or it would count as a part of this module
        self._tally = tally
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        """Logits `(B, A)`."""
        owners = self._tally.owners(z)
        self._tally.shown(owners)
        answer: Tensor = _Answer.apply(z, self._hidden[0], self._tally, owners)
        return answer


class _Answer(torch.autograd.Function):
    """An answer whose gradient goes to the images and nowhere else, and is counted on its way."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, model: Forward, tally: _Tally, owners: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[0]
        with torch.set_grad_enabled(needed):
            ctx.z = z.detach().requires_grad_(needed)
            answer = model(ctx.z)
        ctx.answer, ctx.tally, ctx.owners = answer, tally, owners
        return answer.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gradient = None
        if ctx.answer.requires_grad:
            (gradient,) = torch.autograd.grad(ctx.answer, ctx.z, slope, retain_graph=True, allow_unused=True)
        gradient = torch.zeros_like(ctx.z) if gradient is None else gradient
        ctx.tally.climbed(ctx.owners, gradient)
        return gradient, None, None, None


def _fenced(run: _Bound, part: Problem, tally: _Tally) -> Any:
    """What the library returns; everything that is not its own is afterwards as it was."""
    aim = part.goal.labels if isinstance(part.goal, Untargeted) else part.goal.targets  # type: ignore[attr-defined]
    with ExitStack() as fence:
        for model in {id(m): m for m in (part.victim.judge, part.victim.propose) if isinstance(m, nn.Module)}.values():
            fence.enter_context(_as_it_was(model))
        fence.enter_context(_luck(int(part.draws.key.sum()) % 2**32, part.x.device))
        fence.enter_context(torch.enable_grad())
        return run(_Shown(part.victim.propose, tally), part.x.clone(), aim.clone(), part.allowed)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """For functions that know the model without being given it: set back modes, gradients and running statistics."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for weight, _, _ in weights:
        weight.grad = None  # or new gradients would be added to those that are kept
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, required, gradient in weights:
            weight.requires_grad_(required)
            weight.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@contextmanager
def _luck(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global generator that a library may draw from, and set it back."""
    on_cuda = device.type == "cuda"
    own, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(arrays)


# -- what comes and goes -----------------------------------------------------------------------------------------------


def _check_goal(goal: Goal, targeted: bool, title: str) -> None:
    wanted = Targeted if targeted else Untargeted
    if not isinstance(goal, wanted):
        raise SettingsError(
            f"{title} was taken over for the goal {wanted.__name__}, not for {type(goal).__name__}; "
            "take it over with targeted=True for Targeted, without it for Untargeted; other goals need an attack of our own"
        )


def _epsilon(allowed: PerturbationSet, title: str) -> float:
    if isinstance(allowed.epsilon, Tensor):
        raise SettingsError(f"{title} takes one epsilon for all images, got {len(allowed.epsilon)}")
    return allowed.epsilon


def _bounds(allowed: PerturbationSet, title: str) -> tuple[float, float]:
    low, high = allowed.pixels.low, allowed.pixels.high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise SettingsError(f"{title} takes one range for all images, got one for each")
    return low, high


def _returned(given: Any, x: Tensor, title: str) -> Tensor:
    """What a library gave back as images like `x`."""
    x_adv = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if not isinstance(x_adv, Tensor):
        raise SettingsError(f"{title} returned {type(given).__name__}; it must return the images, a tensor or an array")
    if x_adv.shape != x.shape or not x_adv.is_floating_point():
        raise SettingsError(
            f"{title} returned {x_adv.dtype} of shape {tuple(x_adv.shape)}; "
            f"it must return floating-point images of shape {tuple(x.shape)}, as it was given them"
        )
    return x_adv.detach().to(x)


def _left(part: Problem, x_adv: Tensor) -> Tensor:
    """`(B,)` bool: which images left the set: too far, out of range, where they may not move, or not numbers at all."""
    pixels, delta = part.allowed.pixels, x_adv - part.x
    low, high = per_image(pixels.low, x_adv), per_image(pixels.high, x_adv)
    edge = EDGE * (high - low)
    astray = ~((x_adv >= low - edge) & (x_adv <= high + edge) & ((delta - pixels.free(delta)).abs() <= edge))
    epsilon = torch.as_tensor(part.allowed.epsilon).to(x_adv)
    return astray.flatten(1).any(1) | ~(part.allowed.size(delta) <= epsilon * (1 + SLACK))
