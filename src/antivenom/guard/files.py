"""One file that holds a whole guard: the classifier's tensors, the detectors', and one card that says what to make of them.

    chest-guard.safetensors   `classifier.*` and `detectors.0.*`, `detectors.1.*`, ...; the card in its metadata
    chest-guard.json          the same card for people: the classifier's, thresholds, temperature, sets, policy, notes, versions

Nothing that is loaded can run. The card is sealed with its own digest, since a threshold that was altered looks like any other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from antivenom.detection.states import build_detector, save_detector
from antivenom.detection.threshold import Threshold
from antivenom.errors import AntivenomError, WeightsError
from antivenom.guard.guard import Guard, Watch
from antivenom.guard.policy import Policy
from antivenom.guard.prediction_sets import PredictionSets
from antivenom.guard.temperature import Temperature
from antivenom.models.weights import pick_up, put_down, read_checkpoint, safetensors_path, write_checkpoint
from antivenom.provenance import digest_json

KIND = "guard"
_CLASSIFIER, _DETECTOR = "classifier.", re.compile(r"detectors\.(\d{1,4})\.(.+)")
# What `write_checkpoint` adds to a card after it was sealed; the weights' digest is checked by itself.
_UNSEALED = {"seal", "format", "versions", "code", "weights"}


def save_guard(
    guard: Guard,
    path: str | os.PathLike[str],
    *,
    data_digest: str,
    seed: int,
    metrics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a guard, whole or not at all, and return its card.

    Args:
        guard: of a classifier of the table's architectures, with detectors of the table.
        path: ends in .safetensors; the card goes beside it.
        data_digest: of the images that it was fitted on.
        seed: that it was fitted with.
        metrics: plain values, such as measured coverage with its n.

    Raises:
        WeightsError: a classifier or detector that could not be loaded again, or it cannot be written.
    """
    path = safetensors_path(path)
    tensors, classifier = put_down(guard.model)
    tensors = {f"{_CLASSIFIER}{name}": tensor for name, tensor in tensors.items()}
    described, model = guard.describe(), guard.model.digest()
    for place, watch in enumerate(guard.watches):
        try:
            state, settings = save_detector(watch.detector)
        except AntivenomError as error:
            raise WeightsError(f"{watch.name}: {error}; save the guard without it") from error
        tensors |= {f"detectors.{place}.{name}": tensor for name, tensor in state.items()}
        described["watches"][place] |= {"detector": settings, "model": model}
    card = {
        "kind": KIND,
        "classifier": classifier,
        **described,
        "all notes": list(guard.notes),
        "data": data_digest,
        "seed": seed,
        "metrics": dict(metrics or {}),
    }
    # As it will be read: a tuple and a list are one in JSON.
    plain: dict[str, Any] = json.loads(json.dumps(card, allow_nan=False))
    return write_checkpoint(path, tensors, {**plain, "seal": digest_json(plain)})


def load_guard(path: str | os.PathLike[str]) -> Guard:
    """Rebuild a guard, in evaluation mode on the CPU.

    Raises:
        WeightsError: missing, damaged, altered since it was written, a classifier's file or another's, a detector of an unknown
            kind or fitted on another classifier than the one inside, or tensors that are missing or too many.
    """
    path = Path(path)
    card, tensors = _read(path)
    inside, states = _parted(tensors, path)
    try:
        model = pick_up(inside, card["classifier"], path)
        watches = [rebuilt(values, states.pop(place, {})) for place, values in enumerate(card["watches"])]
        if states:
            raise WeightsError(f"it holds tensors of detector {min(states)}, and its card names {len(watches)}")
        return Guard(
            model,
            watches,
            temperature=Temperature.from_dict(card["temperature"]),
            sets=PredictionSets.from_dict(card["sets"]),
            policy=Policy.from_dict(card["policy"]),
            notes=[str(note) for note in card["notes"]],
        ).eval()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AntivenomError) as error:
        told = str(error).removeprefix(f"{path}: ").splitlines()[0]
        raise WeightsError(f"{path}: its card does not describe a guard ({told}); fit or save it again") from error


def read_guard_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a guard's file, checked against its tensors.

    Raises:
        WeightsError: as `load_guard`.
    """
    return _read(Path(path))[0]


def rebuilt(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> Watch:
    """A detector in use, from the plain values and the tensors that it was saved as.

    Raises:
        WeightsError: as `build_detector`.
        KeyError, TypeError, ValueError: values that do not describe one.
    """
    detector = build_detector(state, values["detector"])
    threshold = Threshold.from_dict(values["threshold"])
    return Watch(str(values["name"]), detector, threshold, float(values["scale"]), str(values["model"]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    card, tensors = read_checkpoint(path, KIND)
    if card.get("seal") != digest_json({name: value for name, value in card.items() if name not in _UNSEALED}):
        raise WeightsError(f"{path}: its card was altered since it was written; fit or save the guard again")
    return card, tensors


def _parted(tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """The tensors of the classifier, and those of each detector by its place."""
    inside: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _DETECTOR.fullmatch(name)
        if name.startswith(_CLASSIFIER):
            inside[name.removeprefix(_CLASSIFIER)] = tensor
        elif found:
            states.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            raise WeightsError(f"{path}: a guard has no place for the tensor {name!r}; fit or save it again")
    return inside, states
