import numpy as np
import pytest

from antivenom.data.checking import check
from antivenom.data.folder import labels_csv

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.fixture
def images(tmp_path, picture):
    for k in range(12):
        picture(f"{k}.png")
        picture(f"masks/{k}.png", np.zeros((8, 8), np.uint8))
    rows = [f"{k}.png,{'ab'[k % 2]},{split}" for k, split in enumerate(SPLITS)]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label,split", *rows]))
    return labels_csv(tmp_path)


def test_a_sound_set_has_no_problem(images):
    steps = []
    assert check(images, progress=steps.append) == []
    assert steps == list(range(12))


def test_every_unreadable_image_and_mask_is_named(images, tmp_path):
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    (tmp_path / "5.png").unlink()
    (tmp_path / "masks" / "7.png").write_text("no mask")
    found = {(problem.key, problem.kind) for problem in check(images)}
    assert found == {("3.png", "image"), ("5.png", "image"), ("7.png", "mask")}
    assert all(problem.key in problem.message for problem in check(images))


def test_a_mask_of_another_size_is_named(images, picture):
    picture("masks/2.png", np.zeros((8, 9), np.uint8))
    (problem,) = check(images)
    assert (problem.key, problem.kind) == ("2.png", "mask")


def test_the_same_picture_in_two_splits_is_a_leak_and_in_one_split_is_none(images, tmp_path):
    for twin in (1, 11):
        (tmp_path / f"{twin}.png").write_bytes((tmp_path / "0.png").read_bytes())
    (problem,) = check(images)
    assert (problem.key, problem.kind) == ("11.png", "leak")
    assert "0.png: one stands in train, the other in test" in problem.message


def test_a_split_is_checked_alone(images, tmp_path):
    (tmp_path / "3.png").unlink()
    assert check(images.split("test")) == []
    assert len(check(images.split("train"))) == 1
