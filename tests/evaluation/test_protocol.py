import json
import math

import pytest

from antivenom.errors import LabelError, SettingsError
from antivenom.evaluation.batteries import plan
from antivenom.evaluation.protocol import Protocol, Row, read_protocol
from antivenom.task import Task

CHEST = Task(("normal", "pneumonia"))
FINDINGS = Task(("Effusion", "Mass"), multilabel=True)
CLEAN = Row(attack="none")


def test_the_clean_row_keeps_the_tasks_own_goal():
    assert plan("standard", CHEST, 100, goal="targeted: normal")[0].goal == "untargeted"
    assert Protocol(plan=(CLEAN,)).for_task(FINDINGS).plan[0].goal == "against every finding"


@pytest.mark.parametrize(
    ("task", "goal", "error"),
    [
        (CHEST, "hide: Mass", SettingsError),
        (CHEST, "targeted: tumour", LabelError),
        (FINDINGS, "untargeted", SettingsError),
        (FINDINGS, "invent: Nodule", LabelError),
    ],
)
def test_a_goal_of_another_task_is_refused_before_anything_runs(task, goal, error):
    with pytest.raises(error):
        Protocol(plan=(CLEAN, Row(attack="pgd", goal=goal))).for_task(task)
    Protocol(plan=(CLEAN, Row(attack="pgd", goal="hide: Mass"))).for_task(FINDINGS)


def test_a_protocol_survives_its_file(tmp_path):
    protocol = Protocol(plan=plan("standard", CHEST, 100), images=None, seed=3)
    (tmp_path / "protocol.json").write_text(protocol.model_dump_json())
    assert read_protocol(tmp_path / "protocol.json") == protocol


@pytest.mark.parametrize(
    ("written", "meant"), [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), (0.5, 0.5), ("1e-3", 1e-3), (1, 1.0)]
)
def test_an_epsilon_may_be_written_as_people_write_it(written, meant):
    assert Row(attack="pgd", epsilon=written).epsilon == meant


BAD = {
    "an unknown field": ({"plan": [{"attack": "none"}], "sead": 1}, "sead"),
    "no epsilon": ({"plan": [{"attack": "none"}, {"attack": "pgd", "epsilon": "much"}]}, "epsilon"),
    "an epsilon of nothing": ({"plan": [{"attack": "none"}, {"attack": "pgd", "epsilon": "1/0"}]}, "epsilon"),
    "an epsilon that is a list": ({"plan": [{"attack": "none"}, {"attack": "pgd", "epsilon": [1]}]}, "epsilon"),
    "an epsilon below 0": ({"plan": [{"attack": "none"}, {"attack": "pgd", "epsilon": -1}]}, "epsilon"),
    "no clean row": ({"plan": [{"attack": "pgd", "epsilon": 0.1}]}, "none"),
    "two clean rows": ({"plan": [{"attack": "none"}, {"attack": "none", "goal": "x"}]}, "none"),
    "an unknown attack": ({"plan": [{"attack": "none"}, {"attack": "gps"}]}, "gps"),
    "an unknown threat": ({"plan": [{"attack": "none"}, {"attack": "pgd", "threat": "l7"}]}, "l7"),
    "a norm that the attack does not take": ({"plan": [{"attack": "none"}, {"attack": "ddn", "threat": "l1"}]}, "ddn"),
    "an unknown setting": ({"plan": [{"attack": "none"}, {"attack": "pgd", "settings": {"stepz": 3}}]}, "stepz"),
    "an unknown objective": (
        {"plan": [{"attack": "none"}, {"attack": "pgd", "settings": {"objective": "up"}}]},
        "no objective 'up'",
    ),
    "a row twice": ({"plan": [{"attack": "none"}, {"attack": "fgsm"}, {"attack": "fgsm"}]}, "once"),
    "another way to stop": ({"plan": [{"attack": "none", "until": "bored"}]}, "until"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_protocol_that_cannot_be_is_refused(tmp_path, bad):
    written, said = BAD[bad]
    (tmp_path / "protocol.json").write_text(json.dumps(written))
    with pytest.raises(SettingsError, match=said):
        read_protocol(tmp_path / "protocol.json")


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot read"):
        read_protocol(tmp_path / "none.json")
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(SettingsError, match="JSON"):
        read_protocol(tmp_path / "protocol.json")


def test_work_is_weighed_so_that_the_time_left_can_be_told():
    dear, cheap = Row(attack="pgd", epsilon="0.5/255", settings={"steps": 40}), Row(attack="fgsm", epsilon="0.5/255")
    assert dear.cost > 10 * cheap.cost
    assert CLEAN.cost < cheap.cost
    assert math.isfinite(Row(attack="square", settings={"queries": 10}).cost)
