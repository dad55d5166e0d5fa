"""MedMNIST: arrays of small medical images, `<flag>.npz` at 28 pixels and `<flag>_64.npz`, `_128`, `_224`.

Yang, Shi, Wei, Liu, Zhao, Ke, Pfister, Ni, "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image
classification", Scientific Data 2023.

Any file of that layout is read: `{train,val,test}_images` of uint8, `(N, H, W)` or `(N, H, W, 3)`, and `_labels`, `(N,)` or
`(N, 1)` for one class an image and `(N, K)` of 0 and 1 for findings. `_filenames` become the images' names where a file has
them, and `class_names` the classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from antivenom.data.caveats import measured_caveats
from antivenom.data.files import Channels
from antivenom.data.imageset import SPLITS, ImageSet, Index
from antivenom.data.npz import StoredArray, members, read_member, stored_array
from antivenom.data.reading import Fit, Frame, Size, check_sides, from_array, with_channels
from antivenom.data.splits import carve_val
from antivenom.errors import DataError, LabelError
from antivenom.task import Task

SIDES = (28, 64, 128, 224)
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)


@dataclass(frozen=True)
class Flag:
    """One of MedMNIST's two-dimensional sets.

    Attributes:
        package_class: its class in the `medmnist` package.
        modality: what the images are.
        classes: names in the order of the file's labels.
        multilabel: whether labels are findings.
        disease_first: whether a binary file gives the disease label 0; antivenom puts it last.
        licence, caveats: what a user must know.
    """

    package_class: str
    modality: str
    classes: tuple[str, ...]
    multilabel: bool = False
    disease_first: bool = False
    licence: str = "CC BY 4.0"
    caveats: tuple[str, ...] = ()


FLAGS = {
    "pathmnist": Flag(
        "PathMNIST",
        "colon histology",
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
        caveats=("Test images come from another clinical centre than training images.",),
    ),
    "chestmnist": Flag(
        "ChestMNIST",
        "chest X-ray",
        (
            *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
            *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
        ),
        multilabel=True,
        caveats=("Made from NIH ChestX-ray14, with labels mined from reports: no independent data beside it.",),
    ),
    "dermamnist": Flag(
        "DermaMNIST",
        "dermoscopy",
        (
            *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
            *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        ),
        licence="CC BY-NC 4.0",
        caveats=(
            "Made from HAM10000 and split by image: photographs of one lesion stand in several splits, which flatters every "
            "figure.",
        ),
    ),
    "octmnist": Flag("OCTMNIST", "retinal OCT", ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": Flag(
        "PneumoniaMNIST",
        "chest X-ray",
        ("normal", "pneumonia"),
        caveats=(
            "The same children's X-rays as the Kermany set: never take the two for independent data.",
            "Training and validation were divided by image, not by child; eight validation images stand in training too.",
        ),
    ),
    "retinamnist": Flag(
        "RetinaMNIST",
        "fundus photography",
        ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
        caveats=("Grades are ordered; accuracy counts every wrong grade alike.",),
    ),
    "breastmnist": Flag("BreastMNIST", "breast ultrasound", ("malignant", "normal or benign"), disease_first=True),
    "bloodmnist": Flag(
        "BloodMNIST",
        "blood cell microscopy",
        (
            *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
    ),
    "tissuemnist": Flag(
        "TissueMNIST",
        "kidney cortex microscopy",
        (
            *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
            *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
            "thick ascending limb",
        ),
    ),
    "organamnist": Flag("OrganAMNIST", "abdominal CT, axial", _ORGANS),
    "organcmnist": Flag("OrganCMNIST", "abdominal CT, coronal", _ORGANS),
    "organsmnist": Flag("OrganSMNIST", "abdominal CT, sagittal", _ORGANS),
}


@dataclass(frozen=True)
class ArrayImages:
    """Reads image `row` of a set from the arrays of its splits, one image at a time."""

    arrays: tuple[StoredArray, ...]
    channels: Channels
    frame: Frame

    def __call__(self, row: int) -> Tensor:
        for array in self.arrays:
            if row < len(array):
                return self.frame(with_channels(from_array(array[row], f"{array.path} row {row}"), self.channels))
            row -= len(array)
        raise DataError(f"row {row} lies beyond the last image")


def read_medmnist(
    root: str | Path,
    flag: str,
    *,
    size: Size | None = None,
    fit: Fit = "squash",
    download: bool = False,
    cache: Path | None = None,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read one of MedMNIST's two-dimensional sets by its name.

    Of the files `<flag>.npz`, `<flag>_64.npz` ... below the root, the smallest that holds the wanted size is read and scaled
    down; else the largest there is. Without a size it is the 28-pixel file, else the smallest.

    Args:
        root: the folder of the files, or one file.
        flag: such as `pneumoniamnist`.
        size, fit: what every image is brought to.
        download: fetch the file that fits the size through the `medmnist` package if it is absent.
        cache: folder for unpacked arrays, see `npz.stored_array`.
        caveats: beyond those of the set itself.

    Raises:
        DataError: no such set or file, or the download failed.
    """
    if flag not in FLAGS:
        raise DataError(f"MedMNIST has no set {flag!r}; it has {', '.join(FLAGS)}")
    facts, root = FLAGS[flag], Path(root)
    if download and not root.is_file():
        _download(root, flag, size)
    path = root if root.is_file() else _fitting_file(root, flag, size)
    images = read_npz(
        path,
        name=flag,
        classes=facts.classes,
        reverse=facts.disease_first,
        size=size,
        fit=fit,
        cache=cache,
        caveats=(*facts.caveats, *caveats),
    )
    if images.task.multilabel != facts.multilabel:
        raise LabelError(f"{path}: the labels of {flag} should {'' if facts.multilabel else 'not '}be multi-label")
    return images


def read_npz(
    path: str | Path,
    *,
    name: str,
    classes: Sequence[str] = (),
    reverse: bool = False,
    groups: Callable[[str], str] | None = None,
    sources: Callable[[str], str] | None = None,
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    cache: Path | None = None,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read any NPZ file of MedMNIST's layout. A file without a validation split has an eighth of training carved for it.

    Args:
        path: the file.
        name: of the set, as in a report.
        classes: in the order of the file's labels; else its `class_names`, else numbers.
        reverse: turn the classes round, where a binary file gives the disease label 0.
        groups, sources: an image's patient and origin by its file name, where the file has names.
        size, fit, seed, cache, caveats: as elsewhere.

    Raises:
        DataError: a damaged file, or arrays that do not fit each other.
        LabelError: labels outside the classes.
    """
    path, frame = Path(path), Frame(size, fit)
    present = members(path)
    splits = [split for split in SPLITS if f"{split}_images" in present]
    if "train" not in splits or any(f"{split}_labels" not in present for split in splits):
        raise DataError(f"{path}: expected train_images, train_labels and so on; it holds {', '.join(present)}")
    arrays = tuple(stored_array(path, f"{split}_images", cache=cache) for split in splits)
    labels = [read_member(path, f"{split}_labels") for split in splits]
    channels = _array_channels(path, arrays)
    for split, array, values in zip(splits, arrays, labels, strict=True):
        if values.shape[:1] != (len(array),):
            raise DataError(f"{path}: {split} has {len(array)} images and labels of shape {values.shape}")
    if not classes and "class_names" in present:
        classes = [str(label) for label in read_member(path, "class_names")]
    if len({values.shape[1:] for values in labels}) > 1:
        raise DataError(f"{path}: labels must be alike in all splits, got {[values.shape for values in labels]}")
    task, targets = _labels(path, np.concatenate(labels), classes)
    if reverse:
        task, targets = Task(task.classes[::-1]), len(task.classes) - 1 - targets
    names = [_names(path, split, len(array), present) for split, array in zip(splits, arrays, strict=True)]
    stated = np.repeat(splits, [len(array) for array in arrays])
    told: tuple[str, ...] = ()
    keys = [key for part in names for key in part]
    owners = [groups(key) for key in keys] if groups else [""] * len(keys)
    if "val" not in splits:
        stated = carve_val(stated, owners, targets, seed=seed)
        told = (f"The file has no validation split; an eighth of training was taken for it here with seed {seed}.",)
    index = Index.of(
        keys, targets, groups=owners, splits=stated.tolist(), sources=[sources(key) for key in keys] if sources else None
    )
    return ImageSet(
        name,
        task,
        index,
        ArrayImages(arrays, channels, frame),
        channels=channels,
        caveats=(*caveats, *told, *measured_caveats(index, task)),
        origin=f"npz|{path.name}|{frame}",
    )


def _fitting_file(root: Path, flag: str, size: Size | None) -> Path:
    files = {side: root / f"{_stem(flag, side)}.npz" for side in SIDES}
    there = [side for side, path in files.items() if path.is_file()]
    if not there:
        raise DataError(f"{root}: no {flag}.npz, {flag}_64.npz, ... below it; name the right root or ask for the download")
    wanted = SIDES[0] if size is None else max(check_sides(size))
    return files[next((side for side in there if side >= wanted), there[-1])]


def _download(root: Path, flag: str, size: Size | None) -> None:
    wanted = SIDES[0] if size is None else max(check_sides(size))
    side = next((s for s in SIDES if s >= wanted), SIDES[-1])
    if (root / f"{_stem(flag, side)}.npz").is_file():
        return
    try:
        package = importlib.import_module("medmnist")
    except ImportError as error:
        raise DataError(f"downloading {flag} needs the medmnist package: pip install 'antivenom[medmnist]'") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(package, FLAGS[flag].package_class)(split="val", download=True, root=str(root), size=side)
    except Exception as error:  # whatever the network or the package came to
        raise DataError(f"{flag} could not be downloaded ({error}); put {_stem(flag, side)}.npz into {root} by hand") from error


def _stem(flag: str, side: int) -> str:
    return flag if side == SIDES[0] else f"{flag}_{side}"


def _array_channels(path: Path, arrays: Sequence[StoredArray]) -> Channels:
    shapes = {array.shape[1:] for array in arrays}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise DataError(f"{path}: images must be (N, H, W) or (N, H, W, 3) and alike in all splits, got {sorted(shapes)}")
    return 1 if len(shape) == 2 else 3


def _labels(path: Path, values: np.ndarray[Any, Any], classes: Sequence[str]) -> tuple[Task, np.ndarray[Any, Any]]:
    if values.dtype.kind not in "iu" or values.ndim > 2:
        raise LabelError(f"{path}: labels must be whole numbers, (N,), (N, 1) or (N, K), got {values.dtype} {values.shape}")
    if values.ndim == 2 and values.shape[1] > 1:
        names = classes or [f"finding {k}" for k in range(values.shape[1])]
        return Task(tuple(names), multilabel=True), values.astype(np.int8)
    values = values.reshape(-1).astype(np.int64)
    return Task(tuple(classes) or tuple(f"class {k}" for k in range(int(values.max()) + 1))), values


def _names(path: Path, split: str, count: int, present: Sequence[str]) -> list[str]:
    if f"{split}_filenames" not in present:
        return [f"{split}:{position}" for position in range(count)]
    names = [str(name) for name in read_member(path, f"{split}_filenames")]
    if len(names) != count:
        raise DataError(f"{path}: {split} has {count} images and {len(names)} file names")
    return names
