"""The reasons that li2020 gives for its detector, measured: after an examination, on a few of its test images.

Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020, https://doi.org/10.1109/ISBI45749.2020.9098628,
says that "the magnitude of perturbations increases layer by layer"; that attacks of many steps make more of it at the features
than one step does, but on a substitute classifier less; and takes the features of clean images for "unimodal". It shows the
first block's maps and a t-SNE (Figure 2) and measures none of it.

van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008), https://jmlr.org/papers/v9/vandermaaten08a.html

    run/detection/reasons/      one document for each part; see `records.reasons`

Attacks are made again from the same draws, since an examination keeps no pixels. A part that was stored is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from antivenom.attacks import Until, attack
from antivenom.data.imageset import ImageSet, batches, gather
from antivenom.detection.reading import FEATURES, Reading, Sensor
from antivenom.errors import ImageError, InputError, ModelError, NotMeasuredError, RecordsError, SettingsError
from antivenom.evaluation.detection import EXECUTIONS
from antivenom.evaluation.looking import plain
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import Frozen
from antivenom.evaluation.run import Progress
from antivenom.evaluation.trials import Trial
from antivenom.explanation.feature_maps import feature_maps, layer_outputs, liveliest, network
from antivenom.metrics.normality import Directions, room
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import AS_GIVEN, Victim, execute
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records import reasons as records
from antivenom.records.detection import Detection
from antivenom.records.parts import WHY_NOT
from antivenom.records.reasons import ASKED, BLACK, HOME, LOGITS, ORIGIN, PIXELS, SINGLE, STRANGER, WHITE, noise_like
from antivenom.records.store import Store
from antivenom.records.trials import HELD_OUT, SURROGATE, TEST, TrialRow
from antivenom.threat.card import perturbation_set
from antivenom.threat.goals import against_own_answer

Array = np.ndarray[Any, Any]

MOST = 512  # clean images of each kind whose features are read for the tests of normality
SHARE = 0.95  # of the variance of training images, in the directions that are tested where there is room
NEIGHBOURS = 30.0  # perplexity of t-SNE, as its authors use it; a third of the points where these are few
MAPS = 4  # of the first block that are kept of an image
AT_ONCE = 16  # images whose activations of all stages are in memory
BATCH = 64  # images that are loaded at once to read their features
_NOISE = 201  # place of draws, beside those of the attack
WORK = {"growth": 6.0, "neighbours": 3.0, "maps": 1.0, "normality": 8.0}  # shares, as ResNet-18 at 64 px on one thread has them


class Order(Frozen):
    """What is to be measured.

    Attributes:
        images: at most so many test images, drawn by the seed.
        seed: of the images and of the embedding; attacks have the seed of the examination.
        shown: images of which maps are kept; of different answers where there are.
    """

    images: Annotated[int, Field(gt=1)] = 64
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    shown: Annotated[int, Field(ge=0)] = 2


def give_reasons(
    model: Classifier,
    data: ImageSet,
    folder: str | Path,
    order: Order | None = None,
    *,
    surrogate: Classifier | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Path:
    """Measure on an examined model why detectors may notice attacks, and store it beside the examination.

    Taken are PGD to the end of its budget, or the first attack that knows of no detector, and FGSM beside it, on the model and
    on the surrogate where the examination had one.

    Args:
        model: that the examined guard is around, in evaluation mode; left exactly as it is.
        data: the set of the examination; without a split `train` normality is not tested.
        folder: of the run. Where it holds the same half done, that goes on.
        order: what is to be measured; None: the defaults.
        surrogate: of the examination.
        command: what the user typed.
        progress: told of the work done.

    Returns:
        The folder of the examination's records.

    Raises:
        ModelError: training mode.
        ImageError: bad images.
        NotMeasuredError: an attack that is needed is not finished, or concerns fewer than two images.
        RecordsError: the folder holds no examination, one of another model, set or surrogate, or another order.
        SettingsError: the examination has no attack that knows of no detector.
    """
    check_ready(model)
    found, order = Detection.read(folder), order or Order()
    store = Store(found.folder)
    _check_same(found, model, data, surrogate)
    asked = _begin(store, found, model, data, order, command)
    missing = [name for name in PARTS if not store.has_document(f"{HOME}/{name}")]
    total, done = sum(WORK[name] for name in missing), 0.0
    told = progress or (lambda *_: None)
    scene = _Scene(model, surrogate, data, store, found, asked, lambda text: told(done, total, text))
    for name in missing:
        store.write_document(f"{HOME}/{name}", _measured(name, scene))
        done += WORK[name]
    told(total, total, "done")
    return store.folder


def stages(model: Classifier, image: Tensor) -> tuple[str, ...]:
    """Name the layers after which activations are compared: the stem, then every stage of the backbone, in order.

    A stage is a part of the backbone with several convolutions inside that puts out maps; the stem is what runs last before the
    first. Of a backbone that is not built of such parts, it is the last layer at each size of map.

    Args:
        image: `(1, C, H, W)`.

    Returns:
        No names where no layer puts out maps of more than one place.
    """
    whole = network(model)
    seen = {name: maps.shape[1:] for name, maps in layer_outputs(model, image, lambda name, _: bool(name)).items()}
    maps = {name: shape for name, shape in seen.items() if len(shape) == 3 and shape[1] * shape[2] > 1}
    flat = set(_parts(whole, maps))
    parts = [name for name in maps if name in flat]
    blocks = [name for name in parts if _convolutions(whole.get_submodule(name)) > 1]
    if len(blocks) < 2:
        last = {maps[name][1:]: name for name in parts}  # of each size the one that ran last
        return tuple(name for name in parts if name in last.values())
    before = parts.index(blocks[0])
    return (*parts[max(0, before - 1) : before], *blocks)


def _parts(layer: nn.Module, maps: Mapping[str, torch.Size], above: str = "") -> Iterator[str]:
    """The parts that everything flows through; one with maps of different sizes inside, or with none of its own, is opened."""
    for name, part in layer.named_children():
        path = f"{above}{name}"
        inside = {maps[f"{path}.{child}"] for child, _ in part.named_children() if f"{path}.{child}" in maps}
        if path not in maps or (isinstance(part, nn.Sequential) and len(inside) > 1):
            yield from _parts(part, maps, f"{path}.")
        else:
            yield path


def _convolutions(layer: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in layer.modules())


# -- what is asked -----------------------------------------------------------------------------------------------------


def _check_same(found: Detection, model: Classifier, data: ImageSet, surrogate: Classifier | None) -> None:
    """Refuse an examination of another model, set or surrogate."""
    other = found.asked["surrogate"]
    pairs = {
        "model": (model.digest(), found.asked["model"]),
        "data": (data.digest, found.asked["data"]["digest"]),
        "surrogate": (surrogate.digest() if surrogate else None, other["digest"] if other else None),
    }
    if differing := [name for name, (own, held) in pairs.items() if own != held]:
        raise RecordsError(
            f"{found.folder} is an examination of another kind: its {' and '.join(differing)} differ; "
            "give what was examined, or examine again into a new folder"
        )


def _begin(store: Store, found: Detection, model: Classifier, data: ImageSet, order: Order, command: str) -> Mapping[str, Any]:
    """What was asked for when the work began, or, where it begins now, what is asked for."""
    for draft in store.folder.glob(f"{HOME}/.*.draft"):
        draft.unlink()
    if store.has_document(ASKED):
        asked: dict[str, Any] = store.document(ASKED)
        if differing := sorted(name for name, value in order.model_dump().items() if asked["order"].get(name) != value):
            raise RecordsError(
                f"{store.folder / HOME} was asked for otherwise: its {', '.join(differing)} differ; remove it first"
            )
        return asked
    rows = _rows(found.rows)
    if WHITE not in rows:
        raise SettingsError(f"{store.folder} tried no attack on the model that knows of no detector; add one, such as PGD")
    concerned = np.all([found.trial(row.number).concerned for row in rows.values()], axis=0)
    places = np.random.default_rng(order.seed).permutation(np.flatnonzero(concerned))[: order.images]
    if len(places) < 2:
        raise NotMeasuredError(f"the attacks of {store.folder} concern {len(places)} image(s); at least two are needed")
    names = [str(found.splits[TEST].images[place]) for place in places]
    middle = stages(model, _loaded(data.split("test"), names[:1]).to(model.device))
    asked = {
        "order": order.model_dump(),
        "trials": {kind: row.number for kind, row in rows.items()},
        "images": names,
        "stages": [PIXELS, *middle, *([records.FEATURES] if model.last_layers() else []), LOGITS],
    }
    began = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    store.write_document(ORIGIN, {**began, "code": digest_code(), "versions": versions(), "machine": machine()})
    store.write_document(ASKED, asked)
    return asked


def _rows(rows: Sequence[TrialRow]) -> dict[str, TrialRow]:
    """The attacks to look at: of many steps, to the end of their budget if one was, and of one step at the same size."""
    found = {}
    for kind, trait in ((WHITE, "naive"), (BLACK, "carried_over")):
        mine = [row for row in rows if getattr(row, trait)]
        if mine:
            first = min(mine, key=lambda row: (row.attack != "pgd", row.until != "spent", row.number))
            found[kind] = first
            single = (row for row in mine if row.attack == "fgsm" and row.size == first.size and row != first)
            if row := next(single, None):
                found[SINGLE[kind]] = row
    return found


def _loaded(images: ImageSet, names: Sequence[str]) -> Tensor:
    """Some images by name, `(B, C, H, W)`."""
    where = {key: place for place, key in enumerate(images.keys)}
    return gather([images[where[name]] for name in names]).images


# -- what is looked at -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scene:
    """What every part is measured on."""

    model: Classifier
    surrogate: Classifier | None
    data: ImageSet
    store: Store
    found: Detection
    asked: Mapping[str, Any]
    tell: Callable[[str], None]

    @property
    def seed(self) -> int:
        return int(self.asked["order"]["seed"])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.asked["images"])

    @property
    def middle(self) -> tuple[str, ...]:
        """Stages between the pixels and the features."""
        return tuple(name for name in self.asked["stages"] if name not in (PIXELS, records.FEATURES, LOGITS))

    @cached_property
    def x(self) -> Tensor:
        """The unchanged images, on the model's device."""
        return _loaded(self.data.split("test"), self.names).to(self.model.device)

    @cached_property
    def attacked(self) -> dict[str, Tensor]:
        """The images as each attack leaves them."""
        return {kind: self._attacked(kind, int(number)) for kind, number in self.asked["trials"].items()}

    def _attacked(self, kind: str, number: int) -> Tensor:
        trial = Trial(**self.found.asked["trials"][number - 1])
        self.tell(f"{trial.told}, again")
        made_on = self.surrogate if trial.made_on == SURROGATE else self.model
        assert made_on is not None, kind
        limits = operating_thresholds(self.store, self.model, None) if self.model.task.multilabel else None
        goal = against_own_answer(made_on.answers(self.x), limits).to(self.x.device)
        draws = Draws.of(int(self.found.asked["seed"]), image_keys(self.names))
        allowed, until = perturbation_set(trial.threat, trial.epsilon), Until(trial.until)
        run = attack(trial.attack)
        return run(self._victim(made_on, trial), self.x, goal, allowed, until=until, generator=draws, **trial.arguments).x_adv

    def _victim(self, model: Classifier, trial: Trial) -> Victim:
        """The model as the examination attacked it."""
        known = self.store.document(EXECUTIONS) if self.store.has_document(EXECUTIONS) else {}
        return execute(model, self.x[:8], known.get(trial.made_on, AS_GIVEN), batch=int(self.found.asked["batch"]))

    def features(self, images: Tensor) -> Array:
        """Features `(B, D)`.

        Raises:
            ModelError: the model has none.
        """
        return np.asarray(Sensor(self.model).read(images).layer(FEATURES).double().numpy())


def _measured(name: str, scene: _Scene) -> dict[str, Any]:
    try:
        return PARTS[name](scene)
    except (ImageError, SettingsError):  # to be mended, and the part measured then
        raise
    except (NotMeasuredError, ModelError, InputError) as reason:
        return {WHY_NOT: str(reason)}


# -- parts -------------------------------------------------------------------------------------------------------------


def growth(scene: _Scene) -> dict[str, Any]:
    """How much the output of each stage changes, relative to its own size, by image.

    Beside each attack stands random noise whose change of the pixels has the same Euclidean size, and for all of them another
    image in place of each.
    """
    x, others = scene.x, dict(scene.attacked)
    draws = Draws.of(scene.seed, image_keys(scene.names)).at(_NOISE)
    others |= {noise_like(kind): _noise(x, x_adv, draws) for kind, x_adv in scene.attacked.items() if kind in SINGLE}
    others[STRANGER] = x.roll(1, 0)
    found: dict[str, dict[str, list[float | None]]] = {kind: {name: [] for name in scene.asked["stages"]} for kind in others}
    for index in torch.split(torch.arange(len(x)), AT_ONCE):
        scene.tell(f"stages of images {int(index[0]) + 1} to {int(index[-1]) + 1}")
        index = index.to(x.device)
        clean = _activations(scene, x[index])
        for kind, images in others.items():
            now = _activations(scene, images[index])
            for name, before in clean.items():
                size, moved = before.flatten(1).norm(dim=1), (now[name] - before).flatten(1).norm(dim=1)
                found[kind][name] += plain((moved / size).numpy())
    return {"changes": found}


def _activations(scene: _Scene, images: Tensor) -> dict[str, Tensor]:
    """What every stage puts out, `(B, ...)` in float64 on the CPU."""
    seen = layer_outputs(scene.model, images, scene.middle) if scene.middle else {}
    layers = (FEATURES,) if records.FEATURES in scene.asked["stages"] else ()
    reading = Sensor(scene.model, layers).read(images)
    ends = {records.FEATURES: reading.layer(FEATURES)} if layers else {}
    found = {PIXELS: images.cpu(), **{name: seen[name] for name in scene.middle}, **ends, LOGITS: reading.logits}
    return {name: values.double() for name, values in found.items()}


def _noise(x: Tensor, x_adv: Tensor, draws: Draws) -> Tensor:
    """Images with each value moved up or down by chance, all by as much, as far in Euclidean distance as the attack went."""
    signs = (draws.uniform(*x.shape[1:]).to(x) < 0.5).to(x) * 2 - 1

    def size(delta: Tensor) -> Tensor:
        found: Tensor = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        return found

    wanted, reach = size(x_adv - x), (x_adv - x).abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    for _ in range(4):  # where the range cuts some of it off, the rest must reach farther
        reach = reach * wanted / size((x + reach * signs).clamp(0, 1) - x).clamp_min(1e-12)
    return (x + reach * signs).clamp(0, 1)


def neighbours(scene: _Scene) -> dict[str, Any]:
    """Features of clean held-out and test images and of attacked ones, laid out by t-SNE; and whose neighbour each one is."""
    from sklearn.manifold import TSNE

    held = scene.found.splits[HELD_OUT].images
    chosen = np.random.default_rng(scene.seed).permutation(held)[: 2 * len(scene.names)].tolist()
    scene.tell("features of clean and of attacked images")
    clean = scene.features(scene.x)
    sets = {records.HELD_OUT: scene.features(_loaded(scene.data.split("val"), chosen)), records.CLEAN: clean}
    sets |= {kind: scene.features(scene.attacked[kind]) for kind in (WHITE, BLACK) if kind in scene.attacked}
    whole = np.concatenate(list(sets.values()))
    if not np.isfinite(whole).all():
        raise NotMeasuredError("some features are not finite")
    perplexity = min(NEIGHBOURS, (len(whole) - 1) / 3)
    scene.tell(f"t-SNE of {len(whole)} images")
    plane = TSNE(perplexity=perplexity, init="pca", random_state=scene.seed % 2**32).fit_transform(whole.astype(np.float32))
    return {
        "perplexity": perplexity,
        "kinds": [kind for kind, values in sets.items() for _ in values],
        "points": [[round(float(value), 4) for value in place] for place in plane],
        "nearest": {kind: _beside(clean, sets[kind]) for kind in (WHITE, BLACK) if kind in sets},
    }


def _beside(clean: Array, attacked: Array) -> list[bool]:
    """Whether the nearest of all other images is an attacked one; each image's own unchanged self does not count."""
    n = len(clean)
    both = np.concatenate([clean, attacked])
    away = ((attacked[:, None] - both[None]) ** 2).sum(2)
    own = np.arange(n)
    away[own, own] = away[own, own + n] = np.inf
    return [bool(place >= n) for place in away.argmin(1)]


def maps(scene: _Scene) -> dict[str, Any]:
    """What the first block puts out for a few images, unchanged and attacked: of its maps those that vary most."""
    if not scene.middle:
        raise NotMeasuredError("no layer of the model puts out maps")
    layer = scene.middle[min(1, len(scene.middle) - 1)]  # the first is the stem
    scene.tell(f"maps of {layer}")
    places = _shown(scene)
    clean = feature_maps(scene.model, scene.x[places], layer) if places else torch.empty(0, 1, 1, 1)
    after = feature_maps(scene.model, scene.attacked[WHITE][places], layer) if places else clean
    chosen = liveliest(clean, MAPS)
    pictures = []
    for number, place in enumerate(places):
        kept = [scene.store.keep_pixels(part[number, chosen].numpy()) for part in (clean, after)]
        images = [scene.store.keep_pixels(part[place].cpu().numpy()) for part in (scene.x, scene.attacked[WHITE])]
        pictures.append({"image": scene.names[place], "clean": images[0], "attacked": images[1], "maps": kept})
    return {"layer": layer, "numbers": chosen.tolist() if places else [], "pictures": pictures}


def _shown(scene: _Scene) -> list[int]:
    """Places of the images whose maps are kept: those of different answers first."""
    answers = scene.model.answers(scene.x).argmax(1).tolist()
    first = [place for place, answer in enumerate(answers) if answer not in answers[:place]]
    rest = [place for place in range(len(answers)) if place not in first]
    return [*first, *rest][: int(scene.asked["order"]["shown"])]


def normality(scene: _Scene) -> dict[str, Any]:
    """Features of clean images, in the directions in which those of training images differ most, for tests of normality.

    Directions come from training images. What is tested are held-out validation images; their distances are from the mean of
    the other validation images, which tuned the guard. Of each patient one image counts, since tests take independent draws.
    """
    vals, held = scene.data.split("val"), set(scene.found.splits[HELD_OUT].images.tolist())
    fresh, fitted = (_one_each(vals, [(key in held) is inside for key in vals.keys], scene.seed) for inside in (True, False))
    most = room(min(len(fresh), len(fitted)))
    if not most:
        raise NotMeasuredError(f"{min(len(fresh), len(fitted))} patients are too few to test even one direction")
    train = scene.data.split("train")
    drawn = np.sort(np.random.default_rng(scene.seed).permutation(len(train))[:MOST])
    directions = Directions.of(_read(scene, train, drawn, "training")[0], SHARE, most)
    found: dict[str, Any] = {"wanted": SHARE, "width": len(directions.mean), "training images": len(drawn)}
    for name, places in (("fitted", fitted), ("fresh", fresh)):
        values, found[f"{name} answers"] = _read(scene, vals, places, "validation")
        found[name] = scene.store.keep_pixels(directions.project(values)[None])
        found["share"] = directions.share(values)  # of the last: the fresh
    return found


def _one_each(images: ImageSet, counted: Sequence[bool], seed: int) -> Array:
    """Places of one image of each patient, drawn by the seed, and at most `MOST` patients."""
    luck = np.random.default_rng(seed)
    places = luck.permutation(np.flatnonzero(counted))
    first = np.unique(np.array(images.groups)[places], return_index=True)[1]
    return np.sort(luck.permutation(places[first])[:MOST])


def _read(scene: _Scene, images: ImageSet, places: Array, what: str) -> tuple[Array, list[int]]:
    """Features `(B, D)` and answers of some images; a bounded number of images is in memory."""
    sensor = Sensor(scene.model)
    scene.tell(f"features of {len(places)} {what} images")
    read = Reading.join([sensor.read(batch.images) for batch in batches(images.take(places), BATCH)])
    return np.asarray(read.layer(FEATURES).double().numpy()), read.logits.argmax(1).tolist()


PARTS = {"growth": growth, "neighbours": neighbours, "maps": maps, "normality": normality}
