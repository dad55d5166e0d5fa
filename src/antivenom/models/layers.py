"""Layers of a network by name, and what passes through them while it runs; the network is left as it was."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from antivenom.errors import ModelError

NEAR, NEAREST = 0.3, 4  # how alike a name must be to be suggested, of 1, and how many are


def named_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every layer within, by name."""
    return {name: layer for name, layer in network.named_modules() if name}


def select(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The layers of these names.

    Raises:
        ModelError: there is none, with the names that are nearest.
    """
    layers = named_layers(network)
    for name in names:
        if name not in layers:
            near = difflib.get_close_matches(name, layers, NEAREST, NEAR) or list(layers)[-NEAREST:]
            raise ModelError(f"{type(network).__name__} has no layer {name!r}; the nearest are {', '.join(near)}")
    return {name: layers[name] for name in names}


@contextmanager
def watching(layers: Mapping[str, nn.Module], note: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show `note` each tensor that these layers put out in this thread; what it returns goes on in its place.

    The hooks are gone afterwards.
    """
    caller = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
        def noted(layer: nn.Module, given: tuple[Any, ...], answer: Any) -> Tensor | None:  # noqa: ARG001 - torch's order
            own = threading.get_ident() == caller and isinstance(answer, Tensor)
            return note(name, answer) if own else None

        return noted

    with _removed_afterwards([layer.register_forward_hook(hook(name)) for name, layer in layers.items()]):
        yield


@contextmanager
def last_input(layers: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Note the layer that runs last of these in this thread, and its input; the hooks are gone afterwards."""
    seen: list[tuple[nn.Module, Tensor]] = []
    caller = threading.get_ident()

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == caller:
            seen[:] = [(layer, inputs[0])]

    with _removed_afterwards([layer.register_forward_pre_hook(note) for layer in layers]):
        yield seen


@contextmanager
def _removed_afterwards(handles: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
