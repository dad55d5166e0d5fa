"""How long detectors take to fit on a long stream of features, in how much memory, and how long to score one image.

    python benchmarks/detection/fitting.py

The features are synthetic, drawn anew in each pass over the stream, so that the stream itself takes no memory; what one pass
takes without a detector stands beside. Variances fall as powers do in real features, and the classes have means of their own.
Memory is the rise of the kernel's high-water mark of resident memory (VmHWM) above what was resident before. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from antivenom.detection.detector import Detector
from antivenom.detection.gaussian import fit_gaussian
from antivenom.detection.mahalanobis import fit_mahalanobis
from antivenom.detection.mixture import fit_mixture
from antivenom.detection.reading import Reading
from antivenom.provenance import machine, versions

RESULTS = Path(__file__).resolve().parent.parent / "results"
MOST_SECONDS, MOST_MILLISECONDS = 60, 0.5  # to fit the Gaussian; to score one image
HELD_OUT = 2000
SKIPPED, TIMED = 50, 500  # scores of one image


@dataclass(frozen=True)
class Stream:
    """Synthetic readings, the same whenever it is read."""

    images: int
    width: int
    classes: int
    batch: int
    seed: int

    def __iter__(self) -> Iterator[Reading]:
        generator = torch.Generator().manual_seed(self.seed)
        scales = torch.arange(1, self.width + 1).float() ** -0.5
        means = torch.randn(self.classes, self.width, generator=torch.Generator().manual_seed(99)) * scales
        for start in range(0, self.images, self.batch):
            size = min(self.batch, self.images - start)
            answered = torch.arange(start, start + size) % self.classes
            values = torch.randn(size, self.width, generator=generator) * scales + means[answered]
            yield Reading(torch.nn.functional.one_hot(answered, self.classes).float(), {"features": values})


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    clean = Stream(options.images, options.width, options.classes, options.batch, options.seed)
    tune = Reading.join(list(Stream(HELD_OUT, options.width, options.classes, options.batch, options.seed + 1)))
    _, reading = timed(lambda: sum(len(part) for part in clean))
    print(f"one pass over the stream alone: {reading['seconds']:.1f} s", flush=True)
    fits: dict[str, Callable[[], Detector]] = {
        "gaussian": lambda: fit_gaussian(clean, tune=tune),
        "gaussian, float64": lambda: fit_gaussian(clean, tune=tune, dtype=torch.float64),
        "mahalanobis": lambda: fit_mahalanobis(clean, tune=tune),
        "mahalanobis, relative": lambda: fit_mahalanobis(clean, tune=tune, relative=True),
        "mixture": lambda: fit_mixture(clean, tune=tune, seed=options.seed),
    }
    rows: dict[str, Any] = {"stream alone": reading}
    for name, fit in fits.items():
        state, found = timed(fit)
        rows[name] = {**found, "score of one image": of_one_image(state, tune)}
        told(name, rows[name])
    facts = {**vars(options), "output": None, "held out": HELD_OUT, "machine": machine(), "versions": versions(), "rows": rows}
    output = options.output or RESULTS / f"detection-fitting-{options.images}-{options.width}-threads-{options.threads}.json"
    output.write_text(json.dumps(facts, indent=1) + "\n")


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What the work gives, its seconds and how many bytes resident memory rose."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, began = status("VmRSS"), time.perf_counter()
    found = work()
    return found, {"seconds": time.perf_counter() - began, "bytes": status("VmHWM") - before}


def status(what: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


@torch.no_grad()
def of_one_image(state: Detector, readings: Reading) -> dict[str, float]:
    """Milliseconds at batch 1 on one thread: median and 95th percentile."""
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    ones = [readings.take(torch.tensor([image])) for image in range(100)]
    for turn in range(SKIPPED + TIMED):
        one = ones[turn % len(ones)]
        began = time.perf_counter()
        state(one)
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    percentiles = statistics.quantiles(seconds[SKIPPED:], n=20)
    return {"median ms": 1000 * percentiles[9], "95 % ms": 1000 * percentiles[18]}


def told(name: str, row: dict[str, Any]) -> None:
    """Say a row, and how it stands to what is asked."""
    one = row["score of one image"]
    met = row["seconds"] <= MOST_SECONDS and one["median ms"] <= MOST_MILLISECONDS
    print(
        f"{name}: {row['seconds']:.1f} s, {row['bytes'] / 2**20:.0f} MiB; one image {one['median ms']:.3f} ms "
        f"(95 %: {one['95 % ms']:.3f}){'' if met else f'; over {MOST_SECONDS} s or {MOST_MILLISECONDS} ms'}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
