"""Fitted detectors as named tensors and plain settings, and built from these again to the bit; nothing in them can run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from antivenom.detection.density import KernelDensity
from antivenom.detection.detector import Detector
from antivenom.detection.ensemble import Ensemble
from antivenom.detection.gaussian import Gaussian
from antivenom.detection.isolation_forest import IsolationForest
from antivenom.detection.logits import Energy, MaximumProbability
from antivenom.detection.mahalanobis import Mahalanobis
from antivenom.detection.mixture import Mixture
from antivenom.detection.neighbours import IntrinsicDimension, Neighbours
from antivenom.detection.one_class_svm import OneClassSvm
from antivenom.detection.reduction import Reduced
from antivenom.detection.squeezing import FeatureSqueezing
from antivenom.detection.supervised import Supervised
from antivenom.errors import InputError, SettingsError, WeightsError

_KIND, _SETTINGS, _INSIDE = "kind", "settings", "inside"
_FLOATS = {torch.float32, torch.float64}


@dataclass(frozen=True)
class Kind:
    """What is expected of the saved state of one kind of detector.

    Attributes:
        state: what is built.
        layers: how many it reads; None: one or more.
        tensors: the axes of each by its name. A size with a name is the same wherever it stands; known from the settings are D,
            the widths of all layers together, S, the sum of their squares, and L, the number of layers.
        places: names of tensors that hold whole numbers.
        inside: the argument that holds detectors, if one does.
        several: whether these are any number, P, or one, whose layers give R values together.
    """

    state: type[Detector]
    layers: int | None = 1
    tensors: Mapping[str, str] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    inside: str = ""
    several: bool = False


KINDS: dict[str, Kind] = {
    "gaussian": Kind(Gaussian, tensors={"mean": "D", "whitening": "D D", "log_determinant": ""}),
    "mahalanobis": Kind(
        Mahalanobis,
        None,
        {"mean": "D", "whitening": "S", "centres": "K D", "background": "relative", "offset": "L", "scale": "L"},
    ),
    "mixture": Kind(
        Mixture, tensors={"mean": "D", "directions": "R D", "whitening": "K R R", "centres": "K R", "heights": "K"}
    ),
    "reduced": Kind(Reduced, tensors={"mean": "D", "directions": "R D"}, inside="inner"),
    "isolation-forest": Kind(
        IsolationForest,
        tensors=dict.fromkeys(("feature", "threshold", "left", "right", "length"), "T N"),
        places=frozenset({"feature", "left", "right"}),
    ),
    "one-class-svm": Kind(OneClassSvm, tensors={"centre": "D", "scale": "D", "vectors": "N D", "weights": "N"}),
    "neighbours": Kind(Neighbours, tensors={"bank": "N D"}),
    "intrinsic-dimension": Kind(IntrinsicDimension, None, {"bank": "N D"}),
    "density": Kind(KernelDensity, tensors={"bank": "N D", "answers": "N"}, places=frozenset({"answers"})),
    "maximum-probability": Kind(MaximumProbability, 0),
    "energy": Kind(Energy, 0),
    "squeezing": Kind(FeatureSqueezing, 0),
    "ensemble": Kind(Ensemble, None, {"centre": "P", "scale": "P"}, inside="detectors", several=True),
    "supervised": Kind(
        Supervised,
        tensors={
            "centre": "D",
            "scale": "D",
            "linear": "D",
            "bias": "",
            "hidden": "H D",
            "hidden_bias": "H",
            "outer": "H",
        },
    ),
}


def save_detector(detector: Detector) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy the tensors of a detector, on the CPU, and put down the rest as plain values for JSON.

    Raises:
        SettingsError: a detector that is not in the table, and could not be built again.

    >>> from antivenom.detection.logits import fit_energy
    >>> from antivenom.detection.reading import Reading
    >>> tensors, settings = save_detector(fit_energy([Reading(torch.zeros(1, 3))]))
    >>> tensors, settings["kind"], settings["settings"]["classes"]
    ({}, 'energy', 3)
    >>> build_detector(tensors, settings).classes
    3
    """
    settings = _described(detector)  # first: what cannot be built again is not copied
    tensors = {name: tensor.detach().cpu() for name, tensor in detector.state_dict().items()}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, settings


def build_detector(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Detector:
    """Build the detector that was saved; the tensors are used as they are, not copied.

    Raises:
        WeightsError: an unknown kind, a tensor or setting that is missing, too many, of another type or size, or not finite.
    """
    name = settings.get(_KIND) if isinstance(settings, Mapping) else settings
    if not isinstance(name, str) or name not in KINDS:
        raise WeightsError(f"no detector is of kind {name!r}; there are {', '.join(KINDS)}; a newer version may know it")
    kind = KINDS[name]
    inner = _checked_inside(name, kind, settings.get(_INSIDE))
    prefixes = [f"{kind.inside}.{place}." if kind.several else f"{kind.inside}." for place in range(len(inner))]
    inside = [build_detector(_below(tensors, prefix), card) for prefix, card in zip(prefixes, inner, strict=True)]
    own = {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(prefixes))}
    given = _checked_settings(name, kind, settings.get(_SETTINGS))
    _check_tensors(name, kind, own, _sizes(kind, given, inside))
    held: dict[str, Any] = {kind.inside: inside if kind.several else inside[0]} if kind.inside else {}
    arguments: dict[str, Any] = {**given, **own, **held}
    try:
        return kind.state(**arguments)
    except InputError as error:
        raise WeightsError(f"the settings of this {name} detector and its tensors do not go together: {error}") from error


def _described(detector: Detector) -> dict[str, Any]:
    names = [name for name, kind in KINDS.items() if type(detector) is kind.state]
    if not names:
        raise SettingsError(f"{type(detector).__name__} is a detector of your own and cannot be built again from a file")
    kind = KINDS[names[0]]
    inside = [*detector.get_submodule(kind.inside).children()] if kind.several else [detector.get_submodule(kind.inside)]
    inner = [_described(part) for part in inside if isinstance(part, Detector)] if kind.inside else []
    return {_KIND: names[0], _SETTINGS: detector.settings(), _INSIDE: inner}


def _checked_settings(name: str, kind: Kind, given: Any) -> dict[str, Any]:
    """The settings, where they are those that the constructor takes, each of its type."""
    taken = set(inspect.signature(kind.state).parameters) - set(kind.tensors) - {kind.inside}
    if not isinstance(given, Mapping) or set(given) != taken:
        found = ", ".join(sorted(map(str, given))) if isinstance(given, Mapping) else repr(given)
        raise WeightsError(f"the settings of detector {name!r} are {', '.join(sorted(taken))}; got {found}")
    hints, checked = get_type_hints(kind.state.__init__), {}
    for setting in taken:
        adapter: TypeAdapter[Any] = TypeAdapter(hints[setting], config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            checked[setting] = adapter.validate_python(given[setting])
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise WeightsError(
                f"the setting {setting!r} of this {name} detector cannot be {given[setting]!r}: {reason}"
            ) from error
    layers, widths = checked.get("layers", []), checked.get("widths", [])
    wrong = "layers" in taken and (len(layers) < 1 if kind.layers is None else len(layers) != kind.layers)
    if wrong or len(layers) != len(widths) or any(width < 1 for width in widths):
        raise WeightsError(f"detector {name!r} cannot read layers {list(layers)} of {list(widths)} values")
    return checked


def _checked_inside(name: str, kind: Kind, inner: Any) -> list[Any]:
    if not isinstance(inner, list):
        raise WeightsError(f"the settings of detector {name!r} list those inside, or none, got {inner!r}")
    fewest = 1 if kind.inside else 0
    if len(inner) < fewest or (len(inner) > fewest and not kind.several):
        raise WeightsError(f"detector {name!r} has {'at least ' * kind.several}{fewest} inside, got {len(inner)}")
    return inner


def _sizes(kind: Kind, given: Mapping[str, Any], inside: Sequence[Detector]) -> dict[str, int]:
    """The sizes that are known before any tensor is looked at."""
    widths = given.get("widths", [])
    squares = sum(width**2 for width in widths)
    known = {"D": sum(widths), "S": squares, "L": len(widths), "relative": squares if given.get("relative") else 0}
    if kind.inside:
        known |= {"P": len(inside)} if kind.several else {"R": sum(inside[0].widths)}
    return known


def _check_tensors(name: str, kind: Kind, tensors: Mapping[str, Tensor], sizes: dict[str, int]) -> None:
    missing, surplus = set(kind.tensors) - set(tensors), set(tensors) - set(kind.tensors)
    if missing or surplus:
        told = f"lacks the tensor {min(missing)!r}" if missing else f"has no place for the tensor {min(surplus)!r}"
        raise WeightsError(f"the {name} detector {told}; it takes {', '.join(kind.tensors) or 'none'}")
    for key, axes in kind.tensors.items():
        tensor, names = tensors[key], axes.split()
        fitting = len(names) == tensor.ndim and all(
            sizes.setdefault(axis, size) == size for axis, size in zip(names, tensor.shape, strict=True)
        )
        if not fitting:
            wanted = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in names)
            raise WeightsError(f"tensor {key!r} of this {name} detector has shape {tuple(tensor.shape)}, expected ({wanted})")
        if tensor.dtype not in ({torch.int64} if key in kind.places else _FLOATS):
            expected = "int64" if key in kind.places else "float32 or float64"
            raise WeightsError(f"tensor {key!r} of this {name} detector is {tensor.dtype}, expected {expected}")
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"tensor {key!r} of this {name} detector holds values that are not finite: it is damaged")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
