import numpy as np
import pytest

from antivenom.data.ham10000 import DIAGNOSES, read_ham10000
from antivenom.errors import DataError, LabelError


@pytest.fixture
def published(tmp_path, picture):
    """140 images of 70 lesions in two parts, every second one with a mask."""

    def write(dx=lambda k: DIAGNOSES[k // 2 % 7], masks=True, dataset=False, table="HAM10000_metadata.csv"):
        head = "lesion_id,image_id,dx,dx_type,age,sex,localization" + (",dataset" if dataset else "")
        lines = [head]
        for k in range(140):
            name = f"ISIC_{k:07d}"
            line = f"HAM_{k // 2:07d},{name},{dx(k)},histo,{k % 90}.0,female,back"
            lines.append(line + (f",{'rosendahl' if dx(k) == 'nv' else 'vidir'}" if dataset else ""))
            picture(f"HAM10000_images_part_{1 + k % 2}/{name}.jpg", colour=True)
            if masks and k % 2 == 0:
                picture(f"HAM10000_segmentations_lesion_tschandl/{name}_segmentation.png", np.eye(8, dtype=np.uint8) * 255)
        (tmp_path / table).write_text("\n".join(lines))
        return tmp_path

    return write


def test_lesions_stay_together_and_classes_are_spread(published):
    images = read_ham10000(published())
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert sum(map(len, held)) == 70
    for name, share in (("train", 7), ("val", 1), ("test", 2)):
        assert np.bincount(images.split(name).targets, minlength=7).tolist() == [2 * share] * 7
    assert images[3].key == "ISIC_0000003"
    assert images[3].group == "HAM_0000001"
    assert images.task.classes[images[3].target] == "bcc"
    assert images.index.traits["age"][3] == "3.0"


def test_the_binary_question_asks_for_malignancy_with_the_same_split(published):
    root = published()
    images, seven = read_ham10000(root, question="binary"), read_ham10000(root)
    assert images.task.positive == "malignant"
    assert images.targets[:14:2].tolist() == [1, 1, 0, 0, 1, 0, 0]
    assert images.index.splits.tolist() == seven.index.splits.tolist()


def test_masks_are_found_beside_the_images_and_are_no_images_themselves(published):
    images = read_ham10000(published())
    assert len(images) == 140
    assert images.has_masks
    assert images.mask(2).int().tolist() == np.eye(8, dtype=int).tolist()
    with pytest.raises(DataError, match="no lesion mask"):
        images.mask(3)


def test_masks_are_optional(published):
    assert not read_ham10000(published(masks=False)).has_masks


def test_the_origin_of_an_image_is_its_source(published):
    images = read_ham10000(published(dataset=True))
    assert images[0].source == "vidir"
    assert any("nv rosendahl 100.0%, vidir 0.0%" in caveat for caveat in images.caveats)


def test_images_that_an_archive_holds_twice_are_read_once_and_rivals_are_refused(published, tmp_path, picture):
    root = published()
    twin = tmp_path / "ham10000_images_part_1" / "ISIC_0000000.jpg"
    twin.parent.mkdir()
    twin.write_bytes((root / "HAM10000_images_part_1" / twin.name).read_bytes())
    assert len(read_ham10000(root)) == 140
    picture(f"{twin.parent.name}/{twin.name}", size=(30, 30))
    with pytest.raises(DataError, match=r"have one name and differ"):
        read_ham10000(root)


def test_the_table_may_have_no_suffix(published):
    assert len(read_ham10000(published(table="HAM10000_metadata"))) == 140


def test_unknown_diagnoses_and_wrong_roots_are_refused(published, tmp_path):
    with pytest.raises(DataError, match="no HAM10000_metadata"):
        read_ham10000(tmp_path)
    with pytest.raises(LabelError, match="label 'wart' is none of akiec"):
        read_ham10000(published(dx=lambda _: "wart"))
