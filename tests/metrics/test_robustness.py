import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from antivenom.errors import InputError
from antivenom.metrics.intervals import proportion
from antivenom.metrics.robustness import (
    area_under_curve,
    attack_success_rate,
    fooled,
    median_distance,
    worst_case,
    worst_example,
)


def test_success_is_counted_over_what_was_first_right():
    clean = np.array([[True], [True], [True], [False], [False]])
    adv = np.array([[False], [False], [True], [False], [True]])
    assert attack_success_rate(clean, adv) == pytest.approx(2 / 3)
    assert proportion(fooled(clean, adv)).n == 3


def test_without_a_right_decision_there_is_no_success_rate():
    assert np.isnan(attack_success_rate(np.zeros((3, 1)), np.zeros((3, 1))))


def test_decisions_of_other_images_are_refused():
    with pytest.raises(InputError, match=r"\(3, 1\) and \(2, 1\)"):
        attack_success_rate(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(InputError, match="same"):
        worst_case([np.ones((3, 1)), np.ones((2, 1))])


@given(arrays(bool, (3, 12, 1)))
def test_one_decision_is_right_only_if_it_is_under_all_attacks(rights):
    np.testing.assert_array_equal(worst_case(list(rights)), rights.all(0))


@given(arrays(bool, (3, 12, 4)))
def test_one_example_does_all_the_harm(rights):
    worst = worst_case(list(rights))
    for image in range(12):
        assert any((worst[image] == right[image]).all() for right in rights)
        assert worst[image].sum() == rights[:, image].sum(1).min()
    assert worst.mean() >= rights.all(0).mean()  # a union over decisions would claim more than any example did


@given(arrays(bool, (3, 12, 4)))
def test_another_attack_never_helps_the_model(rights):
    fewer = worst_case(list(rights[:2])).sum(1)
    assert (worst_case(list(rights)).sum(1) <= fewer).all()


def test_of_equally_harmful_examples_the_first_is_kept():
    rights = [np.array([[True, False]]), np.array([[False, True]]), np.array([[True, True]])]
    assert worst_example(rights).tolist() == [0]
    assert worst_example(rights[::-1]).tolist() == [1]
    assert worst_case(rights[::-1]).tolist() == [[False, True]]


@given(st.permutations([0.0, 0.5, 1.0, 4.0]))
def test_the_area_does_not_depend_on_the_order_of_points(epsilons):
    x = np.array(epsilons)
    assert area_under_curve(x, 1 - x / 4) == pytest.approx(0.5)


def test_the_area_weighs_by_distance():
    assert area_under_curve(np.array([0, 1, 10]), np.array([1, 0, 0])) == pytest.approx(0.05)


@pytest.mark.parametrize("epsilons", [[1.0], [1.0, 1.0], [0.0, np.inf]])
def test_a_curve_without_a_range_is_refused(epsilons):
    with pytest.raises(InputError, match="two different, finite"):
        area_under_curve(np.array(epsilons), np.ones(len(epsilons)))


@pytest.mark.parametrize(
    ("distances", "median"), [([0.3, 0.1, 0.2], 0.2), ([0.1, np.inf, np.inf], np.inf), ([0.1, 0.2, 0.3, np.inf], 0.25)]
)
def test_images_that_withstood_are_infinitely_far(distances, median):
    assert median_distance(np.array(distances)) == pytest.approx(median)


def test_a_distance_that_is_not_a_number_is_refused():
    with pytest.raises(InputError, match="1 distances are NaN"):
        median_distance(np.array([0.1, np.nan]))
    assert np.isnan(median_distance(np.array([])))
