"""The sets in the shared data root: counts of their READMEs, and every trap that they name."""

import numpy as np
import pytest
import torch

from antivenom.data.checking import check
from antivenom.data.datasets import load
from antivenom.data.folder import labels_csv
from antivenom.errors import SplitError

SETS = {
    "kermany": ((2746, 394, 618), 1, ("normal", "pneumonia")),
    "nih14": ((703, 77, 219), 1, 14),
    "nih14-64": ((1427, 169, 396), 1, 14),
    "fundus-dr": ((1186, 168, 340), 3, ("no_dr", "dr")),
    "ham10000-200": ((4146, 618, 1246), 3, 7),
    "alzheimer": ((2106, 305, 617), 1, ("non_demented", "very_mild_demented", "mild_demented")),
    "pneumoniamnist": ((4708, 524, 624), 1, ("normal", "pneumonia")),
    "mnist": ((52500, 7500, 10000), 1, 10),
    "cifar10": ((13120, 1880, 10000), 3, 10),
}
ARRAYS = {"nih14-64", "pneumoniamnist", "mnist", "cifar10"}


@pytest.fixture(scope="module")
def opened(data_root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def open_set(name, **asked):
        return load(name, data_root, **asked, **({"cache": cache} if name in ARRAYS else {}))

    return open_set


@pytest.mark.parametrize("name", SETS)
def test_every_set_opens_with_its_counts_and_reads_its_images(opened, name):
    sizes, channels, classes = SETS[name]
    images = opened(name, size=64)
    assert tuple(len(images.split(s)) for s in ("train", "val", "test")) == sizes
    assert (len(images.task.classes) if isinstance(classes, int) else images.task.classes) == classes
    for position in np.linspace(0, len(images) - 1, 8).astype(int):
        image = images[int(position)].image
        assert image.shape == (channels, 64, 64)
        assert float(image.std()) > 0.01


@pytest.mark.parametrize("name", ["kermany", "nih14", "nih14-64", "fundus-dr", "ham10000-200", "alzheimer"])
def test_no_patient_subject_or_lesion_is_in_two_splits(opened, name):
    images = opened(name)
    assert (images.index.groups != "").all()
    held = [set(images.split(s).groups) for s in ("train", "val", "test")]
    assert sum(map(len, held)) == len(set().union(*held))


def test_kaggles_alzheimer_split_is_refused_for_its_leak(data_root):
    with pytest.raises(SplitError, match="200 patient, subject or lesion"):
        labels_csv(data_root / "mri_alzheimer", split="kaggle_split")


def test_the_class_of_two_subjects_is_left_out_unless_asked_for(opened):
    images = opened("alzheimer")
    assert "64 images of 2 groups labelled moderate_demented are left out." in images.caveats
    four = opened("alzheimer", label="four")
    assert any("moderate_demented has 1 in train, none in val, 1 in test" in caveat for caveat in four.caveats)


def test_the_fundus_shortcut_is_measured(opened):
    (said,) = [caveat for caveat in opened("fundus-dr").caveats if "recognising the source" in caveat]
    assert "dr eyepacs 25.7%, srahim 53.7%" in said
    assert "right for 67.1%, of all for 64.5%" in said


def test_the_two_origins_of_the_small_nih_set_are_told_apart(opened):
    images = opened("nih14-64")
    assert {s: images.sources.count(s) for s in ("darkcovidnet", "kcr2019d1")} == {"darkcovidnet": 999, "kcr2019d1": 993}
    assert any("Pneumonia darkcovidnet 47.4%, kcr2019d1 0.4%" in caveat for caveat in images.caveats)


def test_pictures_that_pneumoniamnist_holds_in_training_and_in_validation_are_found(opened):
    problems = check(opened("pneumoniamnist"))
    assert {problem.kind for problem in problems} == {"leak"}
    assert [problem.key.split(":")[0] for problem in problems] == ["val"] * 8
    assert check(opened("nih14-64")) == []


def test_grey_scans_stored_as_colour_come_as_one_channel(opened):
    assert opened("kermany")[0].image.shape == (1, 224, 224)


def test_lesion_masks_cover_what_their_readme_says(opened):
    images = opened("ham10000-200", size=64)
    areas = [images.mask(int(k)).float().mean() for k in np.linspace(0, len(images) - 1, 120)]
    assert 0.2 < float(torch.stack(areas).mean()) < 0.36


def test_mnist_has_its_published_mean(opened):
    images = opened("mnist")
    train = [images[int(k)].image.mean() for k in np.linspace(0, 59_999, 1500)]
    assert float(torch.stack(train).mean()) == pytest.approx(0.1307, abs=0.005)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("kermany", "squashed"),
        ("kermany", "PneumoniaMNIST"),
        ("pneumoniamnist", "Kermany"),
        ("nih14", "artificial"),
        ("nih14-64", "sharpness"),
        ("ham10000-200", "lesions apart"),
        ("alzheimer", "leak"),
        ("alzheimer", "inferred"),
        ("cifar10", "JPEG"),
    ],
)
def test_what_a_readme_warns_of_is_said_with_the_set(opened, name, word):
    assert any(word in caveat for caveat in opened(name).caveats)
