"""The detectors that are fitted on clean images alone, each with what it needs to be fitted and what it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from antivenom.detection.density import KernelDensity, fit_density
from antivenom.detection.detector import Detector
from antivenom.detection.ensemble import Ensemble, fit_ensemble
from antivenom.detection.gaussian import Gaussian, fit_gaussian
from antivenom.detection.isolation_forest import IsolationForest, fit_isolation_forest
from antivenom.detection.logits import Energy, MaximumProbability, fit_energy, fit_maximum_probability
from antivenom.detection.mahalanobis import Mahalanobis, fit_mahalanobis
from antivenom.detection.mixture import Mixture, fit_mixture
from antivenom.detection.neighbours import IntrinsicDimension, Neighbours, fit_intrinsic_dimension, fit_neighbours
from antivenom.detection.one_class_svm import OneClassSvm, fit_one_class_svm
from antivenom.detection.reading import FEATURES, Reading
from antivenom.detection.reduction import Reduced, fit_reduced
from antivenom.detection.squeezing import DEFAULT, FeatureSqueezing, fit_squeezing
from antivenom.errors import SettingsError

TOGETHER = ("gaussian", "mahalanobis", "neighbours")  # the default ensemble: one cloud, one for each class, none assumed


@dataclass(frozen=True)
class Given:
    """What a detector is fitted with; see `Row.fit`."""

    clean: Iterable[Reading]
    tune: Reading
    layers: Sequence[str]
    seed: int


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        run: fits it, with what `fit` was given.
        state: what is fitted.
        title: name in a report.
        summary: what a high score means, in a sentence for a reader who builds no detectors.
        reference: the paper and its address.
        layers: that it reads by default; none where the logits are enough.
        several: whether it can read more layers than one.
        squeezes: names in `SQUEEZES` of the changed images whose logits it needs.
        differentiable: whether its score has a useful gradient.
        multilabel: whether it is for findings (True), for classes that exclude each other (False), or for both (None).
    """

    run: Callable[[Given], Detector]
    state: type[Detector]
    title: str
    summary: str
    reference: tuple[str, str]
    layers: tuple[str, ...] = (FEATURES,)
    several: bool = False
    squeezes: tuple[str, ...] = ()
    differentiable: bool = True
    multilabel: bool | None = None

    def fit(self, clean: Iterable[Reading], tune: Reading, layers: Sequence[str], seed: int) -> Detector:
        """Fit it.

        Args:
            clean: readings of clean images, with these layers and the squeezes, as a stream that can be read again.
            tune: held-out clean images, of which some detectors take what they cannot learn from those that fitted them.
            layers: one, or as many as it can read; none for those that read logits alone.
            seed: of all that is drawn.

        Raises:
            SettingsError: another number of layers.
            InputError: too few images, or values that are not finite.
        """
        fewest, most = min(len(self.layers), 1), len(layers) if self.several else min(len(self.layers), 1)
        if not fewest <= len(layers) <= most:
            wanted = "no layer" if not self.layers else "at least one layer" if self.several else "one layer"
            raise SettingsError(f"{self.title} reads {wanted}, got {', '.join(layers) or 'none'}")
        return self.run(Given(clean, tune, layers, seed))


def row(name: str) -> Row:
    """A detector by its name.

    Raises:
        SettingsError: there is none of this name.
    """
    if name not in DETECTORS:
        raise SettingsError(f"no detector {name!r}; there are {', '.join(DETECTORS)}")
    return DETECTORS[name]


def _reduced(clean: Iterable[Reading], tune: Reading, layer: str) -> Reduced:
    return fit_reduced(clean, lambda seen, held: fit_gaussian(seen, tune=held, layer=layer), tune=tune, layer=layer)


def _ensemble(given: Given) -> Ensemble:
    return fit_ensemble([DETECTORS[name].run(given) for name in TOGETHER], tune=given.tune)


_LI_ZHU = (
    "Li, Zhu, “Robust Detection of Adversarial Attacks on Medical Images”, ISBI 2020",
    "https://doi.org/10.1109/ISBI45749.2020.9098628",
)
_LEE = (
    "Lee, Lee, Lee, Shin, “A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks”, "
    "NeurIPS 2018",
    "https://arxiv.org/abs/1807.03888",
)
_REN = (
    "Ren, Fort, Liu, Roy, Padhy, Lakshminarayanan, “A Simple Fix to Mahalanobis Distance for Improving Near-OOD "
    "Detection”, 2021",
    "https://arxiv.org/abs/2106.09022",
)
_MCLACHLAN = ("McLachlan, Peel, “Finite Mixture Models”, Wiley 2000", "https://doi.org/10.1002/0471721182")
_LIU_FOREST = ("Liu, Ting, Zhou, “Isolation Forest”, ICDM 2008", "https://doi.org/10.1109/ICDM.2008.17")
_SCHOELKOPF = (
    "Schölkopf, Platt, Shawe-Taylor, Smola, Williamson, “Estimating the Support of a High-Dimensional Distribution”, "
    "Neural Computation 13, 2001",
    "https://doi.org/10.1162/089976601750264965",
)
_SUN = (
    "Sun, Ming, Zhu, Li, “Out-of-Distribution Detection with Deep Nearest Neighbors”, ICML 2022",
    "https://arxiv.org/abs/2204.06507",
)
_MA = (
    "Ma, Li, Wang, Erfani, Wijewickrema, Schoenebeck, Song, Houle, Bailey, “Characterizing Adversarial Subspaces Using Local "
    "Intrinsic Dimensionality”, ICLR 2018",
    "https://arxiv.org/abs/1801.02613",
)
_FEINMAN = (
    "Feinman, Curtin, Shintre, Gardner, “Detecting Adversarial Samples from Artifacts”, 2017",
    "https://arxiv.org/abs/1703.00410",
)
_HENDRYCKS = (
    "Hendrycks, Gimpel, “A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks”, "
    "ICLR 2017",
    "https://arxiv.org/abs/1610.02136",
)
_LIU_ENERGY = (
    "Liu, Wang, Owens, Li, “Energy-based Out-of-distribution Detection”, NeurIPS 2020",
    "https://arxiv.org/abs/2010.03759",
)
_WANG = (
    "Wang, Liu, Bocchieri, Li, “Can Multi-label Classification Networks Know What They Don't Know?”, NeurIPS 2021",
    "https://arxiv.org/abs/2109.14162",
)
_XU = (
    "Xu, Evans, Qi, “Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks”, NDSS 2018",
    "https://arxiv.org/abs/1704.01155",
)

DETECTORS: dict[str, Row] = {
    "gaussian": Row(
        lambda given: fit_gaussian(given.clean, tune=given.tune, layer=given.layers[0]),
        Gaussian,
        "Gaussian",
        "the features are unlikely under one normal distribution of those of clean images",
        _LI_ZHU,
    ),
    "reduced-gaussian": Row(
        lambda given: _reduced(given.clean, given.tune, given.layers[0]),
        Reduced,
        "Gaussian, reduced",
        "the features are unlikely under one normal distribution in the directions in which clean images differ most",
        _LI_ZHU,
    ),
    "mixture": Row(
        lambda given: fit_mixture(given.clean, tune=given.tune, layer=given.layers[0], seed=given.seed),
        Mixture,
        "Gaussian mixture",
        "the features are unlikely under several normal distributions, as many as describe clean images best",
        _MCLACHLAN,
    ),
    "mahalanobis": Row(
        lambda given: fit_mahalanobis(given.clean, tune=given.tune, layers=given.layers),
        Mahalanobis,
        "Mahalanobis",
        "the features lie far from those of clean images of every class",
        _LEE,
        several=True,
    ),
    "relative-mahalanobis": Row(
        lambda given: fit_mahalanobis(given.clean, tune=given.tune, layers=given.layers, relative=True),
        Mahalanobis,
        "Mahalanobis, relative",
        "the features lie farther from every class of clean images than they lie from clean images as a whole",
        _REN,
        several=True,
    ),
    "isolation-forest": Row(
        lambda given: fit_isolation_forest(given.clean, layer=given.layers[0], seed=given.seed),
        IsolationForest,
        "Isolation forest",
        "few random cuts set the features apart from those of clean images",
        _LIU_FOREST,
        differentiable=False,
    ),
    "one-class-svm": Row(
        lambda given: fit_one_class_svm(given.clean, layer=given.layers[0], seed=given.seed),
        OneClassSvm,
        "One-class SVM",
        "the features lie outside a smooth border around those of most clean images",
        _SCHOELKOPF,
    ),
    "neighbours": Row(
        lambda given: fit_neighbours(given.clean, layer=given.layers[0], seed=given.seed),
        Neighbours,
        "Nearest neighbours",
        "the features of the nearest clean images lie far",
        _SUN,
    ),
    "intrinsic-dimension": Row(
        lambda given: fit_intrinsic_dimension(given.clean, layers=given.layers, seed=given.seed),
        IntrinsicDimension,
        "Local intrinsic dimension",
        "the nearest clean images lie at nearly the same distance, as seen from beside the surface on which they lie",
        _MA,
        several=True,
    ),
    "density": Row(
        lambda given: fit_density(given.clean, tune=given.tune, layer=given.layers[0], seed=given.seed),
        KernelDensity,
        "Kernel density",
        "few clean images that the model answers alike have features nearby",
        _FEINMAN,
    ),
    "max-softmax": Row(
        lambda given: fit_maximum_probability(given.clean),
        MaximumProbability,
        "Maximum softmax",
        "the model is unsure of its own answer",
        _HENDRYCKS,
        layers=(),
        multilabel=False,
    ),
    "max-sigmoid": Row(
        lambda given: fit_maximum_probability(given.clean, multilabel=True),
        MaximumProbability,
        "Doubt over findings",
        "the model is unsure whether findings are present or absent",
        _HENDRYCKS,
        layers=(),
        multilabel=True,
    ),
    "energy": Row(
        lambda given: fit_energy(given.clean),
        Energy,
        "Energy",
        "the model sees little of any class",
        _LIU_ENERGY,
        layers=(),
        multilabel=False,
    ),
    "joint-energy": Row(
        lambda given: fit_energy(given.clean, multilabel=True),
        Energy,
        "Joint energy",
        "the model sees little of any finding",
        _WANG,
        layers=(),
        multilabel=True,
    ),
    "squeezing": Row(
        lambda given: fit_squeezing(given.clean),
        FeatureSqueezing,
        "Feature squeezing",
        "the answer changes when the image is given in less detail",
        _XU,
        layers=(),
        squeezes=DEFAULT,
        multilabel=False,
    ),
    "squeezing-findings": Row(
        lambda given: fit_squeezing(given.clean, multilabel=True),
        FeatureSqueezing,
        "Feature squeezing, findings",
        "the findings change when the image is given in less detail",
        _XU,
        layers=(),
        squeezes=DEFAULT,
        multilabel=True,
    ),
    "ensemble": Row(
        _ensemble,
        Ensemble,
        "Ensemble",
        f"at least one of {', '.join(TOGETHER[:-1])} and {TOGETHER[-1]} finds the image unlike clean ones",
        _LEE,
    ),
}
