"""Certify the test images of an audit: the model smoothed by noise, a radius an image, in documents beside the records.

The images are walked in shards. A shard is stored when it is done, and running the same again continues where they end. Where
the folder holds no audit, one of the clean images alone is run first, so that a report has something to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from antivenom.data.imageset import ImageSet, gather
from antivenom.defences.smoothing import Smoothed
from antivenom.errors import RecordsError, SettingsError
from antivenom.evaluation.beside import audited, ensure_audit
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import Frozen
from antivenom.evaluation.run import Progress, drawn
from antivenom.models.classifier import Classifier
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records.certification import ASKED, COLUMNS, ORIGIN, folder_of
from antivenom.records.store import Store

AT_STAKE = 10_000  # copies that a kill may lose: a shard has as many images as that pays for, and at least one


class Order(Frozen):
    """What is to be certified.

    Attributes:
        sigma: standard deviation of the noise, in units of the [0, 1] range.
        n0: copies that choose the class of an image.
        n: other copies that prove it.
        alpha: chance that an image's certificate is wrong, at most.
        images: at most so many test images, drawn by the seed.
        seed: of the images drawn and of all noise.
    """

    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    n0: Annotated[int, Field(gt=0)] = 100
    n: Annotated[int, Field(gt=0)] = 1000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    images: Annotated[int, Field(gt=0)] = 100
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0

    @staticmethod
    def of(**values: float) -> Order:
        """An order of what a user typed.

        Raises:
            SettingsError: naming the first value that cannot be.
        """
        try:
            return Order.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(f"{first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None

    @property
    def shard(self) -> int:
        """Images that are certified and stored together."""
        return max(1, AT_STAKE // (self.n0 + self.n))


def certify(
    model: Classifier,
    data: ImageSet,
    order: Order,
    folder: str | Path,
    *,
    name: str = "",
    command: str = "",
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Certify test images of a set and store the certificates in an audit's folder.

    Args:
        model: in evaluation mode; left exactly as it is.
        data: with the splits `val` and `test`, and the task of the model. Findings are smoothed at the operating points of the
            audit.
        order: what is to be certified.
        folder: of an audit of this model on these images, finished or not; where it holds none, it becomes an audit of the
            clean images alone. Where it holds the same certification half done, that goes on.
        name, command, card: of the model, for the report; see `run`.
        progress: told of the images done, before and after every shard.

    Returns:
        The folder.

    Raises:
        ModelError: training mode.
        DataError, ImageError: no validation or test images, another task or other channels than the model's, bad images.
        RecordsError: the folder belongs to another model, other images or another certification, or cannot be written.
    """
    store = ensure_audit(
        model, data, folder, images=order.images, seed=order.seed, name=name, command=command, card=card, progress=progress
    )
    images = drawn(audited(store, data), order.images, order.seed)
    _begin(store, order, len(images), command)
    thresholds = operating_thresholds(store, model, data.split("val")) if model.task.multilabel else None
    _walk(store, Smoothed(model, order.sigma, thresholds), images, order, progress or (lambda *_: None))
    return store.folder


def _begin(store: Store, order: Order, images: int, command: str) -> None:
    """Write down what is asked for, or make sure that it is what the folder holds already."""
    home, wanted = folder_of(order.sigma), {**order.model_dump(), "images": images, "shard": order.shard}
    for draft in store.folder.glob(f"{home}/.*.draft"):
        draft.unlink()
    if not store.has_document(f"{home}/{ASKED}"):
        began = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
        made = {**began, "code": digest_code(), "versions": versions(), "machine": machine()}
        store.write_document(f"{home}/{ORIGIN}", made)
        store.write_document(f"{home}/{ASKED}", wanted)
        return
    found = store.document(f"{home}/{ASKED}")
    if differing := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
        raise RecordsError(
            f"{store.folder / home} holds another certification: its {', '.join(differing)} differ; "
            "choose another folder, or remove it"
        )


def _walk(store: Store, smoothed: Smoothed, images: ImageSet, order: Order, progress: Progress) -> None:
    """Certify what is not stored yet, shard by shard."""
    count, done = len(images), 0
    parts = {f"{folder_of(order.sigma)}/{s:06d}": range(s, min(s + order.shard, count)) for s in range(0, count, order.shard)}
    missing = {name: places for name, places in parts.items() if not store.has_document(name)}
    total = sum(map(len, missing.values()))
    for name, places in missing.items():
        progress(done, total, f"images {places.start + 1} to {places.stop} of {count}, {order.n0 + order.n} copies each")
        batch = gather([images[place] for place in places])
        draws = Draws.of(order.seed, image_keys(batch.keys))
        found = smoothed.certify(batch.images, order.n0, order.n, order.alpha, draws)
        columns = (values.tolist() for values in (found.classes, found.radius, found.votes))
        store.write_document(name, {"image": list(batch.keys), **dict(zip(COLUMNS, columns, strict=True))})
        done += len(places)
        progress(done, total, f"{places.stop} of {count} images certified")
