from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from antivenom.data.cifar10 import read_cifar10, read_cifar10_binary
from antivenom.data.datasets import load
from antivenom.errors import DataError, ImageError, LabelError

BATCHES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def packed(tmp_path):
    """Write a miniature of the packed file: flat images whose colour is their number."""

    def write(save=np.savez, **changed):
        content = {"class_names": np.array(["airplane", "automobile"])}
        for split, count in (("train", 32), ("test", 8)):
            files = []
            for k in range(count):
                buffer = BytesIO()
                Image.fromarray(np.full((32, 32, 3), 4 * k + 50, np.uint8)).save(buffer, "JPEG")
                files.append(buffer.getvalue())
            content[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
            content[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
            content[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)
        save(tmp_path / "cifar10_jpeg.npz", **(content | changed))
        return tmp_path / "cifar10_jpeg.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_cut_out_of_the_bytes(packed, tmp_path, save):
    images = read_cifar10(packed(save), cache=tmp_path / "cache")
    assert images[5].image.shape == (3, 32, 32)
    assert float(images[5].image.mean()) * 255 == pytest.approx(70, abs=1)
    test = images.split("test")
    assert [sample.key for sample in test] == [f"test:{k}" for k in range(8)]
    assert float(test[2].image.mean()) * 255 == pytest.approx(58, abs=1)
    assert images.task.classes == ("airplane", "automobile")


def test_validation_is_carved_from_training(packed):
    images = read_cifar10(packed())
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [28, 4, 8]
    assert images.split("val").targets.sum() == 2
    assert any("an eighth of training" in caveat for caveat in images.caveats)


def test_offsets_that_do_not_fit_are_refused(packed):
    for wrong in (np.arange(5), np.zeros(33, int)):
        with pytest.raises(DataError, match="disagree"):
            read_cifar10(packed(train_offsets=wrong))


def test_a_damaged_image_is_named_on_reading(packed):
    path = packed()
    with np.load(path) as content:
        damaged = content["train_jpeg"].copy()
        damaged[: content["train_offsets"][1]] = 0
    images = read_cifar10(packed(train_jpeg=damaged))
    assert images[1].key == "train:1"
    with pytest.raises(ImageError, match="row 0: cannot be decoded"):
        images[0]


@pytest.fixture
def binary(tmp_path, rng):
    """Write a miniature of the binary version, 20 records a batch; give its folder and records `(120, 3073)`."""
    records = rng.integers(0, 256, (120, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(120) % 10
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for name, batch in zip(BATCHES, np.split(records, 6), strict=True):
        (root / name).write_bytes(batch.tobytes())
    (root / "batches.meta.txt").write_text("\n".join([*(f"thing{k}" for k in range(10)), "", ""]))
    return root, records


def test_records_are_a_label_and_three_planes(binary, tmp_path, monkeypatch):
    monkeypatch.setattr("antivenom.data.cifar10._AT_ONCE", 7)
    root, records = binary
    images = load("cifar10-binary", tmp_path)
    assert images.task.classes == tuple(f"thing{k}" for k in range(10))
    assert images.targets.tolist() == records[:, 0].tolist()
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [90, 10, 20]
    assert sorted(images.split("val").targets.tolist()) == list(range(10))
    assert images.split("test").keys == [f"test:{k}" for k in range(20)]
    for row in (0, 19, 20, 99, 119):
        np.testing.assert_array_equal((images[row].image * 255).round(), records[row, 1:].reshape(3, 32, 32))
    assert load("cifar10-binary", root, size=8)[0].image.shape == (3, 8, 8)


@pytest.mark.parametrize("name", [*BATCHES, "batches.meta.txt"])
def test_a_missing_file_of_the_binary_version_is_named(binary, name):
    root, _ = binary
    (root / name).unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read .No such file.*cifar-10-binary.tar.gz"):
        read_cifar10_binary(root)


@pytest.mark.parametrize("length", [0, 3072, 3073 * 20 - 1])
def test_a_truncated_batch_is_refused(binary, length):
    root, _ = binary
    (root / "data_batch_3.bin").write_bytes(bytes(length))
    with pytest.raises(DataError, match=rf"data_batch_3\.bin: {length:,} bytes are no whole records of 3,073"):
        read_cifar10_binary(root)


def test_labels_and_names_must_be_ten(binary):
    root, records = binary
    (root / "test_batch.bin").write_bytes(b"\x0a" + records[0, 1:].tobytes())
    with pytest.raises(LabelError, match=r"test:0: target 10 is outside 0\.\.9"):
        read_cifar10_binary(root)
    (root / "batches.meta.txt").write_text("airplane\n")
    with pytest.raises(DataError, match="names 1 classes, CIFAR-10 has 10"):
        read_cifar10_binary(root)


def test_the_pickled_version_is_refused_by_name(binary, tmp_path):
    root, _ = binary
    for folder in (tmp_path, root):
        (folder / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    assert len(load("cifar10-binary", tmp_path)) == 120
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"python version is pickled.*binary version, https://.*cifar-10-binary\.tar\.gz"):
        load("cifar10-binary", tmp_path)
