"""`antivenom guard`: fit a guard around a classifier, ask it about images, and try it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from antivenom.cli.audit import Wanted, opened_with_images, title_of
from antivenom.cli.console import out, progress
from antivenom.cli.data import opened
from antivenom.cli.device import chosen_device
from antivenom.data.datasets import DATASETS
from antivenom.data.imageset import ImageSet
from antivenom.data.reading import read_image, resize
from antivenom.detection.reading import FEATURES
from antivenom.detection.table import DETECTORS
from antivenom.detection.table import row as detector
from antivenom.errors import DataError, ImageError, NotMeasuredError, SettingsError
from antivenom.evaluation.baseline import kept_baseline
from antivenom.evaluation.beside import ensure_audit
from antivenom.evaluation.detection import Examination, examine
from antivenom.evaluation.guarding import fit_on
from antivenom.evaluation.reasons import give_reasons, stages
from antivenom.evaluation.run import Progress
from antivenom.evaluation.trials import Trial, adaptive, naive, natural, unseen
from antivenom.guard.files import load_guard, read_guard_card, save_guard
from antivenom.guard.finding import Finding
from antivenom.guard.guard import Guard
from antivenom.guard.policy import Policy
from antivenom.metrics.intervals import Estimate
from antivenom.models.classifier import Classifier
from antivenom.models.weights import load
from antivenom.records.detection import HOME, Detection
from antivenom.report.write import write_report
from antivenom.threat.card import number

ALL, NONE, STAGES = "all", "none", "stages"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".dcm", ".dicom", ".ima", ""})
MOST_FILES = 100_000  # of one call


# -- fit ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """The options of `fit`."""

    detectors: str
    decides: str | None
    rate: float
    confidence: float | None
    coverage: float
    single: bool
    seed: int

    @property
    def policy(self) -> Policy:
        """What decides."""
        return Policy(self.rate, _names(self.decides) if self.decides else None, self.confidence, self.single)

    def chosen(self, model: Classifier, data: ImageSet) -> dict[str, tuple[str, ...]]:
        """The layers of each detector; of all detectors those that go with the task."""
        asked = _names(self.detectors)
        if asked == (ALL,):
            asked = tuple(name for name, row in DETECTORS.items() if row.multilabel in {None, model.task.multilabel})
        found: dict[str, tuple[str, ...]] = {}
        for text in asked:
            name, _, layers = text.partition(":")
            if name in found:
                raise SettingsError(f"--detectors names {name} twice; each can be there once, with layers as in {name}:layer2")
            own = tuple(layer.strip() for layer in layers.split("+")) if layers else detector(name).layers
            found[name] = (*stages(model, data[0].image[None]), FEATURES) if own == (STAGES,) else own
        return found


def fit(model: str, wanted: Wanted, output: Path, asked: Fit, *, device: str | None) -> None:
    """Fit a guard, write it and print what it promises."""
    if output.suffix != ".safetensors":
        raise SettingsError(f"--output {output}: a guard is a .safetensors file")
    classifier, _, data = opened_with_images(model, wanted)
    classifier = classifier.to(chosen_device(device)).eval()
    readings = output.with_name(f".{output.stem}.readings")
    with progress(f"fitting a guard on {data.name}") as told:
        guard = fit_on(
            classifier,
            data,
            readings,
            detectors=asked.chosen(classifier, data),
            policy=asked.policy,
            coverage=asked.coverage,
            seed=asked.seed,
            progress=told,
        )
    save_guard(guard, output, data_digest=data.digest, seed=asked.seed)
    shutil.rmtree(readings, ignore_errors=True)
    _promise(guard, data.index.unit)
    out.print(f"guard: {output}", markup=False)


def _promise(guard: Guard, unit: str) -> None:
    names = [watch.name for watch in guard.watches]
    out.print(f"\n{guard.policy.describe(names)}", markup=False)
    first = guard.watches[0].threshold
    out.print(f"thresholds from {first.n} held-out clean images of {first.groups} {unit}s\n", markup=False)
    table = Table("detector", "decides", "threshold", "flags of clean", "95 % interval", box=None, pad_edge=False)
    for watch, decides in zip(guard.watches, guard.policy.deciding(names), strict=True):
        alarms = watch.threshold.alarms
        interval = f"{alarms.low:.1%} to {alarms.high:.1%}"
        table.add_row(watch.name, "yes" if decides else "", f"{watch.threshold.value:.5g}", f"{alarms.value:.1%}", interval)
    out.print(table)
    of_thresholds = {f"{watch.name}: {note}" for watch in guard.watches for note in watch.threshold.notes}  # as the table shows
    for note in guard.notes:
        if note not in of_thresholds:
            out.print(f"note: {note}", markup=False)


# -- check -------------------------------------------------------------------------------------------------------------


def check(paths: Sequence[Path], file: Path, written: Path | None, overlay: Path | None, *, device: str | None) -> None:
    """Print a verdict for each image; those that cannot be read are named, and make the command fail at its end."""
    guard = load_guard(file).to(chosen_device(device)).eval()
    table = Table("image", "verdict", "answer", "probability", "reason", box=None, pad_edge=False)
    findings, unreadable, files = [], 0, _files(paths)
    with progress("checking") as told:
        for number, (name, path) in enumerate(files, 1):
            told(number - 1, len(files), name)
            try:
                whole, image = presented(path, guard.model)
            except ImageError as error:
                unreadable += 1
                table.add_row(name, "unreadable", "", "", str(error).removeprefix(f"{path}: "))
                findings.append({"image": str(path), "verdict": "unreadable", "reason": str(error)})
                continue
            found = guard.check(image[None])[0]
            findings.append({"image": str(path), **found.to_dict()})
            table.add_row(name, found.verdict.name.lower(), found.decision, _stated(found), found.reason)
            if overlay:
                _draw(guard, whole, image, overlay / f"{number:04d}-{path.stem}.png")
    out.print(table)
    if written:
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps({"guard": guard.digest(), "findings": findings}, indent=2) + "\n")
    if unreadable:
        raise DataError(f"{unreadable} of {len(findings)} images could not be read; the others are judged above")


def presented(path: Path, model: Classifier) -> tuple[Tensor, Tensor]:
    """An image `(C, H, W)` as it stands in its file, and as the sets' readers give it to this model.

    Raises:
        ImageError: it cannot be read.
    """
    whole = read_image(path, channels=1 if model.channels == 1 else 3)
    return whole, whole if model.size is None else resize(whole, model.size)


def _stated(found: Finding) -> str:
    chance = found.probability.get(found.decision)
    return "" if chance is None else f"{chance:.0%}"


def _draw(guard: Guard, whole: Tensor, image: Tensor, to: Path) -> None:
    from PIL import Image

    from antivenom.explanation.grad_cam import grad_cam
    from antivenom.explanation.panels import overlay

    heat = grad_cam(guard.model, image[None])
    heat = torch.nn.functional.interpolate(heat[None], whole.shape[-2:], mode="bilinear")[0, 0].clamp(0, 1)
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(overlay(whole, heat)).save(to)


def _files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """The files named, and the images in folders named, in order; each with a short name.

    Raises:
        DataError: nothing is there, or more than one call takes.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
        inside = (p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        found += [(str(p.relative_to(path)), p) for p in sorted(inside)] if path.is_dir() else [(path.name, path)]
    if not found:
        raise DataError(f"no image in {', '.join(map(str, paths))}; give PNG, JPEG or DICOM files, or folders that hold some")
    if len(found) > MOST_FILES:
        raise DataError(f"{len(found)} images are more than one call takes ({MOST_FILES}); give fewer folders at a time")
    return found


# -- audit -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trials:
    """The options of `audit`."""

    surrogate: str | None
    others: str | None
    epsilon: str
    black_epsilon: str
    adaptive: str | None
    steps: int
    supervised: str
    unseen: bool
    natural: bool
    why: bool
    images: int
    seed: int

    def order(self, guard: Guard, data: ImageSet) -> Examination:
        """The trials that these options name."""
        white, black = _size("--epsilon", self.epsilon), _size("--black-epsilon", self.black_epsilon)
        trials = [*naive(epsilon=white)]
        if self.surrogate:
            trials += naive(epsilon=black, made_on="surrogate")
        if self.unseen:
            trials += unseen(epsilon=white)
        attacked = self._attacked(guard)
        names = [watch.name for watch in guard.watches]
        deciding = [name for name, decides in zip(names, guard.policy.deciding(names), strict=True) if decides]
        together = [name for name in deciding if name in attacked]
        trials += adaptive(attacked, together=together, epsilon=white, steps=self.steps)
        modality = DATASETS[data.name].modality if data.name in DATASETS else ""
        if self.natural and modality:
            trials += natural(modality)
        return Examination(trials=tuple(trials), images=self.images, seed=self.seed)

    def learnt(self, order: Examination) -> list[Trial]:
        """The trial that a supervised detector learns from, if any."""
        name = self.supervised.strip()
        if name == NONE:
            return []
        found = [trial for trial in order.trials if trial.attack == name and not trial.evading and trial.made_on == "model"]
        if not found:
            known = dict.fromkeys(trial.attack for trial in order.trials if trial.kind == "attack" and not trial.evading)
            raise SettingsError(f"--supervised {name!r}: learn from {', '.join(known)}, or none")
        return found[:1]

    def _attacked(self, guard: Guard) -> dict[str, bool]:
        """The detectors that an attacker knows: those that decide, where nothing else is said."""
        own = {watch.name: watch.detector.differentiable for watch in guard.watches}
        if self.adaptive is None:
            deciding = guard.policy.deciding(list(own))
            return {name: smooth for (name, smooth), decides in zip(own.items(), deciding, strict=True) if decides}
        if self.adaptive.strip() in (ALL, NONE):
            return own if self.adaptive.strip() == ALL else {}
        names = _names(self.adaptive)
        if unknown := [name for name in names if name not in own]:
            raise SettingsError(f"--adaptive: the guard has no detector {unknown[0]!r}; it has {', '.join(own)}")
        return {name: own[name] for name in names}


def audit(file: Path, wanted: Wanted, output: Path, asked: Trials, *, device: str | None) -> None:
    """Try the guard, print what it notices and write the report."""
    card, place = read_guard_card(file), chosen_device(device)
    guard = load_guard(file).to(place).eval()
    size = guard.model.size
    side = size[0] if size is not None and size[0] == size[1] else None
    data = wanted.open(side)
    surrogate = load(asked.surrogate).to(place).eval() if asked.surrogate else None
    others = {name: _foreign(name, wanted, side, guard.model) for name in _names(asked.others)} if asked.others else {}
    typed, order, split_seed = shlex.join(["antivenom", *sys.argv[1:]]), asked.order(guard, data), int(card["seed"])
    learnt = asked.learnt(order)
    with progress(f"trying the guard on {data.name}") as told:
        name = title_of(str(file), guard.model)
        ensure_audit(guard.model, data, output, images=asked.images, seed=asked.seed, name=name, command=typed, progress=told)
        kept = output / HOME
        baselines = [
            kept_baseline(kept / f"baseline-{trial.attack}.safetensors", guard, data, trial, split_seed=split_seed)
            for trial in learnt
        ]
        examine(
            guard,
            data,
            order,
            output,
            surrogate=surrogate,
            others=others,
            baselines=baselines,
            split_seed=split_seed,
            command=typed,
            progress=told,
        )
        unable = asked.why and _reasons(guard, data, output, surrogate, typed, told)
    summarise(Detection.read(output))
    if unable:
        out.print(f"note: why detectors notice was not measured: {unable}", markup=False)
    out.print(f"report: {write_report(output)}", markup=False)


def _reasons(guard: Guard, data: ImageSet, output: Path, surrogate: Classifier | None, typed: str, told: Progress) -> str:
    """Measure why detectors notice attacks; say so where these images do not allow it, since the rest stands."""
    try:
        give_reasons(guard.model, data, output, surrogate=surrogate, command=typed, progress=told)
    except NotMeasuredError as reason:
        return str(reason)
    return ""


def summarise(found: Detection) -> None:
    """Print what each detector flags of clean images, of attacked ones, and of those whose maker knows it."""
    if not found.finished:
        raise DataError("the examination is not finished; run the same command again to go on")
    groups = len(set(found.groups.tolist()))
    out.print(f"\n{len(found.targets)} test images of {groups} {found.unit}s; shares in %, 95 % intervals", markup=False)
    columns = (
        "detector",
        "decides",
        "clean flagged",
        "attacked flagged, least",
        "overturned",
        "and unnoticed",
        "detector known",
    )
    table = Table(*columns, box=None, pad_edge=False)
    unknowing = [row.number for row in found.rows if row.naive and found.measured(row.number) and row.attack != "noise"]
    sizes = found.sizes
    for watch in found.watches:
        least = min((found.noticed(number, watch.name) for number in unknowing), key=lambda share: share.value, default=None)
        known = next((size for size in sizes if found.knowing(watch.name, size)), None)
        passed = found.passed(watch.name, known) if known else None
        shares = (passed.overturned, passed.naive, passed.known) if passed else (None, None, None)
        cells = [_share(share) for share in (found.alarms(watch.name), least, *shares)]
        table.add_row(watch.title, "yes" if watch.decides else "", *cells)
    out.print(table)


def _share(share: Estimate | None) -> str:
    if share is None or not share.measured:
        return "-"
    return f"{100 * share.value:.0f} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _foreign(name: str, wanted: Wanted, side: int | None, model: Classifier) -> ImageSet:
    """Images of another set, in the channels of the model."""
    data = opened(name, wanted.root, label=None, size=side, n=None, split_file=None, download=wanted.download)
    if data.channels != model.channels:
        raise SettingsError(
            f"--others {name}: its images have {data.channels} channel(s), and the model takes {model.channels}"
        )
    return data.split("test")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _size(option: str, text: str) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise SettingsError(f"{option}: {error}") from None
