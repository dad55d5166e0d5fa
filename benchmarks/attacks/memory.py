"""The memory that an attack takes, beside one batch's forward pass and input gradient by the model as given.

    python benchmarks/attacks/memory.py --untrained resnet34 --side 64
    python benchmarks/attacks/memory.py --untrained densenet121 --side 224 --images 32 --batch 16

Each is run in a process of its own, which loads model and images, runs it once so that libraries hold what they keep, resets
the kernel's high-water mark of resident memory (/proc/self/clear_refs), runs it again and reads the mark (VmHWM): what counts
is how far it rose above what was resident before. The allocator is told to give freed blocks back at once, or memory that was
freed before would hide what is taken. Ours run as users run them, with a faster twin that proposes, and on the model as given.
Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ours
import torch
from peers import Setting, peers_for, remember_nothing
from scene import RESULTS, Results, Scene, arguments, facts_of, scene_of

from antivenom.attacks import ATTACKS
from antivenom.models.execution import Forward, Victim, accelerate

MOST = 1.2  # times one step
STEP, TWIN_STEP = "one step", "one step of the twin"
NORM = {"deepfool": "l2", "cw": "l2", "ddn": "l2", "jsma": "l0", "sigma_zero": "l0"}
ENDLESS = ("deepfool", "cw", "ddn", "fmn", "fab", "sigma_zero")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    options = the_arguments()
    torch.set_num_threads(options.threads)
    scene = scene_of(options)
    if options.alone:
        print(json.dumps(rise(scene, options)))
        return
    output = options.output or RESULTS / f"attacks-memory-{scene.name}-{len(scene.x)}.json"
    results = Results(output, facts_of(scene, options), again=options.again)
    for name in (STEP, TWIN_STEP, *options.attacks):
        if name in (STEP, TWIN_STEP):
            libraries = [ours.OURS]
        elif ours.here(name):
            others = [p.library for p in peers_for(setting_of(scene, name, options))] if options.peers else []
            libraries = [ours.OURS, ours.PLAIN, *others]
        else:
            continue
        for library in libraries:
            row = f"{name} | {library}"
            if not results.done(row):
                measured(results, row, in_a_process(name, library))
    results.write()


def measured(results: Results, row: str, found: dict[str, Any]) -> None:
    """Keep a row, and say how it stands to one step."""
    if "error" in found:
        results.put(row, found)
        print(f"{row}: {found['error']}", flush=True)
        return
    step = found["bytes"] if row.startswith(f"{STEP} |") else results.rows[f"{STEP} | {ours.OURS}"]["bytes"]
    ratio = found["bytes"] / step
    results.put(row, {**found, "times one step": ratio})
    attack, library = row.split(" | ")
    verdict = "met" if ratio <= MOST else f"NOT met: at most {MOST}"
    told = f" ({verdict})" if library in (ours.OURS, ours.PLAIN) and attack not in (STEP, TWIN_STEP) else ""
    print(f"{row}: {found['bytes'] / 2**20:.0f} MiB, {ratio:.2f} times one step{told}", flush=True)


def in_a_process(name: str, library: str) -> dict[str, Any]:
    """What a process of its own measured."""
    command = [sys.executable, *sys.argv, "--alone", name, "--library", library]
    ran = subprocess.run(command, env={**os.environ, **GIVE_BACK}, capture_output=True, text=True, check=False)
    if ran.returncode:
        return {"error": (ran.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    measured: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return measured


def setting_of(scene: Scene, name: str, options: argparse.Namespace) -> Setting:
    """A few steps: memory does not grow with them."""
    shape, classes = tuple(scene.x.shape[1:]), len(scene.model.task.classes)
    setting = Setting(name, NORM.get(name, "linf"), 2 / 255, shape, classes, steps=5, batch=options.batch, seed=options.seed)
    if name == "jsma":
        return replace(setting, epsilon=20, targeted=True, share=20 / math.prod(shape))
    return replace(setting, epsilon=math.inf) if name in ENDLESS else setting


def rise(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """How far resident memory rises."""
    name, x = options.alone, scene.x
    victim = accelerate(scene.model, scene.x[:8], batch=options.batch)
    if options.library == ours.PLAIN:
        victim = Victim(scene.model, scene.model, options.batch)
    setting = setting_of(scene, name, options) if name not in (STEP, TWIN_STEP) else None
    y = (scene.y + 1) % len(scene.model.task.classes) if setting and setting.targeted else scene.y
    run: Callable[[], Any] = partial(step, victim.judge if name == STEP else victim.propose, x[: options.batch])
    if setting and options.library not in (ours.OURS, ours.PLAIN):
        peer = next(peer for peer in peers_for(setting) if peer.library == options.library)
        run = partial(peer.make(scene.model, (0.0, 1.0), setting), x, y)
    elif setting:
        run = partial(ours.run, victim, setting, x, y, scene.keys)
    run()
    remember_nothing(scene.model, options.seed)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return {"bytes": status("VmHWM") - before, "resident before": before, "execution": victim.execution}


def step(forward: Forward, x: torch.Tensor) -> None:
    """One forward pass and input gradient."""
    z = x.clone().requires_grad_()
    torch.autograd.grad(forward(z).sum(), z)


def status(what: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def the_arguments() -> argparse.Namespace:
    parser = arguments(str(__doc__))
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--peers", action="store_true", help="the peers' too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--library", default=ours.OURS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
