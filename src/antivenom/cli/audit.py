"""`antivenom audit`: a model and a set of images to records and a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from antivenom.cli.console import out, progress
from antivenom.cli.data import opened
from antivenom.cli.device import chosen_device
from antivenom.data.imageset import ImageSet
from antivenom.errors import DataError, SettingsError
from antivenom.evaluation.batteries import plan
from antivenom.evaluation.explaining import Order
from antivenom.evaluation.explaining import explain as explain_images
from antivenom.evaluation.protocol import Protocol, read_protocol
from antivenom.evaluation.run import run
from antivenom.models.classifier import Classifier
from antivenom.models.foreign import from_import
from antivenom.models.weights import load, read_card
from antivenom.records.audit import Audit
from antivenom.records.plan import size
from antivenom.report.write import write_report

EXPLAINED = ("standard", "exhaustive")  # batteries after which is looked where the model looks, unless asked otherwise


@dataclass(frozen=True)
class Wanted:
    """The images to audit on, as the options name them."""

    name: str
    root: Path | None
    label: str | None
    size: int | None
    n: int | None
    split_file: Path | None
    download: bool

    def open(self, size: int | None) -> ImageSet:
        """The set, at the size asked for, else at this one."""
        return opened(
            self.name,
            self.root,
            label=self.label,
            size=self.size or size,
            n=self.n,
            split_file=self.split_file,
            download=self.download,
        )


@dataclass(frozen=True)
class Asked:
    """The options that stand in for a protocol file."""

    battery: str
    attacks: str | None
    levels: str
    steps: int
    queries: int
    goal: str | None
    images: int
    seed: int

    def protocol(self, data: ImageSet) -> Protocol:
        """The battery for these images with these options."""
        sample = data[0].image
        rows = plan(
            self.battery,
            data.task,
            sample.numel(),
            channels=len(sample),
            attacks=[name.strip() for name in self.attacks.split(",")] if self.attacks else None,
            levels=_numbers(self.levels),
            steps=self.steps,
            queries=self.queries,
            goal=self.goal,
        )
        return Protocol(plan=rows, images=self.images, seed=self.seed)


def audit(
    model: str,
    wanted: Wanted,
    output: Path,
    *,
    asked: Asked | Path,
    explain: bool | None,
    device: str | None,
) -> None:
    """Run the protocol file, or the plan asked for, explain where the model looks, and write the report.

    Args:
        explain: None explains after the batteries in `EXPLAINED`.
    """
    chosen = asked if isinstance(asked, Asked) else read_protocol(asked)
    classifier, card, data = opened_with_images(model, wanted)
    classifier = classifier.to(chosen_device(device)).eval()
    protocol = chosen.protocol(data) if isinstance(chosen, Asked) else chosen
    typed = shlex.join(["antivenom", *sys.argv[1:]])
    with progress(f"auditing on {data.name}") as told:
        run(classifier, data, protocol, output, name=title_of(model, classifier), command=typed, card=card, progress=told)
    if isinstance(chosen, Asked) and chosen.battery in EXPLAINED if explain is None else explain:
        explained(classifier, data, output, protocol.seed)
    summarise(Audit.read(output))
    out.print(f"report: {write_report(output)}", markup=False)


def opened_with_images(model: str, wanted: Wanted) -> tuple[Classifier, dict[str, Any], ImageSet]:
    """The model, its card and the images it is audited on: at the size it was trained at, unless another was asked for."""
    if ":" in model and not Path(model).exists():
        data = wanted.open(None)
        size = tuple(data[0].image.shape[-2:])
        return from_import(model, data.task, data.channels, (size[0], size[1])), {}, data
    card = read_card(model)
    side = card.get("recipe", {}).get("side")
    return load(model), card, wanted.open(side if isinstance(side, int) else None)


def explained(classifier: Classifier, data: ImageSet, folder: Path, seed: int) -> None:
    """Measure where an audited model looks, with progress."""
    typed = shlex.join(["antivenom", *sys.argv[1:]])
    with progress("looking where it looks") as told:
        explain_images(classifier, data, folder, Order(seed=seed), command=typed, progress=told)


def title_of(model: str, classifier: Classifier) -> str:
    """What a report calls the model: its import path, or its architecture and where it lies."""
    return model if ":" in model else f"{classifier.architecture} ({Path(model).parent.name or Path(model).stem})"


def _numbers(text: str) -> Sequence[float]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"--levels takes numbers parted by commas, such as 0.5,1,2, got {text!r}") from None
    if not all(0 < level <= 255 for level in levels):
        raise SettingsError(f"--levels must lie above 0 and up to 255 grey levels, got {text!r}")
    return levels


def summarise(audit: Audit) -> None:
    """Print the figures that a reader wants first."""
    if not audit.finished:
        raise DataError(f"{audit.folder} is not finished; run the same audit again to go on")
    groups = len(set(audit.groups.tolist()))
    out.print(f"\n{len(audit.targets)} test images of {groups} {audit.unit}s", markup=False)
    table = Table("", "right decisions", "95 % interval", "balanced", box=None, pad_edge=False)
    table.add_row(
        "always the same answer", f"{audit.constant_accuracy.value:.1%}", "", f"{audit.constant_balanced_accuracy:.1%}"
    )
    accuracy = audit.accuracy()
    table.add_row(
        "clean", f"{accuracy.value:.1%}", f"{accuracy.low:.1%} to {accuracy.high:.1%}", f"{audit.balanced_accuracy().value:.1%}"
    )
    for threat in audit.threats:
        for epsilon in audit.epsilons(threat):
            worst = audit.worst_case(threat, epsilon)
            table.add_row(
                f"worst case, {threat} {size(threat, epsilon)}",
                f"{worst.accuracy.value:.1%}",
                f"{worst.accuracy.low:.1%} to {worst.accuracy.high:.1%}",
                f"{audit.balanced_accuracy_of(worst.right).value:.1%}",
            )
    out.print(table)
    for flag in audit.flags or ():
        out.print(f"{flag.severity}: {flag.name}: {flag.evidence}", markup=False)
