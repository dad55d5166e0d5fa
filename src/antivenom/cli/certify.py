"""`antivenom certify`: how far the smoothed model's answers are proven to hold."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.table import Table

from antivenom.cli.audit import Wanted, opened_with_images, title_of
from antivenom.cli.console import out, progress
from antivenom.cli.device import chosen_device
from antivenom.evaluation.certification import Order
from antivenom.evaluation.certification import certify as certify_images
from antivenom.records.audit import Audit
from antivenom.records.certification import Certification
from antivenom.report.write import write_report


def certify(model: str, wanted: Wanted, output: Path, order: Order, *, device: str | None) -> None:
    """Certify the images, print what is proven and write the report."""
    classifier, card, data = opened_with_images(model, wanted)
    classifier = classifier.to(chosen_device(device)).eval()
    name, typed = title_of(model, classifier), shlex.join(["antivenom", *sys.argv[1:]])
    with progress(f"certifying on {data.name}") as told:
        certify_images(classifier, data, order, output, name=name, command=typed, card=card, progress=told)
    audit = Audit.read(output)
    summarise(next(found for found in audit.certifications if found.sigma == order.sigma), audit.unit)
    out.print(f"report: {write_report(output)}", markup=False)


def summarise(found: Certification, unit: str) -> None:
    """Print certified accuracy at each radius."""
    groups = len(set(found.groups.tolist()))
    out.print(
        f"\n{len(found.places)} test images of {groups} {unit}s; noise {found.sigma:g}, {found.n} copies each, "
        f"alpha {found.alpha:g}",
        markup=False,
    )
    table = Table("L2 radius", "certified accuracy", "95 % interval", "balanced", box=None, pad_edge=False)
    for radius, accuracy in found.curve():
        balanced = found.balanced_accuracy(radius)
        interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
        table.add_row(f"{radius:.3g}", f"{accuracy.value:.1%}", interval, f"{balanced.value:.1%}")
    out.print(table)
    out.print(f"abstained, which counts as wrong: {found.abstention.value:.1%}", markup=False)
    out.print(f"largest radius that so many copies can prove: {found.reach:.3g}", markup=False)
