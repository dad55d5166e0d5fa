import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import fisher_exact
from sklearn.metrics import cohen_kappa_score

from antivenom.errors import InputError
from antivenom.metrics.intervals import proportion
from antivenom.metrics.transfer import Overlap, kept, overlap, readings

CLASSES = st.integers(-1, 3)
DECISIONS = arrays(np.int64, (5, 30), elements=CLASSES)


def truth(drawn):
    """A true class is never undecided."""
    return np.abs(drawn)


@given(DECISIONS)
def test_on_the_source_itself_every_reading_is_one(drawn):
    y, clean, adv = truth(drawn[0]), drawn[1], drawn[2]
    found = readings(y, clean, adv, clean, adv)
    if found.kept:
        assert set(found.rates.values()) == {1.0}
    else:
        assert all(math.isnan(rate) for rate in found.rates.values())


@given(DECISIONS)
def test_the_four_readings_follow_their_definitions(drawn):
    y, source, attacked, clean, adv = truth(drawn[0]), *drawn[1:]
    found = readings(y, source, attacked, clean, adv)
    chosen = [i for i in range(30) if source[i] == y[i] and attacked[i] != y[i] and attacked[i] != -1]
    assert found.kept == len(chosen)
    for name, of, succeeds in [
        ("error", chosen, lambda i: adv[i] != y[i]),
        ("conditional", [i for i in chosen if clean[i] == y[i]], lambda i: adv[i] != y[i]),
        ("change", chosen, lambda i: adv[i] != clean[i]),
        ("agreement", chosen, lambda i: adv[i] == attacked[i]),
    ]:
        values = getattr(found, name)
        assert np.flatnonzero(~np.isnan(values)).tolist() == of
        assert [bool(values[i]) for i in of] == [succeeds(i) for i in of]
        rate = found.rates[name]
        assert 0 <= rate <= 1 if of else math.isnan(rate)


def test_a_target_that_is_wrong_anyway_tells_the_readings_apart():
    """A constant answer, as of a pruned net that collapsed: always wrong, never changed, never fooled."""
    y, fooled = np.array([0, 1, 2, 1]), np.array([1, 2, 0, 3])
    constant = np.full(4, 9)
    found = readings(y, y, fooled, constant, constant)
    assert found.rates["error"] == 1
    assert math.isnan(found.rates["conditional"])
    assert found.rates["change"] == found.rates["agreement"] == 0


def test_what_the_source_had_wrong_or_withstood_does_not_count():
    y, clean, adv = np.array([0, 0, 0, 0]), np.array([0, 0, 1, 0]), np.array([1, 0, 1, -1])
    assert kept(y, clean, adv).tolist() == [True, False, False, False]


def test_findings_are_counted_one_by_one():
    y = np.array([[0, 1], [1, 1]])
    source, attacked = y, np.array([[1, 1], [0, 0]])
    found = readings(y, source, attacked, y, np.array([[1, 1], [1, 0]]))
    assert found.kept == 3
    assert found.rates["error"] == pytest.approx(2 / 3)
    assert proportion(found.error, np.array(["a", "b"])).n == 3


@given(DECISIONS)
def test_the_counts_of_an_overlap_add_up_to_the_examples_kept(drawn):
    y, source, attacked, one, other = truth(drawn[0]), *drawn[1:]
    first, second = readings(y, source, attacked, y, one), readings(y, source, attacked, y, other)
    found = overlap(first.error, second.error)
    assert found.only_one + found.only_other + found.both + found.neither == found.total == first.kept
    assert found.both + found.only_one == (first.error == 0).sum()
    assert found.both + found.only_other == (second.error == 0).sum()
    turned = overlap(second.error, first.error)
    assert (turned.only_one, turned.only_other) == (found.only_other, found.only_one)


@given(arrays(bool, (2, 40)))
def test_kappa_and_odds_ratio_are_the_known_ones(fooled):
    one, other = fooled.astype(float)
    found = overlap(one, other)
    if len(np.unique(fooled)) == 2:  # else scikit-learn warns of 0 / 0
        assert found.kappa == pytest.approx(cohen_kappa_score(one, other))
    table = [[found.both, found.only_one], [found.only_other, found.neither]]
    if found.only_one * found.only_other:
        assert found.odds_ratio == pytest.approx(fisher_exact(table).statistic)


def test_where_nothing_tells_them_apart_there_is_no_agreement_to_state():
    assert math.isnan(Overlap(0, 0, 7, 0).kappa)
    assert math.isnan(Overlap(0, 0, 0, 0).kappa)
    assert math.isnan(Overlap(0, 3, 4, 0).odds_ratio)
    assert Overlap(0, 3, 4, 2).odds_ratio == math.inf
    assert Overlap(0, 0, 4, 3).kappa == 1
    assert Overlap(4, 3, 0, 0).kappa < 0


def test_examples_that_are_not_the_same_are_refused():
    y = np.zeros(3, dtype=int)
    with pytest.raises(InputError, match=r"\(3,\), \(2,\)"):
        readings(y, y, y, y[:2], y)
    with pytest.raises(InputError, match="conditional"):
        overlap(np.array([1.0, np.nan]), np.array([1.0, 0.0]))
