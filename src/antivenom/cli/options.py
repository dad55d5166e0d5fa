"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataName = Annotated[str, typer.Option("--data", "-d", help="Name of a set; `antivenom data` lists them.")]
Root = Annotated[Path | None, typer.Option("--root", "-r", help="Folder of the set, or one that holds it by its name.")]
Label = Annotated[str | None, typer.Option("--label", help="Which label of the set to decide, where it has several.")]
Size = Annotated[int | None, typer.Option("--size", help="Bring images to so many pixels a side.", min=8, max=4096)]
Count = Annotated[int | None, typer.Option("--count", "-n", help="Number of phantoms to draw.", min=20)]
SplitFile = Annotated[Path | None, typer.Option("--split-file", help="Split stored by `antivenom data --save-split`.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a MedMNIST file that is absent (needs antivenom[medmnist]).")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is written.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random draw.", min=0)]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...; the GPU where there is one.")]
