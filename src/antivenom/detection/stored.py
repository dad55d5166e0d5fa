"""Readings of many images, kept on disk in shards: read once from the model, gone through as often as a fit needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from antivenom.detection.reading import Reading
from antivenom.errors import RecordsError
from antivenom.models.tensor_files import read_safetensors, write_safetensors

_LOGITS, _LAYER, _SQUEEZED = "logits", "layer ", "squeezed "


class StoredReadings:
    """A folder of readings; iterating gives shard after shard, as often as it is wanted.

    Args:
        folder: made when first written.
        origin: what the readings are of, such as the digests of model and images; a folder of others is refused.

    Raises:
        RecordsError: a shard is of another origin.
    """

    def __init__(self, folder: str | os.PathLike[str], origin: Mapping[str, str]) -> None:
        self.folder, self.origin = Path(folder), dict(origin)
        for path in self._paths()[:1]:
            found = read_safetensors(path)[1]
            if found != self.origin:
                raise RecordsError(
                    f"{self.folder} holds readings of another model or other images; remove it, or choose another folder"
                )

    def __iter__(self) -> Iterator[Reading]:
        for path in self._paths():
            yield _unpacked(read_safetensors(path)[0])

    def has(self, shard: int) -> bool:
        """Whether this shard is finished."""
        return self._path(shard).is_file()

    def write(self, shard: int, reading: Reading) -> None:
        """Add one shard, whole or not at all.

        Raises:
            WeightsError: the disk is full or the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {_LOGITS: reading.logits}
        tensors |= {_LAYER + name: values for name, values in reading.layers.items()}
        tensors |= {_SQUEEZED + name: values for name, values in reading.squeezed.items()}
        write_safetensors(self._path(shard), {name: values.contiguous() for name, values in tensors.items()}, self.origin)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.safetensors"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))


def _unpacked(tensors: dict[str, Tensor]) -> Reading:
    def named(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}

    return Reading(tensors[_LOGITS], named(_LAYER), named(_SQUEEZED))
