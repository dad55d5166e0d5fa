import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp
from sklearn import metrics as reference

from antivenom.errors import InputError, LabelError
from antivenom.metrics import classification as c
from antivenom.metrics.intervals import proportion

LOGITS = arrays(np.float32, (30, 4), elements=st.floats(-50, 50, width=32))
CLASSES = arrays(np.int64, 30, elements=st.integers(0, 3))
FINDINGS = arrays(np.int64, (30, 4), elements=st.integers(0, 1))


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_the_largest_logit_is_decided_and_the_first_of_equals():
    assert c.decide(np.array([[1, 3, 2], [5, 5, 1]]), multilabel=False).tolist() == [1, 0]


def test_a_finding_is_present_above_its_threshold_only():
    logits = np.array([[0.0, 0.5, -1.0]])
    assert c.decide(logits, multilabel=True).tolist() == [[0, 1, 0]]
    assert c.decide(logits, multilabel=True, thresholds=np.array([-0.1, 0.5, -2])).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("target", [0, 1])
def test_nan_decides_nothing_and_is_wrong(target):
    one, findings = np.array([[np.nan, 1.0]]), np.array([[np.nan, 1.0]])
    assert c.right(one, np.array([target]), multilabel=False).tolist() == [[False]]
    assert c.right(findings, np.array([[target, target]]), multilabel=True).tolist() == [[False, target == 1]]


def test_an_infinite_logit_decides():
    assert c.decide(np.array([[-np.inf, np.inf]]), multilabel=False).tolist() == [1]
    assert c.decide(np.array([[-np.inf, np.inf]]), multilabel=True).tolist() == [[0, 1]]


def test_thresholds_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="belong to findings"):
        c.decide(np.zeros((2, 2)), multilabel=False, thresholds=np.zeros(2))
    with pytest.raises(InputError, match=r"findings \[1\] have no threshold"):
        c.decide(np.zeros((2, 2)), multilabel=True, thresholds=np.array([0, np.nan]))


def test_right_has_a_column_per_decision():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert c.right(logits, np.array([0, 0, 1]), multilabel=False).tolist() == [[True], [False], [False]]
    assert c.right(logits, np.array([[1, 0], [0, 1], [1, 1]]), multilabel=True).tolist() == [
        [True, False],
        [True, True],
        [True, False],
    ]


def test_targets_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        c.right(np.zeros((3, 2)), np.zeros(2, dtype=int), multilabel=False)
    with pytest.raises(InputError, match="belong together"):
        c.accuracy(np.zeros(3), np.zeros((3, 1)))


# -- accuracies --------------------------------------------------------------------------------------------------------


@given(LOGITS, CLASSES)
def test_one_of_several_agrees_with_scikit_learn(logits, targets):
    decisions = c.decide(logits, multilabel=False)
    kinds = np.arange(4)
    assert c.accuracy(decisions, targets) == pytest.approx(reference.accuracy_score(targets, decisions))
    present = np.unique(targets)
    recall = reference.recall_score(targets, decisions, labels=present, average="macro", zero_division=0)
    assert c.balanced_accuracy(decisions, targets, 4, multilabel=False) == pytest.approx(recall)
    np.testing.assert_array_equal(
        c.confusion(decisions, targets, 4), reference.confusion_matrix(targets, decisions, labels=kinds)
    )
    each = reference.f1_score(targets, decisions, labels=kinds, average=None, zero_division=np.nan)
    np.testing.assert_allclose(c.f1_per_class(decisions, targets, 4, multilabel=False), each)
    micro = reference.f1_score(targets, decisions, labels=kinds, average="micro")
    assert c.micro_f1(decisions, targets, 4, multilabel=False) == pytest.approx(micro)
    assert c.macro_f1(decisions, targets, 4, multilabel=False) == pytest.approx(np.nanmean(each))


@given(LOGITS, FINDINGS)
def test_findings_agree_with_scikit_learn(logits, targets):
    decisions = c.decide(logits, multilabel=True)
    measured = [k for k in range(4) if len(np.unique(targets[:, k])) == 2]
    assert c.without_both(targets).tolist() == [k not in measured for k in range(4)]
    found = c.balanced_accuracy(decisions, targets, 4, multilabel=True)
    each = [reference.balanced_accuracy_score(targets[:, k], decisions[:, k]) for k in measured]
    assert found == pytest.approx(np.mean(each)) if measured else np.isnan(found)
    micro = reference.f1_score(targets, decisions, average="micro", zero_division=np.nan)
    np.testing.assert_allclose(c.micro_f1(decisions, targets, 4, multilabel=True), micro)


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_a_constant_answer_has_the_balanced_accuracy_of_chance(answer):
    targets = np.array([0] * 80 + [1] * 15 + [2] * 5)
    assert c.balanced_accuracy(np.full(100, answer), targets, 3, multilabel=False) == pytest.approx(1 / 3)
    assert c.constant_accuracy(targets, multilabel=False) == 0.8


def test_the_best_constant_answer_to_findings_is_each_findings_more_frequent_state():
    targets = np.array([[1, 0], [1, 0], [0, 0], [1, 1]])
    assert c.constant_accuracy(targets, multilabel=True) == 0.75
    assert c.balanced_accuracy(np.ones_like(targets), targets, 2, multilabel=True) == 0.5


def test_a_class_without_images_does_not_count():
    assert c.balanced_accuracy(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]), 3, multilabel=False) == 0.75


def test_a_finding_that_all_images_show_is_left_out():
    targets = np.array([[1, 1], [1, 0]])
    assert c.balanced_accuracy(np.array([[0, 1], [0, 0]]), targets, 2, multilabel=True) == 1
    assert np.isnan(c.balanced_accuracy(np.ones((2, 1), dtype=int), np.ones((2, 1), dtype=int), 1, multilabel=True))


def test_balanced_accuracy_is_clustered_by_patient():
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    right = np.repeat(generator.random(60) < 0.8, 5)[:, None]
    targets = np.repeat(generator.integers(0, 2, 60), 5)
    clustered = c.balanced_accuracy_estimate(right, targets, 2, patients, multilabel=False)
    alone = c.balanced_accuracy_estimate(right, targets, 2, multilabel=False)
    assert clustered.value == alone.value == pytest.approx(np.mean([right[targets == k].mean() for k in (0, 1)]))
    assert clustered.high - clustered.low > 1.7 * (alone.high - alone.low)
    assert (clustered.n, clustered.groups) == (300, 60)


def test_balanced_accuracy_of_equal_classes_is_as_sure_as_accuracy():
    generator = np.random.default_rng(1)
    targets, right = np.arange(400) % 2, generator.random((400, 1)) < 0.8
    balanced, plain = c.balanced_accuracy_estimate(right, targets, 2, multilabel=False), proportion(right)
    assert balanced.value == pytest.approx(plain.value)
    assert (balanced.low, balanced.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_no_images_have_no_accuracy():
    none = np.empty(0, dtype=int)
    assert np.isnan(c.accuracy(none, none))
    assert np.isnan(c.constant_accuracy(none, multilabel=False))
    assert np.isnan(c.answer_share(none))


@pytest.mark.parametrize(("decisions", "share"), [([2, 2, 2, 0], 0.75), ([-1, -1, 0, 1], 0.5)])
def test_the_share_of_the_most_frequent_answer(decisions, share):
    assert c.answer_share(np.array(decisions)) == share


def test_an_answer_about_findings_is_the_whole_combination():
    assert c.answer_share(np.array([[0, 1], [0, 1], [0, 0], [1, 1]])) == 0.5


def test_the_undecided_are_in_no_column():
    assert c.confusion(np.array([0, -1, 1]), np.array([0, 0, 1]), 2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("targets", [np.array([0, 3]), np.array([-1, 0])])
def test_a_class_that_is_not_there_is_refused(targets):
    with pytest.raises(LabelError, match="class numbers"):
        c.one_hot(targets, 3, multilabel=False)


@pytest.mark.parametrize("targets", [np.array([[0, 2]]), np.array([[0, 1, 1]]), np.array([0, 1])])
def test_findings_that_cannot_be_are_refused(targets):
    with pytest.raises(LabelError, match="0 or 1 of shape"):
        c.one_hot(targets, 2, multilabel=True)


# -- F1: which convention is which -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alarms", "micro", "positive", "macro"),
    [((0, 0), 0.5, 0.0, 1 / 3), ((50, 1000), 0.975, 0.9756, 0.975)],
    ids=["nothing flagged", "all flagged, and one in twenty clean ones"],
)
def test_f1_depends_on_the_convention(alarms, micro, positive, macro):
    targets, flagged = np.repeat([0, 1], 1000), np.zeros(2000, dtype=int)
    flagged[: alarms[0]], flagged[1000 : 1000 + alarms[1]] = 1, 1
    assert c.micro_f1(flagged, targets, 2, multilabel=False) == micro
    assert c.positive_f1(flagged, targets) == pytest.approx(positive, abs=5e-5)
    assert c.macro_f1(flagged, targets, 2, multilabel=False) == pytest.approx(macro, abs=5e-5)


# -- scores and operating points ---------------------------------------------------------------------------------------


@given(LOGITS)
def test_scores_are_log_odds(logits):
    scores = c.class_scores(logits, multilabel=False)
    for k in range(4):
        others = logsumexp(np.delete(logits.astype(float), k, axis=1), axis=1)
        np.testing.assert_allclose(scores[:, k], logits[:, k] - others, atol=1e-9)
    np.testing.assert_array_equal(c.class_scores(logits, multilabel=True), logits)


def test_scores_of_two_classes_are_each_others_opposite():
    logits = np.random.default_rng(0).normal(size=(20, 2)) * 30
    scores = c.class_scores(logits, multilabel=False)
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])
    np.testing.assert_allclose(scores[:, 1], logits[:, 1] - logits[:, 0])


def test_a_sure_answer_keeps_its_digits():
    scores = c.class_scores(np.array([[1000.0, 0.0, 1.0], [1001.0, 0.0, 1.0]]), multilabel=False)
    assert scores[1, 0] - scores[0, 0] == 1


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_youden_is_the_best_of_all_thresholds(seed, levels):
    generator = np.random.default_rng(seed)
    truth = np.append(generator.random(40) < 0.4, [True, False])
    scores = generator.integers(0, levels, 42) + truth.astype(float)

    def youden(cut):
        return c.sensitivity(scores, truth, cut) + c.specificity(scores, truth, cut)

    (point,) = c.operating_points(scores[:, None], truth[:, None])
    assert youden(point) == pytest.approx(max(youden(cut) for cut in np.arange(-0.5, levels + 2)))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_wanted_sensitivity_is_kept_at_the_highest_threshold(seed, least):
    generator = np.random.default_rng(seed)
    truth = np.append(generator.random(40) < 0.4, [True, False])
    scores = np.round(generator.normal(size=42) + truth, 1)
    (point,) = c.operating_points(scores[:, None], truth[:, None], ("sensitivity", least))
    assert c.sensitivity(scores, truth, point) >= least
    higher = scores[scores > point].min(initial=np.inf)
    assert c.sensitivity(scores, truth, higher) < least
    (mirrored,) = c.operating_points(-scores[:, None], ~truth[:, None], ("specificity", least))
    assert c.specificity(-scores, ~truth, mirrored) >= least
    lower = (-scores)[-scores <= mirrored].max(initial=-np.inf)
    assert c.specificity(-scores, ~truth, np.nextafter(lower, -np.inf)) < least


def test_each_class_has_its_own_point_and_one_without_both_kinds_has_none():
    scores = np.array([[0.0, 9.0, 1.0], [1.0, 1.0, 2.0], [5.0, 0.0, 3.0]])
    truth = np.array([[False, True, False], [False, False, False], [True, False, False]])
    points = c.operating_points(scores, truth)
    assert points[:2].tolist() == [3.0, 5.0]
    assert np.isnan(points[2])
    assert c.without_both(truth).tolist() == [False, False, True]


def test_operating_points_that_cannot_be_are_refused():
    scores, truth = np.array([[0.0], [1.0]]), np.array([[False], [True]])
    with pytest.raises(InputError, match="1 of 2 images have a NaN score"):
        c.operating_points(np.array([[np.nan], [1.0]]), truth)
    with pytest.raises(InputError, match="sensitivity"):
        c.operating_points(scores, truth, ("sensitivity", 1.5))
    with pytest.raises(InputError, match="best"):
        c.operating_points(scores, truth, "best")


def test_a_nan_score_is_neither_found_nor_cleared():
    scores, truth = np.array([np.nan, 2.0, np.nan, -2.0]), np.array([True, True, False, False])
    assert c.sensitivity(scores, truth, 0.0) == 0.5
    assert c.specificity(scores, truth, 0.0) == 0.5
    assert np.isnan(c.sensitivity(scores, np.zeros(4, dtype=bool), 0.0))
    assert np.isnan(c.specificity(scores, np.ones(4, dtype=bool), 0.0))


def test_predictive_values_agree_with_counts():
    ppv, npv = c.predictive_values(sensitivity=0.8, specificity=0.95, prevalence=0.02)
    hits, alarms, misses, cleared = 16, 49, 4, 931  # of 1000 patients
    assert ppv == pytest.approx(hits / (hits + alarms))
    assert npv == pytest.approx(cleared / (cleared + misses))
    assert np.isnan(c.predictive_values(0.0, 1.0, 0.1)[0])
