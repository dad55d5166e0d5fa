"""The sets that antivenom knows by name: one table, and `load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from antivenom.data.chestxray14 import FINDINGS, read_chestxray14
from antivenom.data.cifar10 import read_cifar10, read_cifar10_binary
from antivenom.data.eyepacs import QUESTIONS, read_retinopathy
from antivenom.data.files import Channels
from antivenom.data.folder import Label, class_folders, labels_csv
from antivenom.data.ham10000 import DIAGNOSES, read_ham10000
from antivenom.data.imageset import ImageSet
from antivenom.data.medmnist import FLAGS, read_medmnist, read_npz
from antivenom.data.mnist import read_mnist
from antivenom.data.reading import Fit, Size
from antivenom.data.splits import load_split
from antivenom.data.tables import read_table
from antivenom.errors import DataError, SettingsError

DATA_ROOT = "ANTIVENOM_DATA"  # environment variable: the folder that holds the sets


@dataclass(frozen=True)
class Options:
    """What a caller may ask of a set beyond its label; None leaves it to the set.

    Attributes:
        size: side of a square or (height, width) that every image is brought to; None keeps the stored size.
        fit: `squash` (where None), `crop` or `pad`, see `reading.resize`.
        seed: of a split that the set does not state, and of phantoms; 0 where None.
        n: number of phantoms.
        download: fetch a MedMNIST file that is absent.
        cache: folder for unpacked arrays; where None `ANTIVENOM_CACHE`, else the user's cache folder.
        classes: of a set of one's own, in the order wanted, a disease last.
        split, group, source: columns of a `labels.csv` of one's own.
        group_pattern: regular expression that finds the patient in a file's name, for class folders.
        channels: 1 or 3, for a set of one's own.
        traits: further columns to report by.
    """

    size: Size | None = None
    fit: Fit | None = None
    seed: int | None = None
    n: int | None = None
    download: bool | None = None
    cache: Path | None = None
    classes: tuple[str, ...] | None = None
    split: str | None = None
    group: str | None = None
    source: str | None = None
    group_pattern: str | None = None
    channels: Channels | None = None
    traits: tuple[str, ...] | None = None

    def given(self) -> list[str]:
        """Names of the options that were set."""
        return [name for name, value in vars(self).items() if value is not None]


LabelChoice = str | tuple[str, ...]
Reader = Callable[["Request"], ImageSet]
_PLAIN = frozenset({"size", "fit"})
_SEEDED = _PLAIN | {"seed"}
_ARRAYS = _PLAIN | {"cache"}
_OWN = _SEEDED | {"classes", "channels"}


@dataclass(frozen=True)
class DatasetRow:
    """One set: what it is, where it lies and how it is read.

    Attributes:
        name: as `load` takes it.
        title: one line for people.
        modality: what the images are.
        read: the reader.
        licence, citation, source: of the data.
        labels: what `label=` may be, the default first; empty where it is the caller's own column.
        takes: names of the `Options` that make sense here.
        folder: where the set lies below a data root.
        marker: a file (or pattern) by which the set's folder is known; empty where it needs no root.
        caveats: what a reader of any figure must be told, besides what is measured on loading.
    """

    name: str
    title: str
    modality: str
    read: Reader
    licence: str
    citation: str = ""
    source: str = ""
    labels: tuple[str, ...] = ()
    takes: frozenset[str] = _PLAIN
    folder: str = ""
    marker: str = ""
    caveats: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Request:
    """What a reader is handed: the row, where the set lies, and what is asked of it."""

    row: DatasetRow
    root: Path
    label: LabelChoice
    options: Options

    @property
    def fit(self) -> Fit:
        """How images are brought to the size."""
        return self.options.fit or "squash"

    @property
    def seed(self) -> int:
        """Of splits that are made here, and of phantoms."""
        return self.options.seed or 0

    def file(self) -> Path:
        """The set's one file, where the root may be the file itself or its folder."""
        return self.root if self.root.is_file() else self.root / self.row.marker


def load(
    name: str,
    root: str | Path | None = None,
    *,
    label: LabelChoice | None = None,
    size: Size | None = None,
    fit: Fit | None = None,
    seed: int | None = None,
    n: int | None = None,
    download: bool | None = None,
    cache: Path | None = None,
    classes: tuple[str, ...] | None = None,
    split: str | None = None,
    group: str | None = None,
    source: str | None = None,
    group_pattern: str | None = None,
    channels: Channels | None = None,
    traits: tuple[str, ...] | None = None,
    split_file: str | Path | None = None,
) -> ImageSet:
    """Open a set by name, split into train, val and test; no image is read yet.

    Args:
        name: one of `DATASETS`.
        root: the set's own folder, or the data root that holds it; where None the environment variable `ANTIVENOM_DATA`.
            Phantoms need none.
        label: which of the set's questions to ask; its default where None. For a set of one's own the label column, or
            several columns of 0 and 1.
        split_file: a split that `save_split` stored, instead of the set's own.
        size, fit, seed, n, download, cache, classes, split, group, source, group_pattern, channels, traits: see `Options`.

    Raises:
        SettingsError: an unknown name or label, or an option that this set does not take.
        DataError: the set is not there, or damaged.

    >>> load("phantom-chest", n=20, size=32).split("test")[0].image.shape
    torch.Size([1, 32, 32])
    """
    row = find_row(name)
    options = Options(size, fit, seed, n, download, cache, classes, split, group, source, group_pattern, channels, traits)
    strange = [option for option in options.given() if option not in row.takes]
    if strange:
        raise SettingsError(f"{name} does not take {', '.join(strange)}; it takes {', '.join(sorted(row.takes))}")
    if row.labels and label is not None and label not in row.labels:
        raise SettingsError(f"{name} has no label {label!r}; it has {', '.join(row.labels)}")
    chosen = label if label is not None else (row.labels[0] if row.labels else "")
    images = row.read(Request(row, locate(name, root, download=bool(download)), chosen, options))
    return images if split_file is None else load_split(split_file, images)


def find_row(name: str) -> DatasetRow:
    """The row of a set.

    Raises:
        SettingsError: there is none of that name; the message lists near names and all names.
    """
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=3)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise SettingsError(f"no set {name!r}; {guess}there are {', '.join(DATASETS)}")
    return DATASETS[name]


def locate(name: str, root: str | Path | None = None, *, download: bool = False) -> Path:
    """The folder (or file) of a set, given its own folder or the data root that holds it.

    Raises:
        DataError: no root was given, or the set is not there.
    """
    row = find_row(name)
    if not row.marker:
        return Path()
    root = root if root is not None else os.environ.get(DATA_ROOT) or None
    if root is None:
        raise DataError(f"{name} lies on disk: name its folder (root=) or set {DATA_ROOT} to the folder that holds your sets")
    root = Path(root).expanduser()
    if root.is_file():
        return root
    candidates = [root / row.folder, root] if row.folder else [root]
    for candidate in candidates:
        if candidate.is_dir() and next(candidate.glob(row.marker), None) is not None:
            return candidate
    if download:
        return root
    what = "no such folder" if not root.exists() else f"no {row.marker} in {' or '.join(map(str, candidates))}"
    raise DataError(f"{what}; {name} ({row.title}) needs the folder that holds it as root")


@dataclass(frozen=True)
class Listed:
    """Reader of a known `labels.csv` folder."""

    labels: Mapping[str, Label]
    channels: Channels
    traits: tuple[str, ...] = ()

    def __call__(self, asked: Request) -> ImageSet:
        return labels_csv(
            asked.root,
            name=asked.row.name,
            label=self.labels[str(asked.label)],
            traits=self.traits,
            channels=self.channels,
            size=asked.options.size,
            fit=asked.fit,
            caveats=asked.row.caveats,
        )


def _own_table(asked: Request) -> ImageSet:
    options = asked.options
    table = asked.root if asked.root.is_file() else asked.root / "labels.csv"
    return labels_csv(
        table.parent,
        table=table.name,
        name=_own_name(table.parent),
        label=Label(asked.label, options.classes or ()),
        split=options.split,
        group=options.group,
        source=options.source,
        traits=options.traits or (),
        heads=asked.row.name == "dicom-folder",
        channels=options.channels,
        size=options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _own_folder(asked: Request) -> ImageSet:
    """A table where there is one, else class folders."""
    root, options = asked.root, asked.options
    if root.is_file() or (root / "labels.csv").is_file():
        return _own_table(asked)
    columns = [name for name in options.given() if name in ("split", "group", "source", "traits")]
    if asked.label or columns:
        wrong = ", ".join(["label"] * bool(asked.label) + columns)
        raise SettingsError(f"{root} has no labels.csv, so {wrong} cannot name a column")
    return class_folders(
        root,
        name=_own_name(root),
        classes=options.classes or (),
        group_pattern=options.group_pattern,
        heads=asked.row.name == "dicom-folder",
        channels=options.channels,
        size=options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _own_name(root: Path) -> str:
    return root.resolve().name or "root"


def _nih14_64(asked: Request) -> ImageSet:
    """The 64-pixel arrays; which of their two origins an image has is told by the labels.csv beside them."""
    path = asked.file()
    table = path.parent / "labels.csv"
    scaled = {Path(name).stem for name in read_table(table)["filename"].tolist()} if table.is_file() else None

    def source(filename: str) -> str:
        return "" if scaled is None else "darkcovidnet" if Path(filename).stem in scaled else "kcr2019d1"

    return read_npz(
        path,
        name=asked.row.name,
        groups=lambda filename: filename.split("_")[0],
        sources=source,
        size=asked.options.size,
        fit=asked.fit,
        cache=asked.options.cache,
        caveats=asked.row.caveats,
    )


def _npz(asked: Request) -> ImageSet:
    path = asked.file()
    return read_npz(
        path,
        name=path.stem,
        classes=asked.options.classes or (),
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        cache=asked.options.cache,
        caveats=asked.row.caveats,
    )


def _medmnist(asked: Request) -> ImageSet:
    return read_medmnist(
        asked.root,
        asked.row.name,
        size=asked.options.size,
        fit=asked.fit,
        download=bool(asked.options.download),
        cache=asked.options.cache,
    )


def _cifar10(asked: Request) -> ImageSet:
    return read_cifar10(
        asked.file(),
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        cache=asked.options.cache,
        caveats=asked.row.caveats,
    )


def _mnist_idx(asked: Request) -> ImageSet:
    return read_mnist(
        asked.root,
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        cache=asked.options.cache,
        caveats=asked.row.caveats,
    )


def _cifar10_binary(asked: Request) -> ImageSet:
    return read_cifar10_binary(
        asked.root,
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _chestxray14(asked: Request) -> ImageSet:
    return read_chestxray14(
        asked.root,
        reduction="single" if asked.label == "single" else "findings",
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _retinopathy(asked: Request) -> ImageSet:
    return read_retinopathy(
        asked.root,
        asked.row.name,
        question=next(question for question in QUESTIONS if question == asked.label),
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _ham10000(asked: Request) -> ImageSet:
    return read_ham10000(
        asked.root,
        question="binary" if asked.label == "binary" else "diagnosis",
        size=asked.options.size,
        fit=asked.fit,
        seed=asked.seed,
        caveats=asked.row.caveats,
    )


def _phantoms(asked: Request) -> ImageSet:
    from antivenom.data.phantoms import phantoms

    size = 64 if asked.options.size is None else asked.options.size
    if not isinstance(size, int):
        raise SettingsError(f"phantoms are square: give one side in pixels, got size {size}")
    n = 1200 if asked.options.n is None else asked.options.n
    return phantoms(asked.row.name.removeprefix("phantom-"), n=n, size=size, seed=asked.seed, task=str(asked.label))


_NIH = "Wang et al., ChestX-ray8, CVPR 2017; images from the NIH Clinical Center"
_NIH_SOURCE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
_NIH_LICENCE = "NIH: no restrictions on use; cite the paper and acknowledge the NIH Clinical Center"
_MINED = "Labels were mined from reports by software and are wrong in some cases (its authors claim more than 90 % right)."
_KERMANY = "Kermany, Zhang, Goldbaum, Labeled OCT and Chest X-Ray Images for Classification, Mendeley Data 2018"
_HAM = "Tschandl, Rosendahl, Kittler, The HAM10000 dataset, Scientific Data 2018"
_HAM_SOURCE = "https://doi.org/10.7910/DVN/DBW86T"
_MEDMNIST = "Yang et al., MedMNIST v2, Scientific Data 2023"
_LECUN = "LeCun, Cortes, Burges, The MNIST database of handwritten digits 1998"
_LECUN_SOURCE = "http://yann.lecun.com/exdb/mnist"
_KRIZHEVSKY = "Krizhevsky, Learning multiple layers of features from tiny images 2009"
_KRIZHEVSKY_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_NOT_MEDICAL = "Not medical: for comparison with the literature."
_LESIONS = (
    "Splits keep lesions apart, not patients, whose ids are not published: one patient may have lesions in several splits."
)
_SEVERITIES = ("non_demented", "very_mild_demented", "mild_demented")

_ROWS = (
    DatasetRow(
        "kermany",
        "Children's chest X-rays, normal or pneumonia, 224 px subset",
        "chest X-ray",
        Listed(
            {
                "pneumonia": Label("label", ("normal", "pneumonia")),
                "subtype": Label("subtype", ("normal", "bacterial_pneumonia", "viral_pneumonia")),
            },
            channels=1,
        ),
        "CC BY 4.0",
        _KERMANY,
        "https://data.mendeley.com/datasets/rscbjbr9sj",
        ("pneumonia", "subtype"),
        folder="cxr_pneumonia_kermany",
        marker="labels.csv",
        caveats=(
            "Images were squashed to 224 x 224 and compressed again before they were published here: aspect ratio and fine "
            "detail are lost.",
            "Children of one hospital: figures say nothing of adults.",
            "Test is the folder named test by the original authors; training images whose patient id also occurs there were "
            "dropped, and pneumonia was capped in training, so prevalence differs between the splits.",
            "The same images as PneumoniaMNIST: never take the two for independent data.",
        ),
    ),
    DatasetRow(
        "nih14",
        "NIH ChestX-ray14 sample, 999 images at 288 px",
        "chest X-ray",
        Listed(
            {
                "findings": Label(FINDINGS),
                "pneumonia": Label("Pneumonia", ("0", "1"), names=("no pneumonia", "pneumonia")),
                "three": Label("label", ("no_finding", "other_finding", "pneumonia")),
            },
            channels=1,
        ),
        _NIH_LICENCE,
        _NIH,
        _NIH_SOURCE,
        ("findings", "pneumonia", "three"),
        folder="cxr_nih14",
        marker="labels.csv",
        caveats=(
            "Balance is artificial: pneumonia is about 47 % here and about 1 % in the full set, so predictive values and "
            "calibration do not carry over.",
            _MINED,
        ),
    ),
    DatasetRow(
        "nih14-64",
        "NIH ChestX-ray14 sample, 1,992 images at 64 px",
        "chest X-ray",
        _nih14_64,
        _NIH_LICENCE,
        _NIH,
        _NIH_SOURCE,
        ("findings",),
        takes=_ARRAYS,
        folder="cxr_nih14",
        marker="nih14_64x64.npz",
        caveats=(
            "Two origins scaled down by different methods, one of them rich in pneumonia: sharpness alone can tell them apart.",
            "Balance is artificial: half of the images were chosen for or against pneumonia.",
            _MINED,
        ),
    ),
    DatasetRow(
        "fundus-dr",
        "Colour fundus photographs with retinopathy grade, from EyePACS and Rahim",
        "fundus photography",
        Listed(
            {
                "binary": Label("binary", ("no_dr", "dr")),
                "referable": Label("referable", ("non_referable", "referable")),
                "grade": Label("label", ("0_no_dr", "1_mild", "2_moderate", "3_severe", "4_proliferative")),
            },
            channels=3,
            traits=("eye", "note"),
        ),
        "research use: Kaggle competition data (EyePACS); academic use with attribution (Rahim)",
        "EyePACS, Kaggle Diabetic Retinopathy Detection 2015; Rahim, Retinal Fundus Image Dataset for DR Detection 2025",
        "https://www.kaggle.com/c/diabetic-retinopathy-detection; https://github.com/SRahimDR/DR-image-dataset",
        ("binary", "referable", "grade"),
        folder="fundus_dr",
        marker="labels.csv",
        caveats=(
            "The sources differ in camera, crop and size (400 px, 384 px), and the second one's ten classes were folded onto "
            "five grades.",
        ),
    ),
    DatasetRow(
        "ham10000-200",
        "HAM10000 dermoscopy with lesion masks, 6,010 images at 200 x 150 px",
        "dermoscopy",
        Listed(
            {
                "diagnosis": Label("label", DIAGNOSES),
                "binary": Label("binary", ("benign", "malignant")),
            },
            channels=3,
            traits=("dx_type", "age", "sex", "localization"),
        ),
        "CC BY-NC 4.0: non-commercial",
        _HAM,
        _HAM_SOURCE,
        ("diagnosis", "binary"),
        folder="derm_ham10000",
        marker="labels.csv",
        caveats=(_LESIONS, "Nevi were capped at 2,700 of 6,705: prevalence is not that of HAM10000, nor of any clinic."),
    ),
    DatasetRow(
        "alzheimer",
        "Brain MRI, axial T1 slices, severity of dementia",
        "brain MRI",
        Listed(
            {
                "severity": Label("label", _SEVERITIES, left_out=("moderate_demented",)),
                "binary": Label("binary", ("non_demented", "demented")),
                "four": Label("label", (*_SEVERITIES, "moderate_demented")),
            },
            channels=1,
            traits=("slice",),
        ),
        "ODbL",
        "Kaggle, Alzheimer's Dataset (4 class of images); most likely OASIS-1: Marcus et al., J. Cognitive Neuroscience 2007",
        "https://www.kaggle.com/tourist55/alzheimers-dataset-4-class-of-images",
        ("severity", "binary", "four"),
        folder="mri_alzheimer",
        marker="labels.csv",
        caveats=(
            "Subjects were inferred from the order of the slices, not published; splits keep the inferred subjects apart.",
            "Kaggle's own split, with every subject in training and in test, is not used: figures of 95 to 99 % in print rest "
            "on that leak.",
            "Slices of one subject are nearly alike: the number of subjects, not of slices, is the number of observations.",
        ),
    ),
    DatasetRow(
        "mnist",
        "Handwritten digits",
        "digits",
        _npz,
        "CC BY-SA 3.0",
        _LECUN,
        _LECUN_SOURCE,
        takes=_ARRAYS | {"seed", "classes"},
        folder="mnist",
        marker="mnist.npz",
        caveats=(_NOT_MEDICAL,),
    ),
    DatasetRow(
        "mnist-idx",
        "MNIST as published (IDX files), 70,000 images at 28 px",
        "digits",
        _mnist_idx,
        "CC BY-SA 3.0",
        _LECUN,
        _LECUN_SOURCE,
        takes=_ARRAYS | {"seed"},
        folder="mnist",
        marker="train-images?idx3-ubyte*",
        caveats=(_NOT_MEDICAL,),
    ),
    DatasetRow(
        "cifar10",
        "CIFAR-10 as lossy JPEG, 25,000 images at 32 px",
        "photographs",
        _cifar10,
        "none stated",
        _KRIZHEVSKY,
        _KRIZHEVSKY_SOURCE,
        takes=_ARRAYS | {"seed"},
        folder="cifar10",
        marker="cifar10_jpeg.npz",
        caveats=(
            _NOT_MEDICAL,
            "JPEG at about quality 75: published models lose some 11 points on it, and compression is itself a defence, so no "
            "figure compares with lossless CIFAR-10.",
        ),
    ),
    DatasetRow(
        "cifar10-binary",
        "CIFAR-10 as published (binary version), 60,000 images at 32 px",
        "photographs",
        _cifar10_binary,
        "none stated",
        _KRIZHEVSKY,
        _KRIZHEVSKY_SOURCE,
        takes=_SEEDED,
        folder="cifar-10-batches-bin",
        marker="data_batch_1*",  # finds the python version too, which the reader refuses by name
        caveats=(_NOT_MEDICAL,),
    ),
    DatasetRow(
        "chestxray14",
        "NIH ChestX-ray14 as published, 112,120 images at 1024 px",
        "chest X-ray",
        _chestxray14,
        _NIH_LICENCE,
        _NIH,
        _NIH_SOURCE,
        ("findings", "single"),
        takes=_SEEDED,
        marker="Data_Entry_2017*.csv",
        caveats=(_MINED,),
    ),
    DatasetRow(
        "eyepacs",
        "Kaggle Diabetic Retinopathy Detection (EyePACS), as published",
        "fundus photography",
        _retinopathy,
        "Kaggle competition data: research use",
        "EyePACS, Kaggle Diabetic Retinopathy Detection 2015",
        "https://www.kaggle.com/c/diabetic-retinopathy-detection",
        tuple(QUESTIONS),
        takes=_SEEDED,
        marker="trainLabels.csv",
        caveats=("Cameras, sizes and exposure differ widely; grades are one reader's each.",),
    ),
    DatasetRow(
        "aptos",
        "Kaggle APTOS 2019 Blindness Detection, as published",
        "fundus photography",
        _retinopathy,
        "Kaggle competition data: research use",
        "Asia Pacific Tele-Ophthalmology Society, Kaggle APTOS 2019 Blindness Detection",
        "https://www.kaggle.com/c/aptos2019-blindness-detection",
        tuple(QUESTIONS),
        takes=_SEEDED,
        marker="train.csv",
        caveats=("The set holds some photographs more than once, a few under different grades.",),
    ),
    DatasetRow(
        "ham10000",
        "HAM10000 as published, 10,015 images at 600 x 450 px",
        "dermoscopy",
        _ham10000,
        "CC BY-NC 4.0: non-commercial",
        _HAM,
        _HAM_SOURCE,
        ("diagnosis", "binary"),
        takes=_SEEDED,
        marker="HAM10000_metadata*",
        caveats=(_LESIONS,),
    ),
    DatasetRow(
        "folder",
        "A folder of one's own: labels.csv where there is one, else one folder a class",
        "any",
        _own_folder,
        "the owner's",
        takes=_OWN | {"split", "group", "source", "traits", "group_pattern"},
        marker="*",
    ),
    DatasetRow(
        "labels-csv",
        "Images of one's own, listed in a labels.csv (root may be the CSV file itself)",
        "any",
        _own_table,
        "the owner's",
        takes=_OWN | {"split", "group", "source", "traits"},
        marker="labels.csv",
    ),
    DatasetRow(
        "dicom-folder",
        "DICOM files of one's own: as folder, with patients and scanners from the files' heads",
        "any",
        _own_folder,
        "the owner's",
        takes=_OWN | {"split", "group", "source", "traits", "group_pattern"},
        marker="*",
    ),
    DatasetRow(
        "npz",
        "One's own arrays in MedMNIST's layout (root is the NPZ file)",
        "any",
        _npz,
        "the owner's",
        takes=_ARRAYS | {"seed", "classes"},
        marker="*.npz",
    ),
    *(
        DatasetRow(
            flag,
            f"MedMNIST: {facts.package_class}, 28 to 224 px",
            facts.modality,
            _medmnist,
            facts.licence,
            _MEDMNIST,
            "https://medmnist.com",
            takes=_ARRAYS | {"download"},
            folder="cxr_pneumoniamnist" if flag == "pneumoniamnist" else "medmnist",
            marker=f"{flag}*.npz",
            caveats=facts.caveats,
        )
        for flag, facts in FLAGS.items()
    ),
    *(
        DatasetRow(
            f"phantom-{modality}",
            title,
            kind,
            _phantoms,
            "Apache-2.0",
            labels=labels,
            takes=frozenset({"size", "seed", "n"}),
        )
        for modality, title, kind, labels in (
            ("chest", "Drawn chest X-rays with lesion masks", "chest X-ray", ("pneumonia", "findings")),
            ("fundus", "Drawn fundus photographs with lesion masks", "fundus photography", ("retinopathy", "grades")),
            ("skin", "Drawn dermoscopy with lesion masks", "dermoscopy", ("melanoma",)),
            ("brain", "Drawn brain MRI slices with lesion masks", "brain MRI", ("tumour",)),
        )
    ),
)

DATASETS: Mapping[str, DatasetRow] = {row.name: row for row in _ROWS}
