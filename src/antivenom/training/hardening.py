"""Hardening: a classifier with defences, alone or together, made in stages that a kill cannot hurt.

    folder/
      hardening.json          what is asked for; another hardening is refused
      pretraining/ teacher/ training/ pruning/ front/ tuning/   the stages that the defences ask for; each can be continued
      model.safetensors       the hardened classifier, with its card

Every defence starts alike, learns from the same images by the same recipe, and is chosen on the same validation images: what
differs is the defence. A network that was pruned, or got something in front of it, is fine-tuned as it then is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from antivenom.data.imageset import ImageSet
from antivenom.errors import SettingsError
from antivenom.models.architectures import architecture, known, make_network
from antivenom.models.classifier import Classifier, Step
from antivenom.models.parts import PARTS
from antivenom.models.presentation import Presented
from antivenom.models.pretrained import load_tensors
from antivenom.models.tensor_files import write_whole
from antivenom.models.views import ViewEnsemble
from antivenom.models.weights import read_card, rebuilds, save
from antivenom.training.fronts import FRONTS, Making, check_images
from antivenom.training.loop import Progress, TrainingResult, differences, train
from antivenom.training.precision import Precision
from antivenom.training.presets import Recipe
from antivenom.training.pruning import prune
from antivenom.training.purifiers import pretrain_backbone

_NOT_TUNED = "it searches for each image anew, which takes too long for the classifier behind it to be tuned on what it finds."

EPSILON = 4 / 255  # of adversaries, where none is given
# A fine-tuning takes a quarter of the epochs at a tenth of the learning rate: our choice, since no paper states its own.
TUNING_EPOCHS, TUNING_RATE = 0.25, 0.1

Within = Callable[[str], Progress | None]  # the name of a stage to whom its progress is told


@dataclass(frozen=True)
class Defence:
    """One defence, as what it changes about a plain training.

    Attributes:
        title: as a report calls it.
        reference: the paper that proposes it, with its address.
        part: what is built into the backbone, as in `PARTS`.
        changes: settings of the recipe.
        augmentation: settings of its augmentation.
        adversary: settings of the `Adversary` beside its epsilon; None: there is none.
        share: of the weights that is pruned when the training is over; a fine-tuning follows.
        taught: whether a teacher is trained first, whose probabilities are then learnt.
        pretrained: whether the backbone first learns to make its images again.
        front: what stands in front of the trained classifier, as in `FRONTS`.
        views: whether the answer is the mean over a `ViewEnsemble`, each view of which passes what stands in front.
    """

    title: str
    reference: str
    part: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    adversary: Mapping[str, Any] | None = None
    share: float = 0.0
    taught: bool = False
    pretrained: bool = False
    front: str = ""
    views: bool = False


@dataclass(frozen=True)
class Hardened:
    """A classifier with its defences.

    Attributes:
        classifier: in evaluation mode.
        checkpoint: on disk; of a module of the user's own its tensors alone.
        training: the last training that it went through.
    """

    classifier: Classifier
    checkpoint: Path
    training: TrainingResult


def harden(
    images: ImageSet,
    names: Sequence[str],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    epsilon: float = EPSILON,
    start: Classifier | None = None,
    pretrained: bool | Path | None = None,
    place: torch.device | None = None,
    told: Within = lambda stage: None,  # noqa: ARG005 - nobody is told
    tell: Callable[[str], None] = print,
) -> Hardened:
    """Train a classifier with defences; a hardening that was interrupted continues.

    Args:
        images: with the splits `train` and `val`; no other is touched.
        names: of `DEFENCES`, combined.
        recipe: of the plain training.
        folder: of this hardening alone; made where missing.
        epsilon: of the adversaries, in units of the range.
        start: a classifier to begin from, which is left as it is; None: a new one, as the recipe makes it.
        pretrained: as in `Recipe.classifier`.
        place: the device to train on; None: where the classifier is.
        told: who is told of the progress of a stage.
        tell: is given the account of what weights were loaded.

    Raises:
        SettingsError: there is no such defence, two do not go together, one does not go into the network, or the folder holds
            another hardening.
        DataError, ImageError, SplitError, WeightsError: as `train`.
    """
    defences = [defence(name) for name in names]
    _check_together(names, defences)
    if isinstance(start, ViewEnsemble):
        raise SettingsError(
            f"{start.architecture}: a mean over views is not trained; begin from training/model.safetensors in the folder that "
            "it was hardened in, and ask for views again"
        )
    if start is not None:
        recipe = Recipe.model_validate(recipe.model_dump() | {"architecture": start.architecture})
    recipe = combined(recipe, defences, epsilon)
    work = _Work(images, recipe, seed, Path(folder), told)
    fronts = [one.front for one in defences if one.front]
    for front in fronts:
        check_images(front, images)

    def begun() -> Classifier:
        return _started(images, recipe, defences, seed, start, pretrained, tell).to(place)

    model = begun()
    work.claim(names, model)
    if any(one.pretrained for one in defences):
        work.pretrain(model)
    teacher = work.train(begun(), recipe, "teacher").classifier if any(one.taught for one in defences) else None
    result = work.train(model, recipe, "training", teacher)
    pruned = [one.share for one in defences if one.share]
    for share in pruned:
        prune(result.classifier.backbone, share)
        result = work.train(result.classifier, tuned(recipe), "pruning", teacher)
    result, unseen = work.presented(result, fronts, tuned(recipe, keep_zeros=bool(pruned)), teacher)
    classifier = result.classifier
    if any(one.views for one in defences):
        classifier, unseen = ViewEnsemble(classifier), [*unseen, "views"]
    if not rebuilds(classifier):
        return Hardened(classifier, result.checkpoint, result)
    metrics = {**read_card(result.checkpoint)["metrics"], "defences": list(names), "epsilon of the training": epsilon}
    if unseen:
        metrics["validation without"] = unseen
    values, digest, checkpoint = recipe.model_dump(mode="json"), images.split("train").digest, work.folder / "model.safetensors"
    save(classifier, checkpoint, data_digest=digest, seed=seed, metrics=metrics, recipe=values)
    return Hardened(classifier, checkpoint, result)


@dataclass(frozen=True)
class _Work:
    """What the stages of one hardening share."""

    images: ImageSet
    recipe: Recipe
    seed: int
    folder: Path
    told: Within

    def train(self, model: Classifier, recipe: Recipe, stage: str, teacher: Classifier | None = None) -> TrainingResult:
        learnt, judged = self.images.split("train"), self.images.split("val")
        place, progress = self.folder / stage, self.told(stage)
        return train(model, learnt, judged, recipe, seed=self.seed, folder=place, progress=progress, teacher=teacher)

    def pretrain(self, model: Classifier) -> None:
        place, progress = self.folder / "pretraining", self.told("pretraining")
        images, epochs = self.images.split("train"), self.recipe.epochs
        pretrain_backbone(model, images, epochs=epochs, seed=self.seed, folder=place, progress=progress)

    def presented(
        self, trained: TrainingResult, fronts: Sequence[str], recipe: Recipe, teacher: Classifier | None
    ) -> tuple[TrainingResult, list[str]]:
        """The classifier with fronts, tuned on what they make of its images; and those through which it was not validated."""
        classifier = trained.classifier
        for name in fronts:
            front = self.front(name, classifier.device, trained.precision)
            classifier = Presented(classifier, [front]).to(classifier.device).eval()
        searching = [name for name in fronts if FRONTS[name].searches]
        if searching:
            classifier.notes = (*classifier.notes, f"{', '.join(searching)}: {_NOT_TUNED}")
            return replace(trained, classifier=classifier), list(fronts)
        return (self.train(classifier, recipe, "tuning", teacher) if fronts else trained), []

    def front(self, name: str, device: torch.device, precision: Precision) -> Step:
        place, epochs, images = self.folder / "front" / name, self.recipe.epochs, self.images.split("train")
        return FRONTS[name].make(Making(images, epochs, self.seed, place, device, precision, self.told(name)))

    def claim(self, names: Sequence[str], model: Classifier) -> None:
        """Take the folder, unless it is another hardening's."""
        path = self.folder / "hardening.json"
        terms = {
            "defences": list(names),
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "images": [self.images.split(split).digest for split in ("train", "val")],
            "begun from": model.digest(),
        }
        if path.is_file():
            try:
                different = differences(json.loads(path.read_text()), terms)
            except (ValueError, AttributeError) as error:
                raise SettingsError(f"{path} is damaged ({error}); harden into another folder") from error
            if different:
                raise SettingsError(
                    f"{self.folder} holds another hardening ({'; '.join(different)}); "
                    "take the same settings to continue it, or another folder"
                )
        write_whole(path, f"{json.dumps(terms, indent=2)}\n".encode())


def defence(name: str) -> Defence:
    """The row of the table; `prune:0.4` prunes another share than its own, `kwta:0.3` keeps another share of winners.

    Raises:
        SettingsError: there is none, or the number after the colon is no share.
    """
    word, _, written = name.partition(":")
    if word not in DEFENCES:
        raise SettingsError(f"no defence {name!r}; there are {', '.join(DEFENCES)}")
    row = DEFENCES[word]
    if not written:
        return row
    try:
        share = float(written)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise SettingsError(f"{name!r}: the number after the colon is a share above 0 and below 1, got {written!r}")
    if word == "prune":
        return replace(row, title=f"Pruning of {100 * share:g} %", share=share)
    if word == "kwta":
        return replace(row, part=name)
    raise SettingsError(f"{word} takes no number, got {name!r}; prune and kwta do")


def _check_together(names: Sequence[str], defences: Sequence[Defence]) -> None:
    words = [name.partition(":")[0] for name in names]
    for word in {word for word in words if words.count(word) > 1}:
        raise SettingsError(f"{word} is asked for twice in {','.join(names)}; name it once")
    makers = [name for name, one in zip(names, defences, strict=True) if one.front and FRONTS[one.front].generates]
    if len(makers) > 1:
        raise SettingsError(
            f"{' and '.join(makers)} each put a generator's image in the place of what comes in, so that one undoes the other; "
            "take one of them"
        )


def combined(recipe: Recipe, defences: Sequence[Defence], epsilon: float) -> Recipe:
    """The recipe as the defences change it.

    Raises:
        SettingsError: two of them change the same setting, or want different adversaries.
    """
    changes: dict[str, Any] = {}
    for one in defences:
        own = dict(one.changes)
        if one.adversary is not None:
            own["adversary"] = {"epsilon": epsilon, **one.adversary}
        for name in sorted(own.keys() & changes.keys()):
            raise SettingsError(f"{one.title} and another defence both set {name}; train with one of them")
        changes |= own
    changes["augmentation"] = recipe.augmentation.model_dump()
    for one in defences:
        changes["augmentation"] |= one.augmentation
    parts = "".join(f"+{one.part}" for one in defences if one.part)
    changes["architecture"] = recipe.architecture + parts
    return Recipe.model_validate(recipe.model_dump() | changes)


def tuned(recipe: Recipe, *, keep_zeros: bool = True) -> Recipe:
    """What follows a pruning or a front: shorter, gentler, the zeros of a pruning kept, an adversary at full size at once."""
    adversary = None if recipe.adversary is None else {**recipe.adversary.model_dump(), "warm_up": 0.0}
    return Recipe.model_validate(
        recipe.model_dump()
        | {
            "name": f"{recipe.name}, tuned",
            "epochs": max(1, round(TUNING_EPOCHS * recipe.epochs)),
            "learning_rate": TUNING_RATE * recipe.learning_rate,
            "schedule": "cosine",
            "keep_zeros": keep_zeros,
            "kwta_start": None,
            "adversary": adversary,
        }
    )


def _started(
    images: ImageSet,
    recipe: Recipe,
    defences: Sequence[Defence],
    seed: int,
    start: Classifier | None,
    pretrained: bool | Path | None,
    tell: Callable[[str], None],
) -> Classifier:
    """The classifier that is trained: new, or what was given with the defences' parts built in."""
    if start is None:
        return recipe.classifier(images.task, channels=images.channels, seed=seed, pretrained=pretrained, tell=tell)
    model, parts = copy.deepcopy(start), [one for one in defences if one.part]
    if not parts:
        return model
    if not known(start.architecture):
        raise SettingsError(
            f"{parts[0].title} is built into backbones of the table, and {start.architecture} is a module of your own; "
            "take a defence that leaves the network as it is"
        )
    row = architecture(recipe.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(row, len(start.task.classes), start.backbone.get_parameter(f"{row.stem}.weight").shape[1])
    report = load_tensors(network, start.backbone.state_dict(), source="the given model", stem=row.stem, head=row.head)
    tell(str(report))
    model.backbone, model.architecture = network, recipe.architecture
    model.notes = (*start.notes, f"Started from {report}.")
    return model


_MADRY = (
    'Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, https://arxiv.org/abs/1706.06083'
)
_GUO = 'Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018, https://arxiv.org/abs/1711.00117'
_XU = 'Xu, Evans, Qi, "Feature Squeezing", NDSS 2018, https://arxiv.org/abs/1704.01155'
_CHEN = "Chen et al. 2021, Med. Phys. 48:6198"

DEFENCES: dict[str, Defence] = {
    "plain": Defence("No defence", ""),
    **{name: Defence(part.title, part.paper, part=name) for name, part in PARTS.items() if name != "kwta"},
    "kwta": Defence(PARTS["kwta"].title, PARTS["kwta"].paper, part="kwta", changes={"kwta_start": 0.5}),
    "prune": Defence("Pruning of 20 %", _CHEN, share=0.2),
    "adversarial": Defence("Adversarial training", _MADRY, adversary={}),
    "half-clean": Defence("Adversarial training, half of the loss of clean images", _MADRY, adversary={"clean": 0.5}),
    "fast": Defence(
        "Fast adversarial training",
        'Wong, Rice, Kolter, "Fast is better than free", ICLR 2020, https://arxiv.org/abs/2001.03994',
        adversary={"steps": 1, "step_size": 1.25},
    ),
    "fgsm": Defence(
        "FGSM training",
        'Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, https://arxiv.org/abs/1412.6572',
        adversary={"attacks": ("fgsm",), "clean": 0.5},
    ),
    "mixed": Defence(
        "Training on FGSM, Square and stripes in turn",
        "Sahu et al. 2024, https://doi.org/10.55248/gengpi.5.0324.0774",
        adversary={"attacks": ("fgsm", "square", "stripes"), "clean": 0.5},
    ),
    "trades": Defence("TRADES", "Zhang et al., ICML 2019, https://arxiv.org/abs/1901.08573", adversary={"trades": 6.0}),
    "distillation": Defence(
        "Defensive distillation",
        "Papernot et al., S&P 2016, https://arxiv.org/abs/1511.04508",
        changes={"temperature": 20.0},
        taught=True,
    ),
    "label-smoothing": Defence(
        "Label smoothing",
        'Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, https://arxiv.org/abs/1512.00567',
        changes={"label_smoothing": 0.1},
    ),
    "gradient-penalty": Defence(
        "Input-gradient regularisation",
        "Ross, Doshi-Velez, AAAI 2018, https://arxiv.org/abs/1711.09404",
        changes={"gradient_penalty": 1.0},
    ),
    "block-shuffle": Defence("Random block shuffle", _CHEN, augmentation={"blocks": 3}),
    "noise": Defence(
        "Training under noise, for smoothing",
        "Cohen, Rosenfeld, Kolter, ICML 2019, https://arxiv.org/abs/1902.02918",
        augmentation={"noise": 0.25},
    ),
    "pretraining": Defence(
        "Auto-encoder, as pre-training",
        "Kokalj-Filipovic et al., 2019, https://arxiv.org/abs/1902.08034",
        pretrained=True,
    ),
    "denoiser": Defence("Denoising auto-encoder in front", _CHEN, front="denoiser"),
    "invgan": Defence(
        "InvGAN in front",
        "Lin, Balaji, Samangouei, Chellappa, 2019, https://arxiv.org/abs/1911.10291",
        front="invgan",
    ),
    "defense-gan": Defence(
        "Defense-GAN in front",
        "Samangouei, Kabkab, Chellappa, ICLR 2018, https://arxiv.org/abs/1805.06605",
        front="defense-gan",
    ),
    "jpeg": Defence("JPEG in front", _GUO, front="jpeg"),
    "bit-depth": Defence("Four bits in front", _XU, front="bit-depth"),
    "median": Defence("Median in front", _XU, front="median"),
    "total-variation": Defence("Total variation in front", _GUO, front="total-variation"),
    "views": Defence("Mean over eight views", _GUO, views=True),
}
