"""Saliency: how steeply a class's logit rises with each pixel, plainly or averaged over noisy copies of the image.

Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps",
ICLR workshop 2014, https://arxiv.org/abs/1312.6034
Smilkov, Thorat, Kim, Viégas, Wattenberg, "SmoothGrad: removing noise by adding noise", 2017, https://arxiv.org/abs/1706.03825:
signed gradients are averaged, and their size is taken afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from antivenom.errors import ModelError, SettingsError
from antivenom.explanation.feature_maps import check_images, device_of
from antivenom.explanation.grad_cam import check_classes, logits_of, to_largest
from antivenom.models.classifier import AT_ONCE, check_ready
from antivenom.randomness import Draws


def saliency(model: nn.Module, images: Tensor, *, classes: Tensor | None = None) -> Tensor:
    """Map the size of a logit's gradient at each pixel, the largest over channels.

    Where preprocessing lends a stand-in gradient (`Classifier.differentiable` is False), so is the map.

    Args:
        model: a `Classifier`, or any module of images to logits `(B, A)`; in evaluation mode, left as it was.
        images: `(B, C, H, W)` in [0, 1], on any device; a bounded number is run at a time.
        classes: `(B,)` integers, the class to explain; None: the one with the highest logit.

    Returns:
        `(B, H, W)` in [0, 1], float32 on the CPU, the largest value of each map 1; all 0 where the gradient is 0.

    Raises:
        ImageError: no images, or of another shape.
        LabelError: classes that do not fit.
        ModelError: the answer has no gradient by the image; training mode.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    >>> with torch.no_grad():
    ...     _ = network[1].weight.copy_(torch.tensor([[0.0, -2, 1, 0], [1, 0, 0, 0]]))
    >>> saliency(network, torch.rand(1, 1, 2, 2), classes=torch.tensor([0])).tolist()
    [[[0.0, 1.0], [0.5, 0.0]]]
    """
    _check(model, images, classes)
    return _sizes(gradients(model, images, classes))


def smooth_saliency(
    model: nn.Module,
    images: Tensor,
    *,
    classes: Tensor | None = None,
    samples: int = 50,
    noise: float = 0.15,
    draws: Draws,
) -> Tensor:
    """Map the size of a logit's gradient, averaged over noisy copies of each image; else as `saliency`.

    Args:
        model, images, classes: as for `saliency`; where classes are None, the highest logit of the image without noise.
        samples: noisy copies of each image; 50 in the paper.
        noise: standard deviation of the Gaussian noise, as a share of the image's own range of values; 0.1 to 0.2 in the
            paper. Noisy copies may leave [0, 1].
        draws: the only source of randomness, one stream per image.

    Raises:
        ImageError, LabelError, ModelError: as `saliency`.
        SettingsError: no sample, negative noise, or another number of streams than of images.
    """
    _check(model, images, classes)
    if samples < 1 or not noise >= 0 or len(draws) != len(images):
        raise SettingsError(
            f"smoothing needs samples >= 1, noise >= 0 and a stream per image, got samples={samples}, noise={noise} "
            f"and {len(draws)} streams for {len(images)} images"
        )
    if classes is None:
        classes = _highest(model, images)
    values = images.flatten(1)
    spread = noise * (values.amax(1) - values.amin(1))[:, None, None, None]
    total = torch.zeros(images.shape)
    for sample in range(samples):
        shaken = images + spread * draws.at(sample).normal(*images.shape[1:]).to(images)
        total += gradients(model, shaken, classes)
    return _sizes(total / samples)


def gradients(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """The gradient of a logit by the image, signed, `(B, C, H, W)` in float32 on the CPU; arguments as for `saliency`."""
    parts = torch.split(images, AT_ONCE)
    wanted = [None] * len(parts) if classes is None else torch.split(classes, AT_ONCE)
    return torch.cat([_gradient(model, part, own) for part, own in zip(parts, wanted, strict=True)])


def _gradient(model: nn.Module, images: Tensor, classes: Tensor | None) -> Tensor:
    z = images.detach().to(device_of(model), copy=True).requires_grad_()
    with torch.enable_grad():
        logits = logits_of(model(z), classes)
        (gradient,) = torch.autograd.grad(logits.sum(), z, allow_unused=True)
    if gradient is None:
        raise ModelError("this model's answer does not depend on the image by any gradient, so it has no saliency")
    found: Tensor = gradient.float().cpu()
    return found


@torch.no_grad()
def _highest(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part.to(device_of(model))).argmax(1).cpu() for part in torch.split(images, AT_ONCE)])


def _sizes(gradient: Tensor) -> Tensor:
    return to_largest(gradient.abs().amax(1))


def _check(model: nn.Module, images: Tensor, classes: Tensor | None) -> None:
    check_images(images)
    check_ready(model)
    check_classes(classes, len(images))
