"""The published layout in miniature."""

import numpy as np
import pytest

from antivenom.data.chestxray14 import FINDINGS, read_chestxray14
from antivenom.errors import DataError, LabelError, SplitError

HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],"
LABELS = ["No Finding", "Effusion", "Effusion|Mass", "No Finding", "Hernia|Effusion", "Mass"]


@pytest.fixture
def published(tmp_path, picture):
    """Write 120 images of 40 patients, every fifth patient in the official test list."""

    def write(labels=LABELS, lists=True, kept=lambda _: True, test=lambda patient: patient % 5 == 0):
        lines, train, held_out = [HEAD], [], []
        for k in range(120):
            patient, name = k // 3, f"{k // 3:08d}_{k % 3:03d}.png"
            lines.append(f"{name},{labels[k % len(labels)]},{k % 3},{patient},{20 + patient},{'FM'[patient % 2]},PA,2682,2749,")
            if kept(k):
                picture(f"images_{1 + k % 2:03d}/images/{name}", np.full((6, 6), k, np.uint8))
            (held_out if test(patient) else train).append(name)
        (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines))
        if lists:
            (tmp_path / "train_val_list.txt").write_text("\n".join(train))
            (tmp_path / "test_list.txt").write_text("\n".join(held_out))
        return tmp_path

    return write


def test_findings_patients_and_traits_are_read(published):
    images = read_chestxray14(published())
    assert len(images) == 120
    assert images.channels == 1
    sample = images[4]
    assert sample.key == "00000001_001.png"
    assert sample.group == "1"
    assert [FINDINGS[k] for k in np.flatnonzero(sample.target)] == ["Effusion", "Hernia"]
    assert float(sample.image.mean()) * 255 == pytest.approx(4)
    assert {name: column[4] for name, column in images.index.traits.items()} == {"sex": "M", "age": "21", "view": "PA"}


def test_the_official_test_list_is_kept_and_validation_carved_patient_by_patient(published):
    images = read_chestxray14(published())
    test = images.split("test")
    assert {int(group) % 5 for group in test.groups} == {0}
    assert len(test) == 24
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert not held[0] & held[1]
    assert len(held[1]) == 4
    assert any("official list" in caveat for caveat in images.caveats)


def test_reduced_to_one_class_an_image_has_its_rarest_training_finding(published):
    images = read_chestxray14(published(), reduction="single")
    assert not images.task.multilabel
    assert images.task.classes == ("No Finding", *FINDINGS)
    assert [images.task.classes[images[k].target] for k in range(6)] == [
        *("No Finding", "Effusion", "Mass", "No Finding", "Hernia", "Mass"),
    ]
    assert any("40 images with several findings count as the one that fewest training images" in c for c in images.caveats)


def test_rarity_is_counted_in_training_alone(published):
    """Hernia is rarer than Mass in training and commoner in test; the rule may not look at test."""
    labels = ["Mass|Hernia"] + ["Mass"] * 49 + ["Hernia"] * 70
    root = published(labels, test=lambda patient: patient >= 20)
    images = read_chestxray14(root, reduction="single")
    assert images.task.classes[images[0].target] == "Hernia"


def test_without_the_lists_patients_are_still_kept_apart(published):
    images = read_chestxray14(published(lists=False))
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert sum(map(len, held)) == 40
    assert any("official lists are not in the root" in caveat for caveat in images.caveats)


def test_images_that_are_not_on_disk_are_left_out_and_counted(published):
    images = read_chestxray14(published(kept=lambda k: k % 2 == 0))
    assert len(images) == 60
    assert "Only 60 of the 120 listed images are on disk and used." in images.caveats
    assert not any("on disk" in caveat for caveat in read_chestxray14(published()).caveats)


def test_unknown_findings_are_refused(published):
    with pytest.raises(LabelError, match="finding 'Cold' is none of Atelectasis"):
        read_chestxray14(published(["Mass|Cold"]))


def test_lists_that_do_not_fit_are_refused(published):
    root = published()
    (root / "train_val_list.txt").write_text("")
    with pytest.raises(SplitError, match="neither of train_val_list"):
        read_chestxray14(root)
    (root / "train_val_list.txt").write_text("\n".join(f"{k // 3:08d}_{k % 3:03d}.png" for k in range(120)))
    with pytest.raises(SplitError, match="both of train_val_list"):
        read_chestxray14(root)
    (root / "train_val_list.txt").unlink()
    with pytest.raises(SplitError, match=r"both train_val_list\.txt and test_list\.txt are needed"):
        read_chestxray14(root)


def test_lists_that_share_a_patient_are_refused(published):
    root = published(test=lambda patient: patient % 5 == 0)
    train, test = ((root / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt"))
    (root / "train_val_list.txt").write_text("\n".join([*train, test[0]]))
    (root / "test_list.txt").write_text("\n".join(test[1:]))
    with pytest.raises(SplitError, match="more than one split: 0"):
        read_chestxray14(root)


def test_a_wrong_root_is_refused(tmp_path, published):
    with pytest.raises(DataError, match="no Data_Entry_2017"):
        read_chestxray14(tmp_path)
    with pytest.raises(DataError, match="none of its 120 images"):
        read_chestxray14(published(kept=lambda _: False))
