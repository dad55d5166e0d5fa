"""What votes prove: the values of the paper's formula, and a bound that holds as often as it says."""

import numpy as np
import pytest
from scipy import stats

from antivenom.errors import InputError
from antivenom.metrics.certificates import certified_radius, lower_bound, tie_probability


@pytest.mark.parametrize(("n", "sigma", "radius"), [(100_000, 0.25, 0.95286), (1000, 0.25, 0.61582), (10_000, 0.5, 1.59929)])
def test_a_unanimous_vote_proves_the_known_radius(n, sigma, radius):
    assert certified_radius(np.array(n), n, sigma, 0.001) == pytest.approx(radius, abs=5e-6)


def test_half_of_the_votes_prove_nothing_and_more_prove_more():
    radius = certified_radius(np.arange(1001), 1000, 0.5, 0.001)
    assert (radius[:500] == 0).all()
    proven = radius[radius > 0]
    assert (np.diff(proven) > 0).all()
    assert radius[510] == 0  # more than half, but not certainly so
    assert (certified_radius(np.arange(1001), 1000, 0.5, 0.1) >= radius).all()


def test_the_bound_is_that_of_the_exact_binomial_test():
    votes = np.array([1, 37, 99, 100])
    wanted = [stats.binomtest(int(k), 100, alternative="greater").proportion_ci(0.99, "exact").low for k in votes]
    assert lower_bound(votes, 100, 0.01) == pytest.approx(wanted, rel=1e-9)


def test_the_bound_lies_above_the_truth_no_more_often_than_alpha():
    votes = np.random.default_rng(0).binomial(200, 0.8, 20_000)
    wrong = (lower_bound(votes, 200, 0.05) > 0.8).mean()
    assert 0.02 < wrong <= 0.05


def test_a_close_vote_is_told_from_a_clear_one_as_by_the_binomial_test():
    first, second = np.array([10, 6, 5, 700]), np.array([0, 4, 5, 300])
    wanted = [stats.binomtest(int(a), int(a + b)).pvalue for a, b in zip(first, second, strict=True)]
    assert tie_probability(first, second) == pytest.approx(wanted)
    assert tie_probability(np.array([0]), np.array([0])) == 1


@pytest.mark.parametrize(
    ("votes", "n", "sigma", "alpha", "said"),
    [
        (5, 0, 0.25, 0.001, "n=0"),
        (11, 10, 0.25, 0.001, "11 votes of 10"),
        (-1, 10, 0.25, 0.001, "-1 votes"),
        (5, 10, 0.0, 0.001, "sigma"),
        (5, 10, 0.25, 1.0, "alpha"),
        (5, 10, 0.25, 0.0, "alpha"),
    ],
)
def test_what_cannot_be_is_refused(votes, n, sigma, alpha, said):
    with pytest.raises(InputError, match=said):
        certified_radius(np.array(votes), n, sigma, alpha)
