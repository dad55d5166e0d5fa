"""Transformations of an image with few parameters: what a technician, an exposure or a coil does, searched for its worst.

A transformation is no ball of pixels. Its parameters `theta` lie in [-1, 1], all zeros being the image itself, and epsilon
scales the limits that its fields state: 1 is all of them. Shapes: B images `(B, C, H, W)`; parameters `(B, *shape)`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.perturbations import TINY, Capability
from antivenom.threat.pixels import per_image

CUBIC = 4  # control points that a cubic spline needs


@dataclass(frozen=True)
class Transform(Capability):
    """What a transformation can make of an image. Its fields beside `epsilon` and `pixels` are its limits at epsilon 1."""

    additive: ClassVar[bool] = False  # whether epsilon is the largest change of a value, as that of `Linf`
    at_ends: ClassVar[bool] = False  # whether a search by chance does best at the ends of the parameters' range

    @abstractmethod
    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the parameters of one of these images."""

    @abstractmethod
    def change(self, x: Tensor, theta: Tensor) -> Tensor:
        """What the parameters, already scaled by epsilon, add to the image, region and range left aside; zeros add zeros."""

    def apply(self, x: Tensor, theta: Tensor) -> Tensor:
        """The images under these parameters, inside region and range; differentiable in `theta`.

        Args:
            x: `(B, C, H, W)`.
            theta: `(B, *shape)` in [-1, 1]; zeros give `x` to the last bit.
        """
        delta = self.change(x, theta * per_image(self.epsilon, theta))
        return x + self.pixels.clip(self.pixels.free(delta), x)

    def sample(self, x: Tensor, draws: Draws) -> Tensor:
        """Uniform draw of the parameters `(B, *shape)`."""
        return 1 - 2 * draws.uniform(*self.shape(x)).to(x)

    def guess(self, x: Tensor, draws: Draws) -> Tensor:
        """Parameters `(B, *shape)` that a search by chance tries: anywhere, or at the ends of their range."""
        anywhere = self.sample(x, draws)
        return (anywhere > 0).to(x) * 2 - 1 if self.at_ends else anywhere

    @property
    def farthest(self) -> float | Tensor:
        """How far any value can move; a number, or `(B,)`."""
        return self.epsilon if self.additive else self.pixels.high - self.pixels.low

    @property
    def most(self) -> float:
        """The epsilon beyond which the stated limits would not hold."""
        return math.inf if self.additive else 1.0

    @classmethod
    def limits(cls) -> dict[str, Any]:
        """The limits by name, with their usual values."""
        return {limit.name: limit.default for limit in fields(cls) if limit.name not in ("epsilon", "pixels")}

    def describe(self) -> str:
        """Kind, limits that are not the usual ones, and pixels.

        >>> Placement(1.0, degrees=30.0).describe()
        'placement, degrees 30.0'
        """
        others = (f"{name} {getattr(self, name)}" for name, usual in self.limits().items() if getattr(self, name) != usual)
        return ", ".join(filter(None, (self.name, *others, self.pixels.describe())))

    def __post_init__(self) -> None:
        """Refuse limits that are none.

        Raises:
            SettingsError: one is negative or not finite.
        """
        for name in self.limits():
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} of the {self.name} must be finite and not negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class Placement(Transform):
    """Turned about its middle and shifted down and across, as a patient is placed. Parameters: turn, down, across.

    Bilinear; what comes in from outside is the image reflected at its border. A radiograph goes on beyond its edge, and a black
    surround stays black; black corners on an image without any would be a mark that no placement leaves.

    Attributes:
        degrees: of the turn, either way.
        shift: share of the side, either way.
    """

    # Both as far as the recipes here move training images; Engstrom et al. 2019 go to 30 degrees and a tenth of the side.
    degrees: float = 10.0
    shift: float = 0.05
    name: ClassVar[str] = "placement"

    def shape(self, x: Tensor) -> tuple[int, ...]:  # noqa: ARG002 - the same for every image
        return (3,)

    def change(self, x: Tensor, theta: Tensor) -> Tensor:
        # Against the same sampling at rest, whose rounded coordinates do not quite meet the pixels either.
        return self._moved(x, theta) - self._moved(x, torch.zeros_like(theta))

    def _moved(self, x: Tensor, theta: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        angle, down, across = math.radians(self.degrees) * theta[:, 0], *(2 * self.shift * theta[:, 1:]).unbind(1)
        cos, sin = angle.cos(), angle.sin()
        # In grid units the sides are alike; pixels are not, so a turn of an oblong image is sheared by its aspect.
        rows = torch.stack([cos, -sin * height / width, across, sin * width / height, cos, down], 1).reshape(-1, 2, 3)
        where = F.affine_grid(rows, list(x.shape), align_corners=False)
        return F.grid_sample(x, where, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Exposure(Transform):
    """Gamma, then contrast about the image's mean, then brightness, alike in all pixels. Parameters in that order.

    Attributes:
        gamma: of the exponent's logarithm, either way.
        contrast: by which the distance from the mean grows or shrinks.
        brightness: by which all values grow or shrink, measured from the low end of the range: black stays black.
    """

    # nnU-Net trains on exponents of 0.7 to 1.5 and on contrast and brightness of 0.75 to 1.25 for every modality (Isensee et
    # al., "nnU-Net", Nature Methods 2021, and its code); exp(0.35) is 1.42.
    gamma: float = 0.35
    contrast: float = 0.25
    brightness: float = 0.25
    name: ClassVar[str] = "exposure"

    def shape(self, x: Tensor) -> tuple[int, ...]:  # noqa: ARG002 - the same for every image
        return (3,)

    def change(self, x: Tensor, theta: Tensor) -> Tensor:
        low, span = per_image(self.pixels.low, x), per_image(self.pixels.high - self.pixels.low, x)
        gamma, contrast, brightness = theta[:, :, None, None, None].unbind(1)
        clean = (x - low) / span
        # As a factor, which is 1 exactly where the exponent is; a power of 1 need not give back the value.
        bent = clean * (torch.expm1(self.gamma * gamma) * clean.clamp_min(TINY).log()).exp()
        spread = bent + self.contrast * contrast * (bent - bent.mean((1, 2, 3), keepdim=True))
        return span * (spread * (1 + self.brightness * brightness) - clean)


@dataclass(frozen=True)
class BiasField(Transform):
    """A smooth field that every value is multiplied with, as of a receiver coil or an uneven beam. Parameters: control points.

    The field is the exponential of a cubic B-spline over the whole image, the same for all channels. Such a spline lies between
    its least and its largest control point, so that no value leaves exp(+-limit) times its own.

    Chen, Qin, Qiu, Ouyang, Wang, Chen, Tarroni, Bai, Rueckert, "Realistic Adversarial Data Augmentation for MR Image
    Segmentation", MICCAI 2020, https://arxiv.org/abs/2006.13322
    Tian, Guo, Juefei-Xu, Chan, Cheng, Li, Xie, Qin, "Bias Field Poses a Threat to DNN-based X-Ray Recognition", ICME 2021,
    https://arxiv.org/abs/2009.09247

    Attributes:
        limit: of the field's logarithm.
        knots: control points along each side, at least 4; with 4 the field is one bicubic polynomial.
    """

    # Both as in the code of Chen et al.: a magnitude of 0.3 in log space, and 4 points along a side of 128 pixels.
    limit: float = 0.3
    knots: int = 4
    name: ClassVar[str] = "bias field"

    def __post_init__(self) -> None:
        """Refuse too few control points."""
        super().__post_init__()
        if self.knots < CUBIC:
            raise SettingsError(f"a cubic field needs at least {CUBIC} knots along a side, got {self.knots}")

    def shape(self, x: Tensor) -> tuple[int, ...]:  # noqa: ARG002 - the same for every image
        return (self.knots, self.knots)

    def change(self, x: Tensor, theta: Tensor) -> Tensor:
        down, across = (_spline(side, self.knots).to(theta) for side in x.shape[-2:])
        field = self.limit * (down @ theta @ across.T)
        return (x - per_image(self.pixels.low, x)) * torch.expm1(field)[:, None]


@dataclass(frozen=True)
class Stripes(Transform):
    """One change for each column (and channel), the same in all its rows: sahu2024's vertical perturbation, read as an image.

    Parameters: one per column and channel, or per column where channels are tied. Epsilon is the largest change of a value, in
    units of the range, as that of `Linf`.

    Sahu et al., "Adversarial Attacks on Medical Image Diagnosis Models and its Mitigation Techniques", 2024,
    https://doi.org/10.55248/gengpi.5.0324.0774
    """

    name: ClassVar[str] = "stripes"
    additive: ClassVar[bool] = True
    at_ends: ClassVar[bool] = True  # as Square begins (Andriushchenko et al. 2020)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return (1 if self.pixels.tied else x.shape[1], x.shape[3])

    def change(self, x: Tensor, theta: Tensor) -> Tensor:
        return theta[:, :, None, :].expand_as(x)


def _spline(side: int, knots: int) -> Tensor:
    """Weights `(side, knots)` of a uniform cubic B-spline in the middle of each pixel: none below 0, each row adds up to 1."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side * (knots - 3)
    away = (place[:, None] - torch.arange(-1.0, knots - 1, dtype=torch.float64)).abs()
    return torch.where(away < 1, 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp_min(0) ** 3 / 6)


TRANSFORMS: dict[str, type[Transform]] = {kind.name: kind for kind in (Placement, Exposure, BiasField, Stripes)}
