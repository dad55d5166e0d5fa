"""The steps that a card can name: what is not in this table is code of the user's own and is not rebuilt."""

from __future__ import annotations

from collections.abc import Callable

from antivenom.models.autoencoder import Denoiser
from antivenom.models.classifier import Step
from antivenom.models.inversion import DefenseGan, InvGan
from antivenom.models.presentation import CentreCrop, Clahe, Resize, Window
from antivenom.models.transforms import BitDepth, Jpeg, Median, TotalVariation

# By the name of the class, what makes a step of its settings; tensors that it has learnt are put in afterwards.
STEPS: dict[str, Callable[..., Step]] = {
    "Window": Window,
    "Resize": Resize,
    "CentreCrop": CentreCrop,
    "Clahe": Clahe,
    "Jpeg": Jpeg,
    "BitDepth": BitDepth,
    "Median": Median,
    "TotalVariation": TotalVariation,
    "Denoiser": Denoiser,
    "InvGan": InvGan.blank,
    "DefenseGan": DefenseGan.blank,
}
