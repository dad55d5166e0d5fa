from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from antivenom.data.cifar10 import read_cifar10
from antivenom.errors import DataError, ImageError


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
