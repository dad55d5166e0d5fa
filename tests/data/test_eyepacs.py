import numpy as np
import pytest

from antivenom.data.eyepacs import read_retinopathy
from antivenom.errors import DataError, LabelError


@pytest.fixture
def eyepacs(tmp_path, picture):
    """40 patients, both eyes, in two formats and two folders."""

    def write(grade=lambda k: k % 5, kept=lambda _: True):
        lines = ["image,level"]
        for k in range(80):
            name = f"{k // 2}_{'left' if k % 2 else 'right'}"
            lines.append(f"{name},{grade(k)}")
            if kept(k):
                picture(f"{'train' if k % 4 else 'more'}/{name}.{'jpeg' if k % 2 else 'png'}", colour=True)
        (tmp_path / "trainLabels.csv").write_text("\n".join(lines))
        return tmp_path

    return write


@pytest.fixture
def aptos(tmp_path, picture):
    lines = ["id_code,diagnosis"]
    for k in range(60):
        lines.append(f"{k:012x},{k % 5}")
        picture(f"train_images/{k:012x}.png", colour=True)
    (tmp_path / "train.csv").write_text("\n".join(lines))
    return tmp_path


def test_both_eyes_of_a_patient_stay_together(eyepacs):
    images = read_retinopathy(eyepacs(), "eyepacs")
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert sum(map(len, held)) == 40
    assert images[3].group == "1"
    assert images[3].key == "1_left"
    assert images[3].image.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("question", "targets", "positive"),
    [("binary", [0, 1, 1, 1, 1], "DR"), ("referable", [0, 0, 1, 1, 1], "referable"), ("grade", [0, 1, 2, 3, 4], None)],
)
def test_each_question_reads_the_grades_its_way(eyepacs, question, targets, positive):
    images = read_retinopathy(eyepacs(), "eyepacs", question=question)
    assert images.targets[:5].tolist() == targets
    assert len(images.task.classes) == (5 if positive is None else 2)
    assert positive is None or images.task.positive == positive


def test_every_question_has_the_same_split(eyepacs):
    root = eyepacs()
    splits = [read_retinopathy(root, "eyepacs", question=q).index.splits.tolist() for q in ("binary", "referable", "grade")]
    assert splits[0] == splits[1] == splits[2]


def test_aptos_is_read_and_says_that_patients_are_unknown(aptos):
    images = read_retinopathy(aptos, "aptos", question="grade", size=4)
    assert images[7].key == f"{7:012x}"
    assert int(images[7].target) == 2
    assert images[7].image.shape == (3, 4, 4)
    assert any("No ids of patients" in caveat for caveat in images.caveats)


def test_images_that_are_not_on_disk_are_left_out_and_counted(eyepacs):
    images = read_retinopathy(eyepacs(kept=lambda k: k < 60), "eyepacs")
    assert "Only 60 of the 80 listed images are on disk and used." in images.caveats


@pytest.mark.parametrize("grade", ["5", "-1", "", "two"])
def test_grades_outside_the_scale_are_refused(eyepacs, grade):
    with pytest.raises(LabelError, match=f"3_right: grade '{grade}' is none of 0 to 4"):
        read_retinopathy(eyepacs(grade=lambda k: grade if k == 6 else 0), "eyepacs")


def test_a_wrong_root_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"trainLabels\.csv: cannot be read"):
        read_retinopathy(tmp_path, "eyepacs")
    np.savetxt(tmp_path / "train.csv", np.zeros((2, 2)), header="id_code,diagnosis", delimiter=",", comments="")
    with pytest.raises(DataError, match="none of its 2 images"):
        read_retinopathy(tmp_path, "aptos")
