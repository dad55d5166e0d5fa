"""The examination of a guard in one sentence: only where an attacker who knows it was measured."""

import pytest
from tests.examinations import Examined, trial, write_examination
from tests.report.test_detected import FEW, SMALL
from tests.runs import write_run

from antivenom.records.audit import Audit
from antivenom.records.detection import Detection
from antivenom.report.detected_words import guard_verdict
from antivenom.report.sentences import verdict_of


def examined(folder, **changes):
    return Detection.read(write_examination(folder, Examined(**{"trials": FEW, "n_test": 40, **changes})))


def test_it_states_what_is_stopped_of_those_who_know_and_of_those_who_do_not(tmp_path):
    found = examined(tmp_path)
    passed = found.passed("gaussian", ("linf", 0.02))
    assert guard_verdict(found) == (
        f"Of 100 answers changed within L∞ 5.1/255 the guard stops {100 * (1 - passed.evasion.value):.0f} once the attacker "
        f"knows it; {100 * (1 - passed.naive_evasion.value):.0f} while it is not known."
    )


def test_without_an_attacker_who_knows_it_there_is_no_such_sentence(tmp_path):
    assert guard_verdict(None) is None
    assert guard_verdict(examined(tmp_path / "a", trials=FEW[:4])) is None
    assert guard_verdict(examined(tmp_path / "b", finished=lambda row: row["attack"] != "orthogonal_pgd")) is None


@pytest.mark.parametrize(("trials", "said"), [(FEW, "the guard stops"), ((trial("pgd"),), "nothing about robustness")])
def test_a_page_about_a_guard_alone_begins_with_it(tmp_path, trials, said):
    home = write_run(tmp_path, SMALL)
    write_examination(home, Examined(trials=trials, n_test=40))
    assert said in verdict_of(Audit.read(home), None)
