"""What is attacked: a model, images that it reads rightly, and the file that keeps what was found about them."""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import LIBRARIES, version
from torch import Tensor

from antivenom.data.datasets import load as load_data
from antivenom.data.imageset import gather
from antivenom.models.architectures import ARCHITECTURES, make_network
from antivenom.models.classifier import Classifier
from antivenom.models.weights import load, read_card
from antivenom.provenance import digest_code, digest_file, machine, versions
from antivenom.task import Task

RESULTS = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True)
class Scene:
    """A model and images that it reads rightly.

    Attributes:
        name: in file names.
        x, y: `(n, C, H, W)` in [0, 1] and `(n,)`.
        keys, groups: of the images; images of one group are no independent draws.
        facts: what a record says of model and images.
    """

    name: str
    model: Classifier
    x: Tensor
    y: Tensor
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    facts: dict[str, Any]

    def first(self, count: int | None) -> Scene:
        """The same with its first images only."""
        keys, groups = self.keys[:count], self.groups[:count]
        return Scene(self.name, self.model, self.x[:count], self.y[:count], keys, groups, self.facts)


def trained(path: Path, data: str, root: Path, *, images: int, seed: int, label: str | None = None) -> Scene:
    """A checkpoint and test images that it reads rightly, drawn without repetition."""
    model, card = load(path).eval(), read_card(path)
    tests = load_data(data, root, label=label, size=card["recipe"]["side"]).split("test")
    order = torch.randperm(len(tests), generator=torch.Generator().manual_seed(seed)).tolist()
    right, seen = [], 0
    for place in order:
        sample = tests[place]
        with torch.no_grad():
            seen += 1
            if int(model(sample.image[None]).argmax()) == int(sample.target):
                right.append(sample)
        if len(right) == images:
            break
    batch = gather(right)
    facts = {
        "checkpoint": {"name": path.parent.name, "digest": digest_file(path)},
        "data": data,
        "split": "test",
        "drawn with seed": seed,
        "images looked at to find those read rightly": seen,
    }
    return Scene(path.parent.name, model, batch.images, batch.targets, batch.keys, batch.groups, facts)


def untrained(architecture: str, side: int, *, images: int, seed: int, channels: int = 3, classes: int = 4) -> Scene:
    """Random weights and random images: for throughput, where what is fooled does not matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(ARCHITECTURES[architecture], classes, channels)
    task = Task(tuple(f"class {k}" for k in range(classes)), multilabel=False)
    mean, std = [0.5] * channels, [0.25] * channels
    model = Classifier(network, task, channels=channels, mean=mean, std=std, architecture=architecture).eval()
    x = torch.rand(images, channels, side, side, generator=generator)
    with torch.no_grad():
        y = torch.cat([model(part).argmax(1) for part in torch.split(x, 16)])
    names = tuple(f"random {i}" for i in range(images))
    facts = {"weights": f"random, seed {seed}", "data": "random values"}
    return Scene(f"{architecture}-{side}", model, x, y, names, names, facts)


class Results:
    """A JSON file of rows by name, written whole after each: a run that was cut off goes on where it stopped.

    Args:
        path: the file.
        facts: what holds for all rows.
        again: words; rows whose name holds one of them are measured anew. Empty text is a word of every name.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, again: Sequence[str] = ()) -> None:
        self.path, self._again, self._new = path, again, set[str]()
        old = json.loads(path.read_text()) if path.exists() else {}
        self.rows: dict[str, dict[str, Any]] = old.get("rows", {})
        self.rest: dict[str, Any] = {name: value for name, value in old.items() if name not in (*facts, "rows")}
        self._facts = facts
        held = old.get("images", {}).get("keys")
        if held is not None and "keys" in facts.get("images", {}) and held != facts["images"]["keys"]:
            raise SystemExit(f"{path} holds rows of other images; give another --output, or move it away")

    def done(self, name: str) -> bool:
        """Whether a row is there and is not wanted anew."""
        wanted = name not in self._new and any(word in name for word in self._again)
        return name in self.rows and not wanted

    def held(self, name: str) -> Any:
        """What else the file knows under a name; None where it knows nothing."""
        return self.rest.get(name)

    def put(self, name: str, row: dict[str, Any]) -> None:
        """Add a row, with the day and the code that it comes from."""
        self._new.add(name)
        self.rows[name] = {**row, "date": datetime.date.today().isoformat(), "code": digest_code()}
        self.write()

    def write(self, **rest: Any) -> None:
        """Write everything, and what else is known, whole or not at all."""
        self.rest.update(rest)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        whole = _plain({**self._facts, **self.rest, "rows": self.rows})
        part.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
        part.replace(self.path)


def facts_of(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """What every file records: model, images, settings, machine and versions."""
    return {
        "model": scene.model.describe(),
        **scene.facts,
        "images": {"n": len(scene.x), "shape": list(scene.x.shape[1:]), "keys": list(scene.keys)},
        "options": {name: str(value) for name, value in vars(options).items() if name not in ("root", "output", "again")},
        "machine": machine(),
        "versions": {**versions(), **{name: found for name in LIBRARIES if (found := version(name))}},
    }


def scene_of(options: argparse.Namespace) -> Scene:
    """The scene that the command line names."""
    if options.model:
        return trained(options.model, options.data, options.root, images=options.images, seed=options.seed, label=options.label)
    return untrained(options.untrained, options.side, images=options.images, seed=options.seed)


def arguments(text: str) -> argparse.ArgumentParser:
    """What every script of this folder can be told."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint; without one the weights are random")
    parser.add_argument("--data", help="the data set of its test images")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--untrained", default="resnet34", help="architecture where there is no checkpoint")
    parser.add_argument("--side", type=int, default=64, help="of random images, in pixels")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", nargs="+", default=[], help="measure anew the rows whose name holds a word; '' for all")
    parser.add_argument("--output", type=Path)
    return parser


def _plain(value: Any) -> Any:
    """As JSON has it: text where a number is not finite, as in `Estimate.to_dict`."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
