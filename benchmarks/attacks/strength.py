"""How strong our attacks are beside those of other libraries: success at equal steps, and distance at equal passes.

    python benchmarks/attacks/strength.py --model runs/kermany/model.safetensors --data kermany --root ROOT

Success is recomputed here in float32 on the model as given, from the images that each attack returned, and counts only inside
the ball. Attacks that look for the smallest perturbation are followed by a ledger, which stops each at the same number of
forward and backward passes per image and keeps the nearest point that fooled; these points are judged once more at the end.
Rows that the output holds are not run again, so a run can be cut off at any time. The last lines name every comparison that
ours lose.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import ours
import torch
from ledger import EDGE, Ledger, Spent
from optimality import curve, envelope, optimality
from ours import AS_MANY_STEPS, OURS, PLAIN
from peers import ONLY_PEERS, Peer, Setting, peers_for, remember_nothing
from scene import RESULTS, Results, Scene, arguments, facts_of, scene_of
from torch import Tensor

from antivenom.attacks.result import FOOLED
from antivenom.metrics.intervals import Estimate, estimate, paired_difference, proportion
from antivenom.models.execution import Victim, accelerate
from antivenom.threat.card import NORMS, number

Array = np.ndarray[Any, Any]

NEAREST = {  # attacks that look for the smallest perturbation, by norm
    "linf": ("deepfool", "fmn", "fab"),
    "l2": ("deepfool", "cw", "ddn", "fmn", "fab"),
    "l1": ("fmn", "fab"),
    "l0": ("fmn", "sigma_zero"),
}
MINE = (OURS, PLAIN, AS_MANY_STEPS)
MOST_LOST = 0.005  # of success
MOST_FARTHER = 1.01  # times a peer's median
ROUNDING = 1e-4  # of optimality: what float32 leaves undecided


def main() -> None:
    options = the_arguments()
    torch.set_num_threads(options.threads)
    scene = scene_of(options)
    output = options.output or RESULTS / f"attacks-strength-{scene.name}-{len(scene.x)}.json"
    results = Results(output, facts_of(scene, options), again=options.again)
    victim = accelerate(scene.model, scene.x[:8], batch=options.batch)
    results.write(execution=victim.execution)
    for setting in settings(scene, options):
        if options.attacks and setting.attack not in options.attacks:
            continue
        if setting.attack not in ONLY_PEERS and not (ours.here(setting.attack) and ours.takes(setting)):
            continue
        for library, peer in contenders(setting):
            row_of(results, scene, victim, setting, library, peer)
    results.write(comparisons=compared(results.rows, scene))


def settings(scene: Scene, options: argparse.Namespace) -> Iterator[Setting]:
    """What is run, the cheap first."""
    shape, classes = tuple(scene.x.shape[1:]), len(scene.model.task.classes)
    first = Setting("fgsm", "linf", 0.0, shape, classes, batch=options.batch, seed=options.seed)
    for norm, levels in (("linf", options.linf), ("l2", options.l2)):
        for name, level in itertools.product(("fgsm", "bim", "pgd", "mim"), levels):
            yield replace(first, attack=name, norm=norm, epsilon=level, steps=options.steps)
        for objective, targets in (("log_odds", 0), ("dlr", 0), ("dlr", 9)):
            if objective == "dlr" and (classes < 4 or norm == "l2"):
                continue  # with two classes the two objectives climb alike
            for level in levels:
                yield replace(first, attack="apgd", norm=norm, epsilon=level, steps=100, objective=objective, targets=targets)
        if options.queries:
            for level in levels:
                yield replace(first, attack="square", norm=norm, epsilon=level, steps=options.queries)
    values = 2 * math.ceil(math.prod(shape) * first.share / 2)
    if options.queries:
        yield replace(first, attack="jsma", norm="l0", epsilon=values, steps=values // 2, targeted=True)
    for budget, norm in itertools.product(options.budgets, options.norms):
        for name in (*NEAREST[norm], *ONLY_PEERS):
            searches = (4 if budget <= 400 else 5) if name in ("cw", "ead") else 1
            yield replace(first, attack=name, norm=norm, epsilon=math.inf, steps=budget, searches=searches)


def contenders(setting: Setting) -> Iterator[tuple[str, Peer | None]]:
    """Ours, as it is used and on the model as given, and the peers'."""
    if setting.attack not in ONLY_PEERS:
        yield OURS, None
        if math.isinf(setting.epsilon):
            yield PLAIN, None
            yield AS_MANY_STEPS, None
    for peer in peers_for(setting):
        yield peer.library, peer


def row_of(
    results: Results,
    scene: Scene,
    victim: Victim,
    setting: Setting,
    library: str,
    peer: Peer | None,
) -> None:
    """Run one attack of one library, unless its row is there."""
    name = " | ".join((title(setting), library))
    if results.done(name):
        return
    if setting.targeted:
        scene = replace(scene, y=(scene.y + 1) % setting.classes)
    if peer and not math.isinf(setting.epsilon):
        scene = scene.first(peer.most)
    began = time.perf_counter()
    try:
        row = followed(scene, victim, setting, library, peer)
    except Exception as error:  # a peer's own failure is a result
        if peer is None:
            raise
        row = {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = round(time.perf_counter() - began, 1)
    remark = {"remark": peer.remark} if peer and peer.remark else {}
    what = {"group": title(setting), "attack": setting.attack, "library": library}
    results.put(name, {**what, **row, **remark, "seconds": seconds})
    print(f"{name}: {row.get('error') or row['shown']}   [{seconds} s]", flush=True)


def title(setting: Setting) -> str:
    """What is compared with each other."""
    if math.isinf(setting.epsilon):
        return f"nearest | {setting.norm} | {setting.steps} passes | {setting.attack}"
    if setting.attack == "jsma":
        return f"success | l0 {setting.epsilon:g} | jsma, towards the next class"
    level = f"{255 * setting.epsilon:g}/255" if setting.norm == "linf" else f"{setting.epsilon:g}"
    way = {"log_odds": "", "dlr": " dlr"}[setting.objective] + (" targeted" if setting.targets else "")
    budget = "" if setting.attack == "fgsm" else f", {setting.steps} {'queries' if setting.attack == 'square' else 'steps'}"
    return f"success | {setting.norm} {level} | {setting.attack}{way}{budget}"


def followed(scene: Scene, victim: Victim, setting: Setting, library: str, peer: Peer | None) -> dict[str, Any]:
    """Run an attack under a ledger, and judge what it found."""
    endless = math.isinf(setting.epsilon)
    size = NORMS[setting.norm](setting.epsilon).size
    budget = setting.steps if endless and library != AS_MANY_STEPS else math.inf
    ledger = Ledger(scene.x, scene.y, size, budget=budget, targeted=setting.targeted)
    remember_nothing(scene.model, setting.seed)
    returned = None
    try:
        returned = attacked(ledger, scene, victim, setting, library, peer)
    except Spent:
        pass
    except Exception:
        if not bool(ledger.spent.all()):
            raise
    passes = {"forwards": mean(ledger.forwards), "backwards": mean(ledger.backwards)}
    groups = np.array(scene.groups)
    if endless:
        distances = judged_distances(scene, ledger, size)
        lost = int(np.isfinite(ledger.nearest.numpy()).sum() - np.isfinite(distances).sum())
        median = estimate(lambda rows: float(np.median(distances[rows])), groups)
        shown = f"median {median.decimal(5)}, fooled {np.isfinite(distances).mean():.3f}"
        found = {"distances": distances.tolist(), "median": median.to_dict(), "not confirmed": lost, "curve": curve(distances)}
        return {**found, **passes, "stopped at the budget": returned is None, "shown": shown}
    assert returned is not None
    fooled = inside_and_fooled(scene, returned, setting)
    share = proportion(fooled, groups)
    return {"fooled": fooled.astype(int).tolist(), "success": share.to_dict(), **passes, "shown": share.percent()}


def attacked(ledger: Ledger, scene: Scene, victim: Victim, setting: Setting, library: str, peer: Peer | None) -> Tensor:
    """The images that an attack returns while the ledger watches it."""
    endless, classes = math.isinf(setting.epsilon), setting.classes
    if peer:
        if endless:
            setting = replace(setting, steps=max(1, setting.steps // (peer.a_step(classes) * setting.searches)))
        return peer.make(ledger.watch(scene.model), (0.0, 1.0), setting)(scene.x, scene.y)
    judge = ledger.watch(scene.model)
    plain = library == PLAIN or victim.propose is victim.judge
    watched = Victim(judge, judge, victim.batch)
    if not plain:
        watched = Victim(judge, ledger.watch(victim.propose, judges=False), victim.batch, victim.execution)
    if endless and library == AS_MANY_STEPS:
        setting = replace(setting, steps=ours.as_many_steps(setting, setting.steps))
    elif endless:
        share = 1.0 if plain else ours.ASKED.get(setting.attack, ours.ASKED_BY_OTHERS)
        setting = replace(setting, steps=ours.steps_for(setting, setting.steps, share=share))
    return ours.run(watched, setting, scene.x, scene.y, scene.keys, None if endless else FOOLED).x_adv


@torch.no_grad()
def answers(scene: Scene, x: Tensor) -> Tensor:
    """Float32 answers of the model as given."""
    return torch.cat([scene.model(part) for part in torch.split(x, 64)])


def judged_distances(scene: Scene, ledger: Ledger, size: Any) -> Array:
    """Size of the ledger's points that fool the model as given; infinite where there is none."""
    fools = (answers(scene, ledger.best).argmax(1) != scene.y) & ledger.nearest.isfinite()
    return torch.where(fools, size(ledger.best - scene.x), math.inf).double().numpy()


def inside_and_fooled(scene: Scene, returned: Tensor, setting: Setting) -> Array:
    """Which images the model misreads, of those that lie in the ball and in range."""
    size = NORMS[setting.norm](setting.epsilon).size(returned - scene.x)
    in_range = ((returned >= -EDGE) & (returned <= 1 + EDGE)).flatten(1).all(1)
    met = (answers(scene, returned).argmax(1) == scene.y) == setting.targeted
    found: Array = (met & in_range & (size <= setting.epsilon * (1 + 1e-4))).numpy()
    return found


def mean(counts: Tensor) -> float:
    """Passes per image."""
    return round(float(counts.double().mean()), 1)


# -- comparison --------------------------------------------------------------------------------------------------------


def compared(rows: dict[str, dict[str, Any]], scene: Scene) -> dict[str, Any]:
    """Ours beside each peer's, group by group; prints those that ours lose."""
    groups = np.array(scene.groups)
    good = {name: row for name, row in rows.items() if "error" not in row}
    pools: dict[str, Array] = {}
    for pool, part in itertools.groupby(sorted(good.values(), key=pool_of), pool_of):
        counted = [row for row in part if "distances" in row and row["library"] != AS_MANY_STEPS]
        found = [np.array(row["distances"], dtype=float) for row in counted]
        if pool and found:
            pools[pool] = envelope(found)
    table: dict[str, Any] = {}
    lost = []
    for row in good.values():
        if "distances" in row:
            row["optimality"] = optimality(np.array(row["distances"], dtype=float), pools[pool_of(row)])
    for group in dict.fromkeys(row["group"] for row in good.values()):
        mine = [row for row in good.values() if row["group"] == group and row["library"] in MINE]
        theirs = [row for row in good.values() if row["group"] == group and row["library"] not in MINE]
        for own, other in itertools.product(mine, theirs):
            name = f"{group} | {own['library']} beside {other['library']}"
            table[name] = beside(own, other, groups)
            if table[name]["ours are weaker"]:
                lost.append(f"{name}: {table[name]['shown']}")
    print(f"\n{len(table)} comparisons, {len(lost)} of them lost" + (":" if lost else ""))
    print("\n".join(lost), flush=True)
    return table


def pool_of(row: dict[str, Any]) -> str:
    """The pool that a row belongs to: one norm and one budget; empty for those at a given epsilon."""
    kind, norm, *rest = row["group"].split(" | ")
    return f"{norm} | {rest[0]}" if kind == "nearest" else ""


def beside(own: dict[str, Any], other: dict[str, Any], groups: Array) -> dict[str, Any]:
    """One attack of ours beside a peer's, on the images that both were given."""
    if "fooled" in own:
        count = min(len(own["fooled"]), len(other["fooled"]))
        gain: Estimate = paired_difference(np.array(own["fooled"][:count]), np.array(other["fooled"][:count]), groups[:count])
        shown = f"{gain.percent()} more success"
        return {"more success": gain.to_dict(), "ours are weaker": gain.value < -MOST_LOST, "shown": shown}
    medians = [float(row["median"]["value"]) for row in (own, other)]
    ratio = medians[0] / medians[1] if all(map(math.isfinite, medians)) else math.nan
    nearer = np.array(own["distances"], dtype=float) <= np.array(other["distances"], dtype=float)
    farther = medians[0] > MOST_FARTHER * medians[1]
    less = own["optimality"] < other["optimality"] - ROUNDING and own["library"] != AS_MANY_STEPS
    shown = (
        f"median {medians[0]:.5f} to {medians[1]:.5f} ({ratio:.3f} times), "
        f"optimality {own['optimality']:.4f} to {other['optimality']:.4f}, not farther on {nearer.mean():.2f} of the images"
    )
    share = proportion(nearer, groups).to_dict()
    found = {"ratio of medians": ratio, "not farther": share, "median is larger": farther, "optimality is lower": less}
    return {**found, "ours are weaker": bool(farther or less), "shown": shown}


def the_arguments() -> argparse.Namespace:
    parser = arguments(str(__doc__))
    parser.add_argument("--linf", type=number, nargs="*", default=[1 / 255, 2 / 255, 4 / 255, 8 / 255])
    parser.add_argument("--l2", type=number, nargs="*", default=[0.25, 0.5, 1.0])
    parser.add_argument("--attacks", nargs="*", help="only these")
    parser.add_argument("--steps", type=int, default=40, help="of BIM, PGD and MIM; APGD takes 100")
    parser.add_argument("--queries", type=int, default=1000, help="of Square; 0 leaves it out")
    parser.add_argument("--norms", nargs="*", default=["linf", "l2", "l0", "l1"], help="of the smallest perturbations")
    parser.add_argument("--budgets", type=int, nargs="*", default=[200, 1000], help="forward and backward passes per image")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
