"""Risk and coverage: what rejection by suspicion leaves, beside random rejection; AUROC over several findings."""

import math

import numpy as np
import pytest

from antivenom.errors import InputError
from antivenom.metrics.ranking import auroc_per_class
from antivenom.metrics.selective import area_estimate, risk_coverage, weighted_auroc


def luck(seed=0):
    return np.random.default_rng(seed)


def test_rejecting_the_wrong_ones_first_keeps_what_is_right():
    found = risk_coverage(np.array([3.0, 0.0, 1.0, 2.0]), np.array([0, 1, 1, 0]))
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found.right.tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert found.area == pytest.approx((1 + 1 + 2 / 3 + 0.5) / 4)
    assert found.random == 0.5


def test_a_suspicion_that_knows_nothing_keeps_accuracy_at_every_coverage():
    right = luck().random(50) < 0.8
    found = risk_coverage(np.zeros(50), right)
    assert found.right == pytest.approx(np.full(50, right.mean()))
    assert found.area == pytest.approx(found.random)


def test_equal_suspicions_do_not_depend_on_the_order_of_the_images():
    scores, right = np.array([0.0, 1, 1, 2]), np.array([1, 1, 0, 0])
    other = [0, 2, 1, 3]
    assert risk_coverage(scores, right).right.tolist() == risk_coverage(scores[other], right[other]).right.tolist()


def test_what_has_no_score_is_rejected_first():
    found = risk_coverage(np.array([np.nan, 1.0]), np.array([0, 1]))
    assert found.right.tolist() == [1.0, 0.5]


def test_random_rejection_lies_in_its_range_as_often_as_stated():
    generator = luck(1)
    right = (generator.random(200) < 0.7).astype(float)
    range_ = risk_coverage(np.zeros(200), right)
    found = [risk_coverage(generator.random(200), right) for _ in range(400)]
    half = np.array([curve.right[99] for curve in found])
    areas = np.array([curve.area for curve in found])
    assert ((half >= range_.low[99]) & (half <= range_.high[99])).mean() == pytest.approx(0.95, abs=0.03)
    assert ((areas >= range_.random_low) & (areas <= range_.random_high)).mean() == pytest.approx(0.95, abs=0.03)
    assert areas.mean() == pytest.approx(right.mean(), abs=0.01)
    assert range_.low[-1] == range_.high[-1] == right.mean()


def test_the_area_has_an_interval_by_patient():
    generator = luck(2)
    right = generator.random(120) < 0.8
    scores = generator.random(120) - right
    groups = np.repeat(np.arange(40), 3)
    found = area_estimate(scores, right, groups, draws=100)
    assert found.value == pytest.approx(risk_coverage(scores, right).area)
    assert found.low < found.value < found.high
    assert (found.n, found.groups) == (120, 40)


def test_what_cannot_be_right_or_wrong_is_refused():
    with pytest.raises(InputError, match="between 0 and 1, got nan"):
        risk_coverage(np.zeros(2), np.array([1, np.nan]))
    with pytest.raises(InputError, match="N at least 1"):
        risk_coverage(np.zeros(0), np.zeros(0))


def test_findings_weigh_as_much_as_they_have_positives():
    truth = np.zeros((100, 2), dtype=bool)
    truth[:40, 0] = truth[:10, 1] = True
    scores = luck(3).normal(size=(100, 2)) + truth
    each = auroc_per_class(scores, truth)
    found = weighted_auroc(scores, truth)
    assert found.estimate.value == pytest.approx(0.8 * each[0] + 0.2 * each[1])
    assert found.deviation == pytest.approx(abs(each[0] - each[1]) / 2)
    assert found.estimate.low < found.estimate.value < found.estimate.high
    assert found.left_out == ()


def test_a_finding_without_positives_or_negatives_is_named_and_left_out():
    truth = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=bool)
    found = weighted_auroc(np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]), truth)
    assert found.left_out == (1, 2)
    assert found.estimate.value == 1
    assert math.isnan(found.deviation)
    nothing = weighted_auroc(np.zeros((3, 1)), np.zeros((3, 1), dtype=bool))
    assert not nothing.estimate.measured
    assert nothing.left_out == (0,)


def test_patients_with_many_images_widen_the_interval():
    generator = luck(4)
    truth = np.repeat(generator.random((30, 2)) < 0.4, 5, axis=0)
    scores = np.repeat(generator.normal(size=(30, 2)), 5, axis=0) + truth
    wide, narrow = weighted_auroc(scores, truth, np.repeat(np.arange(30), 5)), weighted_auroc(scores, truth)
    assert wide.estimate.high - wide.estimate.low > narrow.estimate.high - narrow.estimate.low
    with pytest.raises(InputError, match=r"\(N, K\) both"):
        weighted_auroc(scores[:, 0], truth[:, 0])
