"""Purifiers that answer with the nearest image that a generator can make.

`DefenseGan`: Samangouei, Kabkab, Chellappa, "Defense-GAN: Protecting Classifiers Against Adversarial Attacks Using Generative
Models", ICLR 2018, https://arxiv.org/abs/1805.06605. `InvGan`: Lin, Balaji, Samangouei, Chellappa, "Invert and Defend:
Model-based Approximate Inversion of Generative Adversarial Networks for Secure Inference", 2019,
https://arxiv.org/abs/1911.10291. The networks: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", ICLR 2016, https://arxiv.org/abs/1511.06434; the discriminator's norm: Miyato,
Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
https://arxiv.org/abs/1802.05957.

A projection by optimisation has no useful gradient and hides the one there is, which is no defence: it lends a stand-in's
(Athalye, Carlini, Wagner, ICML 2018, https://arxiv.org/abs/1802.00420, took Defense-GAN so). Deviations: the authors descend
by momentum with a rate of 10, here by Adam with a rate that falls along a cosine, which needs no tuning to a generator; the
starts are drawn once, from the settings' seed, and are the same for every image, so that the answer is always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from antivenom.errors import ImageError, SettingsError
from antivenom.models.classifier import Step
from antivenom.models.presentation import lend

LATENT, WIDTH, SMALLEST = 64, 32, 4  # SMALLEST: pixels a side of the maps next to the code
STEPS, RESTARTS = 200, 10  # of Defense-GAN's paper and code
RATE = 0.05
_BETA, _SQUARED, _TINY = 0.9, 0.999, 1e-8  # Adam's own: Kingma, Ba, ICLR 2015, https://arxiv.org/abs/1412.6980


class Generator(nn.Module):
    """Codes to images, doubling the side from 4 px.

    Args:
        channels: of the images.
        side: height and width, 4 times a power of two, at least 8.
        latent: numbers in a code.
        width: channels next to the image; they double inwards, to 8 times as many at most.
        seed: of the random start.

    Raises:
        SettingsError: another side, or no channel, code or width.

    >>> tuple(Generator(1, side=64)(torch.randn(2, 64)).shape)
    (2, 1, 64, 64)
    """

    def __init__(self, channels: int, side: int = 64, latent: int = LATENT, width: int = WIDTH, *, seed: int = 0) -> None:
        super().__init__()
        widths = _widths(channels, side, latent, width)[::-1]
        self.channels, self.side, self.latent, self.width = int(channels), int(side), int(latent), int(width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(latent, widths[0] * SMALLEST**2, bias=False)
            layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
            for before, after in pairwise(widths):
                layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Sigmoid())

    def forward(self, codes: Tensor) -> Tensor:
        """Codes `(B, latent)`, standard normal, to images `(B, C, side, side)` in [0, 1]."""
        images: Tensor = self.layers(self.first(codes).unflatten(1, (-1, SMALLEST, SMALLEST)))
        return images

    def settings(self) -> dict[str, Any]:
        """What rebuilds it, without its weights."""
        return {"channels": self.channels, "side": self.side, "latent": self.latent, "width": self.width}


class Encoder(nn.Module):
    """Images to codes: a generator's mirror image.

    Args:
        channels, side, latent, width: as the generator's.
        seed: of the random start.

    Raises:
        SettingsError: as `Generator`.
    """

    def __init__(self, channels: int, side: int = 64, latent: int = LATENT, width: int = WIDTH, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = _shrinking(channels, _widths(channels, side, latent, width), latent, lambda layer: layer, True)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, side, side)` in [0, 1] to codes `(B, latent)`."""
        codes: Tensor = self.layers(2 * images - 1)
        return codes


class Discriminator(nn.Module):
    """Images to one number each, higher for those it takes for real; every layer of spectral norm 1, for training alone.

    Args:
        channels, side, width: as the generator's.
        seed: of the random start.

    Raises:
        SettingsError: as `Generator`.
    """

    def __init__(self, channels: int, side: int = 64, width: int = WIDTH, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = _shrinking(channels, _widths(channels, side, 1, width), 1, spectral_norm, False)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, side, side)` in [0, 1] to `(B,)`."""
        scores: Tensor = self.layers(2 * images - 1)
        return scores[:, 0]


class InvGan(Step):
    """The generator's image of the encoder's code, the code moved nearer the image by some gradient steps where asked.

    Without steps it is differentiable as it stands. With steps it lends the gradient of the same without them.

    Args:
        generator, encoder: trained; shared, not copied, put into evaluation mode and frozen.
        steps: on the distance to the image; 0 in the paper's fast form, 200 to 1000 in the authors' code.
        rate: of the steps, in units of the code.

    Raises:
        SettingsError: a negative number of steps, or a rate that is not positive.
    """

    def __init__(self, generator: Generator, encoder: Encoder, *, steps: int = 0, rate: float = RATE) -> None:
        super().__init__()
        _check(steps, rate, fewest=0)
        self.generator, self.encoder, self.steps, self.rate = generator, encoder, int(steps), float(rate)
        self.differentiable = not steps
        self.requires_grad_(False).eval()

    @staticmethod
    def blank(*, channels: int, side: int, latent: int, width: int, steps: int, rate: float) -> InvGan:
        """One of these settings whose networks have learnt nothing."""
        generator, encoder = Generator(channels, side, latent, width), Encoder(channels, side, latent, width)
        return InvGan(generator, encoder, steps=steps, rate=rate)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, side, side)` in [0, 1] to the generator's.

        Raises:
            ImageError: another number of channels, or another side.
        """
        _check_images(images, self.generator)
        codes = self.encoder(images)
        direct: Tensor = self.generator(codes)
        if not self.steps:
            return direct
        return lend(_made(self.generator, project(self.generator, images, codes, self.steps, self.rate)), direct)

    def settings(self) -> dict[str, Any]:
        """The networks' sizes, steps and rate; the weights travel as tensors."""
        return {**self.generator.settings(), "steps": self.steps, "rate": self.rate}

    def train(self, mode: bool = True) -> InvGan:  # noqa: ARG002 - whatever is learnt behind it, it stays as it is
        """Stay in evaluation mode."""
        return super().train(False)

    def __repr__(self) -> str:
        """The settings in one line, as a card's description has it."""
        return f"InvGan({self.extra_repr()})"


class DefenseGan(Step):
    """The nearest image that gradient steps from several starts find among the generator's; lends the identity's gradient.

    Args:
        generator: trained; shared, not copied, put into evaluation mode and frozen.
        restarts: starts, of which the one that comes nearest counts.
        steps: on the distance to the image, from each.
        rate: of the steps, in units of the code.
        seed: of the starts, which are the same for every image.

    Raises:
        SettingsError: no start or step, or a rate that is not positive.
    """

    differentiable = False

    def __init__(
        self, generator: Generator, *, restarts: int = RESTARTS, steps: int = STEPS, rate: float = RATE, seed: int = 0
    ) -> None:
        super().__init__()
        _check(steps, rate, fewest=1)
        if restarts < 1:
            raise SettingsError(f"a projection needs at least one start, got restarts={restarts}")
        self.generator, self.restarts, self.steps = generator, int(restarts), int(steps)
        self.rate, self.seed = float(rate), int(seed)
        self.requires_grad_(False).eval()

    @staticmethod
    def blank(
        *, channels: int, side: int, latent: int, width: int, restarts: int, steps: int, rate: float, seed: int
    ) -> DefenseGan:
        """One of these settings whose generator has learnt nothing."""
        generator = Generator(channels, side, latent, width)
        return DefenseGan(generator, restarts=restarts, steps=steps, rate=rate, seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, side, side)` in [0, 1] to the generator's.

        Raises:
            ImageError: another number of channels, or another side.
        """
        _check_images(images, self.generator)
        luck = torch.Generator().manual_seed(self.seed)
        starts = torch.randn(self.restarts, self.generator.latent, generator=luck).to(images)
        best, least = torch.zeros_like(images), images.new_full((len(images),), math.inf)
        for start in starts:
            codes = project(self.generator, images, start.expand(len(images), -1), self.steps, self.rate)
            made = _made(self.generator, codes)
            error = _distances(made, images.detach())
            nearer = error < least
            best, least = torch.where(nearer[:, None, None, None], made, best), torch.where(nearer, error, least)
        return lend(best, images)

    def settings(self) -> dict[str, Any]:
        """The generator's size, restarts, steps, rate and seed; the weights travel as tensors."""
        own = {"restarts": self.restarts, "steps": self.steps, "rate": self.rate, "seed": self.seed}
        return {**self.generator.settings(), **own}

    def train(self, mode: bool = True) -> DefenseGan:  # noqa: ARG002 - whatever is learnt behind it, it stays as it is
        """Stay in evaluation mode."""
        return super().train(False)

    def __repr__(self) -> str:
        """The settings in one line, as a card's description has it."""
        return f"DefenseGan({self.extra_repr()})"


def project(generator: Generator, images: Tensor, start: Tensor, steps: int, rate: float) -> Tensor:
    """Move codes towards the images `(B, C, side, side)`: Adam on the mean square distance, each image by itself.

    Args:
        start: codes `(B, latent)`; left as they are.
        steps: gradients.
        rate: of the first step, in units of the code; it falls to nothing along a cosine.

    Returns:
        The last codes `(B, latent)`, without a gradient.
    """
    # Out of inference mode too, which no gradient can be taken in; what came in from there must be copied.
    with torch.inference_mode(False), torch.enable_grad():
        wanted, codes = images.detach().clone(), start.detach().clone()
        mean, square = torch.zeros_like(codes), torch.zeros_like(codes)
        for step in range(steps):
            codes.requires_grad_()
            (gradient,) = torch.autograd.grad(_distances(generator(codes), wanted).sum(), codes)
            mean, square = mean.lerp(gradient, 1 - _BETA), square.lerp(gradient.square(), 1 - _SQUARED)
            speed = rate * (1 + math.cos(math.pi * step / steps)) / 2 / (1 - _BETA ** (step + 1))
            root = (square / (1 - _SQUARED ** (step + 1))).sqrt() + _TINY
            codes = (codes - speed * mean / root).detach()
        return codes


@torch.no_grad()
def _made(generator: Generator, codes: Tensor) -> Tensor:
    images: Tensor = generator(codes)
    return images


def _distances(made: Tensor, images: Tensor) -> Tensor:
    """Mean square difference of each image, `(B,)`."""
    return (made - images).square().flatten(1).mean(1)


def _shrinking(
    channels: int, widths: list[int], answers: int, norm: Callable[[nn.Module], nn.Module], batch_norm: bool
) -> nn.Sequential:
    """Convolutions that halve the side down to 4 px, and a linear layer."""
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *widths]):
        layers.append(norm(nn.Conv2d(before, after, 4, 2, 1)))
        layers += [nn.BatchNorm2d(after)] if batch_norm else []
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Flatten(), norm(nn.Linear(widths[-1] * SMALLEST**2, answers)))


def _widths(channels: int, side: int, latent: int, width: int) -> list[int]:
    """Channels of the maps from half the side down to 4 px."""
    doublings = round(math.log2(max(side, 1) / SMALLEST))
    if doublings < 1 or SMALLEST * 2**doublings != side:
        raise SettingsError(f"a generator's side is 8, 16, 32, 64, 128 or a larger power of two, got {side}")
    if min(channels, latent, width) < 1:
        raise SettingsError(f"a generator needs channels, a code and a width of at least 1, got {channels}, {latent}, {width}")
    return [width * 2 ** min(level, 3) for level in range(doublings)]


def _check(steps: int, rate: float, *, fewest: int) -> None:
    if steps < fewest or not 0 < rate < math.inf:
        raise SettingsError(f"a projection needs at least {fewest} steps at a rate above 0, got steps={steps}, rate={rate}")


def _check_images(images: Tensor, generator: Generator) -> None:
    wanted = (generator.channels, generator.side, generator.side)
    if images.ndim != 4 or images.shape[1:] != wanted:
        raise ImageError(
            f"this purifier takes images (B, {', '.join(map(str, wanted))}), as its generator makes them, got "
            f"{tuple(images.shape)}; put Resize(({generator.side}, {generator.side})) in front of it"
        )
