"""What the batteries hold, and that every row of them can be run."""

import math

import pytest

from antivenom.attacks import ATTACKS
from antivenom.errors import SettingsError
from antivenom.evaluation.batteries import BATTERIES, LEVELS, STANDARD, plan
from antivenom.evaluation.protocol import Protocol
from antivenom.task import Task
from antivenom.threat.card import perturbation_set

CHEST = Task(("normal", "pneumonia"))
FINDINGS = Task(("Effusion", "Mass"), multilabel=True)


def test_the_standard_plan_has_every_attack_at_every_level_noise_beside_them_and_one_row_without_bound():
    rows = plan("standard", CHEST, 64 * 64)
    assert rows[0].attack == "none"
    linf = {(row.attack, row.epsilon) for row in rows if row.threat == "linf" and row.epsilon < 1}
    assert linf >= {(name, level / 255) for name in STANDARD for level in LEVELS}
    assert len({row.epsilon for row in rows if row.threat == "l2" and row.attack == "pgd"}) == 6
    assert [row.attack for row in rows if row.epsilon == 1] == ["pgd"]


def test_an_l2_radius_grows_with_the_root_of_the_number_of_values():
    small, large = (plan("standard", CHEST, values, levels=(2,)) for values in (64 * 64, 4 * 64 * 64))
    radius = [next(row.epsilon for row in rows if row.threat == "l2") for rows in (small, large)]
    assert radius == [pytest.approx(64 / 255), pytest.approx(128 / 255)]


def test_findings_are_attacked_all_at_once_and_to_the_end_of_the_budget():
    rows = plan("standard", FINDINGS, 100)[1:]
    assert {row.goal for row in rows} == {"against every finding"}
    assert {row.until for row in rows} == {"spent"}
    assert all(row.settings.get("objective") == "log_likelihood" for row in rows if row.attack != "noise")


@pytest.mark.parametrize("task", [CHEST, FINDINGS])
@pytest.mark.parametrize("name", BATTERIES)
def test_every_row_of_a_battery_can_be_run(name, task):
    rows = plan(name, task, 3 * 64 * 64, channels=3)
    Protocol(plan=rows).for_task(task)  # checks attacks, settings, threats and goals
    assert len(set(map(repr, rows))) == len(rows)
    for row in rows[1:]:
        assert type(perturbation_set(row.threat, row.epsilon)) in ATTACKS[row.attack].norms
        assert row.cost > 0


def test_a_quick_battery_costs_a_fraction_and_an_exhaustive_one_holds_every_kind():
    cost = {name: sum(row.cost for row in plan(name, CHEST, 64 * 64)) for name in BATTERIES}
    assert cost["quick"] < cost["standard"] / 2 < cost["exhaustive"] / 4
    everything = plan("exhaustive", CHEST, 64 * 64)
    assert {row.threat for row in everything} == {"linf", "l2", "l1", "l0", "stripes", "placement", "exposure", "bias field"}
    assert {row.attack for row in plan("standard", CHEST, 64 * 64)} < {row.attack for row in everything}


def test_least_changes_are_sought_to_the_end():
    assert all(
        row.until == "spent" for row in plan("exhaustive", CHEST, 100) if row.attack in ("ddn", "fmn", "cw", "sigma_zero")
    )


def test_sizes_of_other_norms_grow_with_the_image():
    small, large = (plan("exhaustive", CHEST, values) for values in (64 * 64, 4 * 64 * 64))
    for norm, factor in (("l2", 2), ("l1", 4), ("l0", 4)):
        one, other = (max(row.epsilon for row in rows if row.threat == norm) for rows in (small, large))
        assert other / one == pytest.approx(factor, rel=0.01)
    assert max(row.epsilon for row in small if row.threat == "l2") == pytest.approx(8 / 2 / 255 * math.sqrt(64 * 64))


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="at least one epsilon"):
        plan("standard", CHEST, 100, levels=())
    with pytest.raises(SettingsError, match="gps"):
        plan("standard", CHEST, 100, attacks=("gps",))
    with pytest.raises(SettingsError, match="exhaustive"):
        plan("endless", CHEST, 100)
