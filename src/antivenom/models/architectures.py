"""Backbones by name, made by timm, what is built into them, and classifiers built on them.

A name is a backbone and, each after a plus sign, what is built into it, in the order in which a map passes it: `resnet34`,
`resnet34+cbam`, `resnet50+soft`, `resnet18+kwta:0.3`, `resnet34+cbam+kwta`. The number after a colon is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from antivenom.errors import SettingsError
from antivenom.models.classifier import Classifier
from antivenom.models.kwta import RATIO, set_ratio
from antivenom.models.parts import PARTS, BuiltIn
from antivenom.models.pretrained import initialise, learnt_on
from antivenom.models.small_maps import on_small_maps
from antivenom.task import Task

# Without pretrained weights there are no statistics to keep to: any image in [0, 1] is brought to about [-2, 2].
PLAIN_MEAN, PLAIN_STD = 0.5, 0.25


@dataclass(frozen=True)
class Architecture:
    """One backbone, and what is built into it.

    Attributes:
        timm_name: as timm calls it.
        smallest: fewest pixels a side that it can work on.
        stem, head: names of its first convolution and of its last layer.
        note: what to know before choosing it.
        fine_stem: whether the stem is replaced by one 3x3 convolution of stride 2, without pooling.
        parts: what is built into it, in order; nothing in the table's own rows.
    """

    timm_name: str
    smallest: int
    stem: str
    head: str
    note: str
    fine_stem: bool = False
    parts: tuple[BuiltIn, ...] = ()

    @property
    def ratio(self) -> float | None:
        """The share of values that its k-winners layers keep; None where it has none."""
        return next((part.ratio for part in self.parts if part.ratio is not None), None)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture("resnet18", 8, "conv1", "fc", "11 million weights; fastest"),
    "resnet34": Architecture("resnet34", 8, "conv1", "fc", "21 million weights; the base of Chen 2021"),
    "resnet50": Architecture("resnet50", 8, "conv1", "fc", "24 million weights; the base of Wasserman 2022"),
    "resnet18-fine": Architecture("resnet18", 8, "conv1", "fc", "for images up to 128 px: twice as fine throughout", True),
    "resnet34-fine": Architecture("resnet34", 8, "conv1", "fc", "for images up to 128 px: twice as fine throughout", True),
    "densenet121": Architecture("densenet121", 32, "features.conv0", "classifier", "7 million weights; the base of Li 2020"),
    "efficientnet_b0": Architecture(
        "efficientnet_b0", 8, "conv_stem", "classifier", "4 million weights; slow to train from scratch; Sahu 2024"
    ),
    "vgg19": Architecture("vgg19", 32, "features.0", "head.fc", "140 million weights; Sahu 2024's feature extractor"),
}


def build(
    name: str,
    task: Task,
    *,
    channels: int,
    seed: int,
    pretrained: bool | Path = False,
    size: tuple[int, int] | None = None,
    copy_grey: bool = False,
    tell: Callable[[str], None] = print,
) -> Classifier:
    """Build a classifier, in training mode, on a backbone of the table.

    Args:
        name: a key of `ARCHITECTURES`, and what is built into it: `resnet34+cbam`; see `PARTS`.
        channels: of the images: 1 for grey, 3 for colour. A grey image stays one channel unless `copy_grey`.
        seed: of the random start; the global generator is not touched.
        pretrained: True for timm's own weights (downloaded), or a local .safetensors or .pth file.
        size: height and width at which the backbone works, at least its smallest; other images are resampled inside.
        tell: is given the account of what was loaded, where anything was.

    Raises:
        SettingsError: as `architecture`.
        WeightsError: the pretrained weights cannot be had or do not fit.

    >>> model = build("resnet18", Task(("normal", "pneumonia")), channels=1, size=(64, 64), seed=0).eval()
    >>> tuple(model(torch.rand(2, 1, 64, 64)).shape)
    (2, 2)
    """
    row = architecture(name)
    notes = []
    if size is not None and min(size) < row.smallest:
        larger = (max(size[0], row.smallest), max(size[1], row.smallest))
        notes.append(f"{name} works on at least {row.smallest} px: images of {size} are resampled to {larger} inside.")
        size = larger
    inputs = 3 if copy_grey else channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(row, len(task.classes), inputs)
    mean: tuple[float, ...] = (PLAIN_MEAN,)
    std: tuple[float, ...] = (PLAIN_STD,)
    if pretrained:
        report = initialise(network, pretrained, timm_name=row.timm_name, stem=row.stem, head=row.head)
        tell(str(report))
        notes.append(f"Started from {report}.")
        notes += [f"What {built.part.title} made of it before training: {built.part.start}." for built in row.parts]
        mean, std = learnt_on(row.timm_name, inputs)
        if row.ratio is not None:  # the file may be of a network that keeps another share
            set_ratio(network, row.ratio)
    notes += [built.part.note for built in row.parts if built.part.note]
    return Classifier(
        network,
        task,
        channels=channels,
        mean=mean,
        std=std,
        architecture=name,
        size=size,
        smallest=row.smallest,
        copy_grey=copy_grey,
        notes=notes,
    )


def architecture(name: str) -> Architecture:
    """The row of the table, with what is built in.

    Raises:
        SettingsError: no such backbone or part, a part that does not go into this backbone or is named twice, or a ratio
            that is none.

    >>> [part.name for part in architecture("resnet34+cbam+kwta:0.3").parts], architecture("resnet34+kwta").ratio
    (['cbam', 'kwta'], 0.2)
    """
    backbone, *written = name.split("+")
    if backbone not in ARCHITECTURES:
        raise SettingsError(f"no architecture {backbone!r}; there are {', '.join(ARCHITECTURES)}")
    row = ARCHITECTURES[backbone]
    parts = tuple(_built_in(text, backbone, row.timm_name) for text in written)
    twice = {part.name for part in parts if sum(part.name == other.name for other in parts) > 1}
    if twice:
        raise SettingsError(f"{name!r} names {', '.join(sorted(twice))} twice; name each part once")
    return replace(row, parts=parts)


def known(name: str) -> bool:
    """Whether a name is a backbone of the table with parts that go into it, so that it can be built again."""
    try:
        architecture(name)
    except SettingsError:
        return False
    return True


def _built_in(written: str, backbone: str, timm_name: str) -> BuiltIn:
    name, colon, number = written.partition(":")
    if name not in PARTS:
        raise SettingsError(f"no part {name!r} to build into {backbone}; there are {', '.join(PARTS)}")
    part = PARTS[name]
    if timm_name not in part.sites:
        takers = [key for key, row in ARCHITECTURES.items() if row.timm_name in part.sites]
        raise SettingsError(f"{name} does not go into {backbone}; it goes into {', '.join(takers)}")
    if not colon:
        return BuiltIn(name, part.ratio)
    if part.ratio is None:
        raise SettingsError(f"{name} takes no number, got {written!r}; write {name}")
    return BuiltIn(name, _ratio(number, written))


def _ratio(number: str, written: str) -> float:
    try:
        ratio = float(number)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < 1:
        raise SettingsError(f"{written!r} needs a ratio above 0 and below 1 after its colon, such as {RATIO}")
    return ratio


def make_network(row: Architecture, classes: int, channels: int) -> nn.Module:
    """The bare network, normalised images to logits, randomly started from the global generator."""
    import timm

    network: nn.Module = timm.create_model(row.timm_name, num_classes=classes, in_chans=channels)
    if row.fine_stem:
        width = network.get_parameter(f"{row.stem}.weight").shape[0]
        stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network.set_submodule(row.stem, stem)
        network.set_submodule("maxpool", nn.Identity())
    for built in row.parts:
        built.insert(network, row.timm_name)
    return on_small_maps(network)
