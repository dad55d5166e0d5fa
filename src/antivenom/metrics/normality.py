"""Whether features look like draws from one normal distribution: in the shape of the whole, and in distances of fresh images.

Mardia, "Measures of multivariate skewness and kurtosis with applications", Biometrika 57 (1970),
https://doi.org/10.1093/biomet/57.3.519: two numbers of n values in d dimensions, and their distributions for large n. Here the
skewness is widened, and mean and variance of the kurtosis are the exact ones, for n as it is: Mardia, "Applications of some
measures of multivariate skewness and kurtosis in testing normality and robustness studies", Sankhya B 36 (1974).

Squared Mahalanobis distances of normal values follow chi-square with d degrees of freedom where mean and covariance are known.
Where they are estimated from n other values they follow a widened F distribution, exactly: Anderson, "An Introduction to
Multivariate Statistical Analysis", Wiley 2003, section 5.2. That one is taken.

Two groups that part along one of several directions are nearly lost in numbers taken over all of them, so each direction is
tested alone as well (`by_direction`).

All of it needs a covariance that can be inverted, so many more values than dimensions. Nothing is added to its diagonal: that
would shrink the distances and spoil their distribution. Dimensions are reduced instead, to directions found on further values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from antivenom.errors import InputError, SettingsError

Array = np.ndarray[Any, Any]

# Values for each dimension: then normal data fail at 5 % in 4 to 8 % of cases, by skewness or by kurtosis (simulated, 60 to 400
# values in 3 to 20 dimensions); at 1 % in up to 3 %.
EACH = 10
DRAWS = 499  # made-up samples behind the p-value of the distances


@dataclass(frozen=True)
class Mardia:
    """Multivariate skewness and kurtosis of n values in d dimensions.

    Attributes:
        n, dimensions: of the values.
        skewness: 0 of a symmetric distribution.
        kurtosis: `expected` of normal values; more where tails are heavy, less where values part into groups.
        expected: mean of the kurtosis of n normal values.
        skewness_p, kurtosis_p: how often normal values show as much or more.
    """

    n: int
    dimensions: int
    skewness: float
    kurtosis: float
    expected: float
    skewness_p: float
    kurtosis_p: float

    @property
    def p(self) -> float:
        """Of both tests at once (Bonferroni)."""
        return min(1.0, 2 * min(self.skewness_p, self.kurtosis_p))


@dataclass(frozen=True, eq=False)
class Distances:
    """Squared Mahalanobis distances of fresh values, against those of normal ones.

    Attributes:
        fitted: values that mean and covariance were estimated from.
        observed: `(N,)` of the fresh values, ascending.
        expected: `(N,)` where normal values would lie, by quantile.
        gap: largest difference between the two distribution functions (Kolmogorov-Smirnov).
        p: how often normal values, as many fitted and as many fresh, show as large a gap.
    """

    fitted: int
    observed: Array
    expected: Array
    gap: float
    p: float


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions in which values vary most (principal components).

    Attributes:
        mean: `(D,)`.
        axes: `(R, D)`, the largest variance first, of length 1.
    """

    mean: Array
    axes: Array

    @staticmethod
    def of(values: Array, share: float, most: int) -> Directions:
        """Find as few as hold a share of the variance, and no more than `most`.

        Args:
            values: `(N, D)`.
            share: of the variance, in (0, 1].
            most: directions; `room` says for how many there are values enough.

        Raises:
            InputError: fewer than two values, values that are not finite or do not vary, or no room.
            SettingsError: a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise SettingsError(f"a share of the variance lies above 0 and is 1 at most, got {share}")
        if most < 1:
            raise InputError(f"too few values to test: each direction needs {EACH}")
        mean = _checked(values, "values", 2).mean(0)
        _, sizes, axes = np.linalg.svd(values - mean, full_matrices=False)
        if sizes[0] <= np.finfo(float).eps * max(1.0, float(np.abs(mean).max())) * len(values):
            raise InputError("the values are all the same; there is no direction in which they vary")
        held = np.cumsum(sizes**2) / (sizes**2).sum()
        kept = int((held < share - 1e-12).sum()) + 1
        return Directions(mean, axes[: min(kept, most)])

    def project(self, values: Array) -> Array:
        """Coordinates `(N, R)` of values `(N, D)`."""
        return np.asarray((values - self.mean) @ self.axes.T)

    def share(self, values: Array) -> float:
        """Of the variance of some values `(N, D)`, that which lies in these directions."""
        return float(self.project(values).var(0).sum() / values.var(0).sum())


def room(n: int) -> int:
    """How many directions n values are enough for.

    >>> room(139), room(9)
    (13, 0)
    """
    return n // EACH


def mardia(values: Array) -> Mardia:
    """Test the skewness and the kurtosis of values `(N, d)`.

    Raises:
        InputError: fewer than d + 2 values, values that are not finite, or dimensions that depend on each other.

    >>> found = mardia(np.random.default_rng(0).normal(size=(500, 3)))
    >>> round(found.kurtosis, 1), round(found.expected, 1), found.p > 0.05
    (14.9, 14.9, True)
    """
    from scipy.special import chdtrc

    n, d = np.shape(values)
    whole = _checked(values, "values", d + 2)
    white = _whitened(whole - whole.mean(0), whole.T @ whole / n - np.outer(whole.mean(0), whole.mean(0)))
    products = white @ white.T
    skewness, kurtosis = float((products**3).mean()), float((np.diag(products) ** 2).mean())
    widened = (n + 1) * (d + 1) * (n + 3) / (n * ((n + 1) * (d + 1) - 6))
    expected = d * (d + 2) * (n - 1) / (n + 1)
    variance = 8 * d * (d + 2) * (n - 3) * (n - d - 1) * (n - d + 1) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    return Mardia(
        n,
        d,
        skewness,
        kurtosis,
        expected,
        float(chdtrc(d * (d + 1) * (d + 2) / 6, n * widened * skewness / 6)),
        math.erfc(abs(kurtosis - expected) / math.sqrt(2 * variance)),
    )


def by_direction(values: Array) -> tuple[Mardia, ...]:
    """Test each column of values `(N, d)` alone; of several columns the smallest p-value is to be multiplied by d.

    Raises:
        InputError: as `mardia`.
    """
    whole = _checked(values, "values", 3)
    return tuple(mardia(whole[:, [place]]) for place in range(whole.shape[1]))


def held_out_distances(fitted: Array, fresh: Array, *, draws: int = DRAWS, seed: int = 0) -> Distances:
    """Compare distances of fresh values with what they would be if all were draws from one normal distribution.

    All distances share one estimated mean and covariance, so they lean together, and the textbook p-value of the gap would be
    too small. Here it is a share of made-up samples: the gap depends on nothing but the numbers of values and of dimensions.

    Args:
        fitted: `(N, d)`; mean and covariance are theirs.
        fresh: `(M, d)`, none of them fitted.
        draws: made-up samples behind the p-value.
        seed: of these.

    Raises:
        InputError: fewer than d + 2 fitted values or no fresh one, values that are not finite, or dimensions that depend on
            each other.
    """
    n, d = np.shape(fitted)
    m = len(fresh)
    observed = _squared(_checked(fitted, "fitted values", d + 2), _checked(fresh, "fresh values", 1))
    luck = np.random.default_rng(seed)
    gap = _gap(observed, n, d)
    made = [_gap(_squared(luck.normal(size=(n, d)), luck.normal(size=(m, d))), n, d) for _ in range(draws)]
    p = (1 + sum(one >= gap for one in made)) / (draws + 1)
    return Distances(n, observed, _quantiles((np.arange(m) + 0.5) / m, n, d), gap, p)


def _squared(fitted: Array, fresh: Array) -> Array:
    """Squared Mahalanobis distances of the fresh values, ascending."""
    covariance = np.atleast_2d(np.cov(fitted, rowvar=False))
    return np.sort((_whitened(fresh - fitted.mean(0), covariance) ** 2).sum(1))


def _gap(observed: Array, n: int, d: int) -> float:
    from scipy.special import fdtr

    m = len(observed)
    below = fdtr(d, n - d, observed / _scale(n, d))
    return float(max((np.arange(1, m + 1) / m - below).max(), (below - np.arange(m) / m).max()))


def _quantiles(shares: Array, n: int, d: int) -> Array:
    from scipy.special import fdtri

    return np.asarray(_scale(n, d) * fdtri(d, n - d, shares))


def _scale(n: int, d: int) -> float:
    """What an F variable with d and n - d degrees of freedom is multiplied by to be such a distance."""
    return d * (n * n - 1) / (n * (n - d))


def _whitened(centred: Array, covariance: Array) -> Array:
    """Values of covariance 1, `(N, d)`."""
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        factor = np.zeros((1, 1))
    diagonal = np.diag(factor)
    # A diagonal that falls by so much is rounding: the dimension is a sum of the others.
    if diagonal.min() <= 1e-7 * max(float(np.sqrt(np.diag(covariance)).max()), 1e-300):
        raise InputError("the dimensions depend on each other, so their covariance has no inverse; reduce them further")
    return np.asarray(np.linalg.solve(factor, centred.T).T)


def _checked(values: Array, what: str, least: int) -> Array:
    found = np.asarray(values, dtype=float)
    if found.ndim != 2 or len(found) < least:
        raise InputError(f"{what} are (N, d), at least {least} of them; got {found.shape}")
    if not np.isfinite(found).all():
        raise InputError(f"{what} must be finite; {int((~np.isfinite(found)).any(1).sum())} of {len(found)} are not")
    return found
