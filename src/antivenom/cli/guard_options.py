"""The options of `antivenom guard`; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from antivenom.cli.options import Count, DataName, Device, Download, Label, Output, Root, Seed, Size, SplitFile

guard_app = typer.Typer(
    help="Put a guard around a classifier: it accepts, abstains, or rejects what looks unlike the images that it knows.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

GuardFile = Annotated[Path, typer.Option("--guard", "-g", help="File that `antivenom guard fit` wrote.")]


@guard_app.command()
def fit(
    model: Annotated[str, typer.Option("--model", "-m", help="A .safetensors checkpoint.")],
    data: DataName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as guard.safetensors.")],
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    detectors: Annotated[
        str,
        typer.Option(
            "--detectors",
            help="One or several, parted by commas: gaussian, energy, ...; or all. Layers behind a colon: gaussian:layer2, "
            "mahalanobis:layer1+layer2, mahalanobis:stages.",
        ),
    ] = "gaussian",
    decides: Annotated[
        str | None, typer.Option("--decides", help="Those of the detectors that reject; else all share the false-alarm rate.")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Share of clean images that may be rejected.")] = 0.05,
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="Least calibrated probability below which it abstains.")
    ] = None,
    coverage: Annotated[float, typer.Option("--coverage", help="Of the prediction sets.")] = 0.9,
    always_answer: Annotated[
        bool, typer.Option("--always-answer", help="Do not abstain where the prediction set holds several classes.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fit a guard: detectors on training images, thresholds and prediction sets on held-out validation images.

    Writes one file, classifier included. Work that was interrupted continues: run the same command again. Test images are not
    touched.

    Examples:

      antivenom guard fit --model runs/kermany/model.safetensors --data kermany --root ~/data --output guard.safetensors

      antivenom guard fit -m m.safetensors -d nih14-64 -r ~/data --detectors all --decides gaussian --rate 0.01 -o g.safetensors
    """
    from antivenom.cli import guard as command
    from antivenom.cli.audit import Wanted

    asked = command.Fit(detectors, decides, rate, confidence, coverage, not always_answer, seed)
    command.fit(model, Wanted(data, root, label, size, count, split_file, download), output, asked, device=device)


@guard_app.command()
def check(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG, BMP, TIFF, NPY, NPZ or DICOM files, or folders of them.")],
    guard: GuardFile,
    json: Annotated[Path | None, typer.Option("--json", help="File to write all findings to.")] = None,
    overlay: Annotated[
        Path | None,
        typer.Option("--overlay", help="Folder to write each image to, with Grad-CAM of its answer."),
    ] = None,
    device: Device = None,
) -> None:
    """Ask a guard about images: accept, abstain or reject, with the reason.

    Examples:

      antivenom guard check scan.dcm --guard guard.safetensors

      antivenom guard check inbox/ --guard guard.safetensors --json findings.json --overlay maps
    """
    from antivenom.cli import guard as command

    command.check(images, guard, json, overlay, device=device)


@guard_app.command()
def audit(
    guard: GuardFile,
    data: DataName,
    output: Output,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    surrogate: Annotated[
        str | None, typer.Option("--surrogate", help="Another checkpoint of the same task, for the black-box attacks.")
    ] = None,
    others: Annotated[
        str | None, typer.Option("--others", help="Other sets, parted by commas, whose images the guard does not know.")
    ] = None,
    epsilon: Annotated[str, typer.Option("--epsilon", "-e", help="Of white-box attacks, in Linf.")] = "0.02",
    black_epsilon: Annotated[str, typer.Option("--black-epsilon", help="Of attacks made on the surrogate, in Linf.")] = "0.05",
    adaptive: Annotated[
        str | None, typer.Option("--adaptive", help="Detectors to attack knowingly: names parted by commas, all, or none.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of attacks that know a detector; the others take ten.")] = 100,
    supervised: Annotated[
        str, typer.Option("--supervised", help="Attack that a supervised detector learns from, to compare with; or none.")
    ] = "fgsm",
    unseen: Annotated[
        bool, typer.Option("--unseen/--no-unseen", help="Try attacks of other families: least change, and answers alone.")
    ] = True,
    natural: Annotated[bool, typer.Option("--natural/--no-natural", help="Try what scanners do without an adversary.")] = True,
    why: Annotated[
        bool,
        typer.Option("--why/--no-why", help="Measure, on 64 images at most, why detectors notice attacks: growth, normality."),
    ] = True,
    images: Annotated[int, typer.Option("--images", min=1, help="At most so many test images, drawn by the seed.")] = 200,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Try a guard: attacks that know nothing of it, attackers who know the detector, natural change and foreign images.

    Adds a chapter to an audit of its classifier in OUTPUT, or to a new one with the clean images alone. Work that was
    interrupted continues: run the same command again.

    Examples:

      antivenom guard audit --guard guard.safetensors --data kermany --root ~/data --output runs/guard

      antivenom guard audit -g g.safetensors -d nih14-64 -r ~/data --surrogate resnet50.safetensors --others kermany -o runs/nih
    """
    from antivenom.cli import guard as command
    from antivenom.cli.audit import Wanted

    asked = command.Trials(
        surrogate, others, epsilon, black_epsilon, adaptive, steps, supervised, unseen, natural, why, images, seed
    )
    command.audit(guard, Wanted(data, root, label, size, count, split_file, download), output, asked, device=device)
