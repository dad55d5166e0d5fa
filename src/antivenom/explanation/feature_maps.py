"""What the layers of a network put out on given images, read while it runs and leaving it as it was.

Li, Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020, https://doi.org/10.1109/ISBI45749.2020.9098628:
maps of the first block on a clean and on an attacked image, side by side (their Figure 2a).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antivenom.errors import ImageError, ModelError
from antivenom.models.classifier import AT_ONCE, Classifier, check_ready
from antivenom.models.layers import named_layers, select, watching
from antivenom.models.presentation import CentreCrop

Wanted = str | Sequence[str] | Callable[[str, nn.Module], bool]


def layer_outputs(model: nn.Module, images: Tensor, wanted: Wanted) -> dict[str, Tensor]:
    """Read what some layers put out, by name, in the order in which they first ran.

    Args:
        model: a `Classifier`, whose layers are named as its backbone names them, or any other module; in evaluation mode.
        images: `(B, C, H, W)` in [0, 1], on any device; a bounded number is run at a time.
        wanted: one name or several, or a function of name and layer that says which.

    Returns:
        What each layer put out last, `(B, ...)` in float32 on the CPU. Of layers that a function chose, those that did not run
        or put out something else than one tensor with a row per image are left out.

    Raises:
        ImageError: no images, or of another shape.
        ModelError: no layer of that name, or it gave nothing to read; the model is in training mode.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2)).eval()
    >>> {name: tuple(seen.shape) for name, seen in layer_outputs(network, torch.rand(5, 1, 4, 4), ["0", "3"]).items()}
    {'0': (5, 2, 2, 2), '3': (5, 2)}
    """
    check_images(images)
    check_ready(model)
    if callable(wanted):
        layers = {name: layer for name, layer in named_layers(network(model)).items() if wanted(name, layer)}
    else:
        layers = select(network(model), [wanted] if isinstance(wanted, str) else wanted)
    parts = [_run(model, part, layers) for part in torch.split(images, AT_ONCE)]
    silent = [name for name in layers if not all(name in part for part in parts)]
    if silent and not callable(wanted):
        raise ModelError(f"{silent[0]} did not run, or put out something else than a tensor with a row per image; name another")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name not in silent}


def feature_maps(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Read the maps of one layer, `(B, K, h, w)` in float32 on the CPU.

    Args:
        model, images: as for `layer_outputs`.
        layer: its name; the first block is `layer1` in a ResNet, `features.denseblock1` in a DenseNet and `blocks.0` in an
            EfficientNet.

    Raises:
        ImageError, ModelError: as `layer_outputs`; or the layer puts out something else than maps.
    """
    maps = layer_outputs(model, images, layer)[layer]
    if maps.ndim != 4:
        raise ModelError(f"{layer} puts out {tuple(maps.shape)}, no maps (B, K, h, w); name a layer before the maps are pooled")
    return maps


def liveliest(maps: Tensor, most: int = 16) -> Tensor:
    """Choose the maps that vary most from place to place, on average over images: those worth showing.

    Choose on clean images and show the same maps of the attacked ones, `maps[:, chosen]`.

    Args:
        maps: `(B, K, h, w)`.
        most: how many, at most.

    Returns:
        Their numbers, the liveliest first; the first of equals.

    >>> liveliest(torch.tensor([[[[0.0, 1.0]], [[3.0, 3.0]], [[-5.0, 5.0]]]]), most=2).tolist()
    [2, 0]
    """
    variance = maps.flatten(2).var(2, correction=0).mean(0)
    return variance.argsort(descending=True, stable=True)[:most]


def over_image(model: nn.Module, images: Tensor, maps: Tensor) -> Tensor:
    """Lay maps of what the network saw over the image as it is stored, bilinearly; 0 where a centre crop hid it.

    A `Pipeline` of the user's own is taken for one that keeps the whole image: what it crops off cannot be known.

    Args:
        model: what the maps are of; preprocessing is that of a `Classifier`.
        images: as stored, `(B, C, H, W)`.
        maps: `(B, h, w)`.

    Returns:
        `(B, H, W)`.
    """
    for before, after in reversed(_crops(model, images)):
        maps = _resampled(maps, after)
        top, left = (before[0] - after[0]) // 2, (before[1] - after[1]) // 2
        maps = F.pad(maps, (left, before[1] - after[1] - left, top, before[0] - after[0] - top))
    return _resampled(maps, (images.shape[-2], images.shape[-1]))


def network(model: nn.Module) -> nn.Module:
    """The part that has layers to name: the backbone of a `Classifier`, any other module itself."""
    return model.backbone if isinstance(model, Classifier) else model


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        ImageError: not `(B, C, H, W)`, or none of them.
    """
    if images.ndim != 4 or not len(images):
        raise ImageError(
            f"expected images (B, C, H, W), at least one, got {tuple(images.shape)}; give one image as image[None]"
        )


@torch.no_grad()
def _run(model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def note(name: str, answer: Tensor) -> None:
        if answer.ndim and len(answer) == len(images):
            # A copy: the next layer may write into it.
            seen[name] = answer.detach().to("cpu", torch.float32, copy=True)

    with watching(layers, note):
        model(images.to(device_of(model)))
    return seen


@torch.no_grad()
def _crops(model: nn.Module, images: Tensor) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Sizes before and after each centre crop in the preprocessing, in order."""
    crops, image = [], images[:1]
    for step in model.own_steps if isinstance(model, Classifier) else ():
        before, image = (image.shape[-2], image.shape[-1]), step(image)
        if isinstance(step, CentreCrop):
            crops.append((before, (image.shape[-2], image.shape[-1])))
    return crops


def _resampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
