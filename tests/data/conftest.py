"""Miniatures of published layouts, written by the tests that read them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Write an image below the test's folder: noise of a size, or the pixels given."""

    def write(name: str, pixels: np.ndarray | None = None, *, size: tuple[int, int] = (8, 8), colour: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = rng.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write
