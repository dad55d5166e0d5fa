"""The command `antivenom`: its options and what they stand for. Heavy imports happen inside the commands."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from antivenom import __version__
from antivenom.cli.guard_options import guard_app
from antivenom.cli.options import Count, DataName, Device, Download, Label, Output, Root, Seed, Size, SplitFile
from antivenom.errors import AntivenomError, InterruptedWorkError

app = typer.Typer(
    name="antivenom",
    help="Find out how a medical-image classifier can be fooled, make it harder to fool, and keep watch over it in use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(guard_app, name="guard")

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@app.callback(invoke_without_command=True)
def antivenom(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Find out how a medical-image classifier can be fooled, make it harder to fool, and keep watch over it in use."""
    if version:
        typer.echo(f"antivenom {__version__}")
        raise typer.Exit


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A set to describe; all are listed where it is left out.")] = None,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    check: Annotated[bool, typer.Option("--check", help="Read every image and name those that are unreadable.")] = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="Write a sheet of images as PNG.")] = None,
    save_split: Annotated[Path | None, typer.Option("--save-split", help="Write the split to a file, with its hash.")] = None,
) -> None:
    """List the known data sets, or describe and check one.

    Examples:

      antivenom data

      antivenom data kermany --root ~/data --check

      antivenom data phantom-fundus --picture fundus.png
    """
    from antivenom.cli import data as command

    if name is None:
        command.list_sets()
    else:
        images = command.opened(name, root, label=label, size=size, n=count, split_file=split_file, download=download)
        command.describe(images)
        if picture:
            command.draw(images, picture)
        if save_split:
            command.save_split(images, save_split)
        if check:
            command.check(images)


@app.command()
def train(
    data: DataName,
    output: Output,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="Settings of the training; small, chen2021-paper, chen2021-repo, wasserman2022, li2020, sahu2024."
        ),
    ] = "small",
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", "-a", help="resnet18, densenet121, ...; with parts: resnet34+cbam, resnet18+kwta:0.3"),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images a step, instead of the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", min=0, help="Instead of the recipe's.")] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained", help="'timm' (its own weights, online), 'none', or a .safetensors or .pth file; else the recipe's."
        ),
    ] = None,
    adversary: Annotated[
        str | None,
        typer.Option(
            "--adversary", help="Train adversarially, at this Linf epsilon, such as 2/255 (PGD; three gradients an image)."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a classifier; a training that was interrupted continues.

    Writes OUTPUT/model.safetensors and its card. Only training and validation images are touched.

    Examples:

      antivenom train --data phantom-chest --output runs/phantom

      antivenom train --data kermany --root ~/data --size 64 --output runs/kermany

      antivenom train --data folder --root ~/my-scans --size 224 --recipe chen2021-paper --pretrained timm --output runs/mine
    """
    from antivenom.cli import train as command

    changes: dict[str, object] = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "architecture": architecture,
        "side": size,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if adversary is not None:
        given["adversary"] = {"epsilon": adversary}
    command.train(
        data,
        root,
        output,
        label=label,
        n=count,
        split_file=split_file,
        download=download,
        recipe=recipe,
        changes=given,
        pretrained=pretrained,
        seed=seed,
        device=device,
    )


@app.command()
def harden(
    data: DataName,
    defence: Annotated[
        str, typer.Option("--defence", help="One or several, parted by commas: adversarial, cbam, prune, trades, denoiser, ...")
    ],
    output: Output,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Begin from this checkpoint, or package.module:factory; else anew.")
    ] = None,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    recipe: Annotated[str, typer.Option("--recipe", help="Settings of the training, as in `antivenom train`.")] = "small",
    architecture: Annotated[str | None, typer.Option("--architecture", "-a", help="Instead of the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images a step, instead of the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", min=0, help="Instead of the recipe's.")] = None,
    pretrained: Annotated[
        str | None, typer.Option("--pretrained", help="'timm', 'none', or a .safetensors or .pth file; else the recipe's.")
    ] = None,
    epsilon: Annotated[str, typer.Option("--epsilon", "-e", help="Of adversarial training, in Linf.")] = "4/255",
    battery: Annotated[
        str, typer.Option("--battery", help="Of the audit that follows: quick, standard or exhaustive.")
    ] = "quick",
    levels: Annotated[
        str, typer.Option("--levels", help="Linf epsilons of the audit in grey levels of 8 bits, parted by commas.")
    ] = "0.25,0.5,1,2,4,8",
    images: Annotated[int, typer.Option("--images", min=1, help="At most so many test images, drawn by the seed.")] = 200,
    explain: Annotated[bool, typer.Option("--explain/--no-explain", help="Measure where the model looks, too.")] = True,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a classifier with defences, and audit what it then withstands.

    Writes OUTPUT/model.safetensors and OUTPUT/audit with its report. Work that was interrupted continues: run the same command
    again. Only the audit touches test images.

    Examples:

      antivenom harden --data phantom-chest --defence adversarial --epsilon 2/255 --output runs/phantom-hard

      antivenom harden --data kermany --root ~/data --defence cbam,prune --architecture resnet34 --output runs/cbam-prune

      antivenom harden --data kermany --root ~/data --model runs/kermany/model.safetensors --defence trades --output runs/trades
    """
    from antivenom.cli import harden as command
    from antivenom.cli.audit import Asked, Wanted

    changes: dict[str, object] = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "architecture": architecture,
        "side": size,
    }
    command.run_harden(
        defence,
        Wanted(data, root, label, size, count, split_file, download),
        output,
        model=model,
        recipe=recipe,
        changes={name: value for name, value in changes.items() if value is not None},
        pretrained=pretrained,
        epsilon=epsilon,
        asked=Asked(battery, None, levels, 40, 500, None, images, seed),
        explain=explain,
        seed=seed,
        device=device,
    )


@app.command()
def audit(
    model: Annotated[str, typer.Option("--model", "-m", help="A .safetensors checkpoint, or package.module:factory.")],
    data: DataName,
    output: Output,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    protocol: Annotated[Path | None, typer.Option("--protocol", help="A JSON file that says all that is run.")] = None,
    battery: Annotated[str, typer.Option("--battery", help="quick, standard or exhaustive.")] = "standard",
    attacks: Annotated[
        str | None, typer.Option("--attacks", help="Names, parted by commas, instead of the battery's own.")
    ] = None,
    levels: Annotated[
        str, typer.Option("--levels", help="Linf epsilons in grey levels of 8 bits (1 is 1/255), parted by commas.")
    ] = "0.25,0.5,1,2,4,8",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of each climb; BIM and MIM take a quarter.")] = 40,
    queries: Annotated[int, typer.Option("--queries", min=2, help="Of each black-box attack, per image.")] = 500,
    goal: Annotated[
        str | None, typer.Option("--goal", help="'untargeted', 'targeted: CLASS', 'hide: FINDING', 'invent: FINDING', ...")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="At most so many test images, drawn by the seed.")] = 500,
    explain: Annotated[
        bool | None,
        typer.Option("--explain/--no-explain", help="Measure where the model looks, too; else after all batteries but quick."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Attack a model on the test images of a set, and write records and a report.

    An audit that was interrupted continues: run the same command again. Operating points come from validation images.

    Examples:

      antivenom audit --model runs/phantom/model.safetensors --data phantom-chest --output runs/phantom/audit

      antivenom audit --model runs/kermany/model.safetensors --data kermany --root ~/data --output runs/kermany/audit

      antivenom audit --model hospital.models:chest --data folder --root ~/my-scans --size 224 --output runs/mine
    """
    from antivenom.cli import audit as command

    images_of = command.Wanted(data, root, label, size, count, split_file, download)
    asked = protocol or command.Asked(battery, attacks, levels, steps, queries, goal, images, seed)
    command.audit(model, images_of, output, asked=asked, explain=explain, device=device)


@app.command()
def attack(
    model: Annotated[str, typer.Option("--model", "-m", help="A .safetensors checkpoint, or package.module:factory.")],
    data: DataName,
    attack: Annotated[str, typer.Option("--attack", "-a", help="fgsm, pgd, apgd, square, cw, ...")],
    epsilon: Annotated[str, typer.Option("--epsilon", "-e", help="How far, such as 2/255.")],
    output: Output,
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    threat: Annotated[
        str,
        typer.Option(
            "--threat", help="Norm, 'tied channels', and a grid: 'stored grid' (of the files) or such as 'grid 1/255'."
        ),
    ] = "linf, stored grid",
    goal: Annotated[
        str | None, typer.Option("--goal", help="'untargeted', 'targeted: CLASS', 'hide: FINDING', 'invent: FINDING', ...")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the attack, such as steps=100; once for each.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="fooled or spent; else the attack's own.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test, parted by commas, or all.")] = "test",
    images: Annotated[int, typer.Option("--images", min=1, help="At most so many images, drawn by the seed.")] = 100,
    form: Annotated[
        str, typer.Option("--format", help="png, png16, npz or dicom; auto: as the images came, PNG where they were resampled.")
    ] = "auto",
    native: Annotated[
        bool, typer.Option("--native", help="Attack images as they are stored; the model resamples them inside.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Attack images of a set and write them as files, which are read and judged again.

    Writes OUTPUT/images, OUTPUT/records.csv and OUTPUT/summary.json. Work that was interrupted continues: run the same command
    again.

    Examples:

      antivenom attack --model runs/kermany/model.safetensors --data kermany --root ~/data --attack pgd --epsilon 2/255 -o adv

      antivenom attack --model hospital.models:chest --data dicom-folder --root ~/scans --native --attack apgd -e 2/255 -o adv

      antivenom attack --model m.safetensors --data phantom-skin --attack cw --threat l2 -e 1 --set steps=200 --format npz -o a
    """
    from antivenom.cli import attack as command
    from antivenom.cli.audit import Wanted

    asked = command.Asked(attack, epsilon, threat, goal, settings or [], until, split, images, form, native, seed)
    command.attack(model, Wanted(data, root, label, size, count, split_file, download), output, asked, device=device)


@app.command()
def certify(
    model: Annotated[str, typer.Option("--model", "-m", help="A .safetensors checkpoint, or package.module:factory.")],
    data: DataName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of an audit of this model, or a new one.")],
    root: Root = None,
    label: Label = None,
    size: Size = None,
    count: Count = None,
    split_file: SplitFile = None,
    download: Download = False,
    sigma: Annotated[
        float, typer.Option("--sigma", help="Standard deviation of the noise, in units of the [0, 1] range.")
    ] = 0.25,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noisy copies of each image that prove its radius.")] = 1000,
    choosing: Annotated[
        int, typer.Option("--choosing", min=1, help="Noisy copies of each image that choose its class before.")
    ] = 100,
    alpha: Annotated[float, typer.Option("--alpha", help="Chance that an image's certificate is wrong, at most.")] = 0.001,
    images: Annotated[int, typer.Option("--images", min=1, help="At most so many test images, drawn by the seed.")] = 100,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Prove how far a model, smoothed by Gaussian noise, keeps its answers under any change in L2.

    Adds certificates to an audit's folder, or to a new one with the clean images alone, and writes its report. Work that was
    interrupted continues: run the same command again. A model that was not trained with such noise proves little.

    Examples:

      antivenom certify --model runs/phantom/model.safetensors --data phantom-chest --output runs/phantom/audit --sigma 0.25

      antivenom certify --model m.safetensors --data kermany --root ~/data --samples 100000 --images 500 -o runs/certified
    """
    from antivenom.cli import certify as command
    from antivenom.cli.audit import Wanted
    from antivenom.evaluation.certification import Order

    order = Order.of(sigma=sigma, n=samples, n0=choosing, alpha=alpha, images=images, seed=seed)
    command.certify(model, Wanted(data, root, label, size, count, split_file, download), output, order, device=device)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that `antivenom audit` wrote.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; FOLDER/report.html where left out.")] = None,
) -> None:
    """Write the report of an audit again from its records; no model is run.

    Example:

      antivenom report runs/kermany/audit --output kermany.html
    """
    from antivenom.cli.console import out
    from antivenom.report.write import write_report

    out.print(f"report: {write_report(folder, output)}", markup=False)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `antivenom audit` wrote, or that hold such ones.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; its figures go beside it as JSON and CSV.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Name of the model that others are held against; else the first.")
    ] = None,
    threat: Annotated[str, typer.Option("--threat", help="Norm, or the threat as the audits name it.")] = "linf",
    level: Annotated[
        str | None,
        typer.Option("--level", help="Size of the attacks (2 is 2/255 in linf); else where the baseline's accuracy halves."),
    ] = None,
) -> None:
    """Compare audits of several models side by side from their records; no model is run.

    A model is called by its folder; a folder named `audit` by the one around it.

    Examples:

      antivenom compare runs/plain/audit runs/hardened/audit --output compared.html

      antivenom compare runs/defences --baseline resnet34 --threat l2 --level 0.5
    """
    from antivenom.cli import compare as command

    command.run(folders, output, baseline=baseline, threat=threat, level=level)


def run() -> None:
    """Run the command line; an error of the caller's is one line and exit code 2."""
    try:
        app()
    except InterruptedWorkError as error:
        _fail(str(error), INTERRUPTED)
    except AntivenomError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        _fail(f"{error.strerror}: {error.filename or 'while writing'}; make room or choose another --output", BAD_INPUT)


def _fail(message: str, code: int) -> None:
    print(f"antivenom: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
