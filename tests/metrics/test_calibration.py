import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.metrics import brier_score_loss

from antivenom.metrics.calibration import (
    brier,
    expected_calibration_error,
    negative_log_likelihood,
    probabilities,
    reliability,
    stated,
)

LOGITS = arrays(np.float64, (25, 3), elements=st.floats(-30, 30))
CLASSES = arrays(np.int64, 25, elements=st.integers(0, 2))
FINDINGS = arrays(np.int64, (25, 3), elements=st.integers(0, 1))


def honest(seed, n, sharpness, *, multilabel):
    """Targets drawn from the probabilities that the logits state; `sharpness` times too sure."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, 3)) * 2
    if multilabel:
        return sharpness * logits, (generator.random((n, 3)) < expit(logits)).astype(int)
    drawn = generator.random(n)[:, None] > np.cumsum(softmax(logits, axis=1), axis=1)
    return sharpness * logits, drawn.sum(1).clip(max=2)


@given(LOGITS, CLASSES, FINDINGS)
def test_figures_agree_with_references(logits, classes, findings):
    np.testing.assert_allclose(probabilities(logits, multilabel=False), softmax(logits, axis=1))
    np.testing.assert_allclose(probabilities(logits, multilabel=True), expit(logits))
    truth = np.eye(3)[classes]
    assert brier(logits, classes, multilabel=False) == pytest.approx(((softmax(logits, axis=1) - truth) ** 2).sum(1).mean())
    flat = brier_score_loss(findings.ravel(), expit(logits).ravel(), pos_label=1)
    assert brier(logits, findings, multilabel=True) == pytest.approx(flat)
    loss = -log_softmax(logits, axis=1)[np.arange(25), classes].mean()
    assert negative_log_likelihood(logits, classes, multilabel=False) == pytest.approx(loss, abs=1e-12)
    each = np.where(findings == 1, log_expit(logits), log_expit(-logits))
    assert negative_log_likelihood(logits, findings, multilabel=True) == pytest.approx(-each.mean(), abs=1e-12)


def test_huge_logits_do_not_overflow():
    logits = np.array([[1e4, -1e4]])
    assert probabilities(logits, multilabel=False).tolist() == [[1, 0]]
    assert probabilities(logits, multilabel=True).tolist() == [[1, 0]]
    assert negative_log_likelihood(logits, np.array([1]), multilabel=False) == 2e4


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_equal_widths_agree_with_the_definition(seed, bins):
    generator = np.random.default_rng(seed)
    confidence, happened = generator.random(50), generator.random(50) < 0.5
    expected = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - happened[inside].mean())
    assert reliability(confidence, happened, bins=bins).error == pytest.approx(expected)


def test_equal_masses_hold_as_many_each():
    found = reliability(np.random.default_rng(0).random(100) ** 4, np.zeros(100), bins=10, equal_mass=True)
    assert found.count.tolist() == [10] * 10


def test_the_order_of_the_images_does_not_matter_even_with_ties():
    generator = np.random.default_rng(1)
    confidence, happened = generator.integers(0, 4, 60) / 4, generator.random(60) < 0.5
    shuffled = generator.permutation(60)
    one = reliability(confidence, happened, bins=7, equal_mass=True)
    other = reliability(confidence[shuffled], happened[shuffled], bins=7, equal_mass=True)
    assert one.error == pytest.approx(other.error)
    assert one.count.sum() == 60


def test_a_probability_on_an_edge_belongs_to_the_lower_bin():
    assert reliability(np.array([0.5, 0.4, 0.6]), np.zeros(3), bins=2).count.tolist() == [2, 1]


def test_empty_bins_are_left_out():
    found = reliability(np.array([0.0, 0.04, 1.0]), np.array([0, 1, 1]), bins=10)
    assert found.count.tolist() == [2, 1]
    assert found.frequency.tolist() == [0.5, 1]


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("equal_mass", [False, True])
def test_honest_probabilities_are_calibrated_and_overconfident_ones_are_not(multilabel, equal_mass):
    def error(sharpness):
        logits, targets = honest(2, 20_000, sharpness, multilabel=multilabel)
        return expected_calibration_error(logits, targets, multilabel=multilabel, equal_mass=equal_mass)

    assert error(1) < 0.015
    assert error(3) > 0.07


def test_findings_are_calibrated_one_by_one():
    # One finding is stated too often, the other too rarely: together they would cancel.
    logits = np.zeros((1000, 2))
    targets = np.zeros((1000, 2), dtype=int)
    targets[:, 0] = 1
    assert expected_calibration_error(logits, targets, multilabel=True) == pytest.approx(0.5)


def test_the_top_class_is_what_is_stated():
    confidence, happened = stated(np.log([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]]), np.array([0, 2]), multilabel=False)
    np.testing.assert_allclose(confidence, [[0.7], [0.6]])
    assert happened.tolist() == [[True], [False]]


def test_what_is_not_a_number_is_not_calibrated():
    logits, targets = np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([0, 0])
    for figure in (expected_calibration_error, brier, negative_log_likelihood):
        assert np.isnan(figure(logits, targets, multilabel=False))
        assert np.isnan(figure(np.empty((0, 2)), np.empty(0, dtype=int), multilabel=False))
        assert np.isnan(figure(np.array([[np.inf, np.inf]]), np.array([0]), multilabel=False))
