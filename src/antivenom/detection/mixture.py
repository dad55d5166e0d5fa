"""A mixture of Gaussians over reduced features: clean images that fall into several groups.

McLachlan, Peel, "Finite Mixture Models", Wiley 2000, https://doi.org/10.1002/0471721182; fitted by scikit-learn's
expectation-maximisation. Li and Zhu (see `gaussian`) name the multimodal density as future work.

The number of components is chosen by the likelihood of held-out images. It is fitted on a bounded sample, since
expectation-maximisation goes through its images many times; the projection is fitted on all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from antivenom.detection.detector import Detector
from antivenom.detection.moments import Moments
from antivenom.detection.reading import FEATURES, Reading, sample
from antivenom.detection.reduction import Projection, ReducedStream
from antivenom.detection.whitening import as_score, held_out_values, mapped
from antivenom.errors import InputError, SettingsError

COMPONENTS = (1, 2, 4, 8, 16)  # numbers that are tried
MOST = 20_000  # images that expectation-maximisation is given
ROUNDS = 200  # of expectation-maximisation, at most
STARTS = 3  # of which the likeliest is kept: each ends in the optimum that is nearest to it


class Mixture(Detector):
    """A Gaussian mixture over some directions of one layer; the score is its negative log-likelihood in these, in nats.

    Args:
        layers, widths, notes: as any detector; one layer.
        mean: `(D,)`.
        directions: `(R, D)`, of length 1.
        whitening: `(K, R, R)`, of each component.
        centres: `(K, R)`, the components' means under their own whitening.
        heights: `(K,)`, the log-density of each component at its mean, times its weight.
    """

    mean: Tensor
    directions: Tensor
    whitening: Tensor
    centres: Tensor
    heights: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        widths: Sequence[int],
        notes: Sequence[str] = (),
        mean: Tensor,
        directions: Tensor,
        whitening: Tensor,
        centres: Tensor,
        heights: Tensor,
    ) -> None:
        super().__init__(layers=layers, widths=widths, notes=notes)
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("whitening", whitening)
        self.register_buffer("centres", centres)
        self.register_buffer("heights", heights)

    def measure(self, reading: Reading) -> Tensor:
        """Negative log-likelihood `(B,)`."""
        values = reading.layer(self.layers[0])
        reduced = mapped(values, self.mean, self.directions)
        whitened = reduced @ self.whitening.to(reduced.dtype).flatten(0, 1).T
        apart = whitened.view(-1, *self.centres.shape) - self.centres
        return as_score(-torch.logsumexp(self.heights - apart.square().sum(2) / 2, 1), values)


def fit_mixture(
    clean: Iterable[Reading],
    *,
    tune: Reading | None,
    layer: str = FEATURES,
    components: int | Sequence[int] = COMPONENTS,
    keep: float = 32,
    shrinkage: float = 1e-3,
    most: int = MOST,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> Mixture:
    """Fit a projection on all images and a mixture with full covariances on a sample.

    Args:
        clean: readings of clean images; gone through twice.
        tune: held-out clean images, by whose mean likelihood the number of components is chosen.
        layer: whose values are modelled.
        components: how many, or the numbers to choose from; without `tune`, one number.
        keep: principal components to work in, or the share of the variance they hold; see `Projection.of`.
        shrinkage: added to each variance of each component, in units of the mean variance over the directions kept.
        most: images in the sample.
        seed: of the sample, and of where expectation-maximisation starts.
        dtype: of the buffers.

    Raises:
        InputError: too few images for the fewest components asked for (a component needs one more than its directions);
            values that are not finite or do not vary; a layer that was not read.
        SettingsError: several numbers of components and no held-out images to choose by; a number below 1; a shrinkage not
            above 0.

    >>> generator = torch.Generator().manual_seed(0)
    >>> features = torch.randn(400, 3, generator=generator) + torch.tensor([[9.0, 0, 0], [-9.0, 0, 0]]).repeat(200, 1)
    >>> stream = [Reading(torch.zeros(200, 2), {"features": part}) for part in features.split(200)]
    >>> state = fit_mixture(stream, tune=stream[1], components=(1, 2), seed=0)
    >>> between = Reading(torch.zeros(1, 2), {"features": torch.zeros(1, 3)})
    >>> len(state.heights), bool(state(between) > state(stream[0]).max())
    (2, True)
    """
    numbers = [components] if isinstance(components, int) else sorted(components)
    if not numbers or min(numbers) < 1 or not shrinkage > 0:
        raise SettingsError(f"a mixture has at least 1 component and a shrinkage above 0, got {components} and {shrinkage}")
    if tune is None and len(numbers) > 1:
        raise SettingsError(f"without held-out images nothing chooses among {numbers} components; give tune, or one number")
    moments = Moments.of((reading.layer(layer) for reading in clean), what=f"layer {layer!r}")
    # Not whitened: the start, by k-means, would take noise for as far apart as groups are.
    projection = Projection.of(moments, layer, keep)
    some = sample(ReducedStream(clean, projection), most, generator=torch.Generator().manual_seed(seed))
    values = some.layer(layer).double()
    needed = values.shape[1] + 1
    tried = [number for number in numbers if number * needed <= len(values)]
    if not tried:
        raise InputError(
            f"{len(values)} images are too few for {numbers[0]} component(s) in {values.shape[1]} directions, which need "
            f"{numbers[0] * needed}; keep fewer directions, or give more images"
        )
    told = list(projection.notes)
    if len(tried) < len(numbers):
        told.append(f"{len(values)} images are too few for {', '.join(map(str, numbers[len(tried) :]))} components: not tried")
    held_out = None if tune is None else Reading(tune.logits, {layer: held_out_values(tune, layer, moments.mean)})
    states = [_fitted(values, number, shrinkage, seed, projection, told) for number in tried]
    likely = [0.0 if held_out is None else -float(state(held_out).mean()) for state in states]
    return states[likely.index(max(likely))].to(dtype)


def _fitted(values: Tensor, number: int, shrinkage: float, seed: int, projection: Projection, notes: Sequence[str]) -> Mixture:
    """A mixture of so many components, in float64."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    ridge = shrinkage * float(values.var(0, correction=0).mean())
    model = GaussianMixture(number, reg_covar=ridge, max_iter=ROUNDS, n_init=STARTS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # becomes a note
        try:
            model.fit(values.cpu().numpy())
        except ValueError as error:
            raise InputError(f"{number} components collapse onto single images ({error}); give a larger shrinkage") from error
    late = [] if model.converged_ else [f"expectation-maximisation had not settled after {ROUNDS} rounds"]
    # scikit-learn keeps upper triangles, to be multiplied from the right.
    whitening = torch.from_numpy(model.precisions_cholesky_).mT.contiguous().to(values)
    means, weights = torch.from_numpy(model.means_).to(values), torch.from_numpy(model.weights_).to(values)
    determinants = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
    return Mixture(
        layers=[projection.layer],
        widths=[len(projection.mean)],
        notes=[*notes, *late],
        mean=projection.mean,
        directions=projection.directions,
        whitening=whitening,
        centres=torch.einsum("krs,ks->kr", whitening, means),
        heights=weights.log() + determinants - values.shape[1] * math.log(2 * math.pi) / 2,
    )
