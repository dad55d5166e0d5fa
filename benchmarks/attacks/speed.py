"""How fast our attacks are beside those of other libraries, and beside the floor that the model itself sets.

    python benchmarks/attacks/speed.py --model runs/kermany/model.safetensors --data kermany --root ROOT
    python benchmarks/attacks/speed.py --untrained densenet121 --side 224 --images 32 --batch 32 --steps 10

One row is ours and one peer, timed in turn (floor, ours, theirs, floor, ours, theirs, ...) on the same model, images and steps;
a ratio is taken within each turn, and all seconds are kept. Success is recomputed after each run, outside of the clock. The
floor is what an attack would take that did nothing but the forward passes and input gradients of the images that still resist,
run the fastest way of this model on this machine, which is looked for first: its share of our time is given. Rows that the
output holds are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ours
import torch
from peers import LIBRARIES, Peer, Setting, peers_for, remember_nothing
from scene import RESULTS, Results, Scene, arguments, facts_of, scene_of
from strength import inside_and_fooled
from torch import Tensor

from antivenom.attacks.result import FOOLED, SPENT, AttackResult, Until
from antivenom.models.execution import AS_GIVEN, TWINS, Forward, Victim, accelerate, execute
from antivenom.threat.card import NORMS, number

CLIMBERS = ("pgd", "bim", "mim", "apgd")
GRADIENTS = ("fgsm", *CLIMBERS)  # a forward and a backward pass each step
EQUAL = 0.005  # success that differs by no more is equal
ENOUGH = 0.8  # of the floor


@dataclass(frozen=True)
class Case:
    """A setting, how it came about, and how many times as fast as the peers ours should be.

    Attributes:
        title: in the name of a row.
        until: the ways in which ours is run.
        asked: times as fast as the fastest peer, by way.
        of_torchattacks: times as fast as torchattacks, where that is asked for beside.
    """

    title: str
    setting: Setting
    until: tuple[Until, ...]
    asked: dict[str, float]
    of_torchattacks: float | None = None


def main() -> None:
    options = the_arguments()
    torch.set_num_threads(options.threads[0])
    scene = scene_of(options)
    results = Results(
        options.output or RESULTS / f"attacks-speed-{scene.name}-{len(scene.x)}.json",
        facts_of(scene, options),
        again=options.again,
    )
    levels = None
    for threads in options.threads:
        torch.set_num_threads(threads)
        victim = accelerate(scene.model, scene.x[:8], batch=options.batch)
        levels = levels or known_levels(results, scene, victim, options)
        floors = {True: Floor.find(scene, gradient=True), False: Floor.find(scene, gradient=False)}
        results.write(**{f"floor, threads {threads}": {"gradient": floors[True].facts, "forward": floors[False].facts}})
        for case in cases(scene, levels, options):
            if case.setting.attack in options.attacks and ours.here(case.setting.attack):
                for peer in (peer for peer in peers_for(case.setting) if peer.library in options.libraries):
                    row_of(results, scene, victim, case, peer, floors, threads, options.repeats)
    results.write(summary=summary(results.rows))


# -- what is timed -----------------------------------------------------------------------------------------------------


def cases(scene: Scene, levels: dict[str, float], options: argparse.Namespace) -> Iterator[Case]:
    """Everything that is compared on this scene."""
    shape, classes = tuple(scene.x.shape[1:]), len(scene.model.task.classes)
    first = Setting("fgsm", "linf", 0.0, shape, classes, batch=options.batch, seed=options.seed)
    ways = (FOOLED, SPENT) if options.model else (SPENT,)
    for place, (level, epsilon) in enumerate(levels.items()):
        near = replace(first, epsilon=epsilon, steps=options.steps)
        asked = {"60 % fooled": 3.0, "all fooled": 15.0}.get(level, 2.0)
        for name in CLIMBERS:
            steps = options.steps if name != "apgd" or options.steps < 40 else 100
            wanted = {FOOLED.value: asked, SPENT.value: 2.0}
            yield Case(f"{name}, {steps} steps, {level}", replace(near, attack=name, steps=steps), ways, wanted)
        if place == 0:
            yield Case(f"fgsm, {level}", replace(near, attack="fgsm"), ways, dict.fromkeys(("fooled", "spent"), 2.0))
            square = replace(near, attack="square", steps=options.queries)
            wanted = dict.fromkeys(("fooled", "spent"), 3.0)
            yield Case(f"square, {options.queries} queries, {level}", square, ways, wanted)
    if options.model:
        far = replace(first, norm="l2", epsilon=math.inf, steps=50)
        yield Case("deepfool, 50 steps", replace(far, attack="deepfool"), (FOOLED,), {FOOLED.value: 1.0}, 5.0)
        weighed = replace(far, attack="cw", steps=100, searches=1, constant=1.0)
        yield Case("cw, 100 steps, constant 1", weighed, (SPENT,), {SPENT.value: 2.0})
        values = 2 * math.ceil(math.prod(shape) * first.share / 2)
        pairs = replace(first, attack="jsma", norm="l0", epsilon=values, steps=values // 2, targeted=True)
        yield Case(f"jsma, {values} values", pairs, (FOOLED,), {}, 100.0)


def known_levels(results: Results, scene: Scene, victim: Victim, options: argparse.Namespace) -> dict[str, float]:
    """Epsilons by what they do: those given, or the ones at which PGD fools 60 % and all of the images."""
    if options.levels:
        return {f"{255 * level:g}/255": level for level in options.levels}
    if not options.model:
        return {"random weights": 2 / 255}
    if results.held("levels") is None:
        shape, classes = tuple(scene.x.shape[1:]), len(scene.model.task.classes)
        first = Setting("pgd", "linf", 0.0, shape, classes, steps=options.steps, seed=options.seed)

        def share(epsilon: float) -> float:
            found = ours.run(victim, replace(first, epsilon=epsilon), scene.x, scene.y, scene.keys, FOOLED)
            return float(found.success.float().mean())

        low, high = 0.125 / 255, 64 / 255
        for _ in range(8):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if share(middle) < 0.6 else (low, middle)
        every = high
        while share(every) < 1 and every < 0.5:
            every *= 1.5
        results.write(levels={"60 % fooled": high, "all fooled": every})
    found: dict[str, float] = results.held("levels")
    return found


# -- the floor ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """The fastest way to a forward pass, with or without the input's gradient, that was found.

    Attributes:
        once: runs it on one batch.
        images: in that batch.
        facts: what was tried and how long it took.
    """

    once: Callable[[], None]
    images: int
    facts: dict[str, Any]

    @staticmethod
    def find(scene: Scene, *, gradient: bool) -> Floor:
        """Try every execution at every size of batch."""
        tried, best = {}, (math.inf, lambda: None, 1, "")
        for execution, images in itertools.product((AS_GIVEN, *TWINS), (16, 32, 64)):
            x = scene.x[torch.arange(images) % len(scene.x)]
            forward = execute(scene.model, x[:8], execution).propose
            once = _pass(forward, x, gradient=gradient)
            once()
            seconds = min(timed(once) for _ in range(3)) / images
            tried[f"{execution}, batch {images}"] = seconds
            if seconds < best[0]:
                best = (seconds, once, images, f"{execution}, batch {images}")
        return Floor(best[1], best[2], {"way": best[3], "seconds per image": tried})

    def seconds(self) -> float:
        """Of one image, now."""
        return statistics.median(timed(self.once) for _ in range(3)) / self.images


def _pass(forward: Forward, x: Tensor, *, gradient: bool) -> Callable[[], None]:
    def with_gradient() -> None:
        z = x.clone().requires_grad_()
        torch.autograd.grad(forward(z).sum(), z)

    @torch.no_grad()
    def alone() -> None:
        forward(x)

    return with_gradient if gradient else alone


def timed(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def needed(setting: Setting, way: Until, found: AttackResult) -> int:
    """Passes of images that no attack with these steps can do without: one for each step of each image that still resists."""
    early = way is FOOLED
    if setting.attack == "square":  # beside its proposals ours asks of the clean image and of what seems to fool
        proposals = found.queries - 1 - found.success.long()
        return int(proposals.sum()) if early else len(found.success) * setting.steps
    at_the_end = found.success.long() if early and setting.attack != "fgsm" else torch.zeros_like(found.gradients)
    return int((found.gradients - at_the_end).clamp_min(0).sum())  # the point that fools needs no gradient


# -- a row -------------------------------------------------------------------------------------------------------------


def row_of(
    results: Results,
    scene: Scene,
    victim: Victim,
    case: Case,
    peer: Peer,
    floors: dict[bool, Floor],
    threads: int,
    repeats: int,
) -> None:
    """Time ours and one peer in turn, unless the row is there."""
    setting, name = case.setting, f"threads {threads} | {case.title} | {peer.library}"
    if results.done(name):
        return
    scene = scene.first(peer.most)
    x, y = scene.x, (scene.y + 1) % setting.classes if setting.targeted else scene.y
    floor = floors[setting.attack != "square"]
    theirs = peer.make(scene.model, (0.0, 1.0), setting)
    ways: dict[str, Callable[[], Any]] = {
        way.value: partial(ours.run, victim, setting, x, y, scene.keys, way) for way in case.until
    }
    ways[peer.library] = partial(theirs, x, y)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    shares: dict[str, list[float]] = {way.value: [] for way in case.until}
    success, sizes = {}, {}
    try:
        theirs(x[:2], y[:2])  # what is loaded or compiled at the first call is not its speed
        for _ in range(repeats):
            for way, attack in ways.items():
                remember_nothing(scene.model, setting.seed)
                least = floor.seconds() if way in shares else math.nan
                began = time.perf_counter()
                found = attack()
                seconds[way].append(time.perf_counter() - began)
                if isinstance(found, AttackResult):
                    if setting.attack in (*GRADIENTS, "square"):
                        shares[way].append(least * needed(setting, Until(way), found) / seconds[way][-1])
                    found = found.x_adv
                success[way], sizes[way] = judged(replace(scene, y=y), found, setting)
    except Exception as error:  # a peer's own failure is a result
        results.put(name, {"error": f"{type(error).__name__}: {error}"[:300]})
        print(f"{name}: {results.rows[name]['error']}", flush=True)
        return
    finally:
        remember_nothing(scene.model, setting.seed)
    row: dict[str, Any] = {
        "threads": threads,
        "case": case.title,
        "peer": peer.library,
        "attack": setting.attack,
        "epsilon": setting.epsilon,
        "images": len(x),
        "execution": victim.execution,
        "asked": case.asked,
        "asked of torchattacks": case.of_torchattacks,
        "success": success,
        "median size": sizes,
        "seconds": seconds,
        "remark": peer.remark,
    }
    row["times as fast"] = {way.value: spread(seconds[peer.library], seconds[way.value]) for way in case.until}
    row["of the floor"] = {way: [min(some), statistics.median(some), max(some)] for way, some in shares.items() if some}
    results.put(name, row)
    for way, (low, middle, high) in row["times as fast"].items():
        reached = f", {row['of the floor'][way][1]:.2f} of the floor" if way in row["of the floor"] else ""
        print(
            f"{name}: until {way} {middle:.2f} times as fast ({low:.2f} to {high:.2f}){reached}; "
            f"fooled {success[way]:.3f} to {success[peer.library]:.3f}",
            flush=True,
        )


def spread(theirs: list[float], own: list[float]) -> list[float]:
    """Least, median and largest of the turns' ratios."""
    ratios = [a / b for a, b in zip(theirs, own, strict=True)]
    return [min(ratios), statistics.median(ratios), max(ratios)]


def judged(scene: Scene, found: Tensor, setting: Setting) -> tuple[float, float]:
    """Share of images fooled, and the median size of what fooled them."""
    fooled = torch.from_numpy(inside_and_fooled(scene, found, setting))
    size = NORMS[setting.norm](setting.epsilon).size(found - scene.x)
    return float(fooled.float().mean()), float(torch.where(fooled, size, math.inf).median())


def summary(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case: ours beside the fastest peer of equal success, and whether that is as much as is asked for."""
    lines = []
    good = [row for row in rows.values() if "error" not in row]
    for (threads, case), part in itertools.groupby(good, lambda row: (row["threads"], row["case"])):
        group = list(part)
        for way in group[0]["times as fast"]:
            equal = [row for row in group if row["success"][way] >= row["success"][row["peer"]] - EQUAL]
            line: dict[str, Any] = {"threads": threads, "case": case, "until": way, "weaker than": len(group) - len(equal)}
            least = min(group, key=lambda row: row["times as fast"][way][1])
            line |= {"fastest peer": least["peer"], "times as fast": least["times as fast"][way]}
            asked = {"fastest": least["asked"].get(way)}
            reached = {"fastest": line["times as fast"][1]}
            for row in group:
                if row["peer"] == "torchattacks" and row["asked of torchattacks"]:
                    asked["torchattacks"], reached["torchattacks"] = row["asked of torchattacks"], row["times as fast"][way][1]
            floors = [row["of the floor"][way][1] for row in group if way in row["of the floor"]]
            if floors:
                asked["floor"], reached["floor"] = ENOUGH, statistics.median(floors)
            line |= {"asked": asked, "reached": reached}
            line["met"] = all(reached[what] >= wanted for what, wanted in asked.items() if wanted) and len(equal) == len(group)
            lines.append(line)
            told = ", ".join(f"{what} {reached[what]:.2f} of {wanted:g}" for what, wanted in asked.items() if wanted)
            print(f"threads {threads} | {case} | until {way}: {'met' if line['met'] else 'NOT met'}: {told} ({least['peer']})")
    return lines


def the_arguments() -> argparse.Namespace:
    parser = arguments(str(__doc__))
    parser.add_argument("--levels", type=number, nargs="*", help="epsilons; else those at which PGD fools 60 %% and all images")
    parser.add_argument("--attacks", nargs="*", default=[*GRADIENTS, "square", "deepfool", "cw", "jsma"])
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), help="of the peers")
    parser.add_argument("--steps", type=int, default=40, help="of PGD, BIM and MIM; APGD takes 100 where this is 40 or more")
    parser.add_argument("--queries", type=int, default=1000, help="of Square")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
