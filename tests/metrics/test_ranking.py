import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as reference

from antivenom.errors import InputError
from antivenom.metrics.intervals import estimate
from antivenom.metrics.ranking import (
    auroc,
    auroc_estimate,
    auroc_influence,
    auroc_per_class,
    average_precision,
    tpr_at_fpr,
)


@st.composite
def scored(draw):
    """Scores with many ties, of at least one positive and one negative."""
    truth = [True, False, *draw(st.lists(st.booleans(), max_size=30))]
    scores = draw(st.lists(st.integers(-4, 4), min_size=len(truth), max_size=len(truth)))
    return np.array(scores, dtype=float), np.array(truth)


@given(scored())
def test_rankings_agree_with_scikit_learn(case):
    scores, truth = case
    assert auroc(scores, truth) == pytest.approx(reference.roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(reference.average_precision_score(truth, scores))
    alarms, hits, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
    for fpr in (0.0, 0.05, 0.3, 1.0):
        assert tpr_at_fpr(scores, truth, fpr) == pytest.approx(hits[alarms <= fpr + 1e-9].max())


@given(scored())
def test_reversed_scores_give_the_other_side(case):
    scores, truth = case
    assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth))
    assert auroc(np.exp(scores), truth) == pytest.approx(auroc(scores, truth))


@given(scored())
def test_the_influence_of_images_sums_to_nothing(case):
    assert auroc_influence(*case).sum() == pytest.approx(0)


@pytest.mark.parametrize("figure", [auroc, average_precision, lambda s, t: tpr_at_fpr(s, t, 0.1)])
def test_one_kind_alone_or_a_nan_has_no_ranking(figure):
    scores = np.array([1.0, 2.0, 3.0])
    assert np.isnan(figure(scores, np.ones(3, dtype=bool)))
    assert np.isnan(figure(scores, np.zeros(3, dtype=bool)))
    assert np.isnan(figure(np.array([1.0, np.nan, 3.0]), np.array([True, False, False])))
    assert not np.isnan(figure(np.array([1.0, np.inf, -np.inf]), np.array([True, False, False])))


def test_each_class_is_ranked_for_itself():
    scores = np.array([[0.0, 3.0, 1.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0]])
    truth = np.array([[False, False, False], [False, False, True], [True, True, True]])
    np.testing.assert_allclose(auroc_per_class(scores, truth), [1, 0, 0.5])
    assert np.isnan(auroc_per_class(scores, np.zeros((3, 3), dtype=bool))).all()


def test_scores_and_truth_of_different_length_are_refused():
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        auroc(np.zeros(3), np.zeros(2, dtype=bool))


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_the_variance_is_delongs():
    generator = np.random.default_rng(0)
    truth = np.arange(80) < 40
    scores = generator.normal(size=80) + truth
    wins = (scores[truth][:, None] > scores[~truth]).astype(float)
    delong = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 40
    found = auroc_estimate(scores, truth)
    effective = float(found.method.split("= ")[1].rstrip(")"))
    assert effective == pytest.approx(found.value * (1 - found.value) / delong, abs=0.51)


def two_kinds(generator, patients, size, positives, distance, correlation):
    groups = np.repeat(np.arange(patients), 1 + generator.poisson(size - 1, patients))
    truth = np.repeat(generator.random(patients) < positives, np.bincount(groups))
    shared = generator.normal(size=patients)[groups]
    own = generator.normal(size=len(groups))
    return distance * truth + correlation**0.5 * shared + (1 - correlation) ** 0.5 * own, truth, groups


def test_patients_widen_the_interval_where_their_images_resemble_each_other():
    scores, truth, groups = two_kinds(np.random.default_rng(1), 80, 5, 0.5, 1.0, 0.9)
    by_patient, by_image = auroc_estimate(scores, truth, groups), auroc_estimate(scores, truth)
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 1.7 * (by_image.high - by_image.low)


def test_patients_hardly_widen_it_where_they_do_not():
    generator = np.random.default_rng(2)
    truth, groups = generator.random(400) < 0.5, np.repeat(np.arange(200), 2)
    scores = generator.normal(size=400) + truth
    by_patient, by_image = auroc_estimate(scores, truth, groups), auroc_estimate(scores, truth)
    assert by_patient.high - by_patient.low < 1.15 * (by_image.high - by_image.low)


def test_the_interval_agrees_with_resampled_patients_who_have_both_kinds():
    generator = np.random.default_rng(4)
    groups, truth = np.repeat(np.arange(150), 4), np.tile([True, False, False, True], 150)
    # How far the two kinds lie apart differs by patient.
    apart = generator.normal(0.5, 1, 150)[groups]
    scores = np.where(truth, apart, -apart) + generator.normal(size=600)
    closed = auroc_estimate(scores, truth, groups)
    resampled = estimate(lambda rows: auroc(scores[rows], truth[rows]), groups, draws=1000)
    assert (closed.low, closed.high) == pytest.approx((resampled.low, resampled.high), abs=0.012)


@pytest.mark.parametrize(
    ("patients", "size", "positives", "distance", "correlation"),
    [(50, 1, 0.5, 1, 0), (200, 1, 0.1, 1.5, 0), (500, 1, 0.03, 1.5, 0), (60, 4, 0.4, 1, 0.6)],
)
def test_a_95_percent_interval_covers_at_least_nine_in_ten(patients, size, positives, distance, correlation):
    generator, truth = np.random.default_rng(3), norm.cdf(distance / 2**0.5)
    runs = [auroc_estimate(*two_kinds(generator, patients, size, positives, distance, correlation)) for _ in range(300)]
    measured = [run for run in runs if run.measured]
    assert len(measured) > 290
    assert 0.90 <= np.mean([run.low <= truth <= run.high for run in measured]) <= 0.99


def test_a_perfect_ranking_of_few_positives_is_not_certain():
    truth = np.arange(500) < 3
    found = auroc_estimate(truth.astype(float), truth)
    assert found.value == found.high == 1
    assert found.low < 0.5
    assert auroc_estimate((np.arange(500) < 250).astype(float), np.arange(500) < 250).low > 0.98


def test_an_undefined_ranking_is_not_measured():
    assert not auroc_estimate(np.arange(4.0), np.ones(4, dtype=bool)).measured
    assert not auroc_estimate(np.empty(0), np.empty(0, dtype=bool)).measured
