"""Grad-CAM: the maps of a late layer, weighed by how much each of them raises the class.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, https://arxiv.org/abs/1610.02391. Their scale, which the paper leaves open, is a largest value of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from antivenom.errors import LabelError, ModelError
from antivenom.explanation.feature_maps import check_images, device_of, network, over_image
from antivenom.models.classifier import AT_ONCE, check_ready
from antivenom.models.layers import select, watching


def grad_cam(model: nn.Module, images: Tensor, *, classes: Tensor | None = None, layer: str | None = None) -> Tensor:
    """Map what speaks for a class, over each image as it is stored.

    The model is left exactly as it was. Neither its weights nor the images need a gradient, and preprocessing needs none
    either: the gradient goes back to the layer and no further.

    Args:
        model: a `Classifier`, or any module of images to logits `(B, A)`; in evaluation mode.
        images: `(B, C, H, W)` in [0, 1], on any device; a bounded number is run at a time.
        classes: `(B,)` integers, the class to explain; None: the one with the highest logit, of findings too. To compare maps
            of a clean and an attacked image, give both the same.
        layer: name of a layer that puts out maps; None: `last_map`.

    Returns:
        `(B, H, W)` in [0, 1], float32 on the CPU, the largest value of each map 1; all 0 where nothing speaks for the class.

    Raises:
        ImageError: no images, or of another shape.
        LabelError: classes that do not fit.
        ModelError: no such layer, one that puts out no maps, or one that the answer does not depend on; training mode.

    >>> pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    >>> network, images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *pooled).eval(), torch.rand(2, 1, 8, 6)
    >>> tuple(grad_cam(network, images).shape), last_map(network, images)
    ((2, 8, 6), '1')
    """
    check_images(images)
    check_ready(model)
    name = last_map(model, images) if layer is None else layer
    select(network(model), [name])
    check_classes(classes, len(images))
    parts = torch.split(images, AT_ONCE)
    wanted = [None] * len(parts) if classes is None else torch.split(classes, AT_ONCE)
    return torch.cat([_maps(model, name, part, own) for part, own in zip(parts, wanted, strict=True)])


def last_map(model: nn.Module, images: Tensor) -> str:
    """Name the last layer whose output is a map `(B, K, h, w)` of more than one pixel; failing that, of one.

    It is found by running the first image once. A map is only as fine as its layer: a ResNet at 64 px ends in 2 x 2 pixels,
    which tell one quarter of the image from another and no more, so name an earlier layer or use a finer stem. Of a VGG the
    last map is that of the last pooling; the layer before it gives a finer one. A network of tokens may have no map but its
    patches, which are early: name a layer there.

    Raises:
        ModelError: there is none.
    """
    seen: dict[bool, str] = {}

    def note(name: str, answer: Tensor) -> None:
        if answer.ndim == 4 and answer.is_floating_point():
            seen[answer.shape[-2:].numel() > 1] = name

    layers = {name: module for name, module in network(model).named_modules() if name}
    with torch.no_grad(), watching(layers, note):
        model(images[:1].to(device_of(model)))
    if not seen:
        raise ModelError(f"no layer of {type(network(model)).__name__} puts out maps (B, K, h, w), so it has no Grad-CAM")
    return seen.get(True, seen.get(False, ""))


def check_classes(classes: Tensor | None, images: int) -> None:
    """Refuse classes that are not one whole number per image.

    Raises:
        LabelError: naming what does not fit.
    """
    if classes is None:
        return
    if classes.is_floating_point() or classes.dtype == torch.bool or tuple(classes.shape) != (images,):
        raise LabelError(f"classes are whole numbers ({images},), got {classes.dtype} of shape {tuple(classes.shape)}")


def logits_of(answer: Tensor, classes: Tensor | None) -> Tensor:
    """The logits `(B,)` of these classes in an answer `(B, A)`; of the highest ones where None.

    Raises:
        LabelError: a class that the model does not have.
        ModelError: the answer cannot be differentiated.
    """
    if not answer.requires_grad:
        raise ModelError("this model's answer has no gradient, and without one there is nothing to map")
    if classes is None:
        return answer.amax(1)
    if not (classes.min() >= 0 and classes.max() < answer.shape[1]):
        raise LabelError(f"classes must lie in 0..{answer.shape[1] - 1}, got {int(classes.min())}..{int(classes.max())}")
    return answer.gather(1, classes.to(answer.device, torch.int64)[:, None])[:, 0]


def to_largest(maps: Tensor) -> Tensor:
    """Scale maps `(B, H, W)`, none negative, to a largest value of 1; what is all 0 stays so."""
    largest = maps.flatten(1).amax(1)[:, None, None]
    return maps / largest.where(largest != 0, 1)


def _maps(model: nn.Module, name: str, images: Tensor, classes: Tensor | None) -> Tensor:
    seen: list[Tensor] = []

    def note(_: str, answer: Tensor) -> Tensor | None:
        if answer.ndim != 4 or not answer.is_floating_point():
            return None
        # The gradient begins here, whatever lies before; a copy goes on, since the next layer may write into it.
        seen[:] = [answer.detach().requires_grad_()]
        return seen[0].clone()

    with torch.enable_grad(), watching(select(network(model), [name]), note):
        answer = model(images.detach().to(device_of(model)))
        if not seen:
            raise ModelError(f"{name} puts out no maps (B, K, h, w); name a layer before the maps are pooled")
        logits = logits_of(answer, classes)
        (gradient,) = torch.autograd.grad(logits.sum(), seen[0], allow_unused=True)
    if gradient is None:
        raise ModelError(f"the answer does not depend on what {name} puts out; name another layer")
    weights = gradient.float().mean((2, 3), keepdim=True)
    coarse = (weights * seen[0].detach().float()).sum(1).relu()
    return to_largest(over_image(model, images, coarse.cpu()))
