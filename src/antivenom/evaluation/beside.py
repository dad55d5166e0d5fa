"""What is measured beside an audit needs one: of the clean images alone where the folder holds none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antivenom.data.imageset import ImageSet
from antivenom.errors import RecordsError
from antivenom.evaluation.protocol import CLEAN, Protocol, Row
from antivenom.evaluation.run import Progress, check_fit, run
from antivenom.models.classifier import Classifier, check_ready
from antivenom.records.store import Store


def ensure_audit(
    model: Classifier,
    data: ImageSet,
    folder: str | Path,
    *,
    images: int | None,
    seed: int,
    name: str = "",
    command: str = "",
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Store:
    """The audit of this model on these images that a folder holds; where it holds none, one of the clean images alone.

    Args:
        model: in evaluation mode.
        data: with the splits `val` and `test`, and the task of the model.
        folder: of an audit, finished or not, or a new one.
        images, seed: of an audit that is made here: at most so many test images, drawn by the seed.
        name, command, card, progress: as for `run`.

    Raises:
        ModelError: training mode.
        DataError, ImageError: no validation or test images, another task or other channels than the model's, bad images.
        RecordsError: the folder belongs to another model or other images, or cannot be written.
    """
    check_ready(model)
    check_fit(model, data)
    store = Store(folder)
    if not store.has_document("protocol") or _unfinished_and_own(store):
        plan = (Row(attack=CLEAN),)  # nothing to attack, so nothing to keep or to choose an execution for
        alone = Protocol(plan=plan, images=images, seed=seed, keep=0, examined=0, execution="as given")
        run(model, data, alone, folder, name=name, command=command, card=card, progress=progress)
    _check_same(store, model, data)
    return store


def audited(store: Store, data: ImageSet) -> ImageSet:
    """The images that an audit tests, in their order."""
    scans = store.scans()
    tested = {name for name, split in zip(*(scans[c].to_pylist() for c in ("image", "split")), strict=True) if split == "test"}
    tests = data.split("test")
    return tests.take([place for place, key in enumerate(tests.keys) if key in tested])


def _unfinished_and_own(store: Store) -> bool:
    """Whether the folder holds the clean images of an earlier run from here that was stopped before they were done."""
    return len(store.document("protocol")["plan"]) == 1 and not store.has_document("flags")  # a run writes these last


def _check_same(store: Store, model: Classifier, data: ImageSet) -> None:
    """Refuse a folder whose audit is of another model or of other images."""
    found = store.document("protocol")
    wanted = {
        "model": model.digest(),
        "images": [data.digest, data.channels, *data.split("test")[0].image.shape[-2:]],
    }
    held = {
        "model": found["model"]["digest"],
        "images": [found["data"][key] for key in ("digest", "channels")] + list(found["data"]["size"]),
    }
    if differing := [key for key in wanted if wanted[key] != held[key]]:
        raise RecordsError(
            f"{store.folder} holds an audit of another kind: its {' and '.join(differing)} differ; choose another folder"
        )
