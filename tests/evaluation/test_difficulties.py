"""Each doubt about the main attack is raised by what should raise it, and by nothing less."""

from types import SimpleNamespace

import numpy as np
import pytest

from antivenom.evaluation.difficulties import DIFFICULTIES, not_converged, planted_not_found, signs_of_failure
from antivenom.records.diagnosis import Diagnosis

N = 40


def first(count):
    return np.arange(N) < count


def examined(*, convergence=(10, 10, 11), **changes):
    effort = ("as run", "twice the steps", "twice the restarts")
    plain = {
        "row": 1,
        "images": np.array([f"{i}" for i in range(N)]),
        "convergence": {name: first(count) for name, count in zip(effort, convergence, strict=True)},
        "vanished": first(0),
        "rough": np.full(N, 0.05),
        "unfinished": np.full(N, 0.01),
        "refused": first(0),
        "fooled": first(10),
        "posed": first(N),
        "found": first(N),
        "chance": np.zeros(N),
    }
    return SimpleNamespace(diagnosis=Diagnosis(**{**plain, **changes}))


def test_an_attack_in_order_raises_nothing():
    assert [check(examined()) for check in DIFFICULTIES] == [None, None, None]


def test_an_attack_that_nobody_examined_raises_nothing():
    assert [check(SimpleNamespace(diagnosis=None)) for check in DIFFICULTIES] == [None, None, None]


@pytest.mark.parametrize(("convergence", "raised"), [((10, 12, 10), True), ((10, 10, 15), True), ((10, 11, 11), False)])
def test_twice_the_effort_that_finds_more_is_suspicious(convergence, raised):
    flag = not_converged(examined(convergence=convergence))
    assert (flag is not None) is raised
    assert flag is None or "images more" in flag.evidence


@pytest.mark.parametrize(("found", "raised"), [(35, True), (36, False), (40, False)])
def test_planted_examples_must_be_found(found, raised):
    assert (planted_not_found(examined(found=first(found))) is not None) is raised


def test_where_none_could_be_planted_none_is_missed():
    assert planted_not_found(examined(posed=first(0), found=first(0))) is None
    assert planted_not_found(examined(posed=None, found=None, chance=None)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vanished": first(1)}, "no gradient"),
        ({"rough": np.full(N, 0.6)}, "ragged"),
        ({"unfinished": np.full(N, 0.2)}, "still rising"),
        ({"refused": first(3)}, "fooled only what"),
    ],
)
def test_each_sign_is_told(change, said):
    assert said in signs_of_failure(examined(**change)).evidence


def test_a_rise_that_goes_on_after_the_model_is_fooled_is_no_sign():
    assert signs_of_failure(examined(unfinished=np.where(first(10), 0.9, 0.01))) is None
