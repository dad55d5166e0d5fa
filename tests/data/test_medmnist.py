import sys
from types import SimpleNamespace

import numpy as np
import pytest

from antivenom.data.medmnist import FLAGS, read_medmnist, read_npz
from antivenom.errors import DataError, LabelError

SIZES = {"train": 40, "val": 6, "test": 10}


@pytest.fixture
def arrays(tmp_path, rng):
    """Write a file of MedMNIST's layout; arrays may be changed or dropped."""

    def write(
        name="pneumoniamnist", *, side=28, colour=False, classes=2, findings=0, drop=(), save=np.savez_compressed, **changed
    ):
        content = {}
        for split, count in SIZES.items():
            shape = (count, side, side, 3) if colour else (count, side, side)
            content[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
            labels = rng.integers(0, 2, (count, findings)) if findings else np.arange(count)[:, None] % classes
            content[f"{split}_labels"] = labels.astype(np.uint8)
        content = {key: value for key, value in (content | changed).items() if key not in drop}
        save(tmp_path / f"{name}.npz", **content)
        return content

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_labels_and_official_splits_are_the_files(arrays, tmp_path, save):
    content = arrays(save=save)
    images = read_medmnist(tmp_path, "pneumoniamnist", cache=tmp_path / "cache")
    assert images.task.classes == ("normal", "pneumonia")
    assert {split: len(images.split(split)) for split in SIZES} == SIZES
    for split in SIZES:
        part = images.split(split)
        np.testing.assert_array_equal((part[3].image[0] * 255).round(), content[f"{split}_images"][3])
        assert part.targets.tolist() == content[f"{split}_labels"][:, 0].tolist()
        assert part[3].key == f"{split}:3"


def test_colour_sets_have_three_channels(arrays, tmp_path):
    content = arrays("bloodmnist", colour=True, classes=8)
    images = read_medmnist(tmp_path, "bloodmnist", cache=tmp_path)
    assert images.channels == 3
    np.testing.assert_array_equal((images[7].image.permute(1, 2, 0) * 255).round(), content["train_images"][7])


def test_findings_are_multi_label(arrays, tmp_path):
    content = arrays("chestmnist", findings=14)
    images = read_medmnist(tmp_path, "chestmnist", cache=tmp_path)
    assert images.task.multilabel
    assert images[2].target.tolist() == content["train_labels"][2].tolist()


def test_where_the_file_puts_disease_first_it_is_put_last(arrays, tmp_path):
    """BreastMNIST calls malignant 0; a binary task's positive class is its last."""
    content = arrays("breastmnist")
    images = read_medmnist(tmp_path, "breastmnist", cache=tmp_path)
    assert images.task.positive == "malignant"
    assert images.targets[:40].tolist() == (1 - content["train_labels"][:, 0].astype(int)).tolist()


def test_the_smallest_file_that_holds_the_size_is_read(arrays, tmp_path):
    for side in (28, 64, 128):
        arrays("pneumoniamnist" if side == 28 else f"pneumoniamnist_{side}", side=side, save=np.savez)
    for size, file in (
        (None, "t.npz"),
        (28, "t.npz"),
        (29, "t_64.npz"),
        (100, "t_128.npz"),
        (224, "t_128.npz"),
        ((20, 60), "t_64.npz"),
    ):
        images = read_medmnist(tmp_path, "pneumoniamnist", size=size)
        assert file in images.origin
        height, width = (28, 28) if size is None else (size, size) if isinstance(size, int) else size
        assert images[0].image.shape == (1, height, width)


def test_unknown_sets_and_missing_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no set 'lungmnist'; it has pathmnist"):
        read_medmnist(tmp_path, "lungmnist")
    with pytest.raises(DataError, match=r"no octmnist\.npz"):
        read_medmnist(tmp_path, "octmnist")


def test_a_file_of_another_set_is_refused(arrays, tmp_path):
    arrays("chestmnist")
    with pytest.raises(LabelError, match="should be multi-label"):
        read_medmnist(tmp_path, "chestmnist", cache=tmp_path)
    arrays("pneumoniamnist", classes=5)
    with pytest.raises(LabelError, match=r"outside 0\.\.1"):
        read_medmnist(tmp_path, "pneumoniamnist", cache=tmp_path)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"drop": ("train_images",)}, DataError, "expected train_images"),
        ({"drop": ("val_labels",)}, DataError, "expected train_images"),
        ({"val_labels": np.zeros((5, 1), np.uint8)}, DataError, r"val has 6 images and labels of shape \(5, 1\)"),
        ({"val_images": np.zeros((6, 28, 28, 3), np.uint8)}, DataError, "alike in all splits"),
        ({"colour": False, "side": 28, "train_labels": np.zeros((40, 1))}, LabelError, "whole numbers"),
        ({"val_labels": np.zeros(6, np.uint8)}, DataError, "labels must be alike"),
        ({"val_labels": np.uint8(1)}, DataError, r"val has 6 images and labels of shape \(\)"),
        ({"test_filenames": np.array(["x"])}, DataError, "test has 10 images and 1 file names"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(arrays, tmp_path, changed, error, says):
    arrays(**changed)
    with pytest.raises(error, match=says):
        read_medmnist(tmp_path, "pneumoniamnist", cache=tmp_path)


def test_any_file_of_the_layout_is_read_with_its_own_names(arrays, tmp_path):
    names = {f"{split}_filenames": np.array([f"{split}{k // 2}_{k % 2}.png" for k in range(n)]) for split, n in SIZES.items()}
    arrays("own", classes=3, class_names=np.array(["x", "y", "z"]), **names)
    images = read_npz(
        tmp_path / "own.npz",
        name="own",
        groups=lambda key: key.split("_")[0],
        sources=lambda key: key[-5],
        cache=tmp_path,
    )
    assert images.task.classes == ("x", "y", "z")
    assert (images[5].key, images[5].group, images[5].source) == ("train2_1.png", "train2", "1")


def test_a_file_without_validation_has_it_carved_the_same_each_time(arrays, tmp_path):
    arrays("own", drop=("val_images", "val_labels"), classes=2)
    one, two = (read_npz(tmp_path / "own.npz", name="own", cache=tmp_path) for _ in range(2))
    assert [len(one.split(s)) for s in ("train", "val", "test")] == [34, 6, 10]  # an eighth of each class's 20, rounded
    assert one.digest == two.digest
    assert one.digest != read_npz(tmp_path / "own.npz", name="own", cache=tmp_path, seed=1).digest
    assert any("an eighth of training" in caveat for caveat in one.caveats)
    assert one.task.classes == ("class 0", "class 1")


def test_a_download_happens_only_when_asked_and_needed(arrays, tmp_path, monkeypatch):
    asked = []

    def fetch(*, split, download, root, size):
        asked.append((split, download, root, size))
        arrays("octmnist" if size == 28 else f"octmnist_{size}", side=size, classes=4, save=np.savez)

    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(OCTMNIST=fetch))
    with pytest.raises(DataError, match=r"no octmnist\.npz"):
        read_medmnist(tmp_path, "octmnist")
    assert asked == []
    assert read_medmnist(tmp_path, "octmnist", size=60, download=True)[0].image.shape == (1, 60, 60)
    assert asked == [("val", True, str(tmp_path), 64)]
    read_medmnist(tmp_path, "octmnist", size=60, download=True)
    assert len(asked) == 1


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match=r"antivenom\[medmnist\]"):
        read_medmnist(tmp_path, "octmnist", download=True)

    def offline(**_):
        raise RuntimeError("no route")

    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(OCTMNIST=offline))
    with pytest.raises(DataError, match=r"no route.*put octmnist\.npz into"):
        read_medmnist(tmp_path, "octmnist", download=True)


def test_the_table_holds_the_twelve_flat_sets():
    assert len(FLAGS) == 12
    assert [len(facts.classes) for facts in FLAGS.values()] == [9, 14, 7, 4, 2, 5, 2, 8, 8, 11, 11, 11]
    assert [flag for flag, facts in FLAGS.items() if facts.multilabel] == ["chestmnist"]
