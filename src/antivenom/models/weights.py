"""Checkpoints: a safetensors file that carries its own card, and the same card beside it as JSON for people.

    chest.safetensors   tensors; the card in its metadata, so that weights and card cannot be parted
    chest.json          the card: task, architecture, parameters, normalisation, data, seed, metrics, recipe, versions, digest

Nothing that is loaded can run: tensors are read as tensors, and only architectures of the table are rebuilt. Tensors with many
zeros, as pruning leaves them, are packed (see `sparse_files`) and come back to the bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from antivenom.errors import LabelError, ModelError, SettingsError, WeightsError
from antivenom.models.architectures import architecture, known, make_network
from antivenom.models.classifier import Classifier, Step
from antivenom.models.kwta import ratios
from antivenom.models.parameters import count
from antivenom.models.sparse_files import pack
from antivenom.models.steps import STEPS
from antivenom.models.tensor_files import load_weights_file, read_safetensors, write_safetensors, write_whole
from antivenom.models.views import ViewEnsemble
from antivenom.provenance import digest_code, digest_tensors, versions
from antivenom.task import Task

__all__ = [
    "CLASSIFIER",
    "load",
    "load_weights_file",
    "pick_up",
    "put_down",
    "read_card",
    "read_checkpoint",
    "rebuilds",
    "safetensors_path",
    "save",
    "write_checkpoint",
]

CLASSIFIER = "classifier"  # what a card without a kind describes
_FORMAT, _STEPS, _VIEWS = 1, "steps", "views"


def save(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    data_digest: str,
    seed: int,
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a classifier of the table's architectures, whole or not at all, and return its card.

    Args:
        path: ends in .safetensors; the card goes beside it.
        data_digest: of the images it was trained on.
        metrics: plain values, such as validation figures with their n.
        recipe: the settings it was trained with, as plain values.

    Raises:
        WeightsError: it could not be loaded again (a module or pipeline of the user's own), its k-winners layers keep another
            share than its name says, or it cannot be written.
    """
    path = safetensors_path(path)
    tensors, card = put_down(classifier)
    facts = {"data": data_digest, "seed": seed, "metrics": dict(metrics), "recipe": dict(recipe or {})}
    return write_checkpoint(path, tensors, {**card, **facts})


def load(path: str | os.PathLike[str]) -> Classifier:
    """Rebuild the classifier of a checkpoint, in evaluation mode on the CPU.

    Raises:
        WeightsError: missing, damaged, altered since it was written, or not one of `save`'s checkpoints.
    """
    card, tensors = read_checkpoint(Path(path), CLASSIFIER)
    return pick_up(tensors, card, path)


def rebuilds(classifier: Classifier) -> bool:
    """Whether a card can say what the network is: one of the table's architectures, or views of one."""
    return known((classifier.classifier if isinstance(classifier, ViewEnsemble) else classifier).architecture)


def put_down(classifier: Classifier) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Give a classifier's tensors by name, and all else that rebuilds it, as plain values for a card.

    Raises:
        WeightsError: it could not be loaded again, as `save`.
    """
    if isinstance(classifier, ViewEnsemble):
        tensors, card = put_down(classifier.classifier)
        if _VIEWS in card:
            raise WeightsError(
                f"{classifier.architecture} are views of views, which a card has no words for; save what answers"
            )
        return tensors, {**card, _VIEWS: classifier.settings()}
    if not known(classifier.architecture):
        raise WeightsError(
            f"{classifier.architecture} is a module of your own and cannot be rebuilt from a card; "
            "keep its state_dict, and give the model as package.module:factory"
        )
    kept, named = set(ratios(classifier.backbone).values()), architecture(classifier.architecture).ratio
    if kept - {named}:
        raise WeightsError(
            f"the k-winners layers of {classifier.architecture} stand at {', '.join(map(str, sorted(kept)))}, and its name "
            f"says {named}; call set_ratio on it, or give it the name that says what it keeps"
        )
    card = {
        **classifier.describe(),
        "smallest": classifier.smallest,
        "steps": [_step_card(step) for step in classifier.own_steps],
        "parameters": asdict(count(classifier.backbone)),
    }
    return {**classifier.backbone.state_dict(), **_learnt_by_steps(classifier)}, card


def pick_up(tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any], path: str | os.PathLike[str]) -> Classifier:
    """Rebuild the classifier that was put down, in evaluation mode on the CPU; the tensors are used as they are, not copied.

    Args:
        tensors, card: as `put_down` gave them.
        path: of the file that they come from, for an error to name.

    Raises:
        WeightsError: the card does not describe these tensors.
    """
    try:
        task = Task.from_dict(card["task"])
        name, copy_grey = str(card["architecture"]), bool(card["copy_grey"])
        row, channels = architecture(name), int(card["channels"])
        with torch.device("meta"):
            network = make_network(row, len(task.classes), 3 if copy_grey else channels)
        network.load_state_dict(_named(tensors, of_steps=False), assign=True)
        model = Classifier(
            network,
            task,
            channels=channels,
            mean=[float(value) for value in card["mean"]],
            std=[float(value) for value in card["std"]],
            architecture=name,
            size=None if card["size"] is None else (int(card["size"][0]), int(card["size"][1])),
            smallest=row.smallest,
            copy_grey=copy_grey,
            steps=_steps(card["steps"], _named(tensors, of_steps=True)),
            notes=[str(note) for note in card["notes"]],
        ).eval()
        return ViewEnsemble(model, **card[_VIEWS]) if _VIEWS in card else model
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, LabelError, ModelError, SettingsError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: its card does not describe these weights ({reason}); train or save it again") from error


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> dict[str, Any]:
    """Write tensors with their card, whole or not at all, and the card beside them; return it with what is added to each.

    Raises:
        WeightsError: it cannot be written.
    """
    told = {"format": _FORMAT, "versions": versions(), "code": digest_code(), "weights": digest_tensors(tensors)}
    whole = {**card, **told}
    text = json.dumps(whole, indent=2, sort_keys=True, allow_nan=False)
    packed, marks = pack(tensors)
    write_safetensors(path, packed, {"card": text, **marks})
    write_whole(path.with_suffix(".json"), f"{text}\n".encode())
    return whole


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a checkpoint, checked against its weights.

    Raises:
        WeightsError: as `load`.
    """
    return read_checkpoint(Path(path), CLASSIFIER)[0]


def safetensors_path(path: str | os.PathLike[str]) -> Path:
    """The path, where it ends as checkpoints do.

    Raises:
        WeightsError: it does not.
    """
    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"{path}: checkpoints are .safetensors files")
    return Path(path)


def read_checkpoint(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The card and the tensors of a file that `write_checkpoint` wrote, checked against each other.

    Args:
        path: of the file.
        kind: of what it shall hold: `CLASSIFIER`, or what its card says under `kind`.

    Raises:
        WeightsError: as `load`, or it holds something of another kind.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: checkpoints are .safetensors files; other weights load through package.module:factory")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    tensors, metadata = read_safetensors(path)
    if "card" not in metadata:
        raise WeightsError(f"{path} carries no card, only tensors; give the model as package.module:factory that loads them")
    try:
        card: Any = json.loads(metadata["card"])
    except ValueError:
        card = None
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise WeightsError(f"{path}: its card is damaged or of another version of antivenom; train or save it again")
    found = card.get("kind", CLASSIFIER)
    if found != kind:
        raise WeightsError(f"{path} holds a {found}, and a {kind} was asked for; load it as what it is")
    if card.get("weights") != digest_tensors(tensors):
        raise WeightsError(f"{path}: the weights are not those that its card was written for; copy or train it again")
    return card, tensors


def _step_card(step: Step) -> dict[str, Any]:
    settings = step.settings()
    if settings is None or type(step).__name__ not in STEPS:
        raise WeightsError(f"{step} is code of your own and cannot go on a card; save the classifier without, present it anew")
    return {"step": type(step).__name__, **settings}


def _learnt_by_steps(classifier: Classifier) -> dict[str, torch.Tensor]:
    """What the steps in front have learnt, as `steps.0.name`: names that no backbone of the table has."""
    return {f"{_STEPS}.{name}": tensor for name, tensor in classifier.steps.state_dict().items()}


def _named(tensors: Mapping[str, torch.Tensor], *, of_steps: bool) -> dict[str, torch.Tensor]:
    """The tensors of the steps, or those of the backbone."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{_STEPS}.") == of_steps}


def _steps(cards: Sequence[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]) -> list[Step]:
    # On no device at first: what a card claims is not given memory before the tensors bear it out.
    with torch.device("meta"):
        steps = torch.nn.ModuleDict({_STEPS: torch.nn.ModuleList([_step(values) for values in cards])})
    steps.load_state_dict(tensors, assign=True)
    return [step for step in steps.modules() if isinstance(step, Step)]


def _step(values: Mapping[str, Any]) -> Step:
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name != "step"}
    return STEPS[str(values["step"])](**settings)
