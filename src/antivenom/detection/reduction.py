"""A detector behind a projection on the directions in which clean images differ most (principal components).

Pearson, "On lines and planes of closest fit to systems of points in space", Philosophical Magazine 2 (1901),
https://doi.org/10.1080/14786440109462720
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.detection.detector import Detector
from antivenom.detection.moments import Moments
from antivenom.detection.reading import FEATURES, Reading
from antivenom.detection.whitening import enough, mapped
from antivenom.errors import InputError, SettingsError

Fit = Callable[[Iterable[Reading], Reading | None], Detector]  # (clean, held out): a detector of the layer, reduced


@dataclass(frozen=True, eq=False)
class Projection:
    """The leading principal components of one layer.

    Attributes:
        layer: whose values they are.
        mean: `(D,)`.
        directions: `(R, D)`, the largest variance first, of length 1; divided by the standard deviation where whitened.
        share: of the variance of the fitting images that they hold.
        notes: what must be said of a detector behind it.
    """

    layer: str
    mean: Tensor
    directions: Tensor
    share: float
    notes: tuple[str, ...]

    @staticmethod
    def of(moments: Moments, layer: str, keep: float, *, whiten: bool = False) -> Projection:
        """Find them by the eigenvectors of the covariance.

        Args:
            moments: of the layer.
            layer: its name.
            keep: a whole number: at most so many components; below 1: as few as hold this share of the variance.
            whiten: whether each is brought to variance 1.

        Raises:
            SettingsError: keep is neither.
            InputError: one image, or values that do not vary.
        """
        if not (0 < keep < 1 or (keep >= 1 and keep == int(keep))):
            raise SettingsError(f"keep is a number of components (64) or a share of the variance below 1 (0.95), got {keep}")
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(enough(moments, layer).covariance))
        # Beyond these rounding alone is seen, and whitening would blow it up.
        varying = int((values > len(values) * torch.finfo(values.dtype).eps * values[0].clamp_min(0)).sum())
        if not bool(values[0] > 0) or bool(moments.constant.all()):
            raise InputError(
                f"layer {layer!r} gives the same values for all {moments.n} clean images; there is nothing to keep"
            )
        held = (values[:varying].cumsum(0) / values[:varying].sum()).clamp_max(1)
        kept = min(int(keep) if keep >= 1 else int((held < keep).sum()) + 1, varying)
        directions = vectors[:, :kept].T
        if whiten:
            directions = directions / values[:kept, None].sqrt()
        share = float(held[kept - 1])
        told = (
            f"{layer}: reduced to {kept} of {len(values)} directions, which hold {100 * share:.1f} % of the variance of clean "
            "images; a change outside them is not seen",
        )
        return Projection(layer, moments.mean, directions, share, told if kept < len(values) else ())

    def reduced(self, reading: Reading) -> Reading:
        """The reading with this layer alone, projected to `(B, R)`."""
        values = mapped(reading.layer(self.layer), self.mean, self.directions)
        return Reading(reading.logits, {self.layer: values}, reading.squeezed)


@dataclass(frozen=True)
class ReducedStream:
    """A stream of readings, each projected when it is read; it can be read as often as the stream itself."""

    readings: Iterable[Reading]
    projection: Projection

    def __iter__(self) -> Iterator[Reading]:
        return map(self.projection.reduced, self.readings)


class Reduced(Detector):
    """Any detector behind a projection of its layer.

    Beside settings and buffers of its own it holds the detector inside, which is saved and built again in the same way.

    Args:
        layers, widths, notes: as any detector; one layer, of the width before the projection.
        inner: scores readings of this layer as reduced.
        mean: `(D,)`.
        directions: `(R, D)`.
    """

    mean: Tensor
    directions: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        inner: Detector,
        mean: Tensor,
        directions: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.inner = inner
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    @property
    def differentiable(self) -> bool:
        """Whether the detector inside is."""
        return self.inner.differentiable

    def measure(self, reading: Reading) -> Tensor:
        """What the detector inside makes of the reduced reading, `(B,)`."""
        layer = self.layers[0]
        values = mapped(reading.layer(layer), self.mean, self.directions)
        score: Tensor = self.inner(Reading(reading.logits, {layer: values}, reading.squeezed))
        return score


def fit_reduced(
    clean: Iterable[Reading],
    fit: Fit,
    *,
    tune: Reading | None,
    layer: str = FEATURES,
    keep: float = 0.95,
    whiten: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Reduced:
    """Fit a projection, and behind it a detector.

    Args:
        clean: readings of clean images; gone through once, and then as often as `fit` does.
        fit: a function of (clean, held out) as reduced, which hold this layer alone beside the logits.
        tune: held-out clean images, handed on to `fit`.
        layer: which is reduced.
        keep, whiten: as `Projection.of`.
        dtype: of the projection's buffers.

    Raises:
        InputError: one image, values that are not finite or do not vary, or a layer that was not read; and as `fit`.
        SettingsError: keep is neither a number of components nor a share; the detector reads another layer.

    >>> from antivenom.detection.gaussian import fit_gaussian
    >>> clean = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 9, 1, 1, 1, 1])
    >>> stream = [Reading(torch.zeros(500, 2), {"features": clean})]
    >>> state = fit_reduced(stream, lambda seen, tune: fit_gaussian(seen, tune=tune), tune=stream[0], keep=2)
    >>> state.inner.widths, state.notes[0][:76]
    ((2,), 'features: reduced to 2 of 6 directions, which hold 97.5 % of the variance of')
    """
    moments = Moments.of((reading.layer(layer) for reading in clean), what=f"layer {layer!r}")
    projection = Projection.of(moments, layer, keep, whiten=whiten)
    inner = fit(ReducedStream(clean, projection), None if tune is None else projection.reduced(tune))
    if set(inner.layers) - {layer}:
        raise SettingsError(f"behind the reduction of {layer!r} a detector can read no other layer, it reads {inner.layers}")
    return Reduced(
        layers=[layer],
        widths=[len(moments.mean)],
        notes=[*projection.notes, *inner.notes],
        inner=inner,
        mean=projection.mean.to(dtype),
        directions=projection.directions.to(dtype),
    )
