"""PGD beside torchattacks' PGD: the same model, images, budget and number of steps, timed in turn in one run.

    python benchmarks/pgd.py --model runs/kermany/model.safetensors --data kermany --root DATA

Success is recomputed here, in float32 on the model as given, from the images that each attack returned. torchattacks is a peer
to compare with, not a dependency: `pip install antivenom[benchmarks]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from antivenom.attacks.pgd import pgd
from antivenom.attacks.result import Until
from antivenom.data.datasets import load as load_data
from antivenom.data.imageset import gather
from antivenom.models.execution import Victim, accelerate
from antivenom.models.weights import load, read_card
from antivenom.provenance import machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    import torchattacks

    model = load(options.model).eval()
    side = read_card(options.model).get("recipe", {}).get("side")
    tests = load_data(options.data, options.root, size=side, n=options.count).split("test")
    batch = gather([tests[i] for i in range(min(options.images, len(tests)))])
    x, y = batch.images, batch.targets
    victim = accelerate(model, x[:8], batch=options.batch)
    draws = Draws.of(0, image_keys(batch.keys))

    def ours(epsilon: float, until: Until, runner: Victim) -> Tensor:
        found = pgd(runner, x, Untargeted(y), Linf(epsilon), steps=40, step_size=0.1, until=until, generator=draws)
        return found.x_adv

    def theirs(epsilon: float) -> Tensor:
        attack = torchattacks.PGD(model, eps=epsilon, alpha=0.1 * epsilon, steps=40, random_start=True)
        parts = zip(torch.split(x, options.batch), torch.split(y, options.batch), strict=True)
        return torch.cat([attack(*part) for part in parts])

    facts: dict[str, Any] = {
        "images": len(x),
        "shape": list(x.shape[1:]),
        "model": model.describe(),
        "clean accuracy": float((answers(model, x).argmax(1) == y).float().mean()),
        "data": options.data,
        "threads": options.threads,
        "batch": options.batch,
        "execution": victim.execution,
        "machine": machine(),
        "versions": versions(),
        "rows": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for level in options.levels:
        ways = {
            "torchattacks": lambda e: theirs(e),
            "until fooled": lambda e: ours(e, Until.FOOLED, victim),
            "until spent": lambda e: ours(e, Until.SPENT, victim),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        success = {}
        for _ in range(options.repeats):
            for name, run in ways.items():
                torch.manual_seed(0)
                began = time.perf_counter()
                found = run(level / 255)
                seconds[name].append(time.perf_counter() - began)
                success[name] = confirmed(model, x, found, y, level / 255)
        for name in ways:
            ratios = [a / b for a, b in zip(seconds["torchattacks"], seconds[name], strict=True)]
            row = {
                "epsilon": f"{level:g}/255",
                "way": name,
                "success": success[name],
                "seconds": seconds[name],
                "times as fast": [min(ratios), statistics.median(ratios), max(ratios)],
            }
            facts["rows"].append(row)
            print(
                f"{level:g}/255  {name:30s} fooled {success[name]:.3f}  median {statistics.median(seconds[name]):7.2f} s  "
                f"{statistics.median(ratios):5.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
        options.output.write_text(json.dumps(facts, indent=1) + "\n")


@torch.no_grad()
def answers(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Float32 answers of the model as given."""
    return torch.cat([model(part) for part in torch.split(x, 64)])


def confirmed(model: torch.nn.Module, x: Tensor, found: Tensor, y: Tensor, epsilon: float) -> float:
    """Share of images that are misread inside the ball."""
    inside = ((found - x).abs().flatten(1).amax(1) <= epsilon * (1 + 1e-4)) & (found.amin((1, 2, 3)) >= 0)
    return float(((answers(model, found).argmax(1) != y) & inside).float().mean())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--count", type=int, help="of phantoms")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.5, 1, 2, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pgd.json"))
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
