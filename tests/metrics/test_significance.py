import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

from antivenom.errors import InputError
from antivenom.metrics.ranking import auroc
from antivenom.metrics.significance import delong, holm, mcnemar, mcnemar_from_counts, sign_flip


def test_ten_against_two_is_known():
    assert mcnemar_from_counts(10, 2) == pytest.approx(0.03857, abs=5e-6)
    first = np.array([1] * 10 + [0] * 2 + [1] * 50)
    second = np.array([0] * 10 + [1] * 2 + [1] * 50)
    assert mcnemar(first, second) == mcnemar(second, first) == mcnemar_from_counts(10, 2)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_from_counts(b, c) == pytest.approx(expected)


def test_models_that_never_differ_are_not_different():
    right = np.arange(10) < 5
    assert mcnemar(right, right) == 1
    assert sign_flip(right, right) == 1


@pytest.mark.parametrize("counts", [(10, 2), (6, 0), (7, 5)])
def test_flipping_single_images_is_mcnemars_test(counts):
    b, c = counts
    first, second = np.repeat([1, 0], [b, c]), np.repeat([0, 1], [b, c])
    assert sign_flip(first, second, draws=40_000) == pytest.approx(mcnemar_from_counts(b, c), abs=0.01)


def test_flipping_patients_agrees_with_all_flips():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 24)) < np.array([[0.9], [0.6]])
    patients = np.repeat(np.arange(8), 3)
    sums = np.bincount(patients, first.astype(float) - second)
    flips = np.array([np.dot(signs, sums) for signs in itertools.product([-1, 1], repeat=8)])
    exact = (np.abs(flips) >= abs(sums.sum()) - 1e-9).mean()
    assert sign_flip(first, second, patients, draws=40_000) == pytest.approx(exact, abs=0.01)


def test_ten_images_of_one_patient_prove_nothing():
    first, second = np.ones(10), np.zeros(10)
    assert sign_flip(first, second, np.zeros(10)) == pytest.approx(1)
    assert sign_flip(first, second) < 0.01


def test_no_p_is_smaller_than_the_draws_can_tell():
    assert sign_flip(np.ones(100), np.zeros(100), draws=99) == 0.01


def test_false_alarms_are_as_rare_as_promised():
    generator, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        patient = generator.random((2, 40)) < 0.7
        first, second = np.repeat(patient, 4, axis=1)
        alarms += sign_flip(first, second, np.repeat(np.arange(40), 4), draws=500) < 0.05
    assert alarms / 300 < 0.08


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_follows_its_definition(p_values):
    p = np.array(p_values)
    adjusted = holm(p)
    ordered = np.sort(p)
    for p_value, found in zip(p, adjusted, strict=True):
        worst = max((len(p) - i) * q for i, q in enumerate(ordered) if q <= p_value)
        assert found == pytest.approx(min(1, worst))
    assert (adjusted >= false_discovery_control(p) - 1e-12).all()


def test_holm_keeps_the_order_of_its_input():
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.005])), [0.06, 0.03, 0.06, 0.02])


def naive_delong(first, second, truth):
    """DeLong's formulas with all pairs written out."""
    structure = []
    for scores in (first, second):
        positive, negative = scores[truth][:, None], scores[~truth][None]
        wins = (positive > negative) + 0.5 * (positive == negative)
        structure.append((wins.mean(1), wins.mean(0)))
    s10 = np.cov([structure[0][0], structure[1][0]])
    s01 = np.cov([structure[0][1], structure[1][1]])
    both = s10 / truth.sum() + s01 / (~truth).sum()
    return both[0, 0] + both[1, 1] - 2 * both[0, 1]


def test_delong_agrees_with_its_formulas():
    generator = np.random.default_rng(2)
    truth = np.arange(120) < 60
    first = generator.normal(size=120) + 1.5 * truth
    second = first + generator.normal(size=120)
    found = delong(first, second, truth)
    assert found.value == pytest.approx(auroc(first, truth) - auroc(second, truth))
    error = naive_delong(first, second, truth) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error)


def test_delong_finds_a_difference_only_where_there_is_one():
    generator, alarms = np.random.default_rng(3), 0
    truth = np.arange(200) < 70
    for _ in range(300):
        shared = generator.normal(size=200) + truth
        first, second = shared + generator.normal(size=(2, 200))
        alarms += delong(first, second, truth).p < 0.05
    assert 0.02 < alarms / 300 < 0.09
    assert delong(shared + 3 * truth, shared, truth).p < 1e-6


def test_delong_by_patient_is_less_sure_of_copies():
    generator = np.random.default_rng(4)
    truth, first, second = np.arange(60) < 30, generator.normal(size=60), generator.normal(size=60)
    first = first + truth
    once = delong(first, second, truth)
    copied = delong(*(np.repeat(a, 4) for a in (first, second, truth)), groups=np.repeat(np.arange(60), 4))
    assert copied.p == pytest.approx(once.p)
    assert delong(*(np.repeat(a, 4) for a in (first, second, truth))).p < once.p


def test_delong_says_when_there_is_nothing_to_compare():
    scores, truth = np.arange(6.0), np.arange(6) > 2
    same = delong(scores, scores, truth)
    assert (same.value, same.p) == (0, 1)
    assert np.isnan(same.low)
    assert np.isnan(delong(scores, scores, np.ones(6, dtype=bool)).p)


def test_pairs_that_are_none_are_refused():
    for test in (mcnemar, sign_flip):
        with pytest.raises(InputError, match="same decisions twice"):
            test(np.ones(3), np.ones(4))
