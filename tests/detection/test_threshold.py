"""Thresholds: the stated rate holds on fresh images, by patient too, and what cannot be known is refused or told."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from antivenom.detection.threshold import FITTING, HELD_OUT, Threshold
from antivenom.errors import InputError, SettingsError


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "rate", "place"),
    [
        (19, 0.05, 19),
        (99, 0.05, 95),
        (100, 0.05, 96),
        (99, 0.29, 71),
        (999, 0.1, 900),
        (9, 0.1, 9),
        (1, 0.5, 1),
        (100, 0.07, 94),
    ],
)
def test_is_the_conformal_order_statistic(n, rate, place):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    found = Threshold.from_held_out((order + 1).float(), rate)
    assert found.value == place
    assert found.flags(order + 1.0).sum() == n - place
    assert (found.n, found.groups, found.taken, found.rate) == (n, n, HELD_OUT, rate)


@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (57, 0.1), (33, 0.3)])
def test_keeps_its_rate_on_fresh_images_for_any_n(n, rate):
    # Of uniform scores the share above a threshold is 1 less the threshold.
    scores = torch.rand(4000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [Threshold.from_held_out(row, rate) for row in scores[:400]]
    rates = np.array([1 - threshold.value for threshold in found])
    assert rates.mean() <= rate + 3 * rates.std() / 20
    assert rates.mean() > rate - 1 / n
    covered = [t.alarms.low <= r <= t.alarms.high for t, r in zip(found, rates, strict=True)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.035)


def test_the_interval_is_beta():
    found = Threshold.from_held_out(draws(200), 0.05, level=0.9).alarms
    assert found.value == pytest.approx(10 / 201)
    assert (found.low, found.high) == pytest.approx(stats.beta(10, 191).ppf([0.05, 0.95]))


def test_ties_are_not_flagged():
    scores = torch.tensor([0.0] * 10 + [1.0] * 10)
    found = Threshold.from_held_out(scores, 0.3)
    assert found.value == 1.0
    assert not found.flags(scores).any()


@pytest.mark.parametrize("size", [1, 10])
def test_keeps_its_rate_where_images_of_a_patient_are_alike(size):
    patients, rate = 30, 0.05
    scores = draws(2000, patients)
    rows = scores.repeat_interleave(size, 1)
    groups = np.arange(patients).repeat(size)
    by_patient = [Threshold.from_held_out(row, rate, groups) for row in rows[:300]]
    rates = stats.norm.sf([threshold.value for threshold in by_patient])
    assert rates.mean() <= rate + 3 * rates.std() / math.sqrt(300)
    by_image = stats.norm.sf([Threshold.from_held_out(row, rate).value for row in rows[:300]])
    assert (by_image.mean() > 1.15 * rate) == (size == 10)


def test_by_patient_the_interval_is_wider_where_images_are_alike():
    patients = draws(100)
    scores, groups = patients.repeat_interleave(10), np.arange(100).repeat(10)
    found, alone = Threshold.from_held_out(scores, 0.1, groups), Threshold.from_held_out(scores, 0.1)
    assert (found.n, found.groups, alone.groups) == (1000, 100, 1000)
    assert found.alarms.high - found.alarms.low > 2 * (alone.alarms.high - alone.alarms.low)
    assert found.alarms.value == found.flags(scores).double().mean()


def test_each_image_its_own_patient_is_no_patients_at_all():
    scores = draws(300)
    assert Threshold.from_held_out(scores, 0.05, [f"p{i}" for i in range(300)]) == Threshold.from_held_out(scores, 0.05)


def test_too_few_images_or_patients_for_the_rate_are_refused():
    with pytest.raises(InputError, match=r"18 held-out images are too few for a false-alarm rate of 0.05: at least 19"):
        Threshold.from_held_out(draws(18), 0.05)
    Threshold.from_held_out(draws(19), 0.05)
    with pytest.raises(InputError, match=r"18 held-out patients .* at least 19"):
        Threshold.from_held_out(draws(180), 0.05, np.arange(18).repeat(10))
    assert Threshold.from_held_out(draws(190), 0.05, np.arange(19).repeat(10)).flags(draws(190)).sum() == 0


def test_a_wide_interval_is_told():
    assert any("leave the false-alarm rate between" in note for note in Threshold.from_held_out(draws(100), 0.05).notes)
    assert Threshold.from_held_out(draws(1000), 0.05).notes == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("take", [Threshold.from_held_out, Threshold.from_fitting])
def test_scores_that_are_not_finite_are_refused(bad, take):
    scores = draws(100)
    scores[7] = bad
    with pytest.raises(InputError, match=r"1 of 100 clean images \(the first: 7\)"):
        take(scores, 0.05)


@pytest.mark.parametrize("take", [Threshold.from_held_out, Threshold.from_fitting])
def test_what_is_no_rate_or_no_scores_is_refused(take):
    for rate in (0.0, 1.0, 5.0, math.nan):
        with pytest.raises(SettingsError, match="false-alarm rate"):
            take(draws(100), rate)
    for scores in (draws(0), draws(10, 2)):
        with pytest.raises(InputError, match=r"scores \(N,\)"):
            take(scores, 0.05)


def test_groups_of_another_length_are_refused():
    with pytest.raises(InputError, match="one group each"):
        Threshold.from_held_out(draws(100), 0.05, ["a"] * 99)


def test_the_papers_reading_is_a_quantile_and_says_what_it_is():
    found = Threshold.from_fitting(torch.arange(101.0), 0.05)
    assert found.value == 95.0
    assert found.taken == FITTING
    assert not found.alarms.measured
    assert any("more than 5 % are flagged" in note for note in found.notes)


def test_flags_are_strictly_above_and_nan_is_one():
    found = Threshold.from_held_out(torch.arange(99.0), 0.05)
    scores = torch.tensor([[found.value, math.nextafter(found.value, 1e9)], [math.nan, math.inf]], dtype=torch.float64)
    assert found.flags(scores).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("found", [Threshold.from_held_out(draws(100), 0.05), Threshold.from_fitting(draws(100), 0.05)])
def test_is_the_same_from_json(found):
    again = Threshold.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()
    assert again.notes == found.notes
