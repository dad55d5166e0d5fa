from tests.runs import CHEST, FINDINGS, Run, write_run

from antivenom.records.audit import Audit
from antivenom.report.threat_model import threat_model


def card(folder, **changes):
    run = Run(changes.pop("task", CHEST), n_test=12, n_val=12, size=8, **changes)
    statements = threat_model(Audit.read(write_run(folder / "run", run)))
    return {s.term: (" ".join(s.texts), " ".join(s.ids)) for s in statements}


def test_knowledge_follows_from_what_was_run(tmp_path):
    both, white = card(tmp_path / "a"), card(tmp_path / "b", attacks=("pgd", "noise"))
    assert "White box" in both["Knowledge"][0]
    assert "Black box" in both["Knowledge"][0]
    assert "AML.T0043.000" in white["Knowledge"][1]
    assert "AML.T0043.001" not in white["Knowledge"][1]
    assert "Black box" not in white["Knowledge"][0]


def test_capability_is_told_in_grey_levels_of_the_image(tmp_path):
    text = card(tmp_path, epsilons=(1, 4), l2=(2.0,))["Capability"][0]
    assert "at most 1 or 4 of 255 grey levels" in text
    assert "is at most 2 (values in [0, 1]); spread evenly, that is 64 of 255" in text  # 255 * 2 / sqrt(8 * 8)


def test_goal_and_stopping_are_those_of_the_plan(tmp_path):
    found = card(tmp_path, task=FINDINGS, until="spent")
    assert found["Goal"][0] == "The wrong answer about every finding at once."
    assert "end of its budget" in found["Stopping"][0]
    assert "first step" not in found["Stopping"][0]


def test_rows_that_are_not_measured_make_no_threat(tmp_path):
    assert card(tmp_path, finished=lambda row: row["number"] == 0) == {"Adversary": ("None: no attack is measured yet.", "")}
