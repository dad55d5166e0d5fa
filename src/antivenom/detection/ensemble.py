"""Several detectors as one: an image is as suspicious as the detector says to which it is most so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from antivenom.detection.detector import Detector, finite
from antivenom.detection.reading import Reading, batches
from antivenom.errors import InputError, SettingsError
from antivenom.models.classifier import AT_ONCE

HIGH = 0.95  # quantile of clean scores that becomes 1: of one-sided scores the upper half alone says how far is far
FEWEST = 20  # held-out images of which one lies above that quantile
LARGEST, MEAN = "largest", "mean"


class Ensemble(Detector):
    """The largest, or the mean, of the scores of detectors, each with its clean median at 0 and its 95th percentile at 1.

    It has a useful gradient where all of its detectors have one.

    Attributes:
        detectors: at least one, in the order of `centre` and `scale`.
        way: `largest` or `mean`.
        centre: what is subtracted from each score `(K,)`.
        scale: what it is then divided by `(K,)`.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, *, notes: Sequence[str] = (), way: str, detectors: Sequence[Detector], centre: Tensor, scale: Tensor
    ) -> None:
        widths = _widths(detectors)
        super().__init__(layers=list(widths), widths=list(widths.values()), notes=notes)
        if way not in {LARGEST, MEAN}:
            raise SettingsError(f"an ensemble takes the {LARGEST} score or the {MEAN}, got {way!r}")
        self.way, self.detectors = way, nn.ModuleList(detectors)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)

    @property
    def differentiable(self) -> bool:
        """Whether all of its detectors have a useful gradient."""
        return all(detector.differentiable for detector in self.detectors if isinstance(detector, Detector))

    def settings(self) -> dict[str, Any]:
        """The way; what rebuilds the detectors is theirs."""
        return {"notes": list(self.notes), "way": self.way}

    def measure(self, reading: Reading) -> Tensor:
        """The score `(B,)`; about 1 for the most suspicious of clean images."""
        scores = torch.stack([detector(reading) for detector in self.detectors], 1)
        even = (scores - self.centre.to(scores.dtype)) / self.scale.to(scores.dtype)
        return even.amax(1) if self.way == LARGEST else even.mean(1)


def fit_ensemble(detectors: Sequence[Detector], *, tune: Reading, way: str = LARGEST) -> Ensemble:
    """Bring the scores of fitted detectors to one scale.

    Args:
        detectors: at least one; which they are, and for how much each should count, is the caller's choice.
        tune: held-out clean images, at least 20, on which none of them was fitted.
        way: `largest`, which notices what any of them notices, or `mean`, which is steadier.

    Raises:
        InputError: too few images, scores that are not finite, or a detector to which most clean images are the same.
        SettingsError: no detector, or another way.
    """
    if len(tune) < FEWEST:
        raise InputError(f"an ensemble is brought to scale on at least {FEWEST} held-out clean images, got {len(tune)}")
    _widths(detectors)
    with torch.no_grad():
        parts = [torch.stack([detector(part).double() for detector in detectors], 1) for part in batches(tune, AT_ONCE)]
    scores = finite(torch.cat(parts), "the detectors' scores")
    centre, high = scores.quantile(torch.tensor([0.5, HIGH], dtype=torch.float64, device=scores.device), 0)
    flat = (high <= centre).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"detector {flat[0]} ({type(detectors[flat[0]]).__name__}) gives nearly all {len(tune)} images the same score; "
            "leave it out, or fit it anew"
        )
    few = [f"brought to scale on {len(tune)} images: the 95th percentile rests on few"] if len(tune) < 5 * FEWEST else []
    inner = [note for detector in detectors for note in detector.notes]
    return Ensemble(notes=[*dict.fromkeys(inner), *few], way=way, detectors=detectors, centre=centre, scale=high - centre)


def _widths(detectors: Sequence[Detector]) -> dict[str, int]:
    """How many values are expected of each layer.

    Raises:
        SettingsError: no detector.
        InputError: two expect another number of one layer.
    """
    if not detectors:
        raise SettingsError("an ensemble needs at least one detector")
    widths: dict[str, int] = {}
    for detector in detectors:
        for name, width in zip(detector.layers, detector.widths, strict=True):
            if widths.setdefault(name, width) != width:
                raise InputError(f"layer {name!r} has {widths[name]} values to one detector and {width} to another: two models")
    return widths
