"""Tensors with many zeros on disk: which values are not zero, one bit each, and those values alone.

In the file a packed tensor `conv.weight` is two, `conv.weight.sparse_mask` (uint8, eight values a byte, the first value in the
highest bit) and `conv.weight.sparse_kept` (the values whose bit is set, in order and in their own type); the metadata name its
shape. Every reader of safetensors can read them. Only +0.0 counts as zero, so a tensor comes back to the bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.errors import WeightsError

MARK = "antivenom.sparse"  # the key of the metadata that names the packed tensors and their shapes
ZEROS = 0.1  # share of zeros from which packing pays: the mask costs 1/32 of float32, and 1/16 of the shortest type
FEWEST = 1024  # values; of a smaller tensor, the names of two cost more than its zeros
_MASK, _KEPT = ".sparse_mask", ".sparse_kept"
_DIMENSIONS = 8  # more than any layer's weight has

# The whole number of the same length, whose 0 is +0.0 alone.
_BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Pack every tensor in which at least a tenth of the values is +0.0; the others stay as they are.

    Args:
        tensors: by name, of any shape, on any device.

    Returns:
        What is to be written, on the CPU, and the metadata to be written with it: none where nothing was packed.

    >>> written, marks = pack({"a": torch.eye(64)})
    >>> {name: tuple(tensor.shape) for name, tensor in written.items()}, marks
    ({'a.sparse_mask': (512,), 'a.sparse_kept': (64,)}, {'antivenom.sparse': '{"a": [64, 64]}'})
    """
    written: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, given in tensors.items():
        tensor = given.detach().cpu().contiguous()
        parts = None if {name + _MASK, name + _KEPT} & tensors.keys() else _packed(tensor)
        if parts is None:
            written[name] = tensor
        else:
            written[name + _MASK], written[name + _KEPT] = parts
            shapes[name] = list(tensor.shape)
    return written, {MARK: json.dumps(shapes)} if shapes else {}


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Restore the tensors that the metadata name as packed; nothing is made before mask, values and shape agree.

    Args:
        tensors, metadata: of a safetensors file.
        path: of that file, for an error to name.

    Returns:
        Tensors as they were before `pack`, and the metadata without its mark.

    Raises:
        WeightsError: the mark is no table of shapes, or a mask or its values are missing, of another type or length.
    """
    if MARK not in metadata:
        return dict(tensors), dict(metadata)
    whole = dict(tensors)
    for name, shape in _shapes(metadata[MARK], path).items():
        mask, kept = whole.pop(name + _MASK, None), whole.pop(name + _KEPT, None)
        if mask is None or kept is None or name in whole:
            raise WeightsError(f"{path} is damaged: {name!r} should be a mask and its values, once; copy or train it again")
        whole[name] = _unpacked(mask, kept, shape, f"{path} is damaged: {name!r}")
    return whole, {key: value for key, value in metadata.items() if key != MARK}


def _packed(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mask and values; None where packing does not pay."""
    if tensor.dtype not in _BITS or tensor.numel() < FEWEST or tensor.ndim > _DIMENSIONS:
        return None
    flat = tensor.flatten()
    there = flat.view(_BITS[tensor.dtype]) != 0
    if int(there.sum()) > (1 - ZEROS) * len(flat):
        return None
    return torch.from_numpy(np.packbits(there.numpy())), flat[there]


def _unpacked(mask: Tensor, kept: Tensor, shape: list[int], at_fault: str) -> Tensor:
    values = math.prod(shape)  # of Python's whole numbers, which no shape can overflow
    if mask.dtype != torch.uint8 or mask.ndim != 1 or len(mask) != -(-values // 8):
        raise WeightsError(f"{at_fault} of {values} values has a mask {tuple(mask.shape)} of {mask.dtype}")
    if kept.dtype not in _BITS or kept.ndim != 1:
        raise WeightsError(f"{at_fault} has values {tuple(kept.shape)} of {kept.dtype}")
    there = np.unpackbits(mask.numpy())
    set_bits = int(np.count_nonzero(there))
    if set_bits != len(kept) or there[values:].any():
        raise WeightsError(f"{at_fault} has {len(kept)} values for {set_bits} places of its mask, or places beyond its shape")
    whole = torch.zeros(values, dtype=kept.dtype)
    whole[torch.from_numpy(there[:values]).bool()] = kept
    return whole.reshape(shape)


def _shapes(text: str, path: Path) -> dict[str, list[int]]:
    try:
        shapes: Any = json.loads(text)
    except (ValueError, RecursionError):
        shapes = None
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise WeightsError(
            f"{path} is damaged: what it says of its packed tensors is no table of shapes; copy or train it again"
        )
    return shapes


def _is_shape(value: Any) -> bool:
    sides = isinstance(value, list) and 0 < len(value) <= _DIMENSIONS
    return sides and all(type(side) is int and side > 0 for side in value)
