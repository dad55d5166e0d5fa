"""The worst case of several attacks beside torchattacks' AutoAttack: what each leaves standing, and how long it takes.

    python benchmarks/attacks/worst.py --model runs/ham10000-200/model.safetensors --data ham10000-200 --root ROOT

On the same images, all of which the model reads rightly: the full standard composition of torchattacks (its APGD towards
targets needs four classes), ours, `spearhead` as the quick battery has it, and PGD of 40 steps. Success is recomputed here in
float32 on the model as given. One run each, one after the other: the ratios are large, and each takes minutes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scene import RESULTS, Results, Scene, arguments, facts_of, scene_of
from strength import answers
from torch import Tensor

from antivenom.attacks import ATTACKS
from antivenom.metrics.intervals import proportion
from antivenom.models.execution import accelerate
from antivenom.randomness import Draws, image_keys
from antivenom.threat.card import number
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf

QUERIES = 5000  # of Square, in the standard composition
OURS = {
    "antivenom, AutoAttack": ("autoattack", {"steps": 100, "queries": QUERIES}),
    "antivenom, spearhead": ("spearhead", {}),
    "antivenom, PGD": ("pgd", {"steps": 40}),
}
PEER = "torchattacks, AutoAttack"


def main() -> None:
    parser = arguments(str(__doc__))
    parser.add_argument("--epsilon", type=number, default=1 / 255)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scene = scene_of(options)
    name = f"attacks-worst-{scene.name}-{len(scene.x)}.json"
    results = Results(options.output or RESULTS / name, facts_of(scene, options), again=options.again)
    for library, attack in contenders(scene, options.epsilon, options.batch).items():
        if results.done(library):
            continue
        began = time.perf_counter()
        found = attack()
        seconds = time.perf_counter() - began
        stands = withstood(scene, found, options.epsilon)
        share = proportion(stands, np.array(scene.groups))
        results.put(library, {"withstood": stands.astype(int).tolist(), "share": share.to_dict(), "seconds": seconds})
        print(f"{library}: {share.percent()} stand, {seconds:.1f} s", flush=True)
    peer = results.rows[PEER]["seconds"]
    for library in OURS:
        print(f"{library}: {peer / results.rows[library]['seconds']:.1f} times as fast as {PEER}", flush=True)


def contenders(scene: Scene, epsilon: float, batch: int) -> dict[str, Callable[[], Tensor]]:
    """What is run, ours first."""
    victim = accelerate(scene.model, scene.x[:8], batch=batch)

    def ours(name: str, settings: dict[str, int]) -> Tensor:
        draws = Draws.of(0, image_keys(scene.keys))
        return ATTACKS[name](victim, scene.x, Untargeted(scene.y), Linf(epsilon), generator=draws, **settings).x_adv

    def theirs() -> Tensor:
        from torchattacks import AutoAttack

        classes = len(scene.model.task.classes)
        found: Tensor = AutoAttack(scene.model, norm="Linf", eps=epsilon, version="standard", n_classes=classes, seed=0)(
            scene.x, scene.y
        )
        return found

    mine = {library: (lambda row=row: ours(*row)) for library, row in OURS.items()}
    return {**mine, PEER: theirs}


def withstood(scene: Scene, found: Tensor, epsilon: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which images are still read rightly, or were left outside the ball."""
    outside = (found - scene.x).abs().flatten(1).amax(1) > epsilon * (1 + 1e-4)
    right = answers(scene, found).argmax(1) == scene.y
    return (right | outside | ~found.isfinite().flatten(1).all(1)).numpy()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
