"""The table and `load`; the sets themselves are tested with their readers, and on real files in test_real_sets.py."""

import numpy as np
import pytest

from antivenom.data.datasets import DATASETS, find_row, load, locate
from antivenom.data.phantoms.album import MODALITIES
from antivenom.data.splits import save_split
from antivenom.errors import DataError, SettingsError, SplitError


@pytest.fixture
def kermany(tmp_path, picture):
    """A miniature of the shared Kermany folder, below a data root."""
    lines = ["filename,label,split,subtype,patient_id"]
    for k in range(30):
        kind = ("normal", "bacterial_pneumonia", "viral_pneumonia")[k % 3]
        picture(f"cxr_pneumonia_kermany/images/{k}.png", np.full((8, 8, 3), 8 * k, np.uint8))
        split = "train" if k < 20 else "val" if k < 24 else "test"
        lines.append(f"images/{k}.png,{'normal' if k % 3 == 0 else 'pneumonia'},{split},{kind},P{k}")
    (tmp_path / "cxr_pneumonia_kermany" / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_a_set_is_found_in_the_data_root_or_in_its_own_folder(kermany, monkeypatch):
    own = kermany / "cxr_pneumonia_kermany"
    assert locate("kermany", kermany) == locate("kermany", own) == own
    assert load("kermany", kermany).digest == load("kermany", own).digest
    monkeypatch.delenv("ANTIVENOM_DATA", raising=False)
    with pytest.raises(DataError, match="ANTIVENOM_DATA"):
        load("kermany")
    monkeypatch.setenv("ANTIVENOM_DATA", str(kermany))
    assert load("kermany").name == "kermany"


def test_a_wrong_root_says_what_was_looked_for_and_where(kermany, tmp_path):
    with pytest.raises(DataError, match=r"no labels\.csv in .*fundus_dr or .*fundus-dr"):
        load("fundus-dr", kermany)
    with pytest.raises(DataError, match="no such folder"):
        load("kermany", tmp_path / "gone")


def test_the_label_decides_the_task(kermany):
    assert load("kermany", kermany).task.classes == ("normal", "pneumonia")
    images = load("kermany", kermany, label="subtype")
    assert images.task.classes == ("normal", "bacterial_pneumonia", "viral_pneumonia")
    assert int(images[2].target) == 2
    with pytest.raises(SettingsError, match="no label 'age'; it has pneumonia, subtype"):
        load("kermany", kermany, label="age")


def test_grey_stays_grey_and_the_size_is_as_asked(kermany):
    assert load("kermany", kermany)[3].image.shape == (1, 8, 8)
    assert load("kermany", kermany, size=(4, 6), fit="pad")[3].image.shape == (1, 4, 6)
    assert float(load("kermany", kermany, size=4)[3].image.mean()) == pytest.approx(24 / 255)


def test_caveats_of_the_row_come_with_the_set_and_its_splits(kermany):
    images = load("kermany", kermany)
    assert set(DATASETS["kermany"].caveats) <= set(images.caveats)
    assert images.split("test").caveats == images.caveats


def test_size_and_label_change_the_digest(kermany):
    digests = {load("kermany", kermany, **asked).digest for asked in ({}, {"size": 4}, {"size": 8}, {"label": "subtype"})}
    assert len(digests) == 4


def test_a_stored_split_replaces_the_sets_own(kermany, tmp_path):
    images = load("kermany", kermany)
    save_split(tmp_path / "split.json", images.resplit(["test"] * 10 + ["train"] * 20))
    assert len(load("kermany", kermany, split_file=tmp_path / "split.json").split("test")) == 10
    with pytest.raises(SplitError, match="cannot be read"):
        load("kermany", kermany, split_file=tmp_path / "gone.json")


def test_an_unknown_name_lists_near_names_and_all():
    with pytest.raises(SettingsError, match=r"no set 'kermani'; did you mean kermany.*phantom-brain"):
        load("kermani")
    with pytest.raises(SettingsError, match="no set 'zzz'; there are kermany"):
        find_row("zzz")


@pytest.mark.parametrize(
    ("name", "option"),
    [("kermany", {"n": 10}), ("kermany", {"seed": 1}), ("fundus-dr", {"download": True}), ("phantom-chest", {"group": "x"})],
)
def test_an_option_that_a_set_does_not_take_is_refused(name, option):
    with pytest.raises(SettingsError, match=f"{name} does not take {next(iter(option))}; it takes"):
        load(name, **option)


@pytest.mark.parametrize("modality", ["chest", "fundus", "skin", "brain"])
def test_phantoms_need_no_root(modality):
    row = DATASETS[f"phantom-{modality}"]
    assert row.labels == tuple(MODALITIES[modality].tasks)
    for label in row.labels:
        images = load(row.name, n=20, size=32, seed=1, label=label)
        assert len(images) == 20
        assert images[0].image.shape[1:] == (32, 32)
        assert images.has_masks
    assert load(row.name, n=20).task == load(row.name, n=20, label=row.labels[0]).task
    with pytest.raises(SettingsError, match="square"):
        load(row.name, n=20, size=(32, 64))


def test_a_folder_of_ones_own_may_have_a_table_or_class_folders(kermany, tmp_path, picture):
    images = load("folder", kermany / "cxr_pneumonia_kermany", label="subtype", classes=None)
    assert images.name == "cxr_pneumonia_kermany"
    assert len(images.task.classes) == 3
    for k in range(40):
        picture(f"mine/{'sick' if k % 2 else 'normal'}/p{k // 2}_{k}.png")
    images = load("folder", tmp_path / "mine", group_pattern=r"p(\d+)_")
    assert images.task.classes == ("normal", "sick")
    assert len(set(images.groups)) == 20
    with pytest.raises(SettingsError, match=r"no labels\.csv, so label, group cannot name a column"):
        load("folder", tmp_path / "mine", label="dx", group="who")


def test_dicom_files_of_ones_own_know_their_patients(tmp_path, scan):
    for k in range(40):
        scan(f"set/{'sick' if k % 2 else 'normal'}/{k}.dcm", k, patient=str(k // 2), maker="M")
    rows = [f"{'sick' if k % 2 else 'normal'}/{k}.dcm,{k % 3}" for k in range(40)]
    assert len(set(load("dicom-folder", tmp_path / "set").groups)) == 20
    assert len(set(load("folder", tmp_path / "set").groups)) == 40
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    images = load("dicom-folder", tmp_path / "set", size=2)
    assert images.task.classes == ("0", "1", "2")
    assert len(set(images.groups)) == 20
    assert images[30].image.shape == (1, 2, 2)


def test_a_table_of_ones_own_is_read_by_the_columns_named(kermany):
    own = kermany / "cxr_pneumonia_kermany"
    asked = {"label": "subtype", "classes": ("viral_pneumonia", "bacterial_pneumonia", "normal"), "group": "filename"}
    images = load("labels-csv", own, **asked, traits=("subtype",), channels=3)
    assert images.task.classes[0] == "viral_pneumonia"
    assert images[0].group == "images/0.png"
    assert images[0].image.shape == (3, 8, 8)
    (own / "labels.csv").rename(own / "other.csv")
    assert load("labels-csv", own / "other.csv").task.classes == ("normal", "pneumonia")


def test_medmnist_mnist_and_own_arrays_are_found(tmp_path, rng):
    content = {"train_images": rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), "train_labels": np.arange(40) % 4}
    content |= {"test_images": content["train_images"][:4], "test_labels": content["train_labels"][:4]}
    for name in ("octmnist", "mnist/mnist"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", **content)
    assert load("octmnist", tmp_path).task.classes[3] == "normal"
    assert load("mnist", tmp_path, size=32)[0].image.shape == (1, 32, 32)
    assert load("npz", tmp_path / "octmnist.npz", classes=("a", "b", "c", "d")).task.classes == ("a", "b", "c", "d")
    assert load("npz", tmp_path / "octmnist.npz").name == "octmnist"


def test_the_64_pixel_arrays_know_their_patients_and_where_each_image_came_from(tmp_path, rng):
    names = np.array([f"{k:08d}_000.png" for k in range(40)])
    splits = {"train": slice(0, 28), "val": slice(28, 32), "test": slice(32, 40)}
    content = {"class_names": np.array(["Mass", "Edema"])}
    for split, part in splits.items():
        count = len(names[part])
        content |= {f"{split}_images": rng.integers(0, 256, (count, 64, 64), dtype=np.uint8), f"{split}_filenames": names[part]}
        content[f"{split}_labels"] = rng.integers(0, 2, (count, 2))
    np.savez(tmp_path / "nih14_64x64.npz", **content)
    assert set(load("nih14-64", tmp_path).sources) == {""}
    (tmp_path / "labels.csv").write_text("filename\n" + "\n".join(f"images/{k:08d}_000.jpg" for k in range(20)))
    images = load("nih14-64", tmp_path)
    assert images.sources == ["darkcovidnet"] * 20 + ["kcr2019d1"] * 20
    assert images[9].group == "00000009"


@pytest.mark.parametrize("row", DATASETS.values(), ids=lambda row: row.name)
def test_every_row_states_what_a_user_must_know(row):
    assert row.title
    assert row.licence
    assert row.modality
    assert row.takes >= {"size"}
    assert row.marker or row.name.startswith("phantom-")
    assert all(caveat.endswith(".") for caveat in row.caveats)
