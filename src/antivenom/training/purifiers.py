"""How purifiers learn: a denoiser, a generator, its encoder; and a backbone that learns to see before it learns to decide.

    folder/
      state.safetensors   where the learning stands: networks, optimisers, losses; replaced whole

One plain loop serves all four. The order of the images and every draw follow from the seed, the epoch and the image, so what
was killed and continued ends in the very tensors of what was not, on the same machine with the same number of threads. Called
again on a finished folder, with networks as they started, a function puts the result into them and does nothing else. Adam
throughout: Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, https://arxiv.org/abs/1412.6980.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antivenom.data.imageset import ImageSet
from antivenom.errors import DataError, ImageError, ModelError, SettingsError, SplitError, WeightsError
from antivenom.models.architectures import known
from antivenom.models.autoencoder import Decoder, Denoiser
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.inversion import Discriminator, Encoder, Generator
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.provenance import digest_tensors
from antivenom.randomness import Draws, image_keys
from antivenom.training.adversary import Adversary
from antivenom.training.loop import EVERY, Progress, own_luck, part_of, pull
from antivenom.training.precision import FLOAT32, Precision
from antivenom.training.shelf import CACHE, Shelf

History = tuple[dict[str, float], ...]  # one row an epoch: each loss by its name, the mean over the epoch's images

BATCH = 32
# Of the adversarial part of InvGAN's code (github.com/yogeshbalaji/InvGAN): the mean absolute error beyond a margin, the
# discriminator's answer and the mean square of the code, in this proportion.
MARGIN, OF_ERROR, OF_ANSWER, OF_CODE = 0.02, 100.0, 1.0, 0.5
_ORDER, _NOISE, _CODE, _DISTURB = 1, 2, 4, 5  # places of the kinds of draws


@dataclass(frozen=True)
class Attacked:
    """Adversarial images for a denoiser to learn from, made against the classifier as it stands without the denoiser.

    Attributes:
        classifier: in evaluation mode.
        adversary: who disturbs the images.
        share: of each batch that is attacked; the rest is noisy.
    """

    classifier: Classifier
    adversary: Adversary
    share: float = 0.5


def train_denoiser(
    step: Denoiser,
    images: ImageSet,
    *,
    noise: float = 0.1,
    adversarial: Attacked | None = None,
    epochs: int,
    seed: int,
    folder: Path,
    batch: int = BATCH,
    rate: float = 1e-3,
    precision: Precision = FLOAT32,
    progress: Progress | None = None,
    every: float = EVERY,
    cache: int = CACHE,
) -> History:
    """Teach a denoiser, in place, to give back images from what noise or an adversary made of them.

    The mean absolute difference is learnt from, as Liao et al. do for pixels (see `models.autoencoder`).

    Args:
        images: the training split alone.
        noise: standard deviation of normal noise, in units of the range; each image has its own, between none and this.
        adversarial: makes a share of the images adversarial instead.
        folder: of this learning alone; made where missing.
        batch: the most images in a step.
        precision: what the steps are computed in.
        progress: is told after each step.
        every: seconds after which the state is written again.
        cache: bytes of decoded images kept in memory.

    Raises:
        SettingsError: the folder holds other learning, the loss is no longer finite, or a setting cannot be.
        SplitError: images of another split.
        DataError, ImageError: too few images, or with other channels.
        ModelError: the attacked classifier is in training mode.
        WeightsError: the folder cannot be written, or its state is damaged.
    """
    if not 0 <= noise < math.inf:
        raise SettingsError(f"the noise is a standard deviation of 0 or more, got {noise}")
    if adversarial is not None:
        check_ready(adversarial.classifier)
        if not 0 < adversarial.share <= 1:
            raise SettingsError(f"the share of attacked images is above 0 and at most 1, got {adversarial.share}")
    optimiser = torch.optim.Adam(step.parameters(), rate)

    def learn(given: _Batch) -> dict[str, float]:
        shown = _attacked(given, adversarial) if adversarial is not None else given.images[:0]
        noisy = given.rest(len(shown))
        shown = torch.cat([shown, _noisy(noisy, noise)])
        loss = F.l1_loss(step.restored(shown), given.images)
        return {"error": _descend(loss, optimiser, step)}

    settings: dict[str, Any] = {"noise": noise, "rate": rate, "denoiser": step.settings()}
    if adversarial is not None:
        against = {"classifier": adversarial.classifier.digest(), "share": adversarial.share}
        settings["adversarial"] = {**adversarial.adversary.model_dump(mode="json"), **against}
    lesson = _Lesson("denoiser", {"denoiser": step}, {"denoiser": optimiser}, learn, settings, precision)
    _check_shape(images, step.channels)
    return _Learning(lesson, images, epochs, batch, seed, folder, cache).run(progress, every)


def train_gan(
    generator: Generator,
    discriminator: Discriminator,
    images: ImageSet,
    *,
    epochs: int,
    seed: int,
    folder: Path,
    batch: int = BATCH,
    rate: float = 2e-4,
    discriminator_rate: float = 4e-4,
    average: float = 0.998,
    precision: Precision = FLOAT32,
    progress: Progress | None = None,
    every: float = EVERY,
    cache: int = CACHE,
) -> History:
    """Teach a generator, in place, to make images that the discriminator, learning beside it, takes for real.

    The hinge loss: Lim, Ye, "Geometric GAN", 2017, https://arxiv.org/abs/1705.02894, with the discriminator's layers at norm 1
    and its rate twice the generator's (Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, https://arxiv.org/abs/1706.08500). What is kept is the
    generator's running average: Yazıcı, Foo, Winkler, Yap, Piliouras, Chandrasekhar, "The Unusual Effectiveness of Averaging
    in GAN Training", ICLR 2019, https://arxiv.org/abs/1806.04498. Defense-GAN and InvGAN learn by Wasserstein distance with a
    gradient penalty and five discriminator steps to one, which is several times dearer.

    Args:
        images: the training split alone, square, of the generator's side.
        average: decay per step of the running average.
        folder, batch, precision, progress, every, cache: as in `train_denoiser`.

    Raises:
        SettingsError, SplitError, DataError, ImageError, WeightsError: as `train_denoiser`.
    """
    if not 0 <= average < 1:
        raise SettingsError(f"a running average decays by a share below 1 a step, got {average}")
    generator.train().requires_grad_(True)
    discriminator.train()
    averaged = copy.deepcopy(generator)
    makes = torch.optim.Adam(generator.parameters(), rate, betas=(0.5, 0.999))  # DCGAN's
    tells = torch.optim.Adam(discriminator.parameters(), discriminator_rate, betas=(0.5, 0.999))

    def learn(given: _Batch) -> dict[str, float]:
        codes = given.draws.at(_CODE).normal(generator.latent).to(given.images)
        made = generator(codes)
        told = _descend(_hinge(discriminator, given.images, made.detach()), tells, discriminator)
        fooled = _descend(-discriminator(made).mean(), makes, generator)
        pull(averaged, generator, 1 - min(average, (1 + given.place) / (10 + given.place)))
        return {"discriminator": told, "generator": fooled}

    networks = {"generator": generator, "discriminator": discriminator, "average": averaged}
    rates = {"rate": rate, "discriminator_rate": discriminator_rate, "average": average}
    settings = {**rates, "generator": generator.settings()}
    lesson = _Lesson("generator", networks, {"generator": makes, "discriminator": tells}, learn, settings, precision)
    _check_shape(images, generator.channels, generator.side)
    history = _Learning(lesson, images, epochs, batch, seed, folder, cache).run(progress, every)
    generator.load_state_dict(averaged.state_dict())
    generator.eval()
    discriminator.eval()
    return history


def train_encoder(
    encoder: Encoder,
    generator: Generator,
    discriminator: Discriminator,
    images: ImageSet,
    *,
    together: bool = False,
    epochs: int,
    seed: int,
    folder: Path,
    batch: int = BATCH,
    rate: float = 2e-4,
    discriminator_rate: float = 4e-4,
    precision: Precision = FLOAT32,
    progress: Progress | None = None,
    every: float = EVERY,
    cache: int = CACHE,
) -> History:
    """Teach an encoder, in place, the codes from which a generator makes the images again.

    InvGAN's loss and rates, in units of the range: 100 times the mean absolute error beyond 0.02, a discriminator that tells
    images from their reconstructions, and half the mean square of the code. Deviations: the error is averaged over an image
    before the margin is taken, not over a column; the discriminator goes on by the hinge loss that it began with. The paper's
    generator stays as it is. One of a few thousand steps makes too few of the images there are for that, and may go on learning
    with its encoder, as in Larsen, Sønderby, Larochelle, Winther, "Autoencoding beyond pixels using a learned similarity
    metric", ICML 2016, https://arxiv.org/abs/1512.09300.

    Args:
        generator: trained; left as it is, unless they learn together.
        discriminator: the generator's, which learns on.
        images: the training split alone, square, of the generator's side.
        together: whether the generator learns on, in place.
        folder, batch, precision, progress, every, cache: as in `train_denoiser`.

    Raises:
        SettingsError, SplitError, DataError, ImageError, WeightsError: as `train_denoiser`.
    """
    networks = {"encoder": encoder, "discriminator": discriminator, **({"generator": generator} if together else {})}
    learnt: list[nn.Module] = [encoder, generator] if together else [encoder]
    generator.eval()
    for network in (*learnt, discriminator):
        network.train().requires_grad_(True)
    settings = {"rate": rate, "discriminator_rate": discriminator_rate, "generator": digest_tensors(generator.state_dict())}
    finds = torch.optim.Adam([weight for network in learnt for weight in network.parameters()], rate, betas=(0.5, 0.999))
    tells = torch.optim.Adam(discriminator.parameters(), discriminator_rate, betas=(0.5, 0.999))

    def learn(given: _Batch) -> dict[str, float]:
        codes = encoder(given.images)
        made = generator(codes)
        told = _descend(_hinge(discriminator, given.images, made.detach()), tells, discriminator)
        error = (made - given.images).abs().flatten(1).mean(1)
        lacking = OF_ERROR * (error - MARGIN).relu().mean()
        loss = lacking - OF_ANSWER * discriminator(made).mean() + OF_CODE * codes.square().mean()
        return {"discriminator": told, "encoder": _descend(loss, finds, *learnt), "error": error.mean().item()}

    lesson = _Lesson("encoder", networks, {"encoder": finds, "discriminator": tells}, learn, settings, precision)
    _check_shape(images, generator.channels, generator.side)
    history = _Learning(lesson, images, epochs, batch, seed, folder, cache).run(progress, every)
    for network in (encoder, generator, discriminator):
        network.eval()
    return history


def pretrain_backbone(
    classifier: Classifier,
    images: ImageSet,
    *,
    noise: float = 0.0,
    epochs: int,
    seed: int,
    folder: Path,
    batch: int = BATCH,
    rate: float = 1e-3,
    progress: Progress | None = None,
    every: float = EVERY,
    cache: int = CACHE,
) -> History:
    """Teach a classifier's backbone, in place, to keep what its images can be made of again, before it learns to decide.

    The backbone's last maps are decoded to what it was given, normalised; the decoder is then dropped and the last layer left
    as it started. This is the other reading of an "Auto Encoder" in front of a classifier (Kokalj-Filipovic et al., see
    `models.autoencoder`).

    Args:
        classifier: of the table's architectures; its mode is left as it was.
        images: the training split alone.
        noise: as in `train_denoiser`; above 0 the images are to be made again from noisy ones.
        folder, batch, progress, every, cache: as in `train_denoiser`.

    Raises:
        SettingsError, SplitError, DataError, ImageError, WeightsError: as `train_denoiser`.
        ModelError: a module of the user's own, of which no last maps are known.
    """
    if not 0 <= noise < math.inf:
        raise SettingsError(f"the noise is a standard deviation of 0 or more, got {noise}")
    if not known(classifier.architecture):
        raise ModelError(
            f"{classifier.architecture} is a module of your own, whose last maps are not known; pretrain it yourself"
        )
    _check_shape(images, classifier.channels)
    training, backbone = classifier.training, classifier.backbone
    decoder = _decoder(classifier, images, seed)
    backbone.train()
    optimiser = torch.optim.Adam([*backbone.parameters(), *decoder.parameters()], rate)

    def learn(given: _Batch) -> dict[str, float]:
        with torch.no_grad():
            wanted, shown = classifier.prepare(given.images), classifier.prepare(_noisy(given, noise))
        made = decoder(_maps(backbone, shown), (wanted.shape[-2], wanted.shape[-1]))
        return {"error": _descend(F.mse_loss(made, wanted), optimiser, backbone, decoder)}

    networks = {"backbone": backbone, "decoder": decoder}
    settings = {"noise": noise, "rate": rate, "classifier": classifier.describe()}
    lesson = _Lesson("backbone", networks, {"backbone": optimiser}, learn, settings)
    history = _Learning(lesson, images, epochs, batch, seed, folder, cache).run(progress, every)
    classifier.train(training)
    return history


# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """Images of one step, their targets and draws, and the number of the step among all."""

    images: Tensor
    targets: Tensor
    draws: Draws
    place: int
    done: float  # share of the learning that is over

    def rest(self, start: int) -> _Batch:
        """The images from `start` on."""
        some = torch.arange(start, len(self.images))
        return _Batch(self.images[start:], self.targets[start:], self.draws.take(some), self.place, self.done)


@dataclass(frozen=True)
class _Lesson:
    """What is learnt.

    Attributes:
        networks: whose tensors are the state.
        step: changes them by one batch and returns the losses, by name.
        settings: whatever else moves the result, as plain values.
        precision: what the steps are computed in.
    """

    name: str
    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    step: Callable[[_Batch], dict[str, float]]
    settings: Mapping[str, Any]
    precision: Precision = FLOAT32


@dataclass
class _State:
    """Where the learning stands; with the tensors, all that continuing needs."""

    terms: dict[str, Any]
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # over the images of the epoch so far
    history: list[dict[str, float]] = field(default_factory=list)


class _Learning:
    """One lesson under way."""

    def __init__(self, lesson: _Lesson, images: ImageSet, epochs: int, batch: int, seed: int, folder: Path, cache: int) -> None:
        _check(images, epochs, batch)
        self.lesson, self.images, self.epochs, self.seed = lesson, images, epochs, seed
        self.path, self.shelf = Path(folder) / "state.safetensors", Shelf(cache)
        self.keys, self.targets = image_keys(images.keys), images.targets
        self.steps = math.ceil(len(images) / batch)
        self.device = next(next(iter(lesson.networks.values())).parameters()).device
        self.state = _State(
            {
                "lesson": lesson.name,
                "settings": dict(lesson.settings),
                "precision": lesson.precision.name,
                "epochs": epochs,
                "batch": batch,
                "seed": seed,
                "images": images.digest,
                "starting weights": {name: digest_tensors(net.state_dict()) for name, net in lesson.networks.items()},
            }
        )

    def run(self, progress: Progress | None, every: float) -> History:
        """Every step that is left."""
        self._continue()
        for network in self.lesson.networks.values():
            self.lesson.precision.lay_out(network)
        state, saved, total = self.state, time.monotonic(), self.epochs * self.steps
        while state.epoch < self.epochs:
            for batch in self._batches():
                self._learn(batch)
                done = state.epoch * self.steps + state.step
                if state.step == self.steps:
                    self._end_epoch()
                if progress is not None:
                    progress(done, total, self._standing())
                if time.monotonic() - saved >= every:
                    self._save()
                    saved = time.monotonic()
        self._save()
        for network in self.lesson.networks.values():
            network.to(memory_format=torch.contiguous_format)
        return tuple(state.history)

    def _learn(self, batch: _Batch) -> None:
        state = self.state
        with own_luck(self.seed, batch.place, self.device), self.lesson.precision.autocast(self.device):
            losses = self.lesson.step(batch)
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise SettingsError(
                    f"the loss of the {name} became {loss} in epoch {state.epoch}, step {state.step}: lower the rate and train "
                    f"into another folder than {self.path.parent}"
                )
            state.sums[name] = state.sums.get(name, 0.0) + loss * len(batch.images)
        state.step += 1

    def _end_epoch(self) -> None:
        state = self.state
        state.history.append({name: total / len(self.images) for name, total in state.sums.items()})
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}

    def _batches(self) -> Iterator[_Batch]:
        """What is left of the epoch, in batches of nearly equal size, so that none is too small for batch-norm."""
        epoch, total = self.state.epoch, self.epochs * self.steps
        luck = Draws.of(self.seed, torch.tensor([epoch])).at(_ORDER).uniform(len(self.images))[0].double()
        parts = luck.argsort(stable=True).tensor_split(self.steps)
        for step in range(self.state.step, self.steps):
            positions, place = parts[step], epoch * self.steps + step
            pictures = [sample.image for sample in self.shelf.samples(self.images, positions)]
            images = self.lesson.precision.laid_out(torch.stack(pictures).to(self.device, torch.float32))
            draws = Draws.of(self.seed, self.keys[positions]).at(epoch)
            yield _Batch(images, self.targets[positions].to(self.device), draws, place, place / total)

    def _standing(self) -> str:
        now = f"{self.lesson.name}: epoch {min(self.state.epoch + 1, self.epochs)} of {self.epochs}"
        if not self.state.history:
            return now
        return now + "".join(f", {name} {loss:.4f}" for name, loss in self.state.history[-1].items())

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for name, network in self.lesson.networks.items():
            tensors |= {f"network.{name}.{key}": tensor for key, tensor in network.state_dict().items()}
        for name, optimiser in self.lesson.optimisers.items():
            for place, kept in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{place}.{key}": tensor for key, tensor in kept.items()}
        write_safetensors(self.path, tensors, {"state": json.dumps(asdict(self.state))})

    def _continue(self) -> None:
        """Take up the folder's learning where it stands, if there is any."""
        if not self.path.is_file():
            return
        tensors, metadata = read_safetensors(self.path)
        try:
            state = _State(**json.loads(metadata["state"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{self.path} is damaged ({error}); train into another folder") from error
        # Through JSON, as the other has been: there, a tuple is a list.
        different = _differing(state.terms, json.loads(json.dumps(self.state.terms)))
        if different:
            raise SettingsError(
                f"{self.path.parent} holds learning under other terms ({', '.join(different)}); take the same ones to continue "
                "it, or another folder"
            )
        self.state = state
        for name, network in self.lesson.networks.items():
            network.load_state_dict(part_of(tensors, f"network.{name}"))
        for name, optimiser in self.lesson.optimisers.items():
            kept: dict[int, dict[str, Tensor]] = {}
            for key, tensor in part_of(tensors, f"optimiser.{name}").items():
                place, _, what = key.partition(".")
                kept.setdefault(int(place), {})[what] = tensor
            optimiser.load_state_dict({"state": kept, "param_groups": optimiser.state_dict()["param_groups"]})


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))


def _check(images: ImageSet, epochs: int, batch: int) -> None:
    if epochs < 1 or batch < 2:
        raise SettingsError(f"learning needs an epoch and batches of at least 2 images, got epochs={epochs}, batch={batch}")
    if len(images) < 2:
        raise DataError(f"{images.name}: {len(images)} image(s) are too few to learn from")
    others = {str(split) for split in images.index.splits[images.rows]} - {"", "train"}
    if others:
        raise SplitError(
            f"a purifier learns from training images alone, and {images.name} holds some of {', '.join(sorted(others))}; "
            "give images.split('train')"
        )


def _check_shape(images: ImageSet, channels: int, side: int | None = None) -> None:
    if not len(images):
        raise DataError(f"{images.name} holds no image to learn from")
    shape = tuple(images[0].image.shape)
    if shape[0] != channels or (side is not None and shape[1:] != (side, side)):
        wanted = f"{channels} channel(s)" if side is None else f"({channels}, {side}, {side})"
        raise ImageError(f"{images.name} has images {shape}, and what learns from them takes {wanted}; load the set so")


# -- the steps ---------------------------------------------------------------------------------------------------------


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer, *networks: nn.Module) -> float:
    """One step of some networks down a loss; others that it passed through collect no gradient."""
    optimiser.zero_grad()
    torch.autograd.backward(loss, inputs=_learning(networks))
    optimiser.step()
    return loss.item()


def _learning(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [weight for network in networks for weight in network.parameters() if weight.requires_grad]


def _hinge(discriminator: Discriminator, images: Tensor, made: Tensor) -> Tensor:
    loss: Tensor = (1 - discriminator(images)).relu().mean() + (1 + discriminator(made)).relu().mean()
    return loss


def _noisy(given: _Batch, noise: float) -> Tensor:
    """The images with noise of their own size and draws, in [0, 1]."""
    if not noise:
        return given.images
    size = noise * given.draws.at(_NOISE, 0).uniform(1, 1, 1)
    return (given.images + (size * given.draws.at(_NOISE, 1).normal(*given.images.shape[1:])).to(given.images)).clamp(0, 1)


def _attacked(given: _Batch, adversarial: Attacked) -> Tensor:
    """The first images of the batch as the adversary leaves them."""
    some = math.ceil(adversarial.share * len(given.images))
    draws = given.draws.take(torch.arange(some)).at(_DISTURB)
    model, images, targets = adversarial.classifier, given.images[:some], given.targets[:some]
    return adversarial.adversary.disturb(model, images, targets, draws, given.done)


def _maps(backbone: nn.Module, prepared: Tensor) -> Tensor:
    """The last maps `(B, D, h, w)` of a backbone of the table, all of which timm makes with this method."""
    maps: Tensor = backbone.forward_features(prepared)  # type: ignore[operator]
    return maps


def _decoder(classifier: Classifier, images: ImageSet, seed: int) -> Decoder:
    """A decoder that fits the backbone, found by trying it on one image."""
    classifier.eval()
    with torch.no_grad():
        prepared = classifier.prepare(images[0].image[None].to(classifier.device))
        maps = _maps(classifier.backbone, prepared)
    doublings = max(0, math.ceil(math.log2(prepared.shape[-1] / maps.shape[-1])))
    return Decoder(maps.shape[1], prepared.shape[1], doublings=doublings, seed=seed).to(classifier.device)
