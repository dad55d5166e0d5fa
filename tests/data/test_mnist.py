import gzip
import struct

import numpy as np
import pytest

from antivenom.data.datasets import load
from antivenom.data.mnist import read_idx, read_mnist
from antivenom.errors import DataError, LabelError

SIZES = {"train": 80, "t10k": 20}
PLAIN = "{}-{}-idx{}-ubyte"
FORMS = (PLAIN, "{}-{}.idx{}-ubyte", f"{PLAIN}.gz", "{}-{}.idx{}-ubyte.gz")


def idx(values):
    """An array of bytes as an IDX file's content."""
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def names(form=PLAIN):
    return [form.format(part, *kind) for part in SIZES for kind in (("images", 3), ("labels", 1))]


@pytest.fixture
def mnist(tmp_path, rng):
    """Write a miniature of the four files, 6 x 5 pixels; give the folder and the arrays."""

    def write(form=PLAIN, **changed):
        content = {}
        for part, count in SIZES.items():
            content[f"{part}_images"] = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
            content[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 10
        content |= changed
        for name, values in zip(names(form), content.values(), strict=True):
            (tmp_path / name).write_bytes(gzip.compress(idx(values)) if name.endswith(".gz") else idx(values))
        return tmp_path, content

    return write


@pytest.mark.parametrize("form", FORMS)
def test_images_labels_and_splits_are_the_files(mnist, tmp_path, form):
    root, content = mnist(form)
    images = load("mnist-idx", root, cache=tmp_path / "cache")
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [70, 10, 20]
    assert sorted(images.split("val").targets.tolist()) == list(range(10))
    assert images.targets[:80].tolist() == content["train_labels"].tolist()
    for position, wanted in ((0, content["train_images"][0]), (79, content["train_images"][79])):
        assert images[position].image.shape == (1, 6, 5)
        np.testing.assert_array_equal((images[position].image[0] * 255).round(), wanted)
    test = images.split("test")
    assert (test[7].key, int(test[7].target)) == ("test:7", 7)
    np.testing.assert_array_equal((test[7].image[0] * 255).round(), content["t10k_images"][7])
    assert (tmp_path / "cache").exists() == form.endswith(".gz")


def test_both_forms_are_one_set_whose_size_is_as_asked(mnist, tmp_path):
    plain = read_mnist(mnist()[0], size=8)
    assert plain[3].image.shape == (1, 8, 8)
    assert plain.digest != read_mnist(tmp_path).digest
    assert plain.split("val").keys != read_mnist(tmp_path, seed=1).split("val").keys
    for name in names():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    assert read_mnist(tmp_path, size=8, cache=tmp_path / "cache").digest == plain.digest


def test_what_is_packed_is_unpacked_once_and_known_by_its_first_bytes(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(values)))
    (tmp_path / "y").write_bytes(gzip.compress(idx(values)))
    first = read_idx(tmp_path / "x.gz", 3, cache=tmp_path / "cache")
    written = first.path.stat().st_mtime_ns
    again = read_idx(tmp_path / "x.gz", 3, cache=tmp_path / "cache")
    assert again.path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.rows(0, 2), values)
    np.testing.assert_array_equal(read_idx(tmp_path / "y", 3, cache=tmp_path / "cache")[1], values[1])
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("name", names())
def test_a_missing_file_is_named(mnist, name):
    root, _ = mnist()
    (root / name).unlink()
    with pytest.raises(DataError, match=f"no {name}, plain or packed as .gz; name the folder"):
        read_mnist(root)


def test_images_and_labels_must_fit_each_other(mnist):
    with pytest.raises(DataError, match="t10k has 20 images and 19 labels"):
        read_mnist(mnist(t10k_labels=np.zeros(19, np.uint8))[0])
    with pytest.raises(DataError, match="alike in train and t10k"):
        read_mnist(mnist(t10k_images=np.zeros((20, 5, 6), np.uint8))[0])
    with pytest.raises(LabelError, match=r"train:0: target 10 is outside 0\.\.9"):
        read_mnist(mnist(train_labels=np.full(80, 10, np.uint8))[0])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b"\0\0\x08\x01" + b[4:], "magic number is 2049.* 3 axes has 2051"),
        (lambda _: b"no IDX file at all, but text", "magic number"),
        (lambda b: b[:-1], r"promises 40 bytes, it holds (39|fewer)"),
        (lambda b: b + b"\0", r"promises 40 bytes, it holds (41|more)"),
        (lambda b: b[:10], "after 10 of 16 bytes"),
        (lambda _: b"", "after 0 of 16 bytes"),
        (lambda b: b[:8] + b"\0\0\0\0" + b[12:], r"images of \[0, 4\] pixels"),
        (lambda b: b[:8] + b"\xff\xff\xff\xff" + b[12:], r"images of \[4294967295, 4\] pixels"),
    ],
)
def test_a_header_must_agree_with_what_follows(tmp_path, pack, change, says):
    path = tmp_path / "x"
    path.write_bytes(pack(change(idx(np.zeros((2, 3, 4), np.uint8)))))
    with pytest.raises(DataError, match=says):
        read_idx(path, 3, cache=tmp_path / "cache")
    assert not any((tmp_path / "cache").glob("*"))


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_promises(tmp_path, monkeypatch):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)) + bytes(2**22)))
    asked = []
    read = gzip.GzipFile.read

    def counted(file, size=-1):
        asked.append(size)
        return read(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="promises 40 bytes, it holds more"):
        read_idx(path, 3, cache=tmp_path / "cache")
    assert min(asked) >= 0
    assert sum(asked) < 100


def test_a_promise_beyond_the_disk_is_refused_before_anything_is_written(tmp_path):
    content = bytearray(idx(np.zeros((2, 3, 4), np.uint8)))
    content[4:16] = struct.pack(">3I", 2**32 - 1, 2**13, 2**13)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="takes 288,230,376,084,602,896 bytes unpacked"):
        read_idx(tmp_path / "x.gz", 3, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:12],
        lambda b: b[: len(b) // 2],
        lambda b: b[:-1],
        lambda b: b[:2] + b"\x07" + b[3:],
        lambda b: b[:-8] + b"\0" * 8,
        lambda b: b + b"more",
    ],
)
def test_damaged_gzip_is_refused_and_leaves_nothing_behind(tmp_path, rng, damage):
    packed = gzip.compress(idx(rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)))
    (tmp_path / "x.gz").write_bytes(damage(packed))
    with pytest.raises(DataError, match=r"x\.gz.* damaged or truncated"):
        read_idx(tmp_path / "x.gz", 3, cache=tmp_path / "cache")
    assert not any((tmp_path / "cache").glob("*"))
