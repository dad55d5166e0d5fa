"""What a naive attack says of a defence, and what attacks say that know it (checks.md 27).

    python benchmarks/training/adaptive.py --models runs/kwta runs/denoiser --plain runs/plain --data kermany --root ROOT

Naive: PGD of 40 steps that takes the network's gradient as it stands: of k-winners-take-all through its jumps; of what stands
in front of a classifier not at all, since it does not know of it. Adaptive: along the gradient of smoothed winners
(`models.kwta.smoothed`); through everything; from the plain network's images (transfer); by answers alone (Square, SPSA);
with the gradient averaged over noisy copies of the point, which smooths the jumps (Tramer, Carlini, Brendel, Madry, NeurIPS
2020, https://arxiv.org/abs/2002.08347, section 5). Each is tried on the images that those before it left, of those that the
defended model reads rightly; success is recomputed in float32 on the defended model as given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from antivenom.attacks import FOOLED, SPENT, Until
from antivenom.attacks.apgd import apgd
from antivenom.attacks.pgd import pgd
from antivenom.attacks.spsa import spsa
from antivenom.attacks.square import square
from antivenom.data.datasets import load as load_set
from antivenom.data.imageset import ImageSet, batches
from antivenom.metrics.intervals import proportion
from antivenom.models.classifier import Classifier
from antivenom.models.execution import Victim
from antivenom.models.kwta import smoothed
from antivenom.models.weights import load
from antivenom.provenance import machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf

Attack = Callable[[Tensor, Tensor, Linf, Draws], Tensor]

COPIES = 8  # noisy copies of a point whose gradients are averaged
NOISE = 0.5  # of epsilon: standard deviation of that noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--levels", nargs="+", type=float, default=[0.5, 1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/adaptive.json"))
    options = parser.parse_args()
    plain = load(options.plain / "model.safetensors").eval()
    size = plain.size[0] if plain.size else None
    data = load_set(options.data, options.root, size=size).split("test")
    chosen = np.sort(np.random.default_rng(options.seed).choice(len(data), min(2 * options.images, len(data)), replace=False))
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for path in options.models:
        model = load(path / "model.safetensors").eval()
        x, y, keys, groups = rightly_read(model, data.take(chosen), options.images)
        for level in options.levels:
            name = f"{options.data} | {path.name} | {level:g}/255"
            if name in found:
                continue
            allowed, draws = Linf(level / 255), Draws.of(options.seed, image_keys(keys))
            naive, *knowing = ways(model, plain, options.queries)
            stands = {naive[0]: ~wrong(model, x, naive[1](x, y, allowed, draws), y, allowed)}
            left = np.flatnonzero(stands[naive[0]])  # an attacker who knows can do what one does who does not
            for way, attack in knowing:
                if len(left):
                    part = torch.from_numpy(left)
                    x_adv = attack(x[part], y[part], allowed, draws.take(part))
                    left = left[~wrong(model, x[part], x_adv, y[part], allowed)]
                stands[way] = np.isin(np.arange(len(x)), left)
                print(f"{name}: {way} leaves {stands[way].mean():.0%}", flush=True)
            found[name] = {
                "images": keys,
                "n": len(x),
                "seed": options.seed,
                "left, in turn": {way: proportion(values, np.array(groups)).to_dict() for way, values in stands.items()},
                "stands, in turn": {way: values.astype(int).tolist() for way, values in stands.items()},
                "machine": machine(),
                "versions": versions(),
            }
            options.output.write_text(json.dumps(found, indent=1) + "\n")
            left_over = ", ".join(f"{way} {values.mean():.0%}" for way, values in stands.items())
            print(f"{name}: left in turn by {left_over}", flush=True)


def rightly_read(model: Classifier, images: ImageSet, most: int) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """The first images that the model reads rightly."""
    whole = next(batches(images, len(images)))
    right = (model.answers(whole.images).argmax(1) == whole.targets).nonzero()[:, 0][:most]
    groups = images.groups
    return whole.images[right], whole.targets[right], [whole.keys[i] for i in right], [groups[i] for i in right]


def ways(model: Classifier, plain: Classifier, queries: int) -> list[tuple[str, Attack]]:
    """Attacks by name, the naive one first; each gives the images that it ends with."""

    def smooth(allowed: Linf) -> Victim:
        # Averaged over several noisy copies of a point, the gradient of a network that jumps points somewhere.
        return Victim(model, averaged(model, NOISE * float(allowed.epsilon)), 16, "averaged")

    def climbing(victim: Callable[[Linf], Classifier | Victim], until: Until = FOOLED, restarts: int = 1) -> Attack:
        return lambda x, y, allowed, draws: (
            pgd(victim(allowed), x, Untargeted(y), allowed, steps=40, restarts=restarts, until=until, generator=draws).x_adv
        )

    bare, soft = without_front(model), smoothed(model)

    def smoothly(x: Tensor, y: Tensor, allowed: Linf, draws: Draws) -> Tensor:
        assert soft is not None
        return apgd(Victim(model, soft), x, Untargeted(y), allowed, steps=100, restarts=3, generator=draws).x_adv

    return [
        ("naive", climbing(lambda _: bare, SPENT)),
        *([("smooth winners", smoothly)] if soft is not None else []),
        ("through", climbing(lambda _: model, restarts=5)),
        ("transfer", climbing(lambda _: plain, SPENT)),
        (
            "Square",
            lambda x, y, allowed, draws: square(model, x, Untargeted(y), allowed, queries=queries, generator=draws).x_adv,
        ),
        ("averaged", climbing(smooth)),
        (
            "SPSA",
            lambda x, y, allowed, draws: spsa(model, x, Untargeted(y), allowed, queries=2 * queries, generator=draws).x_adv,
        ),
    ]


def without_front(model: Classifier) -> Classifier:
    """The classifier that an attacker sees who does not know what stands in front."""
    if not model.own_steps:
        return model
    return Classifier(
        model.backbone,
        model.task,
        channels=model.channels,
        mean=model.mean.flatten().tolist(),
        std=model.std.flatten().tolist(),
        size=model.size,
        copy_grey=model.copy_grey,
    ).eval()


def averaged(model: Classifier, sigma: float) -> Callable[[Tensor], Tensor]:
    """The mean answer over noisy copies of each image, the same noise for every image of a call."""
    generator = torch.Generator().manual_seed(0)

    def propose(images: Tensor) -> Tensor:
        noise = sigma * torch.randn(COPIES, *images.shape[1:], generator=generator)
        copies = (images[:, None] + noise).flatten(0, 1)
        return model(copies).unflatten(0, (len(images), COPIES)).mean(1)

    return propose


def wrong(model: Classifier, x: Tensor, x_adv: Tensor, y: Tensor, allowed: Linf) -> np.ndarray:  # type: ignore[type-arg]
    """Which images fool the model as given, within the ball."""
    inside = (x_adv - x).abs().flatten(1).amax(1) <= float(allowed.epsilon) * (1 + 1e-5) + 1e-7
    return ((model.answers(x_adv).argmax(1) != y) & inside).numpy()


if __name__ == "__main__":
    main()
