"""Distance from the nearest class: Gaussians around the classes' means that share one covariance, at one layer or several.

Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018, https://arxiv.org/abs/1807.03888: class-conditional distances at several layers.
Ren, Fort, Liu, Roy, Padhy, Lakshminarayanan, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", 2021,
https://arxiv.org/abs/2106.09022: less the distance under one Gaussian of all images.

Deviations from Lee et al. Their weights of the layers come from a logistic regression on adversarial images, and so belong to
the attack that made them; here nothing adversarial is seen: the score of each layer is brought to mean 0 and deviation 1 on
clean images, and all layers count alike. A class is what the model answered, not the label. The images are not moved towards
the nearest class before they are scored, which would cost a backward pass. The covariance is shrunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from antivenom.detection.detector import Detector, finite
from antivenom.detection.moments import Moments, RunningMoments
from antivenom.detection.reading import FEATURES, Reading, batches
from antivenom.detection.whitening import as_score, choose_shrinkage, enough, held_out_values, mapped, whiten
from antivenom.errors import InputError, SettingsError

FEWEST = 10  # images that a class needs for a mean of its own: of fewer it is mostly their noise
_AT_ONCE = 1024  # held-out images scored at a time


class Mahalanobis(Detector):
    """Squared distance from the nearest class's mean under the shared covariance, standardised and summed over layers.

    Args:
        layers, widths, notes: as any detector; D is the sum of the widths.
        relative: whether the squared distance under one Gaussian of all images is taken off.
        mean: `(D,)`, of all images.
        whitening: the layers' whitening matrices within classes, flattened, one after the other.
        centres: `(K, D)`, what the classes' means are under these, less that of all.
        background: the layers' whitening matrices of all images, as `whitening`; empty where not relative.
        offset, scale: `(L,)`, mean and deviation of each layer's score on clean images.
    """

    mean: Tensor
    whitening: Tensor
    centres: Tensor
    background: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        relative: bool,
        mean: Tensor,
        whitening: Tensor,
        centres: Tensor,
        background: Tensor,
        offset: Tensor,
        scale: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.relative = relative
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening)
        self.register_buffer("centres", centres)
        self.register_buffer("background", background)
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)

    def measure(self, reading: Reading) -> Tensor:
        """The sum `(B,)` of the layers' standardised scores."""
        score = ((self.by_layer(reading) - self.offset) / self.scale).sum(1)
        return as_score(score, reading.layer(self.layers[0]))

    def by_layer(self, reading: Reading) -> Tensor:
        """The score `(B, L)` of each layer, as it is."""
        widths, squares = list(self.widths), [width**2 for width in self.widths]
        values = [reading.layer(name) for name in self.layers]
        means = torch.split(self.mean, widths)
        within = zip(values, means, torch.split(self.whitening, squares), torch.split(self.centres, widths, 1), strict=True)
        scores = [_nearest(*part) for part in within]
        if self.relative:
            overall = zip(values, means, torch.split(self.background, squares), strict=True)
            scores = [near - _square(*part)[1] for near, part in zip(scores, overall, strict=True)]
        return torch.stack(scores, 1)

    def settings(self) -> dict[str, Any]:
        """Those of any detector, and whether it is relative."""
        return {**super().settings(), "relative": self.relative}


def fit_mahalanobis(
    clean: Iterable[Reading],
    *,
    tune: Reading | None,
    layers: Sequence[str] = (FEATURES,),
    relative: bool = False,
    shrinkage: float | None = None,
    fewest: int = FEWEST,
    dtype: torch.dtype = torch.float32,
) -> Mahalanobis:
    """Fit a mean for each class that the model answers, and one covariance within classes (biased, shrunk), for each layer.

    Args:
        clean: readings of clean images; gone through once, and once more without `tune`.
        tune: held-out clean images, which choose the shrinkage of each layer and give mean and deviation of its score; None:
            a hundredth of the mean variance, and the fitting images.
        layers: which are read.
        relative: whether the distance under one Gaussian of all images is taken off, as Ren et al. do.
        shrinkage: absolute, for all layers; None: as `fit_gaussian`.
        fewest: images that a class needs for a mean of its own; those of smaller classes belong to the mean of all.
        dtype: of the buffers.

    Raises:
        InputError: no image or one; values that are not finite, or all the same; a singular covariance; a layer not read.
        SettingsError: no layer, or one named twice; a shrinkage below 0; fewest below 1.

    >>> generator = torch.Generator().manual_seed(0)
    >>> centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    >>> features = centres.repeat(50, 1) + torch.randn(100, 2, generator=generator)
    >>> state = fit_mahalanobis([Reading(features @ centres.T, {"features": features})], tune=None)
    >>> between = Reading(torch.zeros(1, 2), {"features": torch.zeros(1, 2)})
    >>> bool(state(between) > state(Reading(torch.zeros(2, 2), {"features": centres})).max())
    True
    """
    if not layers or len(set(layers)) < len(layers):
        raise SettingsError(f"layers must be named, each once, got {list(layers)}")
    if fewest < 1:
        raise SettingsError(f"fewest must be at least 1 image a class, got {fewest}")
    gathered = _gathered(clean, layers)
    fitted = [_fitted(part, tune, shrinkage, fewest, relative) for part in gathered]
    told = [*gathered[0].caveats(fewest), *(note for layer in fitted for note in layer.notes)]
    if tune is None and len(layers) > 1:
        told.append(
            "without held-out images the layers' scores are standardised on the fitting ones, which lie nearer than fresh ones"
        )
    state = _state(layers, fitted, dtype, relative=relative, notes=list(dict.fromkeys(told)))
    unseen = clean if tune is None else batches(tune, _AT_ONCE)
    scores = Moments.of((state.by_layer(reading).detach() for reading in unseen), what="scores")
    deviation = scores.covariance.diagonal().sqrt()
    state.offset = scores.mean.to(dtype)
    state.scale = torch.where(deviation > 0, deviation, 1.0).to(dtype)
    return state


def _square(values: Tensor, mean: Tensor, whitening: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened deviations `(B, D)` from the mean, and their squared length `(B,)`."""
    whitened = mapped(values, mean, whitening.view(len(mean), -1))
    return whitened, whitened.square().sum(1)


def _nearest(values: Tensor, mean: Tensor, whitening: Tensor, centres: Tensor) -> Tensor:
    """Squared distance `(B,)` from the nearest of the centres `(K, D)`, at one layer."""
    whitened, square = _square(values, mean, whitening)
    centres = centres.to(whitened.dtype)
    return square + (centres.square().sum(1) - 2 * whitened @ centres.T).amin(1)


class _Layer:
    """What one layer gives, on the way: the moments of all images, and the number and sum of those of each class."""

    def __init__(self, name: str, like: Reading) -> None:
        width, classes = like.layer(name).shape[1], like.logits.shape[1]
        device = like.layer(name).device
        self.name, self.running = name, RunningMoments(f"layer {name!r}")
        self.counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self.sums = torch.zeros(classes, width, dtype=torch.float64, device=device)

    def add(self, reading: Reading) -> None:
        values = reading.layer(self.name).detach()
        self.running.add(values)
        answered = finite(reading.logits.detach(), "logits").argmax(1).to(values.device)
        self.counts += answered.bincount(minlength=len(self.counts))
        self.sums.index_add_(0, answered, values.double())

    def caveats(self, fewest: int) -> list[str]:
        """Classes that the model answered rarely or never."""
        rare = [f"{i} ({n})" for i, n in enumerate(self.counts.tolist()) if 0 < n < fewest]
        never = [str(i) for i, n in enumerate(self.counts.tolist()) if n == 0]
        told = []
        if rare:
            told.append(
                f"classes answered on fewer than {fewest} clean images are pooled into the mean of all: class (images) "
                f"{', '.join(rare)}"
            )
        if never:
            told.append(f"classes that were answered on no clean image have no mean to be near to: {', '.join(never)}")
        return told


def _gathered(clean: Iterable[Reading], layers: Sequence[str]) -> list[_Layer]:
    gathered: list[_Layer] = []
    for reading in clean:
        gathered = gathered or [_Layer(name, reading) for name in layers]
        for part in gathered:
            part.add(reading)
    if not gathered:
        raise InputError("no image was read; give at least two, in a stream that can be read again")
    return gathered


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One layer's part of the state, in float64, and what must be said of it."""

    mean: Tensor
    whitening: Tensor
    centres: Tensor
    background: Tensor
    notes: list[str]


def _fitted(part: _Layer, tune: Reading | None, shrinkage: float | None, fewest: int, relative: bool) -> _Fitted:
    moments = enough(part.running.found(), part.name)
    own = part.counts >= fewest
    # Rounding could put the mean of a constant beside it; a mean lies between the ends.
    means = (part.sums / part.counts[:, None].clamp_min(1)).clamp(moments.low, moments.high)
    means = torch.where(own[:, None], means, moments.mean)
    apart = means - moments.mean
    within = moments.covariance - apart.T @ (apart * (part.counts * own)[:, None].double()) / moments.n
    from_class = from_all = None
    if tune is not None:
        held_out = held_out_values(tune, part.name, moments.mean)
        answered = finite(tune.logits.detach(), "logits of held-out images").argmax(1).to(means.device)
        from_class, from_all = held_out - means[answered], held_out - moments.mean
    chosen, told = choose_shrinkage(within, from_class, shrinkage)
    whitening, _ = whiten(within, chosen)
    pooled = [moments.mean[None]] if bool((~own & (part.counts > 0)).any()) else []
    centres = mapped(torch.cat([means[own], *pooled]), moments.mean, whitening)
    background = whitening.new_zeros(0)
    if relative:
        chosen, more = choose_shrinkage(moments.covariance, from_all, shrinkage)
        background, told = whiten(moments.covariance, chosen)[0], told + more
    return _Fitted(moments.mean, whitening, centres, background, [*moments.caveats(part.name), *told])


def _state(
    layers: Sequence[str], fitted: Sequence[_Fitted], dtype: torch.dtype, *, relative: bool, notes: list[str]
) -> Mahalanobis:
    return Mahalanobis(
        layers=layers,
        widths=[len(layer.mean) for layer in fitted],
        notes=notes,
        relative=relative,
        mean=torch.cat([layer.mean for layer in fitted]).to(dtype),
        whitening=torch.cat([layer.whitening.flatten() for layer in fitted]).to(dtype),
        centres=torch.cat([layer.centres for layer in fitted], 1).to(dtype),
        background=torch.cat([layer.background.flatten() for layer in fitted]).to(dtype),
        offset=fitted[0].mean.new_zeros(len(layers)).to(dtype),
        scale=fitted[0].mean.new_ones(len(layers)).to(dtype),
    )
