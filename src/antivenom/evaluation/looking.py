"""What is measured of where a model looks, part by part: its maps under attack, attacks on parts of an image only, the distance
to its boundary, things drawn on an image, blocks in another order, and the loss around an image.

Chen, Zhao, Chen, "Enhancing adversarial defense for medical image analysis systems with pruning and attention mechanism",
Medical Physics 2021, https://doi.org/10.1002/mp.15208, says that attention narrows the focus, that attacks outside the
pathological area are then resisted, that pruning leaves the focus alone and that the boundary comes to lie farther away.
Wasserman, "Adversarially Robust Medical Classification via Attentive Convolutional Neural Networks", 2022,
https://arxiv.org/abs/2210.14405, says that attacks change what lies outside the salient region, and speaks of pins and of dust.
Neither measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.attacks import SPENT, AttackResult, Until, attack
from antivenom.attacks.ddn import ddn
from antivenom.attacks.fmn import fmn
from antivenom.corruptions.table import SMALLEST, corruption, drawn_over
from antivenom.errors import ModelError, NotMeasuredError
from antivenom.evaluation.protocol import arguments
from antivenom.explanation.attention_maps import attention_maps
from antivenom.explanation.feature_maps import layer_outputs, network, over_image
from antivenom.explanation.focus import Drift, active, hits, mass_on
from antivenom.explanation.grad_cam import grad_cam, last_map
from antivenom.explanation.loss_change import loss_change
from antivenom.explanation.loss_surface import Surface, loss_surface
from antivenom.metrics.classification import decide, right
from antivenom.models.classifier import Classifier
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.records.plan import PlanRow
from antivenom.records.store import Store
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import Findings, Goal, Untargeted
from antivenom.threat.objectives import log_likelihood, log_odds
from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.training.augmentation import Augmentation

Array = np.ndarray[Any, Any]
Told = Callable[[str], None]

FINEST = 4  # pixels a side that a map must have: a ResNet ends in 2 x 2 at 64 px, which tells one quarter from another, no more
STEPS = 40  # gradients on the way to the boundary; it ends 0.2 % (Linf) and 0.7 % (L2) farther than 100 (24 chest images)
SEVERITIES = (1, 3, 5)
BLOCKS = (2, 3, 4)  # along each side, in another order; three are those of chen2021's random block shuffle
SURFACES, SIDE, REACH = 8, 11, 2.0  # images whose loss is read on a plane, points along its edge, and its reach in epsilons
SHUFFLES = 24  # tries until every image is shuffled: each befalls half of those left
_NOISE, _MOVED, _DRAWN, _SHUFFLED, _SURFACE = 101, 102, 103, 104, 105  # places of draws, beside those of the attack


@dataclass(frozen=True, eq=False)
class Scene:
    """What every part is measured on.

    Attributes:
        model, victim: the audited one, and how it is attacked.
        row: the main attack.
        x: `(B, C, H, W)` on the model's device.
        targets: `(B,)` or `(B, K)`.
        masks: `(B, H, W)` bool, empty where an image has no lesion or none is known; None where the set has no masks.
        goal: of the row, for these images.
        thresholds: `(A,)` logits of findings.
        draws: the streams that the row had.
        layer: whose maps Grad-CAM weighs; empty where the model has none.
        kept: places of the images of which maps are kept.
        names: of the images.
        store: keeps the maps.
        tell: told what is being done.
    """

    model: Classifier
    victim: Victim
    row: PlanRow
    x: Tensor
    targets: Tensor
    masks: Array | None
    goal: Goal
    thresholds: Tensor
    draws: Draws
    layer: str
    kept: tuple[int, ...]
    names: tuple[str, ...]
    store: Store
    tell: Told

    @cached_property
    def answers(self) -> Tensor:
        """Logits `(B, A)` of the unchanged images."""
        return self.model.answers(self.x)

    @cached_property
    def maps(self) -> Tensor:
        """Grad-CAM `(B, H, W)` of the class answered on each unchanged image.

        Raises:
            NotMeasuredError: the model has no layer to make one of.
        """
        return self.look(self.x, self.answers.argmax(1))

    def look(self, images: Tensor, classes: Tensor) -> Tensor:
        """Grad-CAM `(B, H, W)` of these classes.

        Raises:
            NotMeasuredError: the model has no layer to make one of.
        """
        if not self.layer:
            raise NotMeasuredError("the model has no layer that puts out maps, so it has no Grad-CAM")
        return grad_cam(self.model, images, classes=classes, layer=self.layer)

    @cached_property
    def allowed(self) -> PerturbationSet:
        """What the main attack may do."""
        found = perturbation_set(self.row.threat, self.row.epsilon)
        assert isinstance(found, PerturbationSet)
        return found

    def attacked(self, allowed: PerturbationSet, until: Until, index: Tensor) -> AttackResult:
        """The main attack on some of the images, within this set."""
        return attack(self.row.attack)(
            self.victim,
            self.x[index.to(self.x.device)],
            self.goal.take(index.to(self.x.device)),
            allowed,
            until=until,
            generator=self.draws.take(index),
            **arguments(self.row.settings),
        )

    @property
    def everyone(self) -> Tensor:
        """Places of all images."""
        return torch.arange(len(self.x))

    def loss(self, index: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """What the adversary raises, as a function of the answer of some images; None: all."""
        goal = self.goal if index is None else self.goal.take(index.to(self.x.device))
        rise = log_likelihood if self.model.task.multilabel else log_odds
        return lambda answer: rise(goal, answer)

    def right(self, answers: Tensor) -> list[list[bool]]:
        """Which decisions are right, by image."""
        targets, multilabel = self.targets.numpy(), self.model.task.multilabel
        found: list[list[bool]] = right(
            answers.numpy(), targets, multilabel=multilabel, thresholds=self.thresholds.cpu().numpy() if multilabel else None
        ).tolist()
        return found


# -- the layer ---------------------------------------------------------------------------------------------------------


def late_layer(model: Classifier, image: Tensor) -> tuple[str, tuple[int, int]]:
    """Name the last layer whose maps have `FINEST` pixels a side or more, and their size; failing that, the last map.

    Only layers that everything flows through count, the backbone's own and those of plain sequences: what lies inside a
    residual block has a way around it. A backbone of another make has any layer count.

    Args:
        image: `(1, C, H, W)`.

    Returns:
        An empty name where no layer puts out maps.
    """
    layers = dict(network(model).named_modules())
    seen = layer_outputs(model, image, lambda name, _: bool(name))
    sizes = {name: (maps.shape[2], maps.shape[3]) for name, maps in seen.items() if maps.ndim == 4}
    fine = [name for name, size in sizes.items() if min(size) >= FINEST]
    flowing = [name for name in fine if all(isinstance(layers[above], nn.Sequential) for above in _above(name))]
    if found := flowing or fine:
        return found[-1], sizes[found[-1]]
    try:
        last = last_map(model, image)
    except ModelError:
        return "", (0, 0)
    return last, sizes[last]


def _above(name: str) -> Iterator[str]:
    """Names of the layers around a layer, the backbone itself left out."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts)))


# -- parts -------------------------------------------------------------------------------------------------------------


def focus(scene: Scene) -> dict[str, Any]:
    """Where the model looks before and after the attack, which has spent its budget; maps of a few images are kept.

    Beside it stand random noise of the same size, and the maps of two different images.
    """
    scene.tell("main attack, until its budget is spent")
    x, clean, answered = scene.x, scene.maps, scene.answers.argmax(1)
    x_adv = scene.attacked(scene.allowed, SPENT, scene.everyone).x_adv
    delta = (x_adv - x).cpu()
    now = scene.look(x_adv, answered)
    noisy = scene.allowed.realise(x + scene.allowed.extreme(x, scene.draws.at(_NOISE)), x)
    drift = Drift.between(clean, now, mask=scene.masks, delta=delta)
    by_noise = Drift.between(clean, scene.look(noisy, answered))
    change = loss_change(scene.model, x, x_adv, torch.as_tensor(active(clean)), scene.loss())
    document: dict[str, Any] = {
        "drift": {field.name: plain(getattr(drift, field.name)) for field in fields(drift)},
        "noise": _moved(by_noise),
        "loss": {name: plain(getattr(change, name)) for name in ("whole", "inside", "outside")},
        "fooled": scene.goal.to(torch.device("cpu")).reached(scene.model.answers(x_adv)).tolist(),
        "pictures": _pictures(scene, x_adv, now),
    }
    if len(x) > 1:
        document["strangers"] = _moved(Drift.between(clean, clean.roll(1, 0)))
    return document


def regions(scene: Scene) -> dict[str, Any]:
    """Whether the main attack fools where it may change some pixels only: inside an area, outside it, or as many elsewhere.

    The areas are where the model attends on the unchanged image and, where lesions are known, the lesion. Elsewhere is the same
    area shifted by a random way, around the edges.
    """
    areas = {} if not scene.layer else {"focus": active(scene.maps)}
    if scene.masks is not None:
        areas["lesion"] = scene.masks
    whole = np.ones((len(scene.x), *scene.x.shape[2:]), dtype=bool)
    scene.tell("main attack on the whole image")
    found: dict[str, Any] = {"whole": _fooled(scene, whole)}
    for name, area in areas.items():
        parts = {"inside": area, "outside": ~area, "elsewhere": _shifted(area, scene.draws.at(_MOVED))}
        some = np.asarray(area.any((1, 2)) & ~area.all((1, 2)))
        found[name] = {"area": plain(np.where(some, area.mean((1, 2)), np.nan))}
        for part, pixels in parts.items():
            scene.tell(f"main attack on the {name}: {part}")
            found[name][part] = _fooled(scene, pixels & some[:, None, None])
    return found


def distances(scene: Scene) -> dict[str, Any]:
    """How far the nearest image lies that gets another decision, in Linf (FMN) and L2 (DDN); None where none was found.

    It is the model's own decision that is turned, right or not; of findings, that of any one.
    """
    task, answers = scene.model.task, scene.answers
    goal: Goal = Untargeted(answers.argmax(1))
    if task.multilabel:
        limits = scene.thresholds.cpu()
        own = torch.as_tensor(decide(answers.numpy(), multilabel=True, thresholds=limits.numpy()), dtype=torch.int64)
        goal = Findings.against(own, limits, every=False)
    goal = goal.to(scene.x.device)
    found: dict[str, Any] = {"steps": STEPS}
    scene.tell("the nearest boundary in Linf")
    found["linf"] = _sizes(
        Linf(math.inf), fmn(scene.victim, scene.x, goal, Linf(math.inf), steps=STEPS, generator=scene.draws), scene.x
    )
    scene.tell("the nearest boundary in L2")
    found["l2"] = _sizes(
        L2(math.inf), ddn(scene.victim, scene.x, goal, L2(math.inf), steps=STEPS, generator=scene.draws), scene.x
    )
    return found


def artefacts(scene: Scene) -> dict[str, Any]:
    """Whether a pin or dust drawn on the image changes the answer, and how much of the map lies on it.

    The map is that of the class answered there. Beside it stands the share that the unchanged image's map has on the same
    pixels.
    """
    if min(scene.x.shape[2:]) < SMALLEST:
        raise NotMeasuredError(f"nothing can be drawn on images of fewer than {SMALLEST} pixels a side")
    lines = []
    for name in ("pin", "plate_dust" if scene.model.channels == 1 else "lens_dust"):
        row = corruption(name)
        for severity in SEVERITIES:
            scene.tell(f"{row.title.lower()}, severity {severity}")
            drawn = drawn_over(scene.x, name, severity, scene.draws.at(_DRAWN))
            on, answers = (drawn.mask[:, 0] > 0).cpu().numpy(), scene.model.answers(drawn.images)
            line: dict[str, Any] = {
                "name": name,
                "title": row.title,
                "severity": severity,
                "strength": row.strength(severity),
                "unit": row.unit,
            }
            line |= {"right": scene.right(answers), "area": plain(np.where(on.any((1, 2)), on.mean((1, 2)), np.nan))}
            if scene.layer:
                maps = scene.look(drawn.images, answers.argmax(1))
                line |= {
                    "mass": plain(mass_on(maps, on)),
                    "before": plain(mass_on(scene.maps, on)),
                    "hit": plain(hits(maps, on)),
                }
            lines.append(line)
    return {"lines": lines}


def shuffled(scene: Scene) -> dict[str, Any]:
    """Whether the answer stays right when blocks of the image stand in another order: whether places matter to it."""
    lines = []
    for blocks in BLOCKS:
        if min(scene.x.shape[2:]) < 2 * blocks:
            continue
        scene.tell(f"{blocks} x {blocks} blocks in another order")
        answers = scene.model.answers(_block_shuffled(scene.x, blocks, scene.draws.at(_SHUFFLED, blocks)))
        lines.append({"blocks": blocks, "right": scene.right(answers)})
    return {"lines": lines}


def surface(scene: Scene) -> dict[str, Any]:
    """The loss around a few images, along its gradient and across it, less its value at the image; the mean over images.

    Raises:
        NotMeasuredError: the loss has no slope at any of them.
    """
    norm = scene.row.threat.split(",")[0]
    order, epsilon = (2.0 if norm == "l2" else math.inf), (scene.row.epsilon if norm in ("linf", "l2") else 2 / 255)
    found: list[tuple[str, Surface]] = []
    for place in range(min(SURFACES, len(scene.x))):
        scene.tell(f"loss around image {place + 1}")
        index = torch.tensor([place])
        draws = scene.draws.at(_SURFACE).take(index)
        try:
            seen = loss_surface(
                scene.model,
                scene.x[place],
                scene.loss(index),
                epsilon=epsilon,
                order=order,
                reach=REACH,
                side=SIDE,
                draws=draws,
            )
        except ModelError:  # no slope at this image
            continue
        found.append((scene.names[place], seen))
    if not found:
        raise NotMeasuredError("the loss has no slope at any image, so there is no gradient to go along")
    return {
        "image": [name for name, _ in found],
        "distances": found[0][1].distances.tolist(),
        "epsilon": epsilon,
        "norm": "l2" if order == 2 else "linf",
        "values": np.mean([seen.values - seen.values[SIDE // 2, SIDE // 2] for _, seen in found], 0).tolist(),
        "rise": [seen.rise for _, seen in found],
        "bend": [seen.bend for _, seen in found],
    }


PARTS: Mapping[str, Callable[[Scene], dict[str, Any]]] = {
    "focus": focus,
    "regions": regions,
    "distances": distances,
    "artefacts": artefacts,
    "shuffled": shuffled,
    "surface": surface,
}


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(scene: Scene, x_adv: Tensor, now: Tensor) -> list[dict[str, Any]]:
    """Keep what a few images looked like to the model, unchanged and attacked."""
    if not scene.kept:
        return []
    places = torch.tensor(scene.kept)
    x, x_adv = scene.x[places.to(scene.x.device)], x_adv[places.to(x_adv.device)]
    attention = _attention(scene, x, x_adv)
    after, keep = scene.model.answers(x_adv), scene.store.keep_pixels
    found = []
    for i, place in enumerate(scene.kept):
        mask = None if scene.masks is None or not scene.masks[place].any() else scene.masks[place][None].astype(np.float32)
        found.append(
            {
                "image": scene.names[place],
                "answers": [scene.answers[place].tolist(), after[i].tolist()],
                "clean": keep(x[i].cpu().numpy()),
                "attacked": keep(x_adv[i].cpu().numpy()),
                "clean_map": keep(scene.maps[place][None].numpy()),
                "attacked_map": keep(now[place][None].numpy()),
                "mask": "" if mask is None else keep(mask),
                "attention": [{**told, **{name: keep(values[i]) for name, values in maps.items()}} for told, maps in attention],
            }
        )
    return found


def _attention(scene: Scene, x: Tensor, x_adv: Tensor) -> list[tuple[dict[str, str], dict[str, Array]]]:
    """Of each stage, the last attention layer: places over the image and weights of channels, unchanged and attacked."""
    found = []
    both = (attention_maps(scene.model, x), attention_maps(scene.model, x_adv))
    for name in {layer.stage: name for name, layer in both[0].items()}.values():
        told, maps = {"stage": both[0][name].stage, "kind": both[0][name].kind, "layer": name}, {}
        for when, images, seen in zip(("clean", "attacked"), (x, x_adv), both, strict=True):
            layer = seen[name]
            if layer.places is not None:
                maps[f"{when}_places"] = over_image(scene.model, images, layer.places)[:, None].cpu().numpy()
            if layer.channels is not None:
                maps[f"{when}_channels"] = layer.channels.numpy()
        found.append((told, maps))
    return found


# -- small ones --------------------------------------------------------------------------------------------------------


def plain(values: Array) -> list[float | None]:
    """Figures as JSON has them: None where one is not finite."""
    return [float(value) if math.isfinite(value) else None for value in values.tolist()]


def _moved(drift: Drift) -> dict[str, Any]:
    return {name: plain(getattr(drift, name)) for name in ("overlap", "shift_share", "correlation")}


def _fooled(scene: Scene, pixels: Array) -> list[bool | None]:
    """Whether each image is fooled by changes of these pixels alone; None where there are none."""
    some = torch.as_tensor(pixels.any((1, 2))).nonzero()[:, 0]
    found: list[bool | None] = [None] * len(pixels)
    if not len(some):
        return found
    region = torch.as_tensor(pixels[some.numpy()], dtype=torch.float32)[:, None].to(scene.x.device)
    allowed = replace(scene.allowed, pixels=replace(scene.allowed.pixels, region=region))
    success = scene.attacked(allowed, Until.FOOLED, some).success
    for place, fooled in zip(some.tolist(), success.tolist(), strict=True):
        found[place] = fooled
    return found


def _shifted(area: Array, draws: Draws) -> Array:
    """The same area somewhere else, around the edges."""
    height, width = area.shape[1:]
    ways = (draws.uniform(2) * torch.tensor([height, width])).long().tolist()
    return np.stack([np.roll(pixels, way, (0, 1)) for pixels, way in zip(area, ways, strict=True)])


def _sizes(allowed: PerturbationSet, result: AttackResult, x: Tensor) -> list[float | None]:
    sizes = allowed.size(result.x_adv - x).where(result.success, torch.inf)
    return plain(sizes.cpu().numpy())


def _block_shuffled(images: Tensor, blocks: int, draws: Draws) -> Tensor:
    """Every image with its blocks in another order; one whose blocks are all alike stays."""
    found, shuffle = images.clone(), Augmentation(blocks=blocks)
    for attempt in range(SHUFFLES):
        left = (found == images).flatten(1).all(1).nonzero()[:, 0]
        if not len(left):
            break
        found[left] = shuffle.apply(images[left], draws.take(left).at(attempt))
    return found


def lesions(masks: Sequence[Tensor | None]) -> Array | None:
    """Masks `(B, H, W)` bool, empty where an image has none; None where no image has one."""
    known = [mask for mask in masks if mask is not None]
    if not any(bool(mask.any()) for mask in known):
        return None
    empty = torch.zeros_like(known[0])
    return torch.stack([empty if mask is None else mask for mask in masks]).numpy()
