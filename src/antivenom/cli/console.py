"""What a command shows while it works: a bar with the time left, or, where no one watches, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from antivenom.errors import InterruptedWorkError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

QUIET = 10.0  # seconds between lines where there is no terminal

Told = Callable[[float, float, str], None]


@contextmanager
def progress(title: str) -> Iterator[Told]:
    """Show how far a piece of work has come; the function given is told of work done, work in all and what is being done.

    Raises:
        InterruptedWorkError: in place of a `KeyboardInterrupt`, which typer would answer with nothing but an exit code.
    """
    try:
        with _bar(title) if err.is_terminal else _lines(title) as told:
            yield told
    except KeyboardInterrupt:
        raise InterruptedWorkError("interrupted; what is finished is stored: run the same command again to go on") from None


@contextmanager
def _bar(title: str) -> Iterator[Told]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", style="dim"),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        bar = bars.add_task(title, text="")
        yield lambda done, total, text: bars.update(bar, completed=done, total=total, text=text)


@contextmanager
def _lines(title: str) -> Iterator[Told]:
    began = said = time.monotonic()

    def told(done: float, total: float, text: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < QUIET or not done:
            return
        said = now
        left = (now - began) * (total - done) / done
        err.print(f"{title}: {done / total:4.0%}, about {_clock(left)} left; {text}", markup=False)

    yield told


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
