"""Alarms: a threshold that keeps its rate, by patient too, and F1 as the papers count it."""

import numpy as np
import pytest

from antivenom.errors import InputError, SettingsError
from antivenom.metrics.classification import micro_f1, positive_f1
from antivenom.metrics.false_alarms import held_out_threshold, micro_f1_estimate, most_alarms, positive_f1_estimate
from antivenom.metrics.intervals import estimate


@pytest.mark.parametrize(("n", "rate", "place"), [(19, 0.05, 19), (99, 0.05, 95), (99, 0.29, 71), (9, 0.1, 9), (1, 0.5, 1)])
def test_the_threshold_is_the_conformal_order_statistic(n, rate, place):
    assert held_out_threshold(np.random.default_rng(0).permutation(n) + 1.0, rate) == place


def test_patients_count_and_not_images():
    scores = np.arange(100.0)
    assert held_out_threshold(scores, 0.1, np.repeat(np.arange(20), 5)) > held_out_threshold(scores, 0.1)
    assert most_alarms(100, 20, 0.1) == 5  # of 21 patients two may be flagged, one of them unseen


def test_too_few_images_for_a_rate_are_refused():
    with pytest.raises(InputError, match=r"18 held-out images are too few for a false-alarm rate of 0\.05: at least 19"):
        held_out_threshold(np.zeros(18), 0.05)
    with pytest.raises(InputError, match="9 held-out patients"):
        most_alarms(90, 9, 0.05)
    with pytest.raises(InputError, match="too few"):
        most_alarms(0, 0, 0.05)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        most_alarms(10, 10, 1.0)


@pytest.mark.parametrize(
    ("alarms", "hits", "micro", "positive"), [(0, 0, 0.5, 0), (50, 1000, 0.975, 0.97561), (100, 600, 0.75, 0.705882)]
)
def test_f1_is_that_of_as_many_clean_as_attacked_images(alarms, hits, micro, positive):
    clean, attacked = np.arange(1000) < alarms, np.arange(1000) < hits
    truth, said = np.repeat([0, 1], 1000), np.concatenate([clean, attacked]).astype(int)
    assert micro_f1_estimate(clean, attacked).value == pytest.approx(micro) == micro_f1(said, truth, 2, multilabel=False)
    assert positive_f1_estimate(clean, attacked).value == pytest.approx(positive, abs=1e-5)
    assert positive_f1(said, truth) == pytest.approx(positive, abs=1e-5)


def test_the_interval_of_f1_is_that_of_resampled_patients():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 2)
    clean, attacked = (np.repeat(generator.random(150) < p, 2).astype(float) for p in (0.1, 0.7))

    def ratio(rows):
        hit, alarm = attacked[rows].mean(), clean[rows].mean()
        return 2 * hit / (1 + hit + alarm)

    found, drawn = positive_f1_estimate(clean, attacked, groups), estimate(ratio, groups, draws=400)
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.015)
    assert (found.n, found.groups) == (600, 150)


def test_images_that_do_not_count_are_left_out():
    clean, attacked = np.array([0, 1, np.nan]), np.array([np.nan, 1, 0])
    assert micro_f1_estimate(clean, attacked).value == 0.5
    assert positive_f1_estimate(clean, attacked).value == pytest.approx(0.5)
    assert not positive_f1_estimate(clean, np.full(3, np.nan)).measured
