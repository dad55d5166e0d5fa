"""The preprocessing in use, inside the classifier, so that what is audited is what runs.

A step without a gradient of its own runs exactly as it is, and the gradient passes through a stand-in of the same shape
(backward-pass differentiable approximation: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of
security", ICML 2018). Such a classifier says `differentiable = False`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.errors import ImageError, SettingsError
from antivenom.models.classifier import Classifier, Step

if TYPE_CHECKING:
    from PIL.Image import Image


class Presented(Classifier):
    """A classifier with preprocessing in front of its own: again a classifier, of the image as it is stored.

    Args:
        classifier: what answers; its backbone is shared, not copied.
        steps: what happens to the stored image first, in order.
        channels: of the stored image, where the steps change the number.

    >>> from torch import nn
    >>> from antivenom.task import Task
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> inner = Classifier(network, Task(("normal", "pneumonia")), channels=1, mean=0.5, std=0.25).eval()
    >>> model = Presented(inner, [Window(0.1, 0.9), Resize((4, 4))])
    >>> tuple(model(torch.rand(2, 1, 9, 9)).shape), model.differentiable
    ((2, 2), True)
    """

    def __init__(self, classifier: Classifier, steps: Sequence[Step], *, channels: int | None = None) -> None:
        super().__init__(
            classifier.backbone,
            classifier.task,
            channels=classifier.channels if channels is None else channels,
            mean=classifier.mean.flatten().tolist(),
            std=classifier.std.flatten().tolist(),
            architecture=classifier.architecture,
            size=classifier.size,
            smallest=classifier.smallest,
            copy_grey=classifier.copy_grey,
            steps=[*steps, *classifier.own_steps],
            exact_gradient=classifier.exact_gradient,
            notes=classifier.notes,
        )


class Window(Step):
    """Stretch the values between `low` and `high` to [0, 1] and clip the rest, as a display window does.

    Raises:
        SettingsError: not 0 <= low < high <= 1.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not 0 <= low < high <= 1:
            raise SettingsError(f"a window needs 0 <= low < high <= 1, got low={low}, high={high}")
        self.low, self.high = low, high

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] to the same in the window."""
        return ((images - self.low) / (self.high - self.low)).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Low and high."""
        return {"low": self.low, "high": self.high}


class Resize(Step):
    """Resample to `(height, width)`, bilinear with antialiasing."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = _size(size)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` to `(B, C, *size)`."""
        return F.interpolate(images, self.size, mode="bilinear", antialias=True)

    def settings(self) -> dict[str, Any]:
        """The size."""
        return {"size": list(self.size)}


class CentreCrop(Step):
    """Keep the middle `(height, width)`."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = _size(size)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` to `(B, C, *size)`.

        Raises:
            ImageError: the images are smaller.
        """
        (height, width), (tall, wide) = self.size, images.shape[-2:]
        if height > tall or width > wide:
            raise ImageError(f"cannot crop {height}x{width} out of {tall}x{wide}; resize the images first")
        top, left = (tall - height) // 2, (wide - width) // 2
        return images[..., top : top + height, left : left + width]

    def settings(self) -> dict[str, Any]:
        """The size."""
        return {"size": list(self.size)}


class Undifferentiable(Step):
    """A step that runs outside torch: exact in the forward pass, a stand-in for the gradient.

    The stand-in is the identity; where the step changes the size, bilinear resampling to the new one; where it turns grey into
    colour, a copy; where colour into grey, the mean.
    """

    differentiable = False

    @abstractmethod
    def exactly(self, image: Tensor) -> Tensor:
        """One image `(C, H, W)` in [0, 1], float32 on the CPU, as the step really leaves it."""

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` as the step leaves them."""
        exact = torch.stack([self.exactly(image) for image in images.detach().float().cpu()]).to(images)
        stand_in = images
        if exact.shape[-2:] != images.shape[-2:]:
            stand_in = F.interpolate(stand_in, exact.shape[-2:], mode="bilinear", antialias=True)
        if exact.shape[1] != images.shape[1]:
            stand_in = stand_in.mean(1, keepdim=True).expand(-1, exact.shape[1], -1, -1)
        return lend(exact, stand_in)


class Clahe(Undifferentiable):
    """Contrast-limited adaptive histogram equalisation by OpenCV on 8 bits; of a colour image, its lightness (CIELAB).

    Args:
        clip_limit: as OpenCV's `clipLimit`.
        tiles: rows and columns of tiles.

    Raises:
        SettingsError: OpenCV is not installed.
    """

    def __init__(self, clip_limit: float = 2.0, tiles: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        try:
            import cv2
        except ImportError:
            raise SettingsError("CLAHE needs OpenCV: pip install 'antivenom[clahe]'") from None
        self.clip_limit, self.tiles, self._cv2 = clip_limit, _size(tiles), cv2

    def exactly(self, image: Tensor) -> Tensor:
        """One image, equalised."""
        equalise = self._cv2.createCLAHE(clipLimit=self.clip_limit, tileGridSize=self.tiles[::-1]).apply
        pixels = to_bytes(image)
        if pixels.ndim == 2:
            equal = equalise(pixels)
        else:
            lab = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2LAB)
            lab[..., 0] = equalise(lab[..., 0])
            equal = self._cv2.cvtColor(lab, self._cv2.COLOR_LAB2RGB)
        return from_bytes(equal)

    def settings(self) -> dict[str, Any]:
        """Clip limit and tiles."""
        return {"clip_limit": self.clip_limit, "tiles": list(self.tiles)}


class Pipeline(Undifferentiable):
    """Any pipeline from a PIL image to a tensor `(C, H, W)` or a PIL image, such as a torchvision `Compose`.

    It sees the stored image with 8 bits, grey or RGB. Where it normalises, the classifier behind it has mean 0 and std 1.

    Args:
        pipeline: deterministic; every image comes out in the same shape.
    """

    def __init__(self, pipeline: Callable[[Image], Any]) -> None:
        super().__init__()
        self.pipeline = pipeline

    def exactly(self, image: Tensor) -> Tensor:
        """One image, through the pipeline.

        Raises:
            ImageError: it gave something else than a PIL image or a tensor `(C, H, W)`.
        """
        from PIL import Image

        result = self.pipeline(Image.fromarray(to_bytes(image)))
        if isinstance(result, Image.Image):
            return from_bytes(np.asarray(result.convert("L" if result.mode in {"1", "L"} else "RGB")))
        if not isinstance(result, Tensor) or result.ndim != 3:
            shape = f" of shape {tuple(result.shape)}" if isinstance(result, Tensor) else ""
            raise ImageError(f"the pipeline gave {type(result).__name__}{shape}; expected a PIL image or a tensor (C, H, W)")
        return result.float()

    def settings(self) -> None:
        """None: a pipeline is the user's own code."""

    def extra_repr(self) -> str:
        """The pipeline, without addresses in memory."""
        name = getattr(self.pipeline, "__qualname__", None)
        return name if isinstance(name, str) else " ".join(repr(self.pipeline).split())


def lend(exact: Tensor, stand_in: Tensor) -> Tensor:
    """The value of `exact` and the gradient of `stand_in`, both of one shape.

    >>> x = torch.tensor([0.2, 0.7], requires_grad=True)
    >>> torch.autograd.grad(lend(x.detach().round(), 3 * x).sum(), x)[0].tolist()
    [3.0, 3.0]
    """
    result: Tensor = _Exactly.apply(exact, stand_in)
    return result


class _Exactly(torch.autograd.Function):
    """The first argument's value, the second's gradient."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, stand_in: Tensor) -> Tensor:  # noqa: ARG004
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, gradient


def _size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SettingsError(f"a size is (height, width) in pixels, got {size}")
    return int(size[0]), int(size[1])


def to_bytes(image: Tensor) -> np.ndarray[Any, Any]:
    """`(C, H, W)` in [0, 1] to 8 bits, `(H, W)` where grey, else `(H, W, 3)`."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    array: np.ndarray[Any, Any] = (pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy()
    return array


def from_bytes(pixels: np.ndarray[Any, Any]) -> Tensor:
    """8 bits to `(C, H, W)` in [0, 1]."""
    image = torch.from_numpy(np.array(pixels, dtype=np.float32) / np.float32(255))
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1).contiguous()
