"""Attack images and write them as files, each with its record, judged again as they were stored.

    FOLDER/
      attack.json       what was asked for; work continues only under the very same
      provenance.json   digests, versions, machine
      operating.json    thresholds of findings, chosen on clean validation images
      execution.json    how the model is run for gradients, chosen once
      images/           one file an image
      shards/           the records of some images each: what is there is finished
      records.csv       one row an image, once all are done; `labels_csv(FOLDER, table="records.csv")` reads the images as a set
      summary.json      the figures

Files are written before the shard that lists them, and both whole or not at all: killed at any moment and run again, the work
goes on with the first shard that is not there, and draws what it would have drawn.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.attacks import Until, attack
from antivenom.data.imageset import ImageSet, Sample
from antivenom.data.reading import SUFFIXES, inside, read_image
from antivenom.data.writing import Dicom, Format, Npz, Png, own_format, write_whole
from antivenom.errors import DataError, RecordsError, SettingsError
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import Row
from antivenom.metrics.intervals import Estimate, proportion
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import Victim, accelerate, execute
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records.store import Store
from antivenom.task import Task
from antivenom.threat.card import goal_for, perturbation_set
from antivenom.threat.perturbations import Capability

FORMATS: dict[str, Format] = {"png": Png(), "png16": Png(65535), "npz": Npz()}
AUTO, DICOM = "auto", "dicom"
SHARD, VALUES = 32, 2**24  # images that are attacked and stored together, and at most so many values

Record = dict[str, Any]
Progress = Callable[[float, float, str], None]  # work done, work in all, what is being done


@dataclass(frozen=True)
class Order:
    """What is to be done to every image, and how it is stored.

    Attributes:
        row: attack, settings, goal, threat, epsilon and when to stop.
        stored_grid: whether the grid of each image's own file is the threat's: then success survives storage.
        format: a name from `FORMATS`; `dicom`; or `auto`: the format that the image came in where it was not resampled, else
            PNG of 8 bits, or NPZ where it came with more than 8.
        native: whether images are as their files hold them, not resampled.
        home: the folder below which the names of images may be files.
        seed: of every draw.
    """

    row: Row
    stored_grid: bool = True
    format: str = AUTO
    native: bool = False
    home: Path | None = None
    seed: int = 0

    def allowed(self, grid: float | None) -> Capability:
        """What the adversary may do to images that are stored on this grid."""
        allowed = perturbation_set(self.row.threat, self.row.epsilon)
        return replace(allowed, pixels=replace(allowed.pixels, grid=grid)) if self.stored_grid else allowed

    def form(self, key: str, channels: int) -> Format:
        """How the image of this name is stored.

        Raises:
            SettingsError: no such format; or DICOM for an image that came in none, or was resampled.
        """
        if self.format in FORMATS:
            return FORMATS[self.format]
        if self.format not in (AUTO, DICOM):
            raise SettingsError(f"no format {self.format!r}; there are {AUTO}, {', '.join(FORMATS)} and {DICOM}")
        source = self._source(key)
        own = own_format(source) if source else Png()
        if self.format == DICOM and not (self.native and isinstance(own, Dicom)):
            why = "was resampled; attack images at their own size" if isinstance(own, Dicom) else "is no DICOM file"
            raise SettingsError(f"{key} cannot be stored as DICOM: it {why}")
        if own == Png(65535) and channels == 3:
            return Npz(65535)
        return own if self.native or own == Png() else Npz()

    def _source(self, key: str) -> Path | None:
        try:
            path = None if self.home is None else inside(self.home, key)
        except DataError:  # not every set names its images by their files
            return None
        return path if path is not None and path.is_file() else None


def write_adversarial(
    model: Classifier,
    images: ImageSet,
    order: Order,
    folder: str | Path,
    *,
    vals: ImageSet | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> list[Record]:
    """Attack images, write them and their records, and judge them again from disk.

    Images that the goal does not concern are left out. Where the threat has a grid, an image is put on it before it is
    attacked: one that was resampled lies beside it.

    Args:
        model: in evaluation mode; left exactly as it is.
        images: what is attacked.
        order: how.
        folder: of everything that is written; where it holds the same work half done, that goes on.
        vals: clean validation images, for the thresholds of findings; only multi-label tasks need them.
        command: what the user typed, for the provenance.
        progress: told of the images done and to be done by this call, before and after every shard.

    Returns:
        One record an image, as in `records.csv`, where numbers are text.

    Raises:
        ModelError: training mode.
        DataError, ImageError: no image that the goal concerns, another task than the model's, a bad image, no room.
        RecordsError: the folder holds other work.
        SettingsError: an attack, format or epsilon that does not fit.
    """
    check_ready(model)
    if (images.task, images.channels) != (model.task, model.channels):
        raise DataError(
            f"{images.name} asks for {', '.join(images.task.classes)} in {images.channels} channel(s), "
            f"but the model answers {', '.join(model.task.classes)} in {model.channels}"
        )
    store = Store(folder)
    multilabel, classes = model.task.multilabel, len(model.task.classes)
    thresholds = operating_thresholds(store, model, vals) if multilabel else torch.zeros(classes)
    images = _concerned(images, order, thresholds)
    shard = max(1, min(SHARD, VALUES // images[0].image.numel()))
    _begin(store, model, images, order, shard, command)
    bench = _Bench(store, model, _victim(store, model, images, shard), order, thresholds, images)
    records = list(_walk(bench, shard, progress or (lambda *_: None)))
    write_whole(store.folder / "records.csv", _csv(records))
    store.write_document("summary", {name: value.to_dict() for name, value in summary(records).items()})
    return records


def summary(records: Sequence[Record]) -> dict[str, Estimate]:
    """The figures, with intervals over patients.

    Returns:
        `reached_clean`: images that meet the goal as they are; untargeted, that are decided wrongly. Of the others, `success`
        as the attack saw it, `success_stored` as the files are read again, and `groups_stored`: patients (subjects, lesions)
        with at least one such file.
    """
    reached, success, stored = (
        np.array([float(record[name]) for record in records]) for name in ("reached_clean", "success", "success_stored")
    )
    groups, first = np.array([record[group_column(records)] for record in records]), reached == 0
    hit = [stored[first & (groups == group)].max() for group in np.unique(groups[first])]
    return {
        "reached_clean": proportion(reached, groups),
        "success": proportion(success[first], groups[first]),
        "success_stored": proportion(stored[first], groups[first]),
        "groups_stored": proportion(np.array(hit)),
    }


def group_column(records: Sequence[Record]) -> str:
    """The column of the patient, subject or lesion."""
    return next(name for name in records[0] if name.endswith("_id"))


def file_name(key: str, suffix: str) -> str:
    """A file's name for an image of any name: no folder in it, nothing that a file system minds, and no two alike.

    >>> file_name("../ward 7/a.jpeg", ".png"), file_name("/", ".npz")
    ('ward_7_a-31bbdd6b.png', 'image-8a5edab2.npz')
    """
    bare = next((key[: -len(end)] for end in SUFFIXES if key.lower().endswith(end)), key)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", bare).strip("_-")[-80:]
    return f"{plain or 'image'}-{hashlib.sha256(key.encode()).hexdigest()[:8]}{suffix}"


# -- before the first shard --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """What every shard is worked on with."""

    store: Store
    model: Classifier
    victim: Victim
    order: Order
    thresholds: Tensor  # (A,) logits
    images: ImageSet


def _concerned(images: ImageSet, order: Order, thresholds: Tensor) -> ImageSet:
    places = np.zeros(0, dtype=bool)
    if len(images):
        places = goal_for(order.row.goal, images.task, images.targets, thresholds)[1].numpy()
    if not places.any():
        raise DataError(f"{images.name}: the goal {order.row.goal!r} concerns none of {len(images)} images")
    return images.take(np.flatnonzero(places))


def _begin(store: Store, model: Classifier, images: ImageSet, order: Order, shard: int, command: str) -> None:
    """Write down what is asked for, or make sure that it is what the folder holds already."""
    wanted = {
        **json.loads(order.row.model_dump_json()),
        **{
            "stored_grid": order.stored_grid,
            "format": order.format,
            "native": order.native,
            "seed": order.seed,
            "shard": shard,
        },
        "data": {"name": images.name, "digest": images.digest, "shape": list(images[0].image.shape), "images": len(images)},
        "model": model.digest(),
    }
    if store.has_document("protocol"):
        raise RecordsError(f"{store.folder} holds an audit; choose another folder")
    if store.has_document("attack"):
        found = store.document("attack")
        if differing := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
            raise RecordsError(
                f"{store.folder} holds another attack: its {', '.join(differing)} differ; choose another folder, or remove it"
            )
    else:
        began = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
        store.write_document("provenance", {**began, "code": digest_code(), "versions": versions(), "machine": machine()})
        store.write_document("attack", wanted)
    store.sweep()
    for draft in [*store.folder.glob("images/.*.draft"), *store.folder.glob("shards/.*.draft")]:
        draft.unlink()


def _victim(store: Store, model: Classifier, images: ImageSet, batch: int) -> Victim:
    like = images[0].image[None].to(model.device)
    if not store.has_document("execution"):
        store.write_document("execution", accelerate(model, like, batch=batch).execution)
    return execute(model, like, store.document("execution"), batch=batch)


# -- shards ------------------------------------------------------------------------------------------------------------


def _walk(bench: _Bench, size: int, progress: Progress) -> Iterator[Record]:
    """The records of all images; what is stored is not done again."""
    folder, count, done = bench.store.folder, len(bench.images), 0
    parts = {folder / "shards" / f"{start:06d}.csv": range(start, min(start + size, count)) for start in range(0, count, size)}
    missing = {path: places for path, places in parts.items() if not _finished(folder, path)}
    total = sum(map(len, missing.values()))
    for path, places in missing.items():
        progress(done, total, f"images {places.start + 1} to {places.stop} of {count}")
        write_whole(path, _csv(_attacked(bench, [bench.images[place] for place in places])))
        done += len(places)
        progress(done, total, f"{places.stop} of {count} images done")
    for path in parts:
        yield from _read(path)


def _finished(folder: Path, shard: Path) -> bool:
    return shard.is_file() and all((folder / record["filename"]).is_file() for record in _read(shard))


def _attacked(bench: _Bench, samples: Sequence[Sample]) -> list[Record]:
    """Attack and store some images; those of one size and one grid go together."""
    forms = [bench.order.form(sample.key, bench.images.channels) for sample in samples]
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, (sample, form) in enumerate(zip(samples, forms, strict=True)):
        alike.setdefault((*sample.image.shape, form.grid), []).append(place)
    found: dict[int, Record] = {}
    for places in alike.values():
        records = _examined(bench, [samples[place] for place in places], [forms[place] for place in places])
        found |= dict(zip(places, records, strict=True))
    return [found[place] for place in range(len(samples))]


def _examined(bench: _Bench, samples: Sequence[Sample], forms: Sequence[Format]) -> Iterator[Record]:
    order, task, folder = bench.order, bench.model.task, bench.store.folder
    allowed, keys = order.allowed(forms[0].grid), [sample.key for sample in samples]
    on_grid = allowed.pixels.grid is not None
    x = torch.stack([form.nearest(s.image) if on_grid else s.image for s, form in zip(samples, forms, strict=True)])
    goal, _ = goal_for(order.row.goal, task, torch.stack([sample.target for sample in samples]), bench.thresholds)
    device, draws = bench.model.device, Draws.of(order.seed, image_keys(keys))
    run, until = attack(order.row.attack), Until(order.row.until)
    result = run(bench.victim, x.to(device), goal.to(device), allowed, until=until, generator=draws, **order.row.arguments)
    names = [f"images/{file_name(key, form.suffix)}" for key, form in zip(keys, forms, strict=True)]
    for image, name, form in zip(result.x_adv.cpu(), names, forms, strict=True):
        form.write(image, inside(folder, name))
    stored = torch.stack([read_image(folder / name, channels=1 if x.shape[1] == 1 else 3) for name in names])
    clean, attacked, again = (bench.model.answers(images) for images in (x, result.x_adv, stored))
    split_of = dict(zip(bench.images.keys, bench.images.index.splits[bench.images.rows].tolist(), strict=True))
    for i, sample in enumerate(samples):
        delta = stored[i] - x[i]
        yield {
            "filename": names[i],
            "image": sample.key,
            "split": split_of[sample.key],
            f"{bench.images.index.unit}_id": sample.group,
            "source": sample.source,
            "label": _said(sample.target, task),
            "decision_clean": _decided(clean[i], task, bench.thresholds),
            "decision_attacked": _decided(attacked[i], task, bench.thresholds),
            "decision_stored": _decided(again[i], task, bench.thresholds),
            "reached_clean": int(goal.reached(clean)[i]),
            "success": int(result.success[i]),
            "success_stored": int(goal.reached(again)[i]),
            "queries": int(result.queries[i]),
            "gradients": int(result.gradients[i]),
            "linf": f"{float(delta.abs().max()):.8g}",
            "l2": f"{float(delta.norm()):.8g}",
            "flags": "|".join(flag for flag, raised in result.flags.items() if raised[i]),
        }


def _decided(logits: Tensor, task: Task, thresholds: Tensor) -> str:
    return _said((logits > thresholds).long() if task.multilabel else logits.argmax(), task)


def _said(target: Tensor, task: Task) -> str:
    """A class, or all findings that are present."""
    if not task.multilabel:
        return task.classes[int(target)]
    return "|".join(name for name, present in zip(task.classes, target.tolist(), strict=True) if present)


def _csv(records: Sequence[Record]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    return text.getvalue().encode()


def _read(path: Path) -> list[Record]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
