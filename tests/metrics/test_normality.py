"""Tests of normality: closed forms, a reference in one dimension, normal data that pass and other data that fail."""

import numpy as np
import pytest
from scipy.stats import chi2, kstest, kurtosis, norm, skew

from antivenom.errors import InputError, SettingsError
from antivenom.metrics.normality import EACH, Directions, by_direction, held_out_distances, mardia, room


def normal(n, d, seed=0):
    """Correlated normal values far from the origin."""
    luck = np.random.default_rng(seed)
    return 50 + luck.normal(size=(n, d)) @ luck.normal(size=(d, d))


def mixture(n, d, seed=0, share=0.4):
    """Two groups as the features of two classes lie."""
    luck = np.random.default_rng(seed)
    return luck.normal(size=(n, d)) + 5.0 * (luck.random(n) < share)[:, None]


# -- skewness and kurtosis ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "copies"), [(2, 3), (5, 4)])
def test_of_a_simplex_and_of_a_cross_both_are_known(d, copies):
    simplex = np.tile(np.vstack([np.zeros(d), np.eye(d)]), (copies, 1))
    found = mardia(simplex)
    assert found.skewness == pytest.approx(d * (d - 1))
    assert found.kurtosis == pytest.approx(d * d)
    cross = mardia(np.tile(np.vstack([np.eye(d), -np.eye(d)]), (copies, 1)))
    assert cross.skewness == pytest.approx(0, abs=1e-12)
    assert cross.kurtosis == pytest.approx(d * d)


def test_in_one_dimension_they_are_those_of_scipy():
    values = np.random.default_rng(0).gamma(3.0, size=(80, 1))
    found = mardia(values)
    assert found.skewness == pytest.approx(skew(values[:, 0]) ** 2)
    assert found.kurtosis == pytest.approx(kurtosis(values[:, 0]) + 3)
    assert found.skewness_p == pytest.approx(chi2.sf(80 * (81 * 2 * 83 / (80 * (81 * 2 - 6))) * found.skewness / 6, 1))
    # In one dimension mean and variance of the kurtosis are those that scipy's test starts from.
    variance = 24 * 80 * 78 * 77 / (81**2 * 83 * 85)
    assert found.kurtosis_p == pytest.approx(2 * norm.sf(abs(found.kurtosis - 3 * 79 / 81) / variance**0.5))


def test_neither_depends_on_scale_place_or_rotation():
    values = mixture(100, 4)
    moved = 1e3 + values @ np.random.default_rng(1).normal(size=(4, 4))
    assert mardia(moved).skewness == pytest.approx(mardia(values).skewness)
    assert mardia(moved).kurtosis_p == pytest.approx(mardia(values).kurtosis_p)


@pytest.mark.parametrize(("n", "d"), [(60, 6), (200, 5)])
def test_normal_data_pass_as_often_as_the_tests_say(n, d):
    found = [mardia(normal(n, d, seed)) for seed in range(200)]
    for name in ("skewness_p", "kurtosis_p"):
        failed = np.mean([getattr(one, name) < 0.05 for one in found])
        assert 0.005 <= failed <= 0.1
    assert np.mean([one.kurtosis for one in found]) == pytest.approx(found[0].expected, rel=0.01)


def test_mixtures_heavy_tails_and_skewed_data_fail():
    luck = np.random.default_rng(0)
    parted, heavy, skewed = (
        mardia(mixture(200, 4, share=0.1)),
        mardia(luck.standard_t(3, (200, 4))),
        mardia(luck.exponential(size=(200, 4))),
    )
    assert max(parted.p, heavy.p, skewed.p) < 0.001
    assert heavy.kurtosis > heavy.expected


def test_two_groups_along_one_of_several_directions_fail_in_that_one():
    values = mixture(200, 4)
    assert mardia(values).p > 0.05  # over all directions they are lost
    alone = by_direction(Directions.of(values, 1.0, 4).project(values))
    assert 4 * alone[0].p < 1e-3
    assert alone[0].kurtosis < alone[0].expected  # two groups have no tails
    assert min(one.p for one in alone[1:]) > 0.01
    fair = [min(1, 5 * min(one.p for one in by_direction(normal(150, 5, seed)))) for seed in range(100)]
    assert np.mean(np.array(fair) < 0.05) <= 0.12


# -- distances of fresh values -----------------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_fitted_mean_and_covariance():
    fitted, fresh = normal(90, 3), normal(40, 3, seed=0)
    found = held_out_distances(fitted, fresh, draws=9)
    away = fresh - fitted.mean(0)
    byhand = (away @ np.linalg.inv(np.cov(fitted.T)) * away).sum(1)
    assert found.observed == pytest.approx(np.sort(byhand))
    assert found.fitted == 90
    assert (np.diff(found.expected) > 0).all()


def test_normal_data_pass_even_with_few_values_for_each_direction():
    found = [held_out_distances(normal(60, 6, seed)[:30], normal(60, 6, seed)[30:], draws=99) for seed in range(60)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.12
    middle = np.mean([np.median(one.observed) / np.median(one.expected) for one in found])
    assert middle == pytest.approx(1, abs=0.1)


def test_for_many_fitted_values_the_distribution_is_chi_square():
    fresh = normal(300, 4)[:100]
    found = held_out_distances(normal(300_000, 4), fresh, draws=0)
    assert found.gap == pytest.approx(kstest(found.observed, "chi2", args=(4,)).statistic, abs=1e-3)


def test_mixtures_fail_and_so_do_fresh_values_from_elsewhere():
    whole = mixture(400, 3, share=0.1)
    parted = held_out_distances(whole[:200], whole[200:], draws=199)
    assert parted.p == 1 / 200
    away = held_out_distances(normal(200, 3), 3 * (normal(100, 3, seed=0) - 50) + 50, draws=199)
    assert away.p == 1 / 200
    assert np.median(away.observed) > np.median(away.expected)


def test_the_same_seed_gives_the_same_p_value():
    values = normal(100, 3)
    one, other = (held_out_distances(values[:50], values[50:], draws=49) for _ in range(2))
    assert (one.gap, one.p) == (other.gap, other.p)


# -- directions --------------------------------------------------------------------------------------------------------


def test_directions_are_as_few_as_hold_the_share_and_no_more_than_there_is_room_for():
    values = np.random.default_rng(0).normal(size=(500, 6)) * [9, 9, 9, 1, 1, 1]
    found = Directions.of(values, 0.95, room(500))
    assert found.axes.shape == (3, 6)
    assert found.axes @ found.axes.T == pytest.approx(np.eye(3))
    assert found.share(values) == pytest.approx(243 / 246, abs=0.01)
    assert len(Directions.of(values, 0.95, 2).axes) == 2
    assert len(Directions.of(values, 1.0, 99).axes) == 6
    assert found.project(values).mean(0) == pytest.approx(np.zeros(3), abs=1e-9)


def test_what_cannot_be_tested_is_refused():
    assert room(EACH - 1) == 0
    with pytest.raises(InputError, match="too few values"):
        Directions.of(normal(20, 3), 0.9, 0)
    with pytest.raises(InputError, match="all the same"):
        Directions.of(np.full((20, 3), 0.1), 0.9, 2)
    with pytest.raises(SettingsError, match=r"got 1\.5"):
        Directions.of(normal(20, 3), 1.5, 2)
    with pytest.raises(InputError, match="at least 5"):
        mardia(normal(4, 3))
    with pytest.raises(InputError, match="1 of 50 are not"):
        mardia(np.vstack([normal(49, 3), np.full(3, np.nan)]))
    with pytest.raises(InputError, match="depend on each other"):
        mardia(np.repeat(normal(50, 1), 2, axis=1))
    with pytest.raises(InputError, match="depend on each other"):
        held_out_distances(np.zeros((50, 2)), normal(50, 2))
