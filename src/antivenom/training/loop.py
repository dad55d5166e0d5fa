"""One plain training loop that a kill cannot hurt.

    folder/
      state.safetensors       where the training stands: weights, momentum, averages, history; replaced whole
      best-EPOCH.safetensors  the weights that did best on validation so far
      model.safetensors       the result, with its card beside it in model.json

The state is written at the first step after `every` seconds. The order of the images and what befalls them follow from the
seed, the epoch and the place in it, so a training that was killed and continued ends in the very tensors of one that was not,
on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from antivenom.data.imageset import ImageSet, Sample
from antivenom.errors import DataError, SettingsError, SplitError, WeightsError
from antivenom.metrics.classification import balanced_accuracy, decide
from antivenom.metrics.ranking import auroc_per_class
from antivenom.models.architectures import known
from antivenom.models.classifier import Classifier, Step
from antivenom.models.execution import Forward
from antivenom.models.kwta import ratios, set_ratio
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.models.weights import save
from antivenom.provenance import digest_tensors
from antivenom.randomness import Draws, image_keys
from antivenom.training.lesson import Lesson
from antivenom.training.losses import StandardLoss, class_weights
from antivenom.training.precision import Precision, measure
from antivenom.training.presets import Recipe
from antivenom.training.pruning import frozen, hold
from antivenom.training.shelf import CACHE, Shelf

Progress = Callable[[int, int, str], None]  # steps done, steps in all, what stands to be said

EVERY = 30.0  # seconds of work that a kill may cost
CATASTROPHE = 0.5  # of the score under one step: below that, several steps find what one does not
EASING = 0.5  # share of a training over which k-winners layers come to keep as few as they shall
_ORDER, _CHANGE, _DROP, _DISTURB = 1, 2, 3, 4  # places of the kinds of draws


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        loss: mean over the training images as they were shown.
        validation_loss: mean over the validation images.
        score: balanced accuracy, or the mean AUROC of the findings that validation can measure.
        one_step: the same of images that an adversary disturbed in one step only, where the training has an adversary.
    """

    epoch: int
    rate: float
    loss: float
    validation_loss: float
    score: float
    one_step: float | None = None

    @property
    def overfitted(self) -> bool:
        """Whether the model withstands one step and not several: catastrophic overfitting (Wong et al. 2020)."""
        return self.one_step is not None and self.score < CATASTROPHE * self.one_step


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        classifier: with the weights that did best on validation, in evaluation mode.
        history: every epoch.
        best_epoch: counted from 0.
        score_name: what `Epoch.score` is.
        precision: what the steps were computed in, and why.
        checkpoint: the weights on disk.
    """

    classifier: Classifier
    history: tuple[Epoch, ...]
    best_epoch: int
    score_name: str
    precision: Precision
    checkpoint: Path

    @property
    def score(self) -> float:
        """Of the best epoch, on validation."""
        return self.history[self.best_epoch].score

    @property
    def overfitted(self) -> tuple[int, ...]:
        """Epochs in which the model withstood one step and not several."""
        return tuple(epoch.epoch for epoch in self.history if epoch.overfitted)


@dataclass
class _State:
    """Where a training stands; with the tensors, all that continuing needs."""

    terms: dict[str, Any]
    precision: dict[str, Any]
    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # summed over the images of the epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)
    best: int = -1


def train(
    classifier: Classifier,
    train_set: ImageSet,
    val_set: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    every: float = EVERY,
    cache: int = CACHE,
    teacher: Classifier | None = None,
) -> TrainingResult:
    """Train a classifier, keep the epoch that is best on validation, and continue where a killed training stood.

    Args:
        classifier: as it starts; trained in place, on the device where it is. Steps in front of its network are frozen and
            learn nothing; what they make of the images is what the network learns from.
        folder: of this training alone; made where missing.
        progress: is told after each step.
        every: seconds after which the state is written again.
        cache: bytes of decoded images (as float16) kept in memory; what goes beyond is decoded anew each epoch.
        teacher: whose probabilities at the recipe's temperature are learnt instead of the targets; in evaluation mode.

    Raises:
        SettingsError: the folder holds a training under other settings; the loss is no longer finite; the sets do not suit.
        SplitError: an image, patient, subject or lesion in both sets.
        WeightsError: the folder cannot be written, or its state is damaged.
    """
    _check(classifier, train_set, val_set, recipe, teacher)
    folder = Path(folder)
    for draft in folder.glob(".*.draft"):
        draft.unlink()
    course = _Course(classifier, train_set, val_set, recipe, seed, folder, cache, teacher)
    course.start_or_continue()
    course.run(progress or _silent, every)
    return course.finish()


class _Course:
    """One training under way."""

    def __init__(
        self,
        classifier: Classifier,
        train_set: ImageSet,
        val_set: ImageSet,
        recipe: Recipe,
        seed: int,
        folder: Path,
        cache: int,
        teacher: Classifier | None,
    ) -> None:
        self.classifier, self.recipe, self.seed, self.folder = classifier, recipe, seed, folder
        self.train_set, self.val_set, self.task = train_set, val_set, classifier.task
        self.shelf, self.teacher = Shelf(cache), teacher
        self.keys = image_keys(train_set.keys)
        self.device = next(classifier.parameters()).device
        weights = class_weights(train_set.targets, self.task) if recipe.class_weighting else None
        adversary = recipe.adversary
        self.lesson = Lesson(
            StandardLoss(self.task.multilabel, weights, recipe.label_smoothing),
            0.0 if adversary is None else adversary.clean,
            None if adversary is None else adversary.trades,
            recipe.temperature,
            recipe.gradient_penalty,
        )
        self.in_front = [step.requires_grad_(False) for step in classifier.modules() if isinstance(step, Step)]
        self.frozen = frozen(classifier) if recipe.keep_zeros else {}
        self.ratio = next(iter(ratios(classifier.backbone).values()), 0.0)
        self.plain_loss = StandardLoss(self.task.multilabel)
        self.steps = math.ceil(len(train_set) / recipe.batch)
        self.optimiser = torch.optim.SGD(
            classifier.parameters(),
            recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,  # one pass over the weights instead of one per operation: a tenth of the time of a small batch
        )
        self.averaged = classifier if recipe.average is None else copy.deepcopy(classifier)
        self.state = _State(self._terms(), {})

    # -- the work ------------------------------------------------------------------------------------------------------

    def run(self, progress: Progress, every: float) -> None:
        """Every step that is left."""
        state, total = self.state, self.recipe.epochs * self.steps
        saved = time.monotonic()
        with ThreadPoolExecutor(1) as background:
            while state.epoch < self.recipe.epochs and not self._gave_up():
                for samples, draws in _ahead(background, self._batches(state.epoch, state.step)):
                    rate = self._step(samples, draws)
                    done = state.epoch * self.steps + state.step
                    if state.step == self.steps:
                        self._end_epoch(rate)
                    progress(done, total, self._standing())
                    if time.monotonic() - saved >= every:
                        self._save()
                        saved = time.monotonic()

    def _step(self, samples: list[Sample], draws: Draws) -> float:
        state, recipe = self.state, self.recipe
        place = state.epoch * self.steps + state.step
        rate = recipe.rate(place, self.steps)
        images, targets = self._tensors(samples)
        images, done = recipe.augmentation.apply(images, draws), place / (recipe.epochs * self.steps)
        self._ease(done)
        disturbed, wanted = None, targets
        if recipe.adversary is not None:
            model = self._answering(self.classifier.eval())
            disturbed = recipe.adversary.disturb(model, images, targets, draws.at(_DISTURB), done, place)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.lesson.soft(self.teacher(images))
        self.classifier.train()
        for front in self.in_front:
            front.eval()
        with own_luck(self.seed, place, self.device), self.precision.autocast(self.device):
            loss = self.lesson(self._logits, images, disturbed, wanted)
        value = loss.item()
        if not math.isfinite(value):
            raise SettingsError(
                f"the loss became {value} in epoch {state.epoch}, step {state.step}: lower the learning rate of "
                f"{recipe.learning_rate:g} and train into another folder than {self.folder}"
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        hold(self.classifier, self.frozen)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if recipe.average is not None:
            pull(self.averaged, self.classifier, 1 - min(recipe.average, (1 + place) / (10 + place)))
        state.loss += value * len(samples)
        state.step += 1
        return rate

    def _end_epoch(self, rate: float) -> None:
        state = self.state
        validation_loss, score, one_step = self._validate()
        seen = len(self.train_set)
        state.history.append(asdict(Epoch(state.epoch, rate, state.loss / seen, validation_loss, score, one_step)))
        better = state.best < 0 or _rank(state.history[-1]) > _rank(state.history[state.best])
        if better and self._settled(state.epoch):
            write_safetensors(self._best_path(state.epoch), self.averaged.state_dict(), {})
            state.best = state.epoch
        state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0

    def _validate(self) -> tuple[float, float, float | None]:
        """Loss and score of the averaged model on the validation images, or on what the adversary makes of them, in float32;
        and the score on what one step of it makes of them."""
        self.averaged.eval()
        logits, single, targets, adversary = [], [], [], self.recipe.adversary
        for some in torch.split(torch.arange(len(self.val_set)), self.recipe.batch):
            images, truth = self._tensors(self.shelf.samples(self.val_set, some))
            if adversary is not None:
                model, draws = self._answering(self.averaged), self._validation_draws(some)
                single.append(self._seen(adversary.one_step(model, images, truth, draws)))
                images = adversary.try_out(model, images, truth, draws)
            logits.append(self._seen(images))
            targets.append(truth)
        answers, truth = torch.cat(logits), torch.cat(targets)
        loss, multilabel = self.plain_loss(answers, truth).item(), self.task.multilabel
        one_step = _score(torch.cat(single), truth, multilabel) if single else None
        return loss, _score(answers, truth, multilabel), one_step

    @torch.inference_mode()
    def _seen(self, images: Tensor) -> Tensor:
        logits: Tensor = self.averaged(self.precision.laid_out(images))
        return logits.float()

    def _validation_draws(self, some: Tensor) -> Draws:
        return Draws.of(self.seed, image_keys([self.val_set.keys[i] for i in some.tolist()])).at(_DISTURB)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.precision.laid_out(images))
        return logits

    def _ease(self, done: float) -> None:
        """Bring k-winners layers to the share that is due; a running average of weights does not carry it along."""
        start = self.recipe.kwta_start
        if start is not None:
            ratio = start + (self.ratio - start) * min(1.0, done / EASING)
            for model in (self.classifier, self.averaged):
                set_ratio(model.backbone, ratio)

    def _settled(self, epoch: int) -> bool:
        """Whether an epoch's weights are those of the network that is wanted."""
        return self.recipe.kwta_start is None or epoch / self.recipe.epochs >= EASING

    def _gave_up(self) -> bool:
        """Whether nothing has become better for as long as the recipe waits."""
        state, patience = self.state, self.recipe.patience
        return patience is not None and state.best >= 0 and state.epoch - 1 - state.best >= patience

    def _answering(self, model: Classifier) -> Forward:
        """The model as an adversary asks it: in the precision of the training."""

        def answer(images: Tensor) -> Tensor:
            with self.precision.autocast(self.device):
                logits: Tensor = model(self.precision.laid_out(images))
            return logits.float()

        return answer

    def _batches(self, epoch: int, skip: int) -> Iterator[tuple[list[Sample], Draws]]:
        """The batches of an epoch after the first `skip`; of nearly equal size, so that none is too small for batch norm."""
        order = _order(self.train_set, self.recipe, self.seed, epoch)
        places = torch.arange(len(order))
        parts = list(zip(order.tensor_split(self.steps), places.tensor_split(self.steps), strict=True))
        for positions, place in parts[skip:]:
            draws = Draws.of(self.seed, self.keys[positions]).at(_CHANGE, epoch, place)
            yield self.shelf.samples(self.train_set, positions), draws

    def _tensors(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        images = torch.stack([sample.image for sample in samples]).to(self.device, torch.float32)
        return images, torch.stack([sample.target for sample in samples]).to(self.device)

    @property
    def score_name(self) -> str:
        return score_name(self.task.multilabel, robust=self.recipe.adversary is not None)

    def _standing(self) -> str:
        if not self.state.history:
            return f"epoch 1 of {self.recipe.epochs}"
        last, best = self.state.history[-1], self.state.history[self.state.best]
        now = min(self.state.epoch + 1, self.recipe.epochs)
        name = self.score_name
        return f"epoch {now} of {self.recipe.epochs}, validation {name} {last['score']:.3f}, best {best['score']:.3f}"

    # -- stopping and continuing ---------------------------------------------------------------------------------------

    def start_or_continue(self) -> None:
        """Take up the folder's training where it stands, or begin one."""
        path = self.folder / "state.safetensors"
        if path.is_file():
            tensors, metadata = read_safetensors(path)
            self._resume(tensors, metadata, path)
            self._use(Precision(**self.state.precision))
            return
        batch = next(self._batches(0, 0))[0]
        images, targets = self._tensors(batch)
        with own_luck(self.seed, 0, self.device):
            self._use(measure(self.classifier, images, targets, self.lesson.loss, self.recipe.precision))
        self.state.precision = asdict(self.precision)
        self._save()

    def _use(self, precision: Precision) -> None:
        self.precision = precision
        for model in {self.classifier, self.averaged}:
            precision.lay_out(model)

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.classifier.state_dict().items()}
        if self.averaged is not self.classifier:
            tensors |= {f"average.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        for name, parameter in self.classifier.named_parameters():
            buffer = self.optimiser.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        write_safetensors(self.folder / "state.safetensors", tensors, {"state": json.dumps(asdict(self.state))})
        for old in set(self.folder.glob("best-*.safetensors")) - {self._best_path(self.state.best)}:
            old.unlink()

    def _resume(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
        try:
            state = _State(**json.loads(metadata["state"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is damaged ({error}); train into another folder") from error
        different = differences(state.terms, self.state.terms)
        if different:
            raise SettingsError(
                f"{self.folder} holds a training under other settings ({'; '.join(different)}); "
                "take the same ones to continue it, or another folder"
            )
        self.state = state
        self.classifier.load_state_dict(part_of(tensors, "model"))
        if self.averaged is not self.classifier:
            self.averaged.load_state_dict(part_of(tensors, "average"))
        for name, buffer in part_of(tensors, "momentum").items():
            parameter = self.classifier.get_parameter(name)
            self.optimiser.state[parameter]["momentum_buffer"] = buffer.to(parameter.device)

    def finish(self) -> TrainingResult:
        """Put the best weights into the classifier and write the checkpoint."""
        self._save()
        state = self.state
        best, _ = read_safetensors(self._best_path(state.best))
        self.classifier.load_state_dict(best)
        self.classifier.to(memory_format=torch.contiguous_format)
        self.classifier.eval()
        name, checkpoint = self.score_name, self.folder / "model.safetensors"
        history = tuple(Epoch(**values) for values in state.history)
        metrics = {
            "chosen by": name,
            "validation": {name: history[state.best].score, "loss": history[state.best].validation_loss},
            "validation images": len(self.val_set),
            "training images": len(self.train_set),
            "epoch": state.best,
        }
        if history[state.best].one_step is not None:
            metrics["one step"] = history[state.best].one_step
            metrics["overfitted epochs"] = [epoch.epoch for epoch in history if epoch.overfitted]
        if known(self.classifier.architecture):
            recipe = self.recipe.model_dump(mode="json")
            digest = self.train_set.digest
            save(self.classifier, checkpoint, data_digest=digest, seed=self.seed, metrics=metrics, recipe=recipe)
        else:  # a module of the user's own cannot be rebuilt from a card: its tensors alone
            write_safetensors(checkpoint, self.classifier.backbone.state_dict(), {})
        return TrainingResult(self.classifier, history, state.best, name, self.precision, checkpoint)

    def _best_path(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.safetensors"

    def _terms(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "training images": self.train_set.digest,
            "validation images": self.val_set.digest,
            "classifier": self.classifier.describe(),
            "starting weights": digest_tensors(self.classifier.state_dict()),
            "teacher": None if self.teacher is None else self.teacher.digest(),
        }


def score_name(multilabel: bool, *, robust: bool = False) -> str:
    """What an epoch is chosen by."""
    return ("robust " if robust else "") + ("mean AUROC" if multilabel else "balanced accuracy")


def _score(logits: Tensor, targets: Tensor, multilabel: bool) -> float:
    answers, truth = logits.cpu().numpy(), targets.cpu().numpy()
    if multilabel:
        return float(np.nanmean(auroc_per_class(answers, truth == 1)))
    return balanced_accuracy(decide(answers, multilabel=False), truth, answers.shape[1], multilabel=False)


def _rank(epoch: Mapping[str, Any]) -> tuple[float, float]:
    """Higher is better: the score; of equal scores, the lower loss."""
    return epoch["score"], -epoch["validation_loss"]


def _order(images: ImageSet, recipe: Recipe, seed: int, epoch: int) -> Tensor:
    """Positions in the order in which an epoch shows them."""
    luck = Draws.of(seed, torch.tensor([epoch])).at(_ORDER).uniform(len(images))[0].double()
    if recipe.sampling == "natural":
        return luck.argsort(stable=True)
    targets = images.targets
    chances = (1 / torch.bincount(targets).clamp_min(1).double())[targets].cumsum(0)
    return torch.searchsorted(chances, luck * chances[-1], right=True).clamp_max(len(images) - 1)


@contextlib.contextmanager
def own_luck(seed: int, place: int, device: torch.device) -> Iterator[None]:
    """Let dropout and its like draw by seed and step, and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(Draws.of(seed, torch.tensor([place])).at(_DROP).key[0]) & 0x7FFF_FFFF_FFFF_FFFF)
        yield


def pull(averaged: nn.Module, towards: nn.Module, share: float) -> None:
    """Move the averaged weights a share of the way; counters are copied."""
    current = towards.state_dict()
    for name, tensor in averaged.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(current[name], share)
        else:
            tensor.copy_(current[name])


def _ahead(background: ThreadPoolExecutor, batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, the next one decoded while the present one is learnt from."""
    following = background.submit(next, batches, None)
    while (batch := following.result()) is not None:
        following = background.submit(next, batches, None)
        yield batch


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs, as 'name: old there, new here'."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{within}{name}.")
        elif before != now:
            found.append(f"{within}{name}: {_short(before)} there, {_short(now)} here")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _check(classifier: Classifier, train_set: ImageSet, val_set: ImageSet, recipe: Recipe, teacher: Classifier | None) -> None:
    for images in (train_set, val_set):
        if images.task != classifier.task:
            raise SettingsError(f"{images.name} asks for {images.task}, the classifier answers {classifier.task}")
    if len(train_set) < 2 or not len(val_set):
        raise DataError(f"{train_set.name}: {len(train_set)} training and {len(val_set)} validation image(s) are too few")
    if recipe.sampling == "balanced" and classifier.task.multilabel:
        raise SettingsError("sampling='balanced' needs one class an image; for findings use class_weighting=True")
    if teacher is not None and (teacher.task != classifier.task or teacher.channels != classifier.channels):
        raise SettingsError(f"the teacher decides {teacher.task} in {teacher.channels} channel(s), the pupil {classifier.task}")
    if recipe.kwta_start is not None and not ratios(classifier.backbone):
        raise SettingsError(f"kwta_start is {recipe.kwta_start}, and {classifier.architecture} has no k-winners layers")
    if recipe.keep_zeros and not frozen(classifier):
        raise SettingsError("keep_zeros is set, and no convolution holds a weight that is exactly 0; prune the model first")
    shared = (set(train_set.keys) & set(val_set.keys)) or (set(train_set.groups) & set(val_set.groups))
    if shared:
        raise SplitError(
            f"{len(shared)} image(s), patient(s), subject(s) or lesion(s) are in training and in validation, such as "
            f"{sorted(shared)[0]!r}; split by group"
        )
    truth = val_set.targets
    if classifier.task.multilabel and not ((truth.amin(0) == 0) & (truth.amax(0) == 1)).any():
        raise SettingsError(f"{val_set.name}: no finding is both present and absent in validation, so no epoch can be chosen")


def _silent(done: int, total: int, text: str) -> None:
    """Say nothing."""
