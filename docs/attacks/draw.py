"""Draw the pictures and take the costs of the pages in this folder: `python docs/attacks/draw.py MODEL --root DATA`.

Every attack of the table meets the same test images that the model reads rightly, each in the threat that its family's page
is about. Costs go to costs.json, one line an attack with n and interval; a picture a family shows one image.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from antivenom.attacks import ATTACKS, SPENT
from antivenom.attacks.universal import apply_universal, fit_universal
from antivenom.data.datasets import load as load_data
from antivenom.data.imageset import gather
from antivenom.metrics.intervals import proportion
from antivenom.models.ensemble import transfer
from antivenom.models.execution import accelerate
from antivenom.models.weights import load, read_card
from antivenom.randomness import Draws, image_keys
from antivenom.records.plan import size
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import Untargeted

HERE = Path(__file__).parent
L2_RADIUS = 1.0  # 64 x 64 grey: 4 of 255 levels in a typical pixel
UNIVERSAL = "universal"
FAMILIES: dict[str, list[tuple[str, str, float, dict]]] = {
    "gradient": [
        ("fgsm", "linf", 2 / 255, {}),
        ("bim", "linf", 2 / 255, {"steps": 10}),
        ("mim", "linf", 2 / 255, {"steps": 10}),
        ("pgd", "linf", 2 / 255, {"steps": 40}),
        ("apgd", "linf", 2 / 255, {"steps": 100}),
        ("pgd", "l2", L2_RADIUS, {"steps": 40}),
        ("apgd", "l1", 20.0, {"steps": 100}),
    ],
    "least-change": [
        ("escalating_fgsm", "linf", 0.5, {}),
        ("deepfool", "l2", 64.0, {}),
        ("ddn", "l2", 64.0, {"steps": 100}),
        ("fmn", "l2", 64.0, {"steps": 100}),
        ("fab", "l2", 64.0, {"steps": 50}),
        ("cw", "l2", 64.0, {"steps": 100, "searches": 5, "constant": 0.1}),
        ("fmn", "linf", 1.0, {"steps": 100}),
        ("fab", "linf", 1.0, {"steps": 50}),
        ("sigma_zero", "l0", 4096.0, {"steps": 300}),
        ("jsma", "l0", 4096.0, {}),
    ],
    "black-box": [
        ("square", "linf", 4 / 255, {"queries": 1000}),
        ("simba", "linf", 4 / 255, {"queries": 1000}),
        ("spsa", "linf", 4 / 255, {"queries": 1000}),
        ("square", "l2", L2_RADIUS, {"queries": 1000}),
        ("few_pixel", "l0", 5.0, {"queries": 1000}),
        ("hop_skip_jump", "l2", 64.0, {"queries": 1000}),
    ],
    "transformations": [
        ("worst_of", "stripes", 8 / 255, {"tries": 1}),
        ("worst_of", "stripes", 8 / 255, {"tries": 10}),
        ("parameter_ascent", "stripes", 8 / 255, {}),
        ("worst_of", "placement", 1.0, {"tries": 10}),
        ("parameter_ascent", "placement", 1.0, {}),
        ("worst_of", "exposure", 1.0, {"tries": 10}),
        ("parameter_ascent", "exposure", 1.0, {}),
        ("worst_of", "bias field", 1.0, {"tries": 10}),
        ("parameter_ascent", "bias field", 1.0, {}),
    ],
    "transfer": [  # gradients of a surrogate, success of the model
        ("noise", "linf", 8 / 255, {}),
        ("mim", "linf", 8 / 255, {"steps": 10}),
        ("di", "linf", 8 / 255, {"steps": 10}),
        ("ti", "linf", 8 / 255, {"steps": 10}),
        ("sia", "linf", 8 / 255, {"steps": 10}),
        (UNIVERSAL, "linf", 8 / 255, {"fitted on": 256}),  # of the model's own gradients
        ("mim", "linf", 16 / 255, {"steps": 10}),
    ],
    "worst-case": [
        ("noise", "linf", 2 / 255, {}),
        ("speckle", "linf", 2 / 255, {}),
        ("spearhead", "linf", 2 / 255, {}),
        ("autoattack", "linf", 2 / 255, {"queries": 1000}),
    ],
}


def main() -> None:
    """Run every attack and write what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="kermany")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--surrogate", type=Path, help="another checkpoint, for the page on transfer")
    parser.add_argument("--family", choices=FAMILIES, action="append")
    asked = parser.parse_args()
    model = load(asked.model).eval()
    data = load_data(asked.data, asked.root, size=read_card(asked.model)["recipe"]["side"])
    images = data.split("test")
    x, y, keys, groups = _read_rightly(model, images, asked.images)
    victim = accelerate(model, x[:8])
    carried = transfer(model, [load(asked.surrogate).eval()]) if asked.surrogate else None
    costs = json.loads((HERE / "costs.json").read_text()) if (HERE / "costs.json").exists() else {}
    for family in asked.family or FAMILIES:
        drawn = []
        if family == "transfer" and carried is None:
            print("transfer: no --surrogate is given, so its page stays as it is", flush=True)
            continue
        for name, threat, epsilon, settings in FAMILIES[family]:
            allowed, goal, draws = perturbation_set(threat, epsilon), Untargeted(y), Draws.of(0, image_keys(keys))
            began = time.perf_counter()
            if name == UNIVERSAL:
                known = gather([data.split("train")[i] for i in range(settings["fitted on"])])
                delta = fit_universal(victim, known.images, Untargeted(known.targets), allowed, generator=torch.Generator())
                title, nearest, found = "Universal", False, apply_universal(victim, x, goal, allowed, delta)
            else:
                row, title, nearest = ATTACKS[name], ATTACKS[name].title, ATTACKS[name].nearest
                whom, until = (carried, {"until": SPENT}) if family == "transfer" else (victim, {})
                found = row(whom, x, goal, allowed, generator=draws, **until, **settings)
            seconds = time.perf_counter() - began
            share = proportion(found.success.numpy().astype(float), np.array(groups))
            sizes = _size(threat, found.x_adv - x)[found.success]
            median = float(sizes.median()) if len(sizes) else None
            costs.setdefault(family, {})[
                f"{name}, {threat}, {settings}" + (f", {epsilon:g}" if family == "transfer" else "")
            ] = {
                "title": title,
                "threat": threat,
                "limit": size(threat, epsilon) if not nearest else "none",
                "settings": settings,
                "fooled": [share.value, share.low, share.high],
                "n": share.n,
                "groups": share.groups,
                "median size": median,
                "queries": float(found.queries.float().mean()),
                "gradients": float(found.gradients.float().mean()),
                "ms per image": 1000 * seconds / len(x),
            }
            drawn.append((title, threat, found, median))
            print(f"{family}: {title}, {threat}: {share.percent()}, median {median}, {seconds:.1f} s", flush=True)
        _draw(family, x, y, images.task.classes, model, drawn)
        (HERE / "costs.json").write_text(json.dumps(costs, indent=1) + "\n")
        _tabulate(family, costs[family])


def _read_rightly(model, images, count):
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    x, y, keys, groups = [], [], [], []
    for i in order:
        sample = images[i]
        with torch.no_grad():
            right = model(sample.image[None]).argmax(1) == sample.target
        if bool(right):
            x, y = [*x, sample.image], [*y, sample.target]
            keys, groups = [*keys, sample.key], [*groups, sample.group]
        if len(x) == count:
            break
    return torch.stack(x), torch.stack(y), keys, groups


def _tabulate(family, lines) -> None:
    """Write the costs into the family's page, between its two marks."""
    table = ["| attack | threat | settings | fooled, % | median size | queries | gradients |", "|---|---|---|---|---|---|---|"]
    for line in lines.values():
        value, low, high = (100 * part for part in line["fooled"])
        settings = ", ".join(f"{name} {setting}" for name, setting in line["settings"].items()) or "as they come"
        limit = "" if line["limit"] == "none" else f" {line['limit']}"
        found = line["median size"]
        scale = 255 if line["threat"] in ("linf", "stripes") else 1
        median = "–" if found is None or line["limit"] != "none" else f"{found * scale:.3g}{'/255' if scale == 255 else ''}"
        table.append(
            f"| {line['title']} | {line['threat']}{limit} | {settings} | {value:.0f} [{low:.0f}, {high:.0f}] | {median} "
            f"| {line['queries']:.0f} | {line['gradients']:.0f} |"
        )
    page = HERE / f"{family}.md"
    before, _, rest = page.read_text().partition("<!-- costs -->")
    _, _, after = rest.partition("<!-- end of costs -->")
    n, groups = (next(iter(lines.values()))[name] for name in ("n", "groups"))
    told = f"n = {n} images of {groups} patients, each first read rightly; means per image; square brackets: 95 % intervals."
    page.write_text("\n\n".join([f"{before}<!-- costs -->", "\n".join(table), told, f"<!-- end of costs -->{after}"]))


def _size(threat, delta):
    flat = delta.flatten(1)
    return {
        "l2": flat.norm(dim=1),
        "l1": flat.abs().sum(1),
        "l0": (flat != 0).sum(1).float(),
    }.get(threat, flat.abs().amax(1))


def _draw(family, x, y, classes, model, drawn) -> None:
    # The image on which most of the family's attacks succeed; the first of equals.
    place = int(torch.stack([found.success.float() for *_, found, _ in drawn]).sum(0).argmax())
    columns = len(drawn) + 1
    figure, axes = plt.subplots(2, columns, figsize=(1.55 * columns, 3.75), dpi=110)
    for axis in axes.flat:
        axis.axis("off")
    axes[0, 0].imshow(x[place, 0], cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title(f"unchanged\n{classes[int(y[place])]}", fontsize=7)
    for column, (title, threat, found, _) in enumerate(drawn, 1):
        adversarial = found.x_adv[place]
        delta = (adversarial - x[place])[0]
        with torch.no_grad():
            answer = classes[int(model(adversarial[None]).argmax())]
        axes[0, column].imshow(adversarial[0], cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"{title}, {threat}\n{answer}", fontsize=7, color="#a2312a" if found.success[place] else "k")
        most = max(float(delta.abs().max()), 1e-6)
        axes[1, column].imshow(delta, cmap="RdBu_r", vmin=-most, vmax=most)
        axes[1, column].set_title(
            f"largest {255 * most:.2g}/255\n{int(found.queries[place])} q, {int(found.gradients[place])} g", fontsize=7
        )
    figure.tight_layout(pad=0.4)
    figure.savefig(HERE / f"{family}.png", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
