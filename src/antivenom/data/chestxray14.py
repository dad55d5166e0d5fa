"""NIH ChestX-ray14 as its authors publish it: 112,120 frontal chest X-rays of 30,805 patients, with 14 findings.

Wang, Peng, Lu, Lu, Bagheri, Summers, "ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised
classification and localization of common thorax diseases", CVPR 2017.

    root/Data_Entry_2017*.csv       image, findings joined by |, patient
    root/images*/**/*.png           1024 x 1024, in any folders
    root/train_val_list.txt         the official lists, patients apart
    root/test_list.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from antivenom.data.caveats import measured_caveats
from antivenom.data.files import FileImages, images_below, on_disk
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.reading import Fit, Frame, Size
from antivenom.data.splits import carve_val, grouped_split
from antivenom.data.tables import read_table
from antivenom.errors import DataError, LabelError, SplitError
from antivenom.task import Task

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NO_FINDING = "No Finding"
TRAITS = {"sex": ("Patient Gender", "Patient Sex"), "age": ("Patient Age",), "view": ("View Position",)}
Reduction = Literal["findings", "single"]


def read_chestxray14(
    root: str | Path,
    *,
    reduction: Reduction = "findings",
    name: str = "chestxray14",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read ChestX-ray14 with its official test list; validation is an eighth of the official training list, patients apart.

    Images listed in the table that are not on disk are left out, and the caveats say how many: the set comes in twelve parts.

    Args:
        root: the folder of the table.
        reduction: `findings` gives 14 findings, any number an image. `single` gives one of 15 classes: No Finding, the
            finding, or of several findings the one that fewest training images have.
        name: of the set, as in a report.
        size, fit: what every image is brought to; 1024 pixels without.
        seed: of the validation split.
        caveats: what a reader of any figure must be told beyond what is found here.

    Raises:
        DataError: no table, no column or no image.
        LabelError: an unknown finding.
        SplitError: an image in both lists, or in neither.
    """
    root, frame = Path(root), Frame(size, fit)
    table = read_table(_entry_file(root))
    there = {PurePosixPath(path).name: path for folder in _image_folders(root) for path in _below(root, folder)}
    table, told = on_disk(table, "Image Index", there)
    keys = table["Image Index"].tolist()
    findings = _findings(table["Finding Labels"], keys)
    patients = table["Patient ID"]
    splits, split_told = _official(root, keys, patients, findings, seed)
    task, targets = Task(FINDINGS, multilabel=True), findings
    if reduction == "single":
        task, targets, rule = _single(findings, splits == "train")
        told = (*told, rule)
    index = Index.of(
        keys,
        targets,
        groups=patients.tolist(),
        splits=splits.tolist(),
        traits={trait: c.tolist() for trait, among in TRAITS.items() if (c := table.find(None, among)) is not None},
    )
    return ImageSet(
        name,
        task,
        index,
        FileImages.of(root, [there[key] for key in keys], 1, frame),
        channels=1,
        caveats=(*caveats, *told, *split_told, *measured_caveats(index, task)),
        origin=f"chestxray14|{reduction}|{frame}",
    )


def _entry_file(root: Path) -> Path:
    tables = sorted(root.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise DataError(f"{root}: no Data_Entry_2017*.csv; it comes with the images from the NIH Clinical Center")
    return tables[-1]  # of several the latest edition


def _image_folders(root: Path) -> list[str]:
    return [folder.name for folder in sorted(root.glob("images*")) if folder.is_dir()]


def _below(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{path}" for path in images_below(root / folder)]


def _findings(labels: np.ndarray[Any, Any], keys: Sequence[str]) -> np.ndarray[Any, Any]:
    """`(N, 14)` of 0 and 1 from labels such as `Effusion|Mass`."""
    place = {finding: k for k, finding in enumerate(FINDINGS)}
    present = np.zeros((len(labels), len(FINDINGS)), dtype=np.int8)
    for row, label in enumerate(labels.tolist()):
        if label == NO_FINDING:
            continue
        for finding in label.split("|"):
            if finding not in place:
                raise LabelError(f"{keys[row]}: finding {finding!r} is none of {', '.join(FINDINGS)} or {NO_FINDING}")
            present[row, place[finding]] = 1
    return present


def _official(
    root: Path, keys: Sequence[str], patients: np.ndarray[Any, Any], findings: np.ndarray[Any, Any], seed: int
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    lists = [root / "train_val_list.txt", root / "test_list.txt"]
    if not any(path.is_file() for path in lists):
        told = f"The official lists are not in the root; patients were split 70/10/20 here with seed {seed}."
        return grouped_split(patients, findings, seed=seed), (told,)
    try:
        training, testing = (set(path.read_text().split()) for path in lists)
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"{root}: both train_val_list.txt and test_list.txt are needed ({error})") from error
    stated = [_place(key, training, testing) for key in keys]
    told = f"Test is the official list; validation is an eighth of the official training list, patients apart, seed {seed}."
    return carve_val(stated, patients, findings, seed=seed), (told,)


def _place(key: str, training: set[str], testing: set[str]) -> str:
    if (key in training) == (key in testing):
        raise SplitError(f"{key} stands in {'both' if key in training else 'neither'} of train_val_list.txt and test_list.txt")
    return "train" if key in training else "test"


def _single(findings: np.ndarray[Any, Any], training: np.ndarray[Any, Any]) -> tuple[Task, np.ndarray[Any, Any], str]:
    """One class an image: 0 for no finding, else 1 + the finding that fewest training images have; ties by name's order."""
    frequency = findings[training].sum(0)
    rank = np.argsort(np.argsort(frequency, kind="stable"))
    rarest = np.where(findings > 0, rank, len(FINDINGS)).argmin(1)
    targets = np.where(findings.any(1), 1 + rarest, 0).astype(np.int64)
    several = int((findings.sum(1) > 1).sum())
    rule = (
        f"One of 15 classes: {several:,} images with several findings count as the one that fewest training images have, "
        "and their other findings as absent."
    )
    return Task((NO_FINDING, *FINDINGS)), targets, rule
