"""What votes of noisy copies prove of a smoothed classifier: how far it keeps its answer, and when it has none.

Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
https://arxiv.org/abs/1902.02918: theorem 1 with the runner-up bounded by what the winner leaves.
Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from antivenom.errors import InputError

Array = np.ndarray[Any, Any]

ABSTAINED = -1  # in place of a class


def lower_bound(votes: Array, n: int, alpha: float) -> Array:
    """Bound from below the share of all copies that would vote so, by the exact binomial (one-sided Clopper-Pearson).

    Args:
        votes: any shape, of `n` independent copies.
        alpha: chance that the bound lies above the true share, at most.

    Raises:
        InputError: no copies, votes outside 0..n, or alpha outside (0, 1).

    >>> lower_bound(np.array([0, 50, 100]), 100, 0.001).round(4).tolist()
    [0.0, 0.3448, 0.9333]
    """
    from scipy.special import betaincinv

    check_votes(votes, n, alpha)
    return np.where(votes > 0, betaincinv(np.maximum(votes, 1), n - votes + 1, alpha), 0.0)


def certified_radius(votes: Array, n: int, sigma: float, alpha: float) -> Array:
    """Give the L2 radius within which the class that got these votes stays the answer; 0 where that is not proven.

    Args:
        votes: any shape, for a class that was chosen on other copies.
        n: copies asked.
        sigma: standard deviation of the noise on every value; the radius is in the same unit, over all values.
        alpha: chance that the answer changes within the radius all the same, at most.

    Raises:
        InputError: as `lower_bound`, or sigma not above 0.

    >>> certified_radius(np.array([1000, 400]), 1000, 0.25, 0.001).round(5).tolist()
    [0.61582, 0.0]
    """
    from scipy.special import ndtri

    if not 0 < sigma < np.inf:
        raise InputError(f"sigma must be above 0 and finite, got {sigma}")
    return np.asarray(sigma * ndtri(np.maximum(lower_bound(votes, n, alpha), 0.5)))


def tie_probability(first: Array, second: Array) -> Array:
    """Give the chance of counts at least so far apart if both classes were equally likely: a two-sided exact binomial test.

    Args:
        first, second: votes of the two classes that got most, `first >= second`, any shape.

    >>> tie_probability(np.array([10, 5]), np.array([0, 5])).round(5).tolist()
    [0.00195, 1.0]
    """
    from scipy.special import betainc

    first, second = np.asarray(first), np.asarray(second)
    # The chance of at least `first` heads; a coin that is never thrown tells nothing.
    tail = betainc(np.maximum(first, 1), second + 1.0, 0.5)
    return np.where(first > second, np.minimum(1.0, 2 * tail), 1.0)


def check_votes(votes: Array, n: int, alpha: float) -> None:
    """Refuse what no count of copies can be.

    Raises:
        InputError: no copies, votes outside 0..n, or alpha outside (0, 1).
    """
    if n < 1:
        raise InputError(f"votes need at least one copy, got n={n}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is a chance between 0 and 1, got {alpha}")
    wrong = (np.asarray(votes) < 0) | (np.asarray(votes) > n)
    if wrong.any():
        raise InputError(f"{np.asarray(votes)[wrong].flat[0]} votes of {n} copies cannot be")
