import math

import numpy as np
import pytest

from antivenom.metrics.classification import balanced_accuracy_estimate
from antivenom.metrics.intervals import Estimate
from antivenom.metrics.significance import mcnemar, sign_flip
from antivenom.report.contrasts import Standing, balanced_difference, luck, marks

NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0, "undefined")


def standing(value, spread=0.05, *, above=True):
    return Standing(Estimate(value, value - spread, value + spread, 100, 100, "Wilson"), above)


def never(*_):
    """No paired difference."""


def paired(low):
    """A paired difference whose interval begins here."""
    return lambda *_: Estimate(low + 0.1, low, low + 0.2, 100, 100, "Wilson")


def two_models(multilabel=False, seed=0, n=90):
    generator = np.random.default_rng(seed)
    targets = (generator.random((n, 4)) < [0.5, 0.3, 0.2, 0.0]).astype(int) if multilabel else generator.integers(0, 3, n)
    wide = targets.shape[1] if multilabel else 1
    return targets, generator.random((n, wide)) < 0.8, generator.random((n, wide)) < 0.6


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_difference_of_balanced_accuracies_is_their_difference(multilabel):
    targets, one, other = two_models(multilabel)
    classes = 4 if multilabel else 3
    first, second = (balanced_accuracy_estimate(r, targets, classes, multilabel=multilabel).value for r in (one, other))
    found = balanced_difference(one, other, targets, classes, multilabel=multilabel)
    assert found.value == pytest.approx(first - second)
    assert found.low < found.value < found.high
    back = balanced_difference(other, one, targets, classes, multilabel=multilabel)
    assert back.value == pytest.approx(-found.value)


def test_pairing_narrows_the_interval_of_models_that_agree():
    targets, one, other = two_models(n=300)
    alike = one ^ (np.arange(300) % 30 == 0)[:, None]
    close, far = (balanced_difference(one, two, targets, 3, multilabel=False) for two in (alike, other))
    assert close.high - close.low < 0.6 * (far.high - far.low)


def test_models_that_do_not_differ_differ_by_nothing_within_an_interval():
    targets, one, _ = two_models()
    found = balanced_difference(one, one, targets, 3, multilabel=False)
    assert str(found.value) == "0.0"
    assert found.low < 0 < found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(200):
        targets = (generator.random(150) < 0.15).astype(int)
        hard = generator.random((150, 1))
        one, other = (generator.random((150, 1)) * 0.5 + 0.5 * hard < limit for limit in (0.8, 0.7))
        # A sum of two uniform halves: P(u + v < t) = 1 - (2 - t)^2 / 2 for t = 2 * limit in [1, 2].
        truth = (1 - 0.4**2 / 2) - (1 - 0.6**2 / 2)
        found = balanced_difference(one, other, targets, 2, multilabel=False)
        hits += found.low <= truth <= found.high
    assert hits >= 186  # 95 % of 200 less a little more than two standard deviations


def test_the_test_is_mcnemars_where_every_image_stands_alone():
    _, one, other = two_models()
    assert luck(one, other, np.arange(90)) == (mcnemar(one, other), "McNemar, exact")


def test_images_of_one_patient_are_not_taken_as_independent():
    _, one, other = two_models()
    groups = np.arange(90) // 3
    p, name = luck(one, other, groups)
    assert p == sign_flip(one, other, groups)
    assert "patient" in name


def test_the_best_is_starred_only_where_it_stands_apart():
    apart = {"a": standing(0.9), "b": standing(0.7), "c": standing(0.6)}
    assert marks(apart, never) == {"a": "*"}
    assert marks({**apart, "b": standing(0.82)}, never) == {"a": "=", "b": "="}


def test_on_the_same_images_the_paired_difference_decides_with_the_interval():
    column = {"a": standing(0.9), "b": standing(0.82)}
    assert marks(column, paired(0.01)) == {"a": "*"}  # the intervals overlap, the difference does not hold 0
    assert marks(column, paired(-0.01)) == {"a": "=", "b": "="}
    assert marks({**column, "b": standing(0.88)}, paired(0.01)) == {"a": "=", "b": "="}  # its interval holds the other


def test_the_interval_of_a_difference_widens_with_the_number_of_pairs():
    seen = []

    def between(_one, _other, level):
        seen.append(level)
        return paired(0.01)(None, None, level)

    marks({name: standing(value) for name, value in zip("abcd", (0.9, 0.5, 0.4, 0.3), strict=True)}, between)
    assert seen == [pytest.approx(1 - 0.05 / 6)] * 3


@pytest.mark.parametrize(
    "column",
    [
        {"a": standing(0.9)},
        {"a": standing(0.9), "b": Standing(NOTHING, True)},
        {"a": standing(0.9, above=False), "b": standing(0.2)},
        {"a": Standing(Estimate(0.9, math.nan, math.nan, 9, 9, "all alike"), True), "b": standing(0.2)},
    ],
    ids=["alone", "nothing to compare with", "no better than chance", "without an interval"],
)
def test_where_nothing_can_be_ranked_nothing_is_marked(column):
    assert marks(column, never) == {}


def test_a_distance_beyond_all_tested_stands_apart_from_a_finite_one():
    far = Standing(Estimate(math.inf, math.inf, math.inf, 9, 9, "bootstrap"), True)
    assert marks({"a": far, "b": standing(0.2)}, never) == {"a": "*"}
    assert marks({"a": far, "b": far}, never) == {"a": "=", "b": "="}
