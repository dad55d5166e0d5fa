"""Gathering taps beside torch's own convolution: on which maps it pays, forward, to the image, and to the weights.

python benchmarks/small_maps.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from antivenom.models import small_maps
from antivenom.models.small_maps import SmallMapConv2d
from antivenom.provenance import machine, versions

SHAPES = (  # channels in and out, side of the map that comes in, stride
    (512, 512, 1, 1),
    (512, 512, 2, 1),
    (256, 512, 4, 2),
    (512, 512, 3, 1),
    (256, 512, 6, 2),
    (512, 512, 4, 1),
    (256, 256, 4, 1),
    (128, 128, 4, 1),
    (128, 32, 2, 1),
)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    limit, small_maps.PAIRS_A_PIXEL = small_maps.PAIRS_A_PIXEL, 0
    rows = []
    for precision in (torch.bfloat16, torch.float32):
        for channels_in, channels_out, side, stride in SHAPES:
            plain = nn.Conv2d(channels_in, channels_out, 3, stride, 1).to(precision, memory_format=torch.channels_last)
            ways = {"convolution": plain, "gathered": SmallMapConv2d.of(plain)}
            x = torch.rand(options.batch, channels_in, side, side, dtype=precision, requires_grad=True)
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
            timed = {name: times(layer, x, options.repeats) for name, layer in ways.items()}
            pixels = plain(x)[0, 0].numel()
            ratios = {
                part: [a / b for a, b in zip(timed["convolution"][part], timed["gathered"][part], strict=True)]
                for part in timed["gathered"]
            }
            pays = channels_in * channels_out >= limit * pixels
            rows.append(
                {
                    "precision": str(precision),
                    "channels": [channels_in, channels_out],
                    "map": [side, stride, pixels],
                    "gathered in use": pays,
                    "times as fast": {part: [min(r), statistics.median(r), max(r)] for part, r in ratios.items()},
                    "seconds": timed,
                }
            )
            shown = "  ".join(f"{part} {statistics.median(r):5.2f}" for part, r in ratios.items())
            what = f"{channels_in:4d} -> {channels_out:3d}, side {side}, stride {stride}"
            print(f"{str(precision)[6:]:8s}  {what}  {'used' if pays else 'left'}  times as fast: {shown}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"batch": options.batch, "threads": options.threads, "machine": machine(), "versions": versions(), "rows": rows}
    options.output.write_text(json.dumps(facts, indent=1) + "\n")


def times(layer: nn.Module, x: torch.Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat: forward alone, with the gradient of the input, and of input and weights."""
    slope = torch.ones_like(layer(x))

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def to_the_input() -> None:
        torch.autograd.grad(layer(x), x, slope)

    def to_the_weights() -> None:
        torch.autograd.grad(layer(x), [x, *layer.parameters()], slope)

    ways = {"forward": forward, "input": to_the_input, "weights": to_the_weights}
    return {name: [seconds(way) for _ in range(repeats)] for name, way in ways.items()}


def seconds(way: Callable[[], None]) -> float:
    """The shorter of two runs after one that warms up."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        way()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/small_maps.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
