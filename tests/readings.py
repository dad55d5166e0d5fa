"""Readings without a classifier: clouds of features, one for each class, with logits that tell the classes apart."""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.detection.reading import Reading, batches


def clouds(count: int, width: int = 6, classes: int = 3, *, seed: int = 0, shift: float = 0.0, dtype=torch.float32) -> Reading:
    """So many images, spread 1 around a centre for each class; `shift` moves all of them away from there."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % classes
    centres = 4 * torch.eye(classes, width)
    features = centres[truth] + torch.randn(count, width, generator=generator) + shift
    logits = 4 * torch.nn.functional.one_hot(truth, classes) + torch.randn(count, classes, generator=generator)
    return Reading(logits.to(dtype), {"features": features.to(dtype)})


def stream(reading: Reading) -> list[Reading]:
    """It in batches of 32, to be read as often as one likes."""
    return list(batches(reading, 32))


def of(features: Tensor, classes: int = 3) -> Reading:
    """A reading of these features, of images that are all answered with the first class."""
    return Reading(torch.eye(classes)[0].expand(len(features), -1).to(features), {"features": features})
