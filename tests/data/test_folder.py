import numpy as np
import pytest
import torch
from PIL import Image

from antivenom.data.folder import Label, class_folders, labels_csv
from antivenom.errors import DataError, ImageError, LabelError, SplitError

N = 30


@pytest.fixture
def listed(tmp_path, picture):
    """A folder of 30 grey images of 15 patients, split 20 / 4 / 6, and its table; a column may be changed or dropped."""

    def write(drop=(), colour=False, **columns):
        files = [f"images/{k}.png" for k in range(N)]
        for file in files:
            picture(file, colour=colour)
        table = {
            "filename": files,
            "label": ["ill" if k % 3 == 0 else "healthy" for k in range(N)],
            "split": ["train"] * 20 + ["val"] * 4 + ["test"] * 6,
            "patient_id": [f"p{k // 2}" for k in range(N)],
            "source": ["here" if k < 15 else "there" for k in range(N)],
            "Mass": [k % 2 for k in range(N)],
            "Edema": [int(k % 5 == 0) for k in range(N)],
            "sex": ["f", "m"] * (N // 2),
        } | columns
        names = [name for name in table if name not in drop]
        lines = [",".join(names), *(",".join(str(table[name][k]) for name in names) for k in range(N))]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        return tmp_path

    return write


def test_a_table_is_read_with_everything_it_says(listed):
    images = labels_csv(listed(), traits=("sex",))
    assert images.task.classes == ("ill", "healthy")[::-1]
    assert images.channels == 1
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [20, 4, 6]
    sample = images[4]
    assert (sample.key, sample.group, sample.source, int(sample.target)) == ("images/4.png", "p2", "here", 0)
    assert images.index.traits["sex"][:2].tolist() == ["f", "m"]
    assert not images.has_masks


@pytest.mark.parametrize(("column", "unit"), [("patient_id", "patient"), ("subject_id", "subject"), ("lesion_id", "lesion")])
def test_what_a_group_is_follows_from_its_column(listed, column, unit):
    folder = listed(drop={"patient_id"} - {column}, **{column: [f"g{k // 2}" for k in range(N)]})
    assert labels_csv(folder).index.unit == unit
    assert labels_csv(folder, group=column).split("test").index.unit == unit


def test_columns_of_findings_make_a_multi_label_set(listed):
    images = labels_csv(listed(), label=("Mass", "Edema"))
    assert images.task.multilabel
    assert images[5].target.tolist() == [1, 1]


def test_classes_may_be_ordered_renamed_and_left_out(listed):
    root = listed(label=["b", "a", "c"] * 10, patient_id=[f"p{k}" for k in range(N)])
    images = labels_csv(root, label=Label("label", ("c", "a"), left_out=("b",), names=("see", "ay")))
    assert images.task.classes == ("see", "ay")
    assert images.targets.tolist()[:4] == [1, 0, 1, 0]
    assert "10 images of 10 groups labelled b are left out." in images.caveats


def test_a_column_by_another_name_is_given_by_argument(listed):
    root = listed(drop=("label",), dx=["x", "y"] * 15, who=[f"q{k}" for k in range(N)])
    images = labels_csv(root, label="dx", group="who", source="sex")
    assert images.task.classes == ("x", "y")
    assert images[3].group == "q3"
    assert images[3].source == "m"


@pytest.mark.parametrize(
    ("drop", "asked", "says"),
    [
        (("label",), {}, "name the label column; it has filename, split"),
        ((), {"label": "dx"}, "no column 'dx'; it has filename, label"),
        ((), {"group": "who"}, "no column 'who'"),
        ((), {"traits": ("age",)}, "no column 'age'"),
        ((), {"label": ("Mass", "Hernia")}, "no column 'Hernia'"),
        (("filename",), {}, "no column of files"),
        ((), {"table": "other.csv"}, "right root"),
    ],
)
def test_a_missing_column_names_those_present(listed, drop, asked, says):
    with pytest.raises(DataError, match=says):
        labels_csv(listed(drop=drop), **asked)


def test_a_label_outside_the_classes_is_refused(listed):
    with pytest.raises(LabelError, match="label 'ill' is none of healthy, sick"):
        labels_csv(listed(), label=Label("label", ("healthy", "sick")))


def test_a_split_that_shares_a_patient_is_refused(listed):
    with pytest.raises(SplitError, match="more than one split: p0"):
        labels_csv(listed(split=["train", "test"] * 15))


def test_without_a_split_patients_are_kept_apart(listed):
    images = labels_csv(listed(drop=("split",)))
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert sum(map(len, held)) == 15
    assert any("split 70/10/20 here" in caveat for caveat in images.caveats)


def test_a_shortcut_by_source_is_reported_by_itself(listed):
    images = labels_csv(listed(label=["healthy"] * 15 + ["ill"] * 15))
    assert any("ill here 0.0%, there 100.0%" in caveat for caveat in images.caveats)


def test_sizes_and_masks_go_together(listed, picture):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    root = listed()
    picture("masks/0.png", mask)
    images = labels_csv(root, size=(4, 2))
    assert images[0].image.shape == (1, 4, 2)
    assert images.mask(0).tolist() == [[False, True]] * 4
    with pytest.raises(DataError, match=r"image 1 .*no lesion mask"):
        images.mask(1)


def test_colour_is_found_and_grey_stored_as_colour_stays_grey(listed, tmp_path, picture):
    assert labels_csv(listed(colour=True)).channels == 3
    assert labels_csv(tmp_path, channels=1)[0].image.shape == (1, 8, 8)
    for k in range(N):
        picture(f"images/{k}.png", np.stack([np.full((8, 8), k, np.uint8)] * 3, -1))
    images = labels_csv(tmp_path)
    assert images.channels == 1
    assert images[9].image.shape == (1, 8, 8)


def test_paths_out_of_the_root_are_refused(listed, tmp_path):
    with pytest.raises(DataError, match="leads out of"):
        labels_csv(listed(filename=["../secret.png"] * N))
    root = tmp_path / "inner"
    root.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "own.png")
    (root / "labels.csv").write_text("filename,label,split\n" + "own.png,a,train\nlink.png,b,test\nown2.png,a,val\n")
    with pytest.raises(DataError, match="leads out of"):
        labels_csv(root, channels=1)[1]


def test_a_wrong_root_is_told_at_once_and_one_missing_image_on_reading(listed, tmp_path):
    with pytest.raises(DataError, match="right root"):
        labels_csv(tmp_path / "nowhere")
    root = listed()
    (root / "images" / "7.png").unlink()
    images = labels_csv(root)
    assert len(images) == N
    with pytest.raises(ImageError, match=r"images/7\.png"):
        images[7]
    with pytest.raises(DataError, match=r"lists gone/0\.png.*right root"):
        labels_csv(listed(filename=[f"gone/{k}.png" for k in range(N)]))


def test_a_set_can_be_handed_to_another_process(listed):
    import pickle

    images = labels_csv(listed(), size=4)
    assert torch.equal(pickle.loads(pickle.dumps(images))[3].image, images[3].image)


@pytest.fixture
def foldered(tmp_path, picture):
    def write(splits=(), each=20, names="{k}.png"):
        for split in splits or ("",):
            for label in ("normal", "abnormal"):
                for k in range(each):
                    picture(f"{split}/{label}/{names.format(k=k, label=label, split=split)}".lstrip("/"))
        return tmp_path

    return write


def test_class_folders_are_classes(foldered):
    images = class_folders(foldered())
    assert images.task.classes == ("normal", "abnormal")
    assert len(images) == 40
    assert images[0].key == "abnormal/0.png"
    assert int(images[0].target) == 1
    assert any("70/10/20" in caveat for caveat in images.caveats)
    assert any("No ids of patients" in caveat for caveat in images.caveats)


def test_split_folders_are_splits(foldered):
    images = class_folders(foldered(("train", "valid", "test"), each=3))
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [6, 6, 6]
    assert images.task.classes == ("normal", "abnormal")


def test_a_missing_validation_folder_is_carved_from_training(foldered):
    images = class_folders(foldered(("train", "test"), each=16))
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [28, 4, 32]


def test_patients_are_found_in_file_names(foldered):
    images = class_folders(foldered(names="person{k}_{label}.png"), group_pattern=r"person(\d+)_")
    assert len(set(images.groups)) == 20
    with pytest.raises(DataError, match="does not show the group"):
        class_folders(foldered(), group_pattern=r"patient(\d+)")


def test_a_patient_in_two_split_folders_is_refused(foldered):
    with pytest.raises(SplitError, match="more than one split"):
        class_folders(foldered(("train", "val", "test"), each=2, names="person{k}.png"), group_pattern=r"person(\d+)")


def test_folders_without_images_or_classes_are_refused(tmp_path, picture):
    with pytest.raises(DataError, match="no such folder"):
        class_folders(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images below it"):
        class_folders(tmp_path)
    picture("a/1.png")
    picture("2.png")
    with pytest.raises(DataError, match=r"2\.png lies in no class folder"):
        class_folders(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(LabelError, match="only one class: 'a'"):
        class_folders(tmp_path)
    picture("b/1.png")
    with pytest.raises(LabelError, match="label 'a' is none of b, c"):
        class_folders(tmp_path, classes=("b", "c"))


def test_patients_and_scanners_are_taken_from_dicom_heads(tmp_path, scan):
    for k in range(40):
        scan(f"{'ill' if k % 2 else 'healthy'}/{k}.dcm", k, patient=f"patient {k // 2}", maker="old" if k % 2 else "new")
    images = class_folders(tmp_path, heads=True)
    assert len(set(images.groups)) == 20
    assert not any("patient" in group for group in images.groups)
    assert any("ill new 0.0%, old 100.0%" in caveat for caveat in images.caveats)
    assert float(images[0].image.max()) == 0
    assert images[0].source == "new"
    assert len(set(class_folders(tmp_path).index.groups.tolist())) == 1
