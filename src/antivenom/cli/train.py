"""`antivenom train`: a classifier from a set of images and a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from antivenom.cli.console import out, progress
from antivenom.cli.data import opened
from antivenom.cli.device import chosen_device
from antivenom.errors import SettingsError
from antivenom.training.loop import train as run
from antivenom.training.presets import PRESETS, Recipe


def train(
    data: str,
    root: Path | None,
    output: Path,
    *,
    label: str | None,
    n: int | None,
    split_file: Path | None,
    download: bool,
    recipe: str,
    changes: dict[str, Any],
    pretrained: str | None,
    seed: int,
    device: str | None,
) -> None:
    """Train, and print where the checkpoint is and what it reached on validation."""
    settings = changed(recipe, changes)
    images = opened(data, root, label=label, size=settings.side, n=n, split_file=split_file, download=download)
    model = settings.classifier(
        images.task,
        channels=images.channels,
        seed=seed,
        pretrained=None if pretrained is None else {"timm": True, "none": False}.get(pretrained, Path(pretrained)),
        tell=lambda text: out.print(text, markup=False),
    ).to(chosen_device(device))
    began = time.monotonic()
    with progress(f"training on {images.name}") as told:
        result = run(model, images.split("train"), images.split("val"), settings, seed=seed, folder=output, progress=told)
    out.print(
        f"{result.score_name} on {len(images.split('val'))} validation images: {result.score:.3f} "
        f"(best of {len(result.history)} epochs: {result.best_epoch + 1}); {time.monotonic() - began:.0f} s",
        markup=False,
    )
    out.print(f"checkpoint: {result.checkpoint}", markup=False)


def changed(recipe: str, changes: dict[str, Any]) -> Recipe:
    """A preset with some of its settings changed.

    Raises:
        SettingsError: no such preset, or a value that cannot be.
    """
    if recipe not in PRESETS:
        raise SettingsError(f"no recipe {recipe!r}; there are {', '.join(PRESETS)}")
    try:
        return Recipe.model_validate({**PRESETS[recipe].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None
