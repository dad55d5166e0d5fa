"""What guarding costs beside the bare classifier's forward pass: one Gaussian detector, calibration, prediction sets, policy.

Bare and guarded run in turn, in an order that alternates, and the ratio is taken within each turn. Processor time is what is
compared, since other work on the machine does not count in it; with one thread it is the time that a user waits on an idle
machine. The time that a clock on the wall saw is kept beside it.

python benchmarks/guard/cost.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from antivenom.detection.reading import Reading, batches
from antivenom.guard.fitting import fit_guard, sensor_to_fit
from antivenom.guard.guard import Guard
from antivenom.models.architectures import build
from antivenom.provenance import digest_code, machine, versions
from antivenom.task import Task

ALLOWED = 1.03
TASK = Task(("normal", "bacterial", "viral"))


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows = []
    for architecture in options.architectures:
        for side in options.sides:
            guard = guarded(architecture, side)
            for batch in options.batches:
                row = measured(guard, torch.rand(batch, 3, side, side), options.seconds, options.fewest)
                rows.append({"architecture": architecture, "side": side, "batch": batch, **row})
                low, middle, high = row["ratio"]
                print(
                    f"{architecture:12s} {side:3d} px, batch {batch:2d}: {1e3 * row['bare']:8.2f} ms bare, "
                    f"guarded {middle:.4f} times as long [{low:.4f}, {high:.4f}] over {row['turns']} turns",
                    flush=True,
                )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "detectors": ["gaussian"],
        "allowed": ALLOWED,
        "within": all(row["ratio"][1] <= ALLOWED for row in rows),
        "threads": options.threads,
        "machine": machine(),
        "versions": versions(),
        "code": digest_code(),
        "rows": rows,
    }
    options.output.write_text(json.dumps(facts, indent=1) + "\n")


def guarded(architecture: str, side: int) -> Guard:
    """A guard of an untrained network: what it says does not matter, and takes as long as if it did."""
    model = build(architecture, TASK, channels=3, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    width = sensor_to_fit(model).read(torch.rand(2, 3, side, side)).layer("features").shape[1]

    def read(count: int) -> Reading:
        features = torch.randn(count, width, generator=generator)
        return Reading(4 * features[:, : len(TASK.classes)], {"features": features})

    held = read(500)
    targets = torch.multinomial((held.logits / 2).softmax(1), 1, generator=generator)[:, 0]
    clean = list(batches(read(2000), 500))
    return fit_guard(model, clean, tune=read(500), held_out=held, targets=targets, seed=0)


@torch.inference_mode()
def measured(guard: Guard, images: torch.Tensor, seconds: float, fewest: int) -> dict[str, object]:
    """Turns for so many seconds, and at least so many: medians, and the ratio's quartiles around its median."""
    for _ in range(2):
        guard(images)
        guard.model(images)
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "guarded": []}
    ways: dict[str, Callable[[torch.Tensor], object]] = {"bare": guard.model, "guarded": guard}
    began, turns = time.perf_counter(), 0
    while turns < fewest or time.perf_counter() - began < seconds:
        for name in sorted(ways, reverse=bool(turns % 2)):
            found[name].append(timed(ways[name], images))
        turns += 1
    processor = {name: [own for own, _ in pairs] for name, pairs in found.items()}
    wall = {name: statistics.median(clock for _, clock in pairs) for name, pairs in found.items()}
    ratios = [after / before for before, after in zip(processor["bare"], processor["guarded"], strict=True)]
    reading = guard.sensor(images)
    own = statistics.median(timed(lambda _: guard.judge(reading), images)[0] for _ in range(20))
    return {
        "turns": turns,
        "bare": statistics.median(processor["bare"]),
        "guarded": statistics.median(processor["guarded"]),
        "ratio": statistics.quantiles(ratios, n=4),
        "of medians": statistics.median(processor["guarded"]) / statistics.median(processor["bare"]),
        "judging alone": own,
        "on the wall": wall,
    }


def timed(way: Callable[[torch.Tensor], object], images: torch.Tensor) -> tuple[float, float]:
    """Seconds of this thread on the processor, and seconds on the wall."""
    own, clock = time.thread_time(), time.perf_counter()
    way(images)
    return time.thread_time() - own, time.perf_counter() - clock


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=["resnet18", "densenet121"])
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="at least so long a row")
    parser.add_argument("--fewest", type=int, default=5, help="at least so many turns a row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/guard-cost.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
