"""What can be put in front of a trained classifier: each is made, and where it learns anything taught, from training images.

A front that learns takes as many epochs as the classifier did, and never fewer than `STEPS` steps: what a classifier can learn
in a few epochs, a generator cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from antivenom.data.imageset import ImageSet
from antivenom.errors import SettingsError
from antivenom.models.autoencoder import Denoiser
from antivenom.models.classifier import Step
from antivenom.models.inversion import LATENT, DefenseGan, Discriminator, Encoder, Generator, InvGan
from antivenom.models.transforms import BitDepth, Jpeg, Median, TotalVariation
from antivenom.training.loop import Progress
from antivenom.training.precision import FLOAT32, Precision
from antivenom.training.purifiers import BATCH, train_denoiser, train_encoder, train_gan

BITS = 4  # of Xu et al. for colour images and ImageNet
# Measured on Kermany's chest X-rays at 64 px; the figures are in docs/hardening.md.
STEPS, WIDTH = 1500, 16


@dataclass(frozen=True)
class Making:
    """What a front is made from.

    Attributes:
        images: the training split.
        epochs: of the classifier's training.
        folder: of this front alone.
        device: where it learns; None: on the CPU.
        precision: what its steps are computed in.
        progress: is told after each step.
    """

    images: ImageSet
    epochs: int
    seed: int
    folder: Path
    device: torch.device | None = None
    precision: Precision = FLOAT32
    progress: Progress | None = None

    @property
    def enough(self) -> int:
        """Epochs in which a front learns at least `STEPS` steps."""
        return max(self.epochs, math.ceil(STEPS / math.ceil(len(self.images) / BATCH)))


@dataclass(frozen=True)
class Front:
    """One kind of front.

    Attributes:
        make: the step, ready to be put in front.
        generates: whether its images are a generator's, which are square and stand for the image rather than change it.
        searches: whether it searches for each image anew, by far too slowly for a classifier to be trained behind it.
    """

    make: Callable[[Making], Step]
    generates: bool = False
    searches: bool = False


def denoiser(making: Making) -> Step:
    """A denoising auto-encoder, taught on normal noise."""
    step = Denoiser(making.images.channels, seed=making.seed).to(making.device)
    train_denoiser(
        step,
        making.images,
        epochs=making.enough,
        seed=making.seed,
        folder=making.folder,
        precision=making.precision,
        progress=making.progress,
    )
    return step.eval()


def inv_gan(making: Making) -> Step:
    """A generator and the encoder that inverts it; the generator learns on with its encoder."""
    generator, discriminator = _generator(making)
    encoder = Encoder(generator.channels, generator.side, generator.latent, generator.width, seed=making.seed).to(making.device)
    train_encoder(
        encoder,
        generator,
        discriminator,
        making.images,
        together=True,
        epochs=making.enough,
        seed=making.seed,
        folder=making.folder / "encoder",
        precision=making.precision,
        progress=making.progress,
    )
    return InvGan(generator, encoder)


def defense_gan(making: Making) -> Step:
    """A generator, onto whose images others are projected."""
    return DefenseGan(_generator(making)[0], seed=making.seed)


def check_images(name: str, images: ImageSet) -> None:
    """Refuse images that a front could not be made for, before anything is trained.

    Raises:
        SettingsError: a generator cannot make such images.
    """
    if not FRONTS[name].generates:
        return
    height, width = images[0].image.shape[-2:]
    if height != width:
        raise SettingsError(
            f"a generator makes square images, and those of {images.name} are {(height, width)}; load them square"
        )
    Generator(images.channels, height, 1, 1)


def _generator(making: Making) -> tuple[Generator, Discriminator]:
    images, side = making.images, making.images[0].image.shape[-1]
    generator = Generator(images.channels, side, LATENT, WIDTH, seed=making.seed).to(making.device)
    discriminator = Discriminator(images.channels, side, WIDTH, seed=making.seed).to(making.device)
    train_gan(
        generator,
        discriminator,
        images,
        epochs=making.enough,
        seed=making.seed,
        folder=making.folder / "generator",
        precision=making.precision,
        progress=making.progress,
    )
    return generator, discriminator


FRONTS: dict[str, Front] = {
    "denoiser": Front(denoiser),
    "invgan": Front(inv_gan, generates=True),
    "defense-gan": Front(defense_gan, generates=True, searches=True),
    "jpeg": Front(lambda _: Jpeg()),
    "bit-depth": Front(lambda _: BitDepth(BITS)),
    "median": Front(lambda _: Median()),
    "total-variation": Front(lambda _: TotalVariation()),
}
