import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from antivenom.data.imageset import SPLITS, ImageSet, Index
from antivenom.data.splits import carve_val, grouped_split, load_split, save_split, settle_splits
from antivenom.errors import DataError, SplitError
from antivenom.task import Task

# The subjects of the Alzheimer set: 100, 70, 28 and 2, with 32 slices each.
SUBJECTS = np.repeat(np.arange(200), 32)
SEVERITY = np.repeat(np.repeat(np.arange(4), (100, 70, 28, 2)), 32)


def pictures(groups, splits=None, targets=None):
    keys = [f"{k}.png" for k in range(len(groups))]
    index = Index.of(keys, targets if targets is not None else np.zeros(len(keys), int), groups=groups, splits=splits)
    return ImageSet("pictures", Task(("a", "b")), index, lambda _: torch.zeros(1, 2, 2), channels=1)


def parts(splits, groups):
    return [set(np.asarray(groups)[splits == name].tolist()) for name in SPLITS]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=200), st.integers(0, 5))
def test_no_group_is_ever_divided(members, seed):
    groups = np.array([f"p{k}" for k in members])
    strata = np.arange(len(groups)) % 3
    try:
        splits = grouped_split(groups, strata, seed=seed)
    except SplitError:
        assert len(set(members)) < 10
        return
    train, val, test = parts(splits, groups)
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) + len(val) + len(test) == len(set(members))


def test_classes_are_spread_as_the_fractions_say():
    splits = grouped_split(SUBJECTS.astype(str), SEVERITY, seed=0)
    held = {name: np.bincount(SEVERITY[splits == name], minlength=4) // 32 for name in SPLITS}
    for name, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        np.testing.assert_allclose(held[name][:3], share * np.array([100, 70, 28]), atol=1)


def test_a_class_of_two_subjects_reaches_train_and_test():
    for seed in range(5):
        splits = grouped_split(SUBJECTS.astype(str), SEVERITY, seed=seed)
        assert set(splits[SEVERITY == 3].tolist()) == {"train", "test"}


def test_findings_are_spread_too(rng):
    groups = np.repeat(np.arange(600), rng.integers(1, 6, 600)).astype(str)
    findings = (rng.random((len(groups), 4)) < (0.4, 0.1, 0.03, 0.01)).astype(np.int8)
    splits = grouped_split(groups, findings, seed=0)
    for name, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert (splits == name).mean() == pytest.approx(share, abs=0.01)
        np.testing.assert_allclose(findings[splits == name].sum(0) / findings.sum(0), share, atol=0.05)


def test_the_seed_decides_and_nothing_else():
    one, two = (grouped_split(SUBJECTS.astype(str), SEVERITY, seed=seed) for seed in (0, 0))
    other = grouped_split(SUBJECTS.astype(str), SEVERITY, seed=1)
    assert (one == two).all()
    assert (one != other).any()


def test_images_without_a_group_stand_alone():
    splits = grouped_split([""] * 100, np.zeros(100, int), seed=0)
    assert [(splits == name).sum() for name in SPLITS] == [70, 10, 20]


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.4, 0.2), (0, 0, 0)])
def test_fractions_that_cannot_be_are_refused(fractions):
    with pytest.raises(SplitError, match="sum to 1"):
        grouped_split(["a", "b"], np.zeros(2, int), fractions, seed=0)


def test_too_few_groups_are_refused():
    with pytest.raises(SplitError, match="2 groups are too few to fill val"):
        grouped_split(["a", "b", "b"], np.zeros(3, int), seed=0)
    with pytest.raises(SplitError, match="at least one image"):
        grouped_split([], np.zeros(0, int), seed=0)


def test_validation_is_carved_from_training_alone():
    given = np.where(SUBJECTS % 5 == 0, "test", "train")
    splits = carve_val(given, SUBJECTS.astype(str), SEVERITY, seed=0)
    assert ((splits == "test") == (given == "test")).all()
    train, val, _test = parts(splits, SUBJECTS)
    assert not train & val
    assert len(val) == pytest.approx(160 / 8, abs=2)
    with pytest.raises(SplitError, match="no training split"):
        carve_val(["test"] * 3, ["", "", ""], np.zeros(3, int), seed=0)


def test_a_full_stated_split_is_kept_as_it_is():
    stated = ["train", "Validation", "testing", "train"]
    splits, told = settle_splits(stated, ["a", "b", "c", "a"], np.zeros(4, int), seed=0)
    assert splits.tolist() == ["train", "val", "test", "train"]
    assert told == ()


@pytest.mark.parametrize("stated", [None, ["train"] * 50, [""] * 50])
def test_a_set_without_a_split_is_dealt_out_and_says_so(stated):
    splits, told = settle_splits(stated, [""] * 50, np.zeros(50, int), seed=3)
    assert set(splits.tolist()) == set(SPLITS)
    assert "70/10/20 here with seed 3" in told[0]


def test_a_missing_validation_split_is_carved_and_images_in_no_split_are_counted():
    splits, told = settle_splits(["train"] * 40 + ["test"] * 10, [""] * 50, np.zeros(50, int), seed=0)
    assert (splits[:40] == "val").sum() == 5
    assert "an eighth of training" in told[0]
    splits, told = settle_splits(["train", "val", "test", ""], [""] * 4, np.zeros(4, int), seed=0)
    assert told == ("1 image(s) stand in no split and are not used.",)


def test_a_stored_split_comes_back(tmp_path):
    images = pictures(["a", "b", "c", "d"], ["train", "val", "test", ""])
    digest = save_split(tmp_path / "split.json", images)
    again = load_split(tmp_path / "split.json", pictures(["a", "b", "c", "d"]))
    assert again.index.splits.tolist() == ["train", "val", "test", ""]
    assert len(digest) == 64
    assert json.loads((tmp_path / "split.json").read_text())["sha256"] == digest


def test_a_stored_split_that_was_changed_is_refused(tmp_path):
    images, path = pictures(["a", "b", "c"], ["train", "val", "test"]), tmp_path / "split.json"
    save_split(path, images)
    content = json.loads(path.read_text())
    content["train"], content["test"] = content["test"], content["train"]
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="SHA-256"):
        load_split(path, images)


def test_a_stored_split_that_shares_a_patient_is_refused(tmp_path):
    path = tmp_path / "split.json"
    save_split(path, pictures(["a", "b", "c"], ["train", "val", "test"]))
    with pytest.raises(SplitError, match="more than one split: a"):
        load_split(path, pictures(["a", "b", "a"]))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1}', "\x00", '{"format": 1, "sha256": "0", "train": []}'])
def test_files_that_are_no_split_are_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SplitError, match=r"x\.json"):
        load_split(tmp_path / "x.json", pictures(["a"]))


def test_a_split_of_other_images_is_refused(tmp_path):
    path = tmp_path / "split.json"
    save_split(path, pictures(["a", "b", "c"], ["train", "val", "test"]))
    for other in (["a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(SplitError, match="it lists 3 images"):
            load_split(path, pictures(other))
    with pytest.raises(SplitError, match=r"gone\.json"):
        load_split(tmp_path / "gone.json", pictures(["a"]))


def test_there_must_be_a_split_and_a_place_to_save_it(tmp_path):
    with pytest.raises(SplitError, match="nothing to save"):
        save_split(tmp_path / "x.json", pictures(["a"]))
    with pytest.raises(DataError, match="cannot be written"):
        save_split(tmp_path / "none" / "x.json", pictures(["a"], ["train"]))
