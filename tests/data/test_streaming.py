"""A set costs its index and one image, whatever it holds."""

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from antivenom.data.chestxray14 import FINDINGS
from antivenom.data.files import FileImages
from antivenom.data.imageset import ImageSet, Index, batches
from antivenom.data.medmnist import read_npz
from antivenom.data.reading import Frame
from antivenom.task import Task

STATM = Path("/proc/self/statm")
SIDE = 128  # 64 KiB an image as float32: 2000 kept ones would show as 125 MiB
NEEDS_PROC = pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")


def resident() -> float:
    """Resident memory of this process in MiB."""
    gc.collect()
    # Pages that earlier tests left free would take up what is kept unseen: give them back first.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    return int(STATM.read_text().split()[1]) * 4096 / 2**20


def growth(images):
    """MiB gained while ten times as many images are read as at first."""
    for batch in batches(images.take(range(200)), 20):
        assert batch.images.shape == (20, 1, SIDE, SIDE)
    before = resident()
    for batch in batches(images.take(range(2000)), 20):
        assert float(batch.images.max()) > 0
    return resident() - before


@NEEDS_PROC
def test_memory_does_not_grow_with_the_files_read(tmp_path, rng):
    for k in range(20):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    index = Index.of([str(k) for k in range(2000)], np.zeros(2000, int))
    load = FileImages.of(tmp_path, [f"{k % 20}.png" for k in range(2000)], 1, Frame())
    assert growth(ImageSet("files", Task(("a", "b")), index, load, channels=1)) < 20


@NEEDS_PROC
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_array_that_holds_the_images(tmp_path, rng, save):
    pixels = np.repeat(rng.integers(1, 256, (20, SIDE, SIDE), dtype=np.uint8), 120, axis=0)  # 37 MiB
    save(tmp_path / "x.npz", train_images=pixels, train_labels=np.arange(2400) % 2, test_images=pixels[:2], test_labels=[0, 1])
    del pixels
    before = resident()
    images = read_npz(tmp_path / "x.npz", name="x", cache=tmp_path)
    assert resident() - before < 12
    assert growth(images) < 12


@NEEDS_PROC
def test_keeping_what_was_read_would_be_seen(tmp_path, rng):
    """The measure itself: images that are kept do show."""
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(tmp_path / "0.png")
    kept = []
    load = FileImages.of(tmp_path, ["0.png"] * 2000, 1, Frame())
    index = Index.of([str(k) for k in range(2000)], np.zeros(2000, int))

    def hoarding(row):
        kept.append(load(row))
        return kept[-1]

    assert growth(ImageSet("files", Task(("a", "b")), index, hoarding, channels=1)) > 100


def test_the_index_of_chestxray14_takes_few_megabytes():
    """112,120 rows of names, findings, patients, splits and paths."""
    count = 112_120
    keys = [f"{k // 4:08d}_{k % 4:03d}.png" for k in range(count)]
    patients = [str(k // 4) for k in range(count)]
    index = Index.of(
        keys,
        np.zeros((count, 14), np.int8),
        groups=patients,
        splits=["train", "val"] * 14_015 * 4,
        traits={"sex": ["F"] * count, "age": ["60"] * count, "view": ["PA"] * count},
    )
    files = FileImages.of(Path(), [f"images_001/images/{key}" for key in keys], 1, Frame())
    columns = [index.keys, index.targets, index.groups, index.splits, index.sources, *index.traits.values(), files.paths]
    assert sum(column.nbytes for column in columns) < 24 * 2**20
    assert len(FINDINGS) == index.targets.shape[1]
    assert all(column.dtype != object for column in columns)
