"""`antivenom harden`: a classifier with defences, and what it then withstands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from antivenom.cli.audit import Asked, Wanted, explained, summarise
from antivenom.cli.console import out, progress
from antivenom.cli.device import chosen_device
from antivenom.cli.train import changed
from antivenom.errors import SettingsError
from antivenom.evaluation.run import run
from antivenom.models.classifier import Classifier
from antivenom.models.foreign import from_import
from antivenom.models.weights import load, read_card, rebuilds
from antivenom.records.audit import Audit
from antivenom.report.write import write_report
from antivenom.threat.card import number
from antivenom.training.hardening import defence, harden


def run_harden(
    defences: str,
    wanted: Wanted,
    output: Path,
    *,
    model: str | None,
    recipe: str,
    changes: dict[str, Any],
    pretrained: str | None,
    epsilon: str,
    asked: Asked,
    explain: bool,
    seed: int,
    device: str | None,
) -> None:
    """Harden, audit the result on the test images, look where it looks, and print what it reached."""
    names = [name.strip() for name in defences.split(",")]
    for name in names:
        defence(name)
    settings = changed(recipe, changes)
    start, side = _start(model, wanted)
    images = wanted.open(side or settings.side)
    place = chosen_device(device)
    with progress(f"hardening on {images.name}") as told:
        hardened = harden(
            images,
            names,
            settings,
            output,
            seed=seed,
            epsilon=_epsilon(epsilon),
            start=start,
            pretrained=None if pretrained is None else {"timm": True, "none": False}.get(pretrained, Path(pretrained)),
            place=place,
            told=lambda stage: lambda done, total, text: told(done, total, f"{stage}: {text}"),
            tell=lambda text: out.print(text, markup=False),
        )
    out.print(f"checkpoint: {hardened.checkpoint}", markup=False)
    title, folder = " + ".join(defence(name).title for name in names), output / "audit"
    card = read_card(hardened.checkpoint) if rebuilds(hardened.classifier) else {}
    typed, classifier = shlex.join(["antivenom", *sys.argv[1:]]), hardened.classifier.to(place).eval()
    with progress(f"auditing on {images.name}") as told:
        run(classifier, images, asked.protocol(images), folder, name=title, command=typed, card=card, progress=told)
    if explain:
        explained(classifier, images, folder, asked.seed)
    summarise(Audit.read(folder))
    out.print(f"report: {write_report(folder)}", markup=False)


def _start(model: str | None, wanted: Wanted) -> tuple[Classifier | None, int | None]:
    """The classifier to begin from, and the side of the images that it was trained on, where its card says so."""
    if model is None:
        return None, None
    if ":" in model and not Path(model).exists():
        data = wanted.open(None)
        height, width = data[0].image.shape[-2:]
        return from_import(model, data.task, data.channels, (height, width)), None
    side = read_card(model).get("recipe", {}).get("side")
    return load(model), side if isinstance(side, int) else None


def _epsilon(text: str) -> float:
    try:
        epsilon = float(number(text))
    except ValueError:
        epsilon = -1.0
    if not 0 < epsilon <= 1:
        raise SettingsError(f"--epsilon takes a number above 0 and up to 1, such as 4/255, got {text!r}")
    return epsilon
