import numpy as np
import pytest
import torch

from antivenom.data.imageset import ImageSet, Index, batches, check_image
from antivenom.errors import DataError, ImageError, LabelError, SplitError
from antivenom.task import Task

TASK = Task(("healthy", "ill"))
KEYS = ["a", "b", "c", "d"]
SPLITS = ["train", "val", "test", "train"]


def pictures(load=lambda row: torch.full((1, 2, 2), row / 10), targets=(0, 1, 0, 1), task=TASK, keys=KEYS, **columns):
    columns = {"splits": SPLITS, "groups": ["p", "", "q", "p"]} | columns
    return ImageSet("set", task, Index.of(keys, targets, **columns), load, channels=1)


def test_a_sample_is_image_target_key_group_and_source():
    sample = pictures(sources=["x", "y", "x", "y"])[1]
    assert sample.image.tolist() == [[[pytest.approx(0.1)] * 2] * 2]
    assert (int(sample.target), sample.key, sample.group, sample.source) == (1, "b", "b", "y")


def test_splits_and_choices_keep_their_rows_together():
    images = pictures()
    assert images.split("train").keys == ["a", "d"]
    assert images.split("train").targets.tolist() == [0, 1]
    assert images.take([3, 1]).split("val").keys == ["b"]
    assert [s.key for s in images.take([3, 0])] == ["d", "a"]
    with pytest.raises(SplitError, match="no split 'test'; it has train, val"):
        images.take([0, 1]).split("test")


def test_batches_hold_what_the_samples_hold():
    first, second = batches(pictures(), 3)
    assert first.images.shape == (3, 1, 2, 2)
    assert second.keys == ("d",)
    assert torch.cat([first.targets, second.targets]).tolist() == [0, 1, 0, 1]


def test_images_of_different_sizes_form_no_batch():
    with pytest.raises(ImageError, match="size="):
        list(batches(pictures(load=lambda row: torch.zeros(1, 2, 2 + row)), 2))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.zeros(3, 2, 2), "expected 1 channel"),
        (torch.zeros(2, 2), "expected 1 channel"),
        (torch.zeros(1, 2, 2, dtype=torch.float64), "float32"),
        (torch.full((1, 2, 2), torch.nan), "finite"),
        (torch.full((1, 2, 2), 1.01), r"\[1\.01, 1\.01\]"),
        (torch.full((1, 2, 2), -0.01), "lie in"),
    ],
)
def test_what_is_no_image_is_refused_by_name(image, says):
    with pytest.raises(ImageError, match=f"b: .*{says}"):
        pictures(load=lambda _: image)[1]
    check_image(torch.zeros(1, 2, 2), "b", 1)


@pytest.mark.parametrize(
    ("targets", "task"), [((0, 1, 2, 0), TASK), ((0, -1, 0, 0), TASK), (np.full((4, 2), 2), Task(("x", "y"), True))]
)
def test_targets_outside_the_classes_are_refused(targets, task):
    with pytest.raises(LabelError, match="outside 0"):
        pictures(targets=targets, task=task)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(LabelError, match="shape"):
        pictures(targets=np.zeros((4, 2), int))


def test_names_that_repeat_are_refused():
    with pytest.raises(DataError, match="'a' occurs 2 times"):
        pictures(keys=["a", "b", "a", "c"])


def test_a_patient_in_two_splits_is_refused():
    with pytest.raises(SplitError, match="more than one split: p"):
        pictures(groups=["p", "p", "q", "r"])
    with pytest.raises(SplitError, match="more than one split: p"):
        pictures().resplit(["train", "val", "test", "val"])
    assert pictures(groups=["", "", "", ""]).groups == KEYS


def test_splits_of_another_name_are_refused():
    with pytest.raises(SplitError, match="holdout"):
        pictures(splits=["train", "holdout", "test", "train"])


def test_the_digest_tells_sets_apart():
    same, other = pictures(), pictures(targets=(1, 1, 0, 1))
    assert same.digest == pictures().digest
    assert len({same.digest, other.digest, same.split("train").digest, pictures(splits=["test"] * 4).digest}) == 4


def test_a_set_without_masks_says_so():
    with pytest.raises(DataError, match="no lesion masks"):
        pictures().mask(0)
