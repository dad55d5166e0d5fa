"""A smooth border around most of the clean images: a one-class support vector machine with a Gaussian kernel.

Schölkopf, Platt, Shawe-Taylor, Smola, Williamson, "Estimating the Support of a High-Dimensional Distribution", Neural
Computation 13, 2001, https://doi.org/10.1162/089976601750264965; fitted by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from antivenom.detection.bank import MOST, gather, squared_distances, squares, unless_odd, wide
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading
from antivenom.errors import InputError, SettingsError


class OneClassSvm(Detector):
    """`rho - sum(weights * exp(-gamma * |z - vectors|^2))`: above 0 outside the border; scikit-learn's `-decision_function`.

    Attributes:
        centre, scale: subtracted from the activations `(D,)`, and what they are divided by; 0 and 1 where not standardised.
        vectors: the support vectors `(N, D)`, after that.
        weights: their dual coefficients `(N,)`, in float64.
        gamma: of the kernel.
        rho: the offset.
    """

    centre: Tensor
    scale: Tensor
    vectors: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        gamma: float,
        rho: float,
        centre: Tensor,
        scale: Tensor,
        vectors: Tensor,
        weights: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.gamma, self.rho = gamma, rho
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.register_buffer("vectors", vectors)
        self.register_buffer("weights", weights)

    def settings(self) -> dict[str, Any]:
        """The layer, the kernel and the offset."""
        return {**super().settings(), "gamma": self.gamma, "rho": self.rho}

    def measure(self, reading: Reading) -> Tensor:
        """The score `(B,)`; at most rho, which an image far from all others has."""
        seen = wide(reading.layer(self.layers[0]))
        centre, scale, vectors, weights = (tensor.to(seen.dtype) for tensor in self.buffers())
        kernel = (-self.gamma * squared_distances((seen - centre) / scale, vectors, squares(vectors))).exp()
        return unless_odd(self.rho - kernel @ weights, seen)


def fit_one_class_svm(
    clean: Iterable[Reading],
    *,
    layer: str = FEATURES,
    nu: float = 0.1,
    gamma: float | None = None,
    standardised: bool = True,
    most: int = MOST,
    seed: int,
) -> OneClassSvm:
    """Draw the border.

    Far from all clean images the score levels off and its gradient vanishes: a score of rho says "far", not how far.

    Args:
        clean: readings of clean images, as a stream.
        layer: whose activations count.
        nu: about the share of the fitted images outside the border, and at least that of the support vectors.
        gamma: of the kernel; None: scikit-learn's "scale", 1 / (D * variance of all values).
        standardised: whether each value is first given mean 0 and variance 1: else those of large spread alone count.
        most: images kept; time grows with their square.
        seed: of the choice of the images.

    Raises:
        SettingsError: nu or gamma cannot be.
        InputError: fewer than 2 images that differ, or values that are not finite.
    """
    from sklearn.svm import OneClassSVM

    if not 0 < nu <= 1 or (gamma is not None and not gamma > 0):
        raise SettingsError(f"nu lies above 0 and up to 1 and gamma above 0, got nu={nu} and gamma={gamma}")
    bank = gather(clean, [layer], most, seed=seed).layer(layer)
    if len(bank) < 2 or bool((bank == bank[0]).all()):
        raise InputError(f"layer {layer!r} gives {len(bank)} clean image(s) and no two that differ; no border can be drawn")
    centre, scale = _mean_and_spread(bank) if standardised else (torch.zeros_like(bank[0]), torch.ones_like(bank[0]))
    points = (bank - centre) / scale
    width = gamma or 1 / (points.shape[1] * float(points.double().var(correction=0)))
    machine = OneClassSVM(kernel="rbf", nu=nu, gamma=width).fit(points.double().numpy())
    constant = int((bank == bank[0]).all(0).sum())
    notes = [f"{layer}: {constant} of {len(centre)} values were the same in all {len(bank)} clean images"] if constant else []
    return OneClassSvm(
        layers=[layer],
        widths=[len(centre)],
        notes=notes,
        gamma=float(width),
        rho=-float(machine.intercept_[0]),
        centre=centre,
        scale=scale,
        vectors=points[torch.from_numpy(machine.support_).long()],
        weights=torch.from_numpy(machine.dual_coef_[0].copy()),
    )


def _mean_and_spread(bank: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `(D,)`; of values that never change, a spread of 1."""
    exact = bank.double()
    constant = (bank == bank[0]).all(0)
    return exact.mean(0).float(), exact.std(0, correction=0).masked_fill(constant, 1).float()
