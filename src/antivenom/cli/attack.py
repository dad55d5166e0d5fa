"""`antivenom attack`: adversarial images of a set as files, each with its record."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.table import Table

from antivenom.attacks import Attack
from antivenom.attacks import attack as row_of
from antivenom.cli.audit import Wanted
from antivenom.cli.console import out, progress
from antivenom.cli.device import chosen_device
from antivenom.data.datasets import locate
from antivenom.data.imageset import SPLITS, ImageSet
from antivenom.data.writing import Dicom, Format
from antivenom.errors import DataError, SettingsError
from antivenom.evaluation.adversarial_files import Order, Record, group_column, summary, write_adversarial
from antivenom.evaluation.protocol import CLEAN, Protocol, Row, default_goal
from antivenom.models.classifier import Classifier
from antivenom.models.foreign import from_import
from antivenom.models.weights import load, read_card
from antivenom.task import Task
from antivenom.threat.card import number

STORED = "stored grid"  # in a threat: the grid of each image's own file
UNEVEN = 1e-6  # how far a whole number of steps may be off


@dataclass(frozen=True)
class Asked:
    """The attack, as the options name it."""

    attack: str
    epsilon: str
    threat: str
    goal: str | None
    settings: Sequence[str]
    until: str | None
    split: str
    images: int
    format: str
    native: bool
    seed: int

    @property
    def stored_grid(self) -> bool:
        """Whether the threat names the grid of the files."""
        return STORED in self._words

    def row(self, task: Task) -> Row:
        """The attack as a row of a protocol, checked; the stored grid is not written into it.

        Raises:
            SettingsError: an attack, threat, goal, setting or number that cannot be.
        """
        kind = row_of(self.attack)
        fields = {
            "attack": self.attack,
            "settings": dict(_setting(kind, text) for text in self.settings),
            "goal": self.goal or default_goal(task),
            "threat": ", ".join(word for word in self._words if word != STORED),
            "epsilon": self.epsilon,
            "until": self.until or ("spent" if task.multilabel else _default(kind, "until").value),
        }
        try:
            row = Row.model_validate(fields)
            Protocol(plan=(Row(attack=CLEAN, goal=default_goal(task)), row)).for_task(task)
        except ValidationError as error:
            first = error.errors()[0]
            option = f"--{first['loc'][0]}: " if first["loc"] else ""
            raise SettingsError(f"{option}{first['msg'].removeprefix('Value error, ')}") from None
        return row

    @property
    def _words(self) -> list[str]:
        return [word.strip() for word in self.threat.split(",")]


def attack(model: str, wanted: Wanted, output: Path, asked: Asked, *, device: str | None) -> None:
    """Attack the images, write them and their records, and print what came of it."""
    if asked.native and wanted.size:
        raise SettingsError(f"--native attacks images as they are stored; leave out --size {wanted.size}")
    classifier, data, native = _opened(model, wanted, asked.native)
    classifier = classifier.to(chosen_device(device)).eval()
    order = Order(asked.row(data.task), asked.stored_grid, asked.format, native, _home(wanted), asked.seed)
    images = _drawn(data, asked)
    for note in _notes(asked, order, order.form(images.keys[0], images.channels)):
        out.print(f"note: {note}", markup=False)
    typed = shlex.join(["antivenom", *sys.argv[1:]])
    vals = data.split("val") if data.task.multilabel else None
    with progress(f"attacking {data.name}") as told:
        records = write_adversarial(classifier, images, order, output, vals=vals, command=typed, progress=told)
    _tell(records, order)
    out.print(f"images and records: {output}", markup=False)


def _opened(model: str, wanted: Wanted, native: bool) -> tuple[Classifier, ImageSet, bool]:
    """The model, the images it is attacked on, and whether these are as their files hold them."""
    if ":" in model and not Path(model).exists():
        data = wanted.open(None)
        height, width = data[0].image.shape[-2:]
        size = None if native else (height, width)  # files may differ in size
        return from_import(model, data.task, data.channels, size), data, not wanted.size
    side = read_card(model).get("recipe", {}).get("side")
    data = wanted.open(side if isinstance(side, int) and not native else None)
    return load(model), data, native or not (side or wanted.size)


def _home(wanted: Wanted) -> Path | None:
    """The folder below which the names of images may be files."""
    place = locate(wanted.name, wanted.root, download=wanted.download)
    if place == Path():
        return None
    return place.parent if place.is_file() else place


def _drawn(data: ImageSet, asked: Asked) -> ImageSet:
    """Images of the splits asked for; where they are too many, drawn by the seed, as an audit draws them."""
    splits = SPLITS if asked.split == "all" else tuple(name.strip() for name in asked.split.split(","))
    if strange := set(splits) - set(SPLITS):
        raise SettingsError(f"--split takes {', '.join(SPLITS)} or all, got {', '.join(sorted(strange))}")
    images = data.take(np.flatnonzero(np.isin(data.index.splits[data.rows], splits)))
    if not len(images):
        raise DataError(f"{data.name} has no image in {' or '.join(splits)}")
    if len(images) <= asked.images:
        return images
    return images.take(np.sort(np.random.default_rng(asked.seed).choice(len(images), asked.images, replace=False)))


def _notes(asked: Asked, order: Order, form: Format) -> Iterator[str]:
    """What of the threat does not go together with the files, as far as the first image shows."""
    grid, stored = order.allowed(form.grid).pixels.grid, form.grid
    if stored is None and isinstance(form, Dicom):
        yield "what the DICOM file shows has no even steps, so rounding on storage may undo an attack"
    elif stored is not None and grid is None:
        yield f"the threat {asked.threat!r} has no grid, so rounding on storage may undo an attack; add '{STORED}'"
    elif stored is not None and isinstance(grid, float) and abs(grid / stored - round(grid / stored)) > UNEVEN:
        yield f"the grid of {asked.threat!r} is no whole number of the files' steps of 1/{1 / stored:.0f}; '{STORED}' is"


def _tell(records: Sequence[Record], order: Order) -> None:
    found, groups = summary(records), f"{group_column(records).removesuffix('_id')}s"
    table = Table("", "share, 95 % interval, n", box=None, pad_edge=False)
    as_they_are = "decided wrongly as they are" if order.row.goal == "untargeted" else "meet the goal as they are"
    table.add_row(as_they_are, found["reached_clean"].percent(groups_are=groups))
    table.add_row("of the others, turned by the attack", found["success"].percent(groups_are=groups))
    table.add_row("... by the files, read again", found["success_stored"].percent(groups_are=groups))
    table.add_row(f"... {groups} with such a file", found["groups_stored"].percent())
    out.print(f"\n{len(records)} images; {order.row.attack}, goal {order.row.goal}", markup=False)
    out.print(table)
    changed = sum(int(record["success"]) != int(record["success_stored"]) for record in records)
    largest = max(float(record["linf"]) for record in records)
    out.print(f"success that storage changed: {changed} of {len(records)} images", markup=False)
    out.print(f"largest change of a value, as stored: {255 * largest:.4g}/255", markup=False)


def _default(kind: Attack, name: str) -> Any:
    return inspect.signature(kind.run).parameters[name].default


def _setting(kind: Attack, text: str) -> tuple[str, int | float | str | bool]:
    """`name=value` as a value of the type that the attack's own default has.

    Raises:
        SettingsError: no such setting, or a value of another type.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in kind.settings:
        known = ", ".join(sorted(kind.settings)) or "none"
        raise SettingsError(f"--set {text}: {kind.title} has no setting {name!r}; it has {known}")
    default = _default(kind, name)
    if isinstance(default, str) or callable(default):
        return name, value
    whole = isinstance(default, int)
    try:
        if isinstance(default, bool):
            return name, {"true": True, "false": False}[value.lower()]
        found = int(value) if whole else number(value)
    except (KeyError, ValueError):
        wanted = "true or false" if isinstance(default, bool) else "a whole number" if whole else "a number"
        raise SettingsError(f"--set {text}: {name} takes {wanted}") from None
    if found < 0:
        raise SettingsError(f"--set {text}: {name} must not be negative")
    return name, found
