import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from antivenom.errors import InputError
from antivenom.metrics.intervals import (
    Estimate,
    average_proportion,
    estimate,
    paired_difference,
    proportion,
    wilson,
)


def clustered(generator, groups, share, correlation, size):
    """Right answers of patients whose own shares differ (beta-binomial), with as many images as a Poisson draw gives."""
    sizes = 1 + generator.poisson(size - 1, groups)
    shares = np.full(groups, share)
    if correlation:
        strength = (1 - correlation) / correlation
        shares = generator.beta(share * strength, (1 - share) * strength, groups)
    patients = np.repeat(np.arange(groups), sizes)
    return generator.random(len(patients)) < shares[patients], patients


# -- Wilson ------------------------------------------------------------------------------------------------------------


def test_half_of_a_thousand_is_known_to_three_points():
    low, high = wilson(0.5, 1000)
    assert high - 0.5 == pytest.approx(0.0309, abs=5e-5)
    assert 0.5 - low == pytest.approx(0.0309, abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99]))
def test_independent_decisions_get_wilsons_interval(counts, level):
    hits, n = counts
    found = proportion(np.arange(n) < hits, level=level)
    reference = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert (found.n, found.groups, found.method) == (n, n, "Wilson")


def test_patients_with_one_image_each_are_independent():
    right = np.random.default_rng(0).random(60) < 0.7
    assert proportion(right, np.array([f"p{i}" for i in range(60)])) == proportion(right)


# -- clustering --------------------------------------------------------------------------------------------------------


def test_images_that_resemble_each_other_within_a_patient_widen_the_interval():
    right, patients = clustered(np.random.default_rng(0), groups=60, share=0.7, correlation=0.8, size=6)
    by_patient, by_image = proportion(right, patients), proportion(right)
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 1.7 * (by_image.high - by_image.low)
    assert by_patient.n == len(right)
    assert by_patient.groups == 60


def test_images_that_do_not_resemble_each_other_widen_it_hardly():
    right, patients = clustered(np.random.default_rng(1), groups=200, share=0.7, correlation=0, size=4)
    by_patient, by_image = proportion(right, patients), proportion(right)
    assert by_patient.high - by_patient.low < 1.1 * (by_image.high - by_image.low)


def test_copies_of_a_patients_images_tell_nothing_new():
    right = np.random.default_rng(2).random(100) < 0.8
    once, fivefold = proportion(right, np.arange(100)), proportion(np.repeat(right, 5), np.repeat(np.arange(100), 5))
    assert fivefold.value == once.value
    assert (fivefold.low, fivefold.high) == pytest.approx((once.low, once.high), abs=0.004)


def test_the_clustered_interval_agrees_with_resampled_patients():
    right, patients = clustered(np.random.default_rng(3), groups=300, share=0.6, correlation=0.5, size=3)
    closed, resampled = proportion(right, patients), estimate(lambda rows: float(right[rows].mean()), patients)
    assert closed.value == resampled.value
    assert (closed.low, closed.high) == pytest.approx((resampled.low, resampled.high), abs=0.008)


def test_the_decisions_about_one_image_belong_together():
    right = np.repeat(np.random.default_rng(4).random((80, 1)) < 0.7, 10, axis=1)
    found, image_alone = proportion(right), proportion(right[:, 0])
    assert found.n == 800
    assert found.groups == 80
    assert (found.low, found.high) == pytest.approx((image_alone.low, image_alone.high), abs=0.005)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("hits", "value"), [(0, 0.0), (1, 1.0)])
def test_an_interval_never_degenerates_when_all_answers_are_alike(size, hits, value):
    found = proportion(np.full(40 * size, hits), np.repeat(np.arange(40), size))
    assert found.value == value
    assert found.high - found.low == pytest.approx(0.0876 if size == 1 else 0.0928, abs=2e-4)  # 40 patients, not 120 images


def test_an_interval_does_not_degenerate_when_all_patients_are_alike():
    found = proportion(np.array([1, 0] * 30), np.repeat(np.arange(30), 2))
    assert found.value == 0.5
    assert found.high - found.low > 0.3


def test_one_patient_is_one_draw():
    found = proportion(np.array([1, 1, 0, 1]), np.zeros(4))
    assert found.high - found.low > 0.7


COVERAGE = [
    (groups, size, share, correlation)
    for groups, size in [(50, 1), (25, 2), (100, 5), (300, 1.6)]
    for share in (0.05, 0.5, 0.9)
    for correlation in (0, 0.3, 0.8)
    if size > 1 or not correlation
]


@pytest.mark.parametrize(("groups", "size", "share", "correlation"), COVERAGE)
def test_a_95_percent_interval_covers_at_least_nine_in_ten(groups, size, share, correlation):
    generator = np.random.default_rng(5)
    runs = [proportion(*clustered(generator, groups, share, correlation, size)) for _ in range(400)]
    covered = np.mean([found.low <= share <= found.high for found in runs])
    assert 0.90 <= covered <= 0.995  # with 4000 runs each 0.932 to 0.979, mean 0.956


def test_ignoring_the_patients_would_not_cover():
    generator = np.random.default_rng(5)
    runs = [proportion(clustered(generator, 100, 0.5, 0.8, 5)[0]) for _ in range(400)]
    assert np.mean([found.low <= 0.5 <= found.high for found in runs]) < 0.75


def test_patients_more_alike_than_chance_are_not_worth_more_than_their_images():
    right = np.append(np.tile([1, 0], 30), [1, 1])  # one of two right in all patients but one
    found, alone = proportion(right, np.repeat(np.arange(31), 2)), proportion(right)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.05)


# -- averages ----------------------------------------------------------------------------------------------------------


def test_the_average_of_columns_does_not_depend_on_their_sizes():
    recalls = np.full((100, 2), np.nan)
    recalls[:90, 0], recalls[90:, 1] = 1, 0
    found = average_proportion(recalls)
    assert found.value == 0.5
    assert found.n == 100


def test_an_average_of_one_column_is_its_share():
    right, patients = clustered(np.random.default_rng(6), 50, 0.7, 0.4, 3)
    assert average_proportion(right, patients) == proportion(right, patients)


def test_a_column_where_nothing_counts_is_left_out():
    assert average_proportion(np.array([[1, np.nan], [0, np.nan]])).value == 0.5


def test_a_rare_class_without_a_miss_keeps_the_interval_open():
    recalls = np.full((1000, 2), np.nan)
    recalls[:995, 0] = np.arange(995) % 10 != 0
    recalls[995:, 1] = 1
    assert average_proportion(recalls).low < 0.75  # five of five: the second recall may well be 0.57


@pytest.mark.parametrize("together", [True, False])
def test_columns_that_err_together_widen_the_average(together):
    generator = np.random.default_rng(7)
    first = generator.random(400) < 0.7
    second = first if together else generator.random(400) < 0.7
    found, alone = average_proportion(np.stack([first, second], 1)), proportion(first)
    ratio = (found.high - found.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(1 if together else math.sqrt(0.5), abs=0.05)


def test_averages_cover():
    generator, hits = np.random.default_rng(8), 0
    for _ in range(400):
        kind = generator.choice(3, 150, p=[0.8, 0.15, 0.05])
        right = generator.random(150) < np.array([0.9, 0.6, 0.8])[kind]
        found = average_proportion(np.where(kind[:, None] == np.arange(3), right[:, None], np.nan))
        hits += found.low <= np.mean([0.9, 0.6, 0.8]) <= found.high
    assert 0.92 <= hits / 400 <= 0.99


# -- differences -------------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_the_shares():
    generator = np.random.default_rng(9)
    first, second = generator.random((2, 200)) < np.array([[0.8], [0.6]])
    found = paired_difference(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.n == 200
    mirrored = paired_difference(second, first)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(10)
    first = generator.random(300) < 0.6
    second = first & (generator.random(300) < 0.95)
    paired = paired_difference(first, second)
    assert paired.low > 0
    assert proportion(first).low < proportion(second).high  # unpaired, the two overlap


def test_equal_answers_leave_room_for_what_was_missed():
    right = np.arange(100) < 50
    found = paired_difference(right, right)
    assert found.value == 0
    assert found.low == -found.high
    assert found.high == pytest.approx(0.037, abs=1e-3)


@pytest.mark.parametrize("correlation", [0, 0.6])
def test_differences_cover(correlation):
    generator, hits = np.random.default_rng(11), 0
    for _ in range(400):
        first, patients = clustered(generator, 80, 0.7, correlation, 3)
        second = first & (generator.random(len(first)) < 0.9)
        found = paired_difference(first, second, patients)
        hits += found.low <= 0.07 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


# -- what does not count -----------------------------------------------------------------------------------------------


def test_what_does_not_count_is_not_in_n():
    found = proportion(np.array([1, np.nan, 0, 1]), np.array(["a", "b", "c", "c"]))
    assert found.value == pytest.approx(2 / 3)
    assert found.n == 3
    assert found.groups == 2


@pytest.mark.parametrize("right", [np.array([]), np.array([np.nan, np.nan]), np.empty((0, 3))])
@pytest.mark.parametrize("figure", [proportion, average_proportion])
def test_nothing_to_count_is_not_measured(figure, right):
    found = figure(right)
    assert not found.measured
    assert found.n == 0
    assert found.percent() == "not measured, n = 0"


def test_decisions_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"got 1\.5"):
        proportion(np.array([0, 1.5]))
    with pytest.raises(InputError, match="3 images need one group each"):
        proportion(np.ones(3), np.array(["a", "b"]))
    with pytest.raises(InputError, match="same decisions twice"):
        paired_difference(np.ones(3), np.ones(4))
    with pytest.raises(InputError, match=r"shape \(2, 2, 2\)"):
        proportion(np.ones((2, 2, 2)))


# -- any statistic -----------------------------------------------------------------------------------------------------


def test_a_resample_holds_whole_patients():
    patients = np.array(["b", "a", "b", "c", "c", "c"])
    seen = []

    def watch(rows):
        seen.append(rows)
        return float(rows[0])

    estimate(watch, patients, draws=50)
    for rows in seen[1:]:
        times = np.bincount(rows, minlength=6)
        assert times[0] == times[2]
        assert times[3] == times[4] == times[5]
        assert times[[0, 1, 3]].sum() == 3


def test_a_median_with_infinite_distances_has_an_interval():
    distances = np.concatenate([np.linspace(0.1, 0.2, 52), np.full(48, np.inf)])
    found = estimate(lambda rows: float(np.median(distances[rows])), np.arange(100), draws=500)
    assert found.value < 0.2
    assert 0.1 < found.low < found.value
    assert found.high == math.inf


@pytest.mark.parametrize(("defined", "interval"), [(100, True), (1, False)])
def test_undefined_resamples_are_counted_and_too_many_leave_no_interval(defined, interval):
    present = np.arange(200) < defined

    def statistic(rows):
        return float(rows.mean()) if present[rows].any() else math.nan

    found = estimate(statistic, np.arange(200), draws=300)
    assert found.measured
    assert math.isnan(found.low) is not interval
    assert ("resamples undefined: too many" in found.method) is not interval


def test_resamples_that_are_all_alike_give_no_interval():
    found = estimate(lambda _: 0.3, np.arange(20), draws=20)
    assert found.value == 0.3
    assert math.isnan(found.high)
    assert "all alike" in found.method
    assert found.decimal() == "0.300 [no interval], n = 20"


def test_an_undefined_statistic_is_not_measured():
    assert not estimate(lambda _: math.nan, np.arange(20)).measured
    assert not estimate(lambda _: 1.0, np.array([])).measured


def test_the_seed_alone_decides_the_resamples():
    ages = np.random.default_rng(0).random(30)
    one, same, other = (estimate(lambda rows: float(ages[rows].mean()), np.arange(30), draws=100, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one.low != other.low


# -- an estimate -------------------------------------------------------------------------------------------------------


def test_an_estimate_reads_as_a_sentence():
    found = Estimate(0.8336, 0.791, 0.87, 500, 312, "Wilson")
    assert found.percent() == "83.4 % [79.1, 87.0], n = 500 (312 patients)"
    assert found.percent(0, groups_are="lesions") == "83 % [79, 87], n = 500 (312 lesions)"
    assert str(found) == "0.834 [0.791, 0.870], n = 500 (312 patients)"
    assert Estimate(0.5, 0.4, 0.6, 100, 100, "Wilson").percent() == "50.0 % [40.0, 60.0], n = 100"


@pytest.mark.parametrize("value", [0.25, math.inf, math.nan])
def test_an_estimate_survives_json(value):
    found = Estimate(value, 0.1, math.inf, 10, 9, "Wilson")
    again = Estimate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert repr(again) == repr(found)  # NaN does not equal itself


def test_a_share_of_many_images_is_estimated_in_no_time():
    right, patients = clustered(np.random.default_rng(12), 30_000, 0.7, 0.3, 4)
    start = time.perf_counter()
    proportion(right, patients)
    assert time.perf_counter() - start < 1
