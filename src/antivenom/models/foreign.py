"""A user's own module as a classifier: its answers are looked at once, on a probe, and brought into the shape of the task."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from antivenom.errors import ModelError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.task import Task

PROBES, PROBE_SIDE = 8, 224  # images that a module is tried on, and their side where it names no size

# Operations that leave the values of an answer alone, as autograd names them.
_RESHAPES = (
    "SqueezeBackward",
    "UnsqueezeBackward",
    "ViewBackward",
    "ReshapeAlias",
    "SelectBackward",
    "SliceBackward",
    "CloneBackward",
)


class Answering(nn.Module):
    """A module whose raw answers are turned into logits `(B, A)`.

    Args:
        module: normalised images to raw answers.
        single: whether its one number speaks for the second of two classes; it becomes `[0, z]`.
        probabilities: whether its answers are probabilities; they become log-odds, or log-probabilities where they sum to one.
    """

    def __init__(self, module: nn.Module, *, single: bool, probabilities: bool, independent: bool) -> None:
        super().__init__()
        self.module, self.single, self.probabilities, self.independent = module, single, probabilities, independent

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, A)`."""
        answer: Tensor = self.module(images)
        if answer.ndim == 1:
            answer = answer[:, None]
        if self.probabilities:
            smallest = torch.finfo(answer.dtype).tiny
            log = answer.clamp_min(smallest).log()
            answer = log - (1 - answer).clamp_min(smallest).log() if self.independent else log
        return torch.cat([torch.zeros_like(answer), answer], 1) if self.single else answer


def adopt(
    module: nn.Module,
    task: Task,
    *,
    channels: int,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    copy_grey: bool = False,
    architecture: str = "",
) -> Classifier:
    """Make a classifier of any module that turns images into scores.

    One number per image in a binary task becomes the logits `[0, z]`. Probabilities (a softmax or sigmoid at the end) become
    log-probabilities or log-odds, and a note says that they may hide gradients. The module's modes are left as they were.

    Args:
        size: what the module takes, where it takes one size only; other images are resampled to it inside.

    Raises:
        ModelError: it cannot be run on a probe image, or answers in a shape that does not fit the task.

    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 1), nn.Sigmoid())
    >>> model = adopt(network, Task(("normal", "pneumonia")), channels=1).eval()
    >>> tuple(model(torch.rand(3, 1, 8, 8)).shape), len(model.notes)
    ((3, 2), 1)
    """
    name = architecture or type(module).__name__
    bare = Classifier(module, task, channels=channels, mean=mean, std=std, size=size, copy_grey=copy_grey, architecture=name)
    answer, reached = _probe(bare, size or (PROBE_SIDE, PROBE_SIDE))
    single = task.binary and answer.shape in {(PROBES,), (PROBES, 1)}
    fitting = {(PROBES, len(task.classes))} | ({(PROBES,)} if len(task.classes) == 1 else set())
    if not single and answer.shape not in fitting:
        raise ModelError(
            f"{name} answered {PROBES} images with shape {tuple(answer.shape)}; "
            f"expected ({PROBES}, {len(task.classes)}) for the classes {', '.join(task.classes)}"
        )
    independent = single or task.multilabel
    probabilities, note = _are_probabilities(answer, name, independent)
    notes = [note] if note else []
    if not reached:
        notes.append(f"No gradient of {name} reaches the image: attacks that climb the gradient prove nothing about it.")
    network = Answering(module, single=single, probabilities=probabilities, independent=independent)
    return Classifier(
        network,
        task,
        channels=channels,
        mean=mean,
        std=std,
        size=size,
        copy_grey=copy_grey,
        architecture=name,
        exact_gradient=reached,
        notes=notes,
    )


def from_import(spec: str, task: Task, channels: int, size: tuple[int, int] | None = None) -> Classifier:
    """Call a factory of the user's own, `package.module:factory`, and make a classifier of what it returns, ready to answer.

    This runs the user's code. The factory takes no argument, or the task; it may return a `Classifier` or any module that
    takes images in [0, 1].

    Raises:
        SettingsError: no such module or factory, or it returned something else.
        ModelError: what it returned does not fit the task.
    """
    with _here_on_path():
        factory = _factory(spec)
        made = factory(task) if _takes_task(factory) else factory()
    if isinstance(made, Classifier):
        return _checked(made, spec, task, channels).eval()
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{spec} returned {type(made).__name__}; it must return a torch.nn.Module or a Classifier")
    return adopt(made, task, channels=channels, size=size, architecture=spec).eval()


@contextlib.contextmanager
def _here_on_path() -> Iterator[None]:
    """Find modules in the working folder, as `python -m` does and a console script does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _factory(spec: str) -> Callable[..., Any]:
    place, _, name = spec.partition(":")
    if not place or not name:
        raise SettingsError(f"{spec!r} names no factory; write it as package.module:factory")
    try:
        factory = getattr(importlib.import_module(place), name)
    except ImportError as error:
        raise SettingsError(f"cannot import {place!r} ({error}); run from the folder that holds it, or install it") from error
    except AttributeError:
        raise SettingsError(f"{place!r} has no {name!r}; write the model's factory as package.module:factory") from None
    if not callable(factory):
        raise SettingsError(f"{spec} is {type(factory).__name__}, not a function that returns the model")
    return cast("Callable[..., Any]", factory)


def _takes_task(factory: Callable[..., Any]) -> bool:
    required = [p for p in inspect.signature(factory).parameters.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    if len(required) > 1:
        raise SettingsError(f"{factory!r} takes {len(required)} arguments; a factory takes none, or the task")
    return bool(required)


def _checked(model: Classifier, spec: str, task: Task, channels: int) -> Classifier:
    if model.task != task:
        raise ModelError(f"{spec} decides between {', '.join(model.task.classes)}, the data between {', '.join(task.classes)}")
    if model.channels != channels:
        raise ModelError(f"{spec} takes {model.channels} channel(s), the data has {channels}")
    return model


def _probe(bare: Classifier, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """Raw answers to black, grey, white and noise, and whether a gradient came back to the images."""
    levels = torch.tensor([0.0, 0.5, 1.0]).reshape(-1, 1, 1, 1).expand(-1, bare.channels, *size)
    noise = torch.rand(PROBES - len(levels), bare.channels, *size, generator=torch.Generator().manual_seed(0))
    images = torch.cat([levels, noise]).to(bare.mean.device).requires_grad_()
    modes = {module: module.training for module in bare.modules()}
    bare.eval()
    try:
        with torch.enable_grad():
            answer = bare.backbone(bare.prepare(images))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{bare.architecture} cannot be run on images {tuple(images.shape)}: {reason}; "
            "give channels= and size=(height, width) as it expects them"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(answer, Tensor):
        raise ModelError(f"{bare.architecture} answered with {type(answer).__name__}; wrap it so that it returns one tensor")
    if not answer.requires_grad:
        return answer.detach(), False
    (gradient,) = torch.autograd.grad(answer.sum(), images, allow_unused=True)
    return answer, gradient is not None


def _are_probabilities(answer: Tensor, name: str, independent: bool) -> tuple[bool, str]:
    """Whether answers are probabilities rather than logits, and what to tell the reader."""
    values, last = answer.detach().float(), _last_operation(answer)
    within = bool(((values >= 0) & (values <= 1)).all())
    summing = not independent and bool((values.sum(-1) - 1).abs().max() < 1e-3)
    if within and (summing or (independent and last.startswith("Sigmoid"))):
        kind = "softmax" if summing else "sigmoid"
        return True, (
            f"{name} ends in a {kind}: its probabilities were turned back into logits. A saturated {kind} hides gradients, so "
            "attacks may look weaker than they are; return the logits instead."
        )
    if within:
        return (
            False,
            f"All answers of {name} to the probe lie in [0, 1]; they were read as logits. If they are not, return logits.",
        )
    return False, ""


def _last_operation(answer: Tensor) -> str:
    node = answer.grad_fn
    while node is not None and node.name().startswith(_RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node.name() if node is not None else ""
