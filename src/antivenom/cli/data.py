"""`antivenom data`: what sets there are, and what one of them holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from antivenom.cli.console import out, progress
from antivenom.data.datasets import DATASETS, load
from antivenom.data.imageset import SPLITS, ImageSet
from antivenom.errors import DataError


def opened(
    name: str,
    root: Path | None,
    *,
    label: str | None,
    size: int | None,
    n: int | None,
    split_file: Path | None,
    download: bool,
) -> ImageSet:
    """The set that the options name; options that are left out are left to the set."""
    options: dict[str, Any] = {"label": label, "size": size, "n": n, "split_file": split_file}
    options["download"] = True if download else None
    return load(name, root, **options)


def list_sets() -> None:
    """Print the table of known sets."""
    table = Table("name", "modality", "what it is", box=None, pad_edge=False)
    for row in DATASETS.values():
        table.add_row(row.name, row.modality, row.title)
    out.print(table)
    out.print("\nA set of your own: --data folder (class folders) or --data labels-csv (a table of file names and labels).")


def describe(images: ImageSet) -> None:
    """Print what a set holds, by split, and what a reader of any figure on it must be told."""
    kind = "findings, each present or absent" if images.task.multilabel else "classes"
    out.print(f"{images.name}: {len(images)} images, {images.channels} channel(s); digest {images.digest[:12]}", markup=False)
    table = Table("", *(s for s in SPLITS if (images.index.splits == s).any()), box=None, pad_edge=False)
    parts = [images.split(name) for name in SPLITS if (images.index.splits == name).any()]
    table.add_row("images", *(str(len(part)) for part in parts))
    table.add_row("patients, subjects or lesions", *(str(len(set(part.groups))) for part in parts))
    for number, name in enumerate(images.task.classes):
        counts = [int((p.targets[:, number] if images.task.multilabel else p.targets == number).sum()) for p in parts]
        table.add_row(f"  {name}", *map(str, counts))
    out.print(f"{len(images.task.classes)} {kind}")
    out.print(table)
    for source, number in sorted(Counter(images.sources).items()):
        if source:
            out.print(f"source {source}: {number} images", markup=False)
    for caveat in images.caveats:
        out.print(f"note: {caveat}", markup=False)


def save_split(images: ImageSet, path: Path) -> None:
    """Store the split."""
    from antivenom.data import splits

    out.print(f"split: {path}, SHA-256 {splits.save_split(path, images)}", markup=False)


def check(images: ImageSet) -> None:
    """Read everything once; unreadable images and pictures that stand in two splits are an error."""
    from antivenom.data import checking

    with progress("reading") as told:
        problems = checking.check(images, progress=lambda done: told(done, len(images), ""))
    for problem in problems:
        out.print(f"{problem.kind}: {problem.key}: {problem.message}", markup=False)
    if problems:
        raise DataError(f"{len(problems)} of {len(images)} images of {images.name} have something wrong; see above")
    out.print(f"all {len(images)} images can be read; no picture stands in two splits")


def draw(images: ImageSet, path: Path, *, columns: int = 8, rows: int = 4) -> None:
    """Write a sheet of images, class by class; lesions are outlined where the set knows them."""
    from PIL import Image

    chosen = _of_every_class(images, columns * rows)
    tiles = [_tile(images, position) for position in chosen]
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    sheet = np.zeros((-(-len(tiles) // columns) * height, columns * width, 3), dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    try:
        Image.fromarray(sheet).save(path, format="PNG")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    out.print(f"picture: {path}", markup=False)


def _of_every_class(images: ImageSet, count: int) -> list[int]:
    targets = images.targets.numpy()
    classes = len(images.task.classes)
    members = [np.flatnonzero(targets[:, k] if images.task.multilabel else targets == k) for k in range(classes)]
    queues = [list(np.random.default_rng(0).permutation(m)) for m in members]
    order = [int(queue[i]) for i in range(count) for queue in queues if i < len(queue)]
    return sorted(dict.fromkeys(order[:count]), key=lambda position: tuple(np.atleast_1d(targets[position])))


def _tile(images: ImageSet, position: int) -> np.ndarray[Any, Any]:
    image = images[position].image
    pixels = (image.expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy().copy()
    if images.has_masks:
        mask = images.mask(position).numpy()
        inner = mask.copy()
        for axis in (0, 1):
            inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
        pixels[mask & ~inner] = (255, 60, 60)
    return pixels
