"""One Gaussian over a classifier's features: how unlikely an image's are among those of clean images.

Li and Zhu, "Robust Detection of Adversarial Attacks on Medical Images", ISBI 2020,
https://doi.org/10.1109/ISBI45749.2020.9098628

The paper's log-likelihood has a misprint: it sums the diagonal of the Cholesky factor where the logarithm of the determinant
is twice the sum of its logarithms. The corrected one is meant here. The paper adds lambda to the diagonal and does not say how
much; here it is chosen by the likelihood of held-out images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from antivenom.detection.detector import Detector
from antivenom.detection.moments import Moments
from antivenom.detection.reading import FEATURES, Reading
from antivenom.detection.whitening import as_score, choose_shrinkage, enough, held_out_values, mapped, whiten


class Gaussian(Detector):
    """A multivariate normal distribution of one layer's values; the score is its negative log-likelihood, in nats.

    Args:
        layers, widths, notes: as any detector; one layer.
        shrinkage: what was added to each variance.
        mean: `(D,)`.
        whitening: `(D, D)`, inverse of the Cholesky factor of the covariance.
        log_determinant: scalar, of the covariance.

    The buffers may be float32 or float64; with either, float64 readings are scored in float64 arithmetic.
    """

    mean: Tensor
    _least: Tensor
    whitening: Tensor
    log_determinant: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        shrinkage: float,
        mean: Tensor,
        whitening: Tensor,
        log_determinant: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.shrinkage = shrinkage
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening)
        self.register_buffer("log_determinant", log_determinant)
        # The score at the mean itself.
        self.register_buffer("_least", (log_determinant + len(mean) * math.log(2 * math.pi)) / 2, persistent=False)

    def measure(self, reading: Reading) -> Tensor:
        """Negative log-likelihood `(B,)`."""
        values = reading.layer(self.layers[0])
        # Few operations: a guard in use pays for each.
        square = mapped(values, self.mean, self.whitening).square().sum(1)
        return as_score(torch.add(self._least, square, alpha=0.5), values)

    def settings(self) -> dict[str, Any]:
        """Those of any detector, and the shrinkage."""
        return {**super().settings(), "shrinkage": self.shrinkage}


def fit_gaussian(
    clean: Iterable[Reading],
    *,
    tune: Reading | None,
    layer: str = FEATURES,
    shrinkage: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Gaussian:
    """Fit mean and covariance (biased, plus shrinkage times the identity), in float64.

    Args:
        clean: readings of clean images; gone through once.
        tune: held-out clean images, by whose mean likelihood the shrinkage is chosen; None: a hundredth of the mean variance.
        layer: whose values are modelled.
        shrinkage: absolute, in the square of the values' unit, and used as it is. None: a power of ten between 1e-8 and 100
            times the mean variance (of the values that vary).
        dtype: of the buffers. float32 takes half the time and lies within 0.001 nats of float64 where variances span no more
            than six powers of ten (measured at 1024 values); float64 agrees with the textbook to 1e-8 of the score.

    Raises:
        InputError: no image or one; values that are not finite, or all the same; a covariance that is singular with the
            shrinkage asked for; a layer that was not read.
        SettingsError: a shrinkage below 0.

    >>> clean = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> readings = [Reading(torch.zeros(100, 2), {"features": part}) for part in clean.split(100)]
    >>> state = fit_gaussian(readings, tune=readings[0])
    >>> far = Reading(torch.zeros(1, 2), {"features": torch.full((1, 4), 5.0)})
    >>> bool(state(far) > state(readings[0]).max())
    True
    """
    moments = enough(Moments.of((reading.layer(layer) for reading in clean), what=f"layer {layer!r}"), layer)
    held_out = None if tune is None else held_out_values(tune, layer, moments.mean) - moments.mean
    chosen, told = choose_shrinkage(moments.covariance, held_out, shrinkage)
    matrix, log_determinant = whiten(moments.covariance, chosen)
    return Gaussian(
        layers=[layer],
        widths=[len(moments.mean)],
        notes=[*moments.caveats(layer), *told],
        shrinkage=chosen,
        mean=moments.mean.to(dtype),
        whitening=matrix.to(dtype),
        log_determinant=log_determinant.to(dtype),
    )
