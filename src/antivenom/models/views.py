"""A classifier that looks at several crops and rotations of an image and answers with the mean.

Guo, Rana, Cissé, van der Maaten, "Countering Adversarial Images using Input Transformations", ICLR 2018,
https://arxiv.org/abs/1711.00117, average over random crops. Here the views are drawn once, from a seed, and are the same for
every image: the answer is deterministic, its gradient exact, and no attack needs an expectation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antivenom.errors import SettingsError
from antivenom.models.classifier import Classifier
from antivenom.randomness import Draws


class ViewEnsemble(Classifier):
    """The mean of a classifier's logits over fixed views of the image: again a classifier.

    For one of several classes, means of logits and of log-probabilities differ by one number per image, which no class
    and no margin sees; for findings the logits are log-odds. One view is the image itself; it is looked at last, so
    `features` are the image's own.

    A checkpoint keeps the classifier and, on its card, the settings of the views; both come back together.

    Args:
        classifier: what answers, with its preprocessing; shared, not copied.
        views: how many, the image itself among them.
        crop: share of the side that the other views keep, enlarged to the image's size.
        rotation: degrees, either way; what comes in from outside is the image reflected.
        seed: of the views.

    Raises:
        SettingsError: fewer than one view, or a crop or rotation that cannot be.

    >>> from antivenom.task import Task
    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    >>> inner = Classifier(network, Task(("normal", "pneumonia")), channels=1, mean=0.5, std=0.25).eval()
    >>> model = ViewEnsemble(inner, views=3)
    >>> tuple(model(torch.rand(5, 1, 8, 8)).shape), model.differentiable
    ((5, 2), True)
    """

    def __init__(
        self, classifier: Classifier, *, views: int = 8, crop: float = 0.9, rotation: float = 10.0, seed: int = 0
    ) -> None:
        if views < 1 or not 0 < crop <= 1 or not 0 <= rotation <= 180:
            raise SettingsError(
                f"an ensemble of views needs a view, 0 < crop <= 1 and 0 <= rotation <= 180, got {views}, {crop}, {rotation}"
            )
        facts = classifier.describe()
        # In the notes, hence in the digest, since what stands here is the wrapper's.
        inside = ", ".join(f"{name} {facts[name]}" for name in ("size", "mean", "std", "copy_grey", "steps"))
        super().__init__(
            _Views(classifier, views, crop, rotation, seed),
            classifier.task,
            channels=classifier.channels,
            mean=0.0,
            std=1.0,
            architecture=f"{views} views of {classifier.architecture}",
            exact_gradient=classifier.differentiable,
            notes=[
                *classifier.notes,
                f"Its answer is the mean of logits over {views} views of the image (crop {crop}, rotation {rotation} degrees, "
                f"seed {seed}), each answered by {classifier.architecture} with {inside}.",
            ],
        )
        self._settings = {"views": views, "crop": crop, "rotation": rotation, "seed": seed}

    @property
    def classifier(self) -> Classifier:
        """What answers to each view."""
        assert isinstance(self.backbone, _Views)
        return self.backbone.classifier

    def settings(self) -> dict[str, Any]:
        """What rebuilds the ensemble around its classifier, as plain values."""
        return dict(self._settings)


class _Views(nn.Module):
    """Images to the mean logits over views, one view at a time so that memory does not grow with their number."""

    def __init__(self, classifier: Classifier, views: int, crop: float, rotation: float, seed: int) -> None:
        super().__init__()
        self.classifier, self.crop, self.training = classifier, crop, classifier.training
        either_way = 2 * Draws.of(seed, torch.arange(views - 1)).uniform(3).double() - 1
        self.angles = (math.radians(rotation) * either_way[:, 0]).tolist()
        self.centres = ((1 - crop) * either_way[:, 1:]).tolist()  # so far may the middle move in a side of 2

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` to logits `(B, A)`."""
        total = images.new_zeros(())
        for angle, (across, down) in zip(self.angles, self.centres, strict=True):
            total = total + self.classifier(self._view(images, angle, across, down))
        answer: Tensor = (total + self.classifier(images)) / (1 + len(self.angles))
        return answer

    def _view(self, images: Tensor, angle: float, across: float, down: float) -> Tensor:
        height, width = images.shape[-2:]
        cos, sin = self.crop * math.cos(angle), self.crop * math.sin(angle)
        # In grid units the sides are alike; pixels are not, so a turn of an oblong image is sheared by its aspect.
        rows = [[cos, -sin * height / width, across], [sin * width / height, cos, down]]
        where = F.affine_grid(images.new_tensor(rows).expand(len(images), -1, -1), list(images.shape), align_corners=False)
        return F.grid_sample(images, where, mode="bilinear", padding_mode="reflection", align_corners=False)
