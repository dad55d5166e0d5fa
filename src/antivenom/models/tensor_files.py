"""Files of named tensors, read so that nothing in them can run, and written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from antivenom.errors import WeightsError
from antivenom.models.sparse_files import unpack

TORCH_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".tar"}
_LARGEST_HEADER = 100_000_000  # bytes; what the safetensors format allows

# Names under which training programs nest the tensors of the model in a checkpoint.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")


def load_weights_file(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the named tensors of a .safetensors file or of a PyTorch checkpoint, on the CPU; no code in it is run.

    Raises:
        WeightsError: missing, damaged, of another kind, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix in TORCH_SUFFIXES:
        return _read_checkpoint(path)
    raise WeightsError(f"{path}: expected .safetensors or one of {', '.join(sorted(TORCH_SUFFIXES))}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file; those that were packed (see `sparse_files`) are whole again.

    Raises:
        WeightsError: missing, truncated or not of this format, or packed tensors that do not fit together.
    """
    try:
        _check_header(path)
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return unpack(tensors, file.metadata() or {}, path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}); copy or train it again") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata whole or not at all: beside the place, flushed, renamed.

    Raises:
        WeightsError: the disk is full or the folder cannot be written.
    """
    write_whole(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata)))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        WeightsError: the disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise WeightsError(f"cannot write {path}: {error.strerror or error}; make room or choose another folder") from error


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise WeightsError(f"{path} is truncated or no safetensors file: header of {length} bytes in a file of {size}")
        try:
            header: Any = json.loads(file.read(length))
        except ValueError:
            raise WeightsError(f"{path} is damaged: its header is no JSON; copy or train it again") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is damaged: its header is no table of tensors")


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch doubts some pickles aloud before it refuses them
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path} cannot be read as plain tensors: it is damaged, or holds code, which is never run; "
            "save model.state_dict(), best as .safetensors"
        ) from error
    return _tensors_of(loaded, path)


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, dict):
        for nest in _NESTS:
            if isinstance(loaded.get(nest), dict):
                return _tensors_of(loaded[nest], path)
        tensors = {str(name).removeprefix("module."): value for name, value in loaded.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"{path} holds {type(loaded).__name__} without named tensors; save model.state_dict()")
