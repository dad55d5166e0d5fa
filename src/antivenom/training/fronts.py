"""What can be put in front of a trained classifier: each is made, and where it learns anything taught, from training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from antivenom.data.imageset import ImageSet
from antivenom.errors import SettingsError
from antivenom.models.autoencoder import Denoiser
from antivenom.models.classifier import Step
from antivenom.models.inversion import DefenseGan, Discriminator, Encoder, Generator, InvGan
from antivenom.models.transforms import BitDepth, Jpeg, Median, TotalVariation
from antivenom.training.loop import Progress
from antivenom.training.purifiers import train_denoiser, train_encoder, train_gan

# The training split, epochs, seed, a folder of its own and whom to tell of progress, to a step.
Front = Callable[[ImageSet, int, int, Path, Progress | None], Step]

BITS = 4  # of Xu et al. for colour images and ImageNet


def denoiser(images: ImageSet, epochs: int, seed: int, folder: Path, progress: Progress | None) -> Step:
    """A denoising auto-encoder, taught on normal noise."""
    step = Denoiser(images.channels, seed=seed)
    train_denoiser(step, images, epochs=epochs, seed=seed, folder=folder, progress=progress)
    return step


def inv_gan(images: ImageSet, epochs: int, seed: int, folder: Path, progress: Progress | None) -> Step:
    """A generator and the encoder that inverts it."""
    generator, discriminator = _generator(images, epochs, seed, folder, progress)
    encoder = Encoder(generator.channels, generator.side, generator.latent, generator.width, seed=seed)
    train_encoder(
        encoder, generator, discriminator, images, epochs=epochs, seed=seed, folder=folder / "encoder", progress=progress
    )
    return InvGan(generator, encoder)


def defense_gan(images: ImageSet, epochs: int, seed: int, folder: Path, progress: Progress | None) -> Step:
    """A generator, onto whose images others are projected."""
    return DefenseGan(_generator(images, epochs, seed, folder, progress)[0], seed=seed)


def _generator(
    images: ImageSet, epochs: int, seed: int, folder: Path, progress: Progress | None
) -> tuple[Generator, Discriminator]:
    shape = tuple(images[0].image.shape[-2:])
    if shape[0] != shape[1]:
        raise SettingsError(f"a generator makes square images, and those of {images.name} are {shape}; load them square")
    generator = Generator(images.channels, shape[0], seed=seed)
    discriminator = Discriminator(images.channels, shape[0], seed=seed)
    train_gan(generator, discriminator, images, epochs=epochs, seed=seed, folder=folder / "generator", progress=progress)
    return generator, discriminator


FRONTS: dict[str, Front] = {
    "denoiser": denoiser,
    "invgan": inv_gan,
    "defense-gan": defense_gan,
    "jpeg": lambda *_: Jpeg(),
    "bit-depth": lambda *_: BitDepth(BITS),
    "median": lambda *_: Median(),
    "total-variation": lambda *_: TotalVariation(),
}
