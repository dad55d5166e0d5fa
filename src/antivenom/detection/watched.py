"""A classifier with its detectors as one model that attacks can climb: images to logits and scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from antivenom.detection.detector import Detector
from antivenom.detection.reading import Reading, Sensor


class Watched(nn.Module):
    """Answer images with `[logits | scores]`, or `[logits | scores | features]`, from one forward pass.

    A score stands as its distance from the threshold in units of `scale`: above 0 the detector notices the image.

    Args:
        sensor: reads the layers of all detectors.
        detectors: at least one, in the order of their columns.
        thresholds: of each, as its scores are.
        scales: of each: a spread of the scores of clean images.
        layer: whose activations are put out as well; None: those of none.
    """

    thresholds: Tensor
    scales: Tensor

    def __init__(
        self,
        sensor: Sensor,
        detectors: Sequence[Detector],
        thresholds: Sequence[float],
        scales: Sequence[float],
        *,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        self.sensor, self.detectors, self.layer = sensor, nn.ModuleList(detectors), layer
        self.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float64), persistent=False)
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float64), persistent=False)
        self.training = sensor.training
        self.detectors.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Answer images `(B, C, H, W)` with `(B, A + S)`, or with the features behind it `(B, A + S + D)`."""
        reading: Reading = self.sensor(images)
        scores = torch.stack([detector(reading).double() for detector in self.detectors], 1)
        columns = [reading.logits, ((scores - self.thresholds) / self.scales).to(reading.logits.dtype)]
        return torch.cat(columns if self.layer is None else [*columns, reading.layer(self.layer)], 1)
