"""Each symptom on records made to show it, and on records made not to."""

import dataclasses
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from antivenom.errors import NotMeasuredError
from antivenom.evaluation import suspicion
from antivenom.evaluation.suspicion import suspicions
from antivenom.records.audit import Audit, Flag
from antivenom.records.outcomes import Outcome, Split
from antivenom.records.plan import PlanRow
from antivenom.task import Task
from runs import CHEST, FINDINGS, Run, write_run

N = 100


def row(attack, epsilon=4 / 255, *, goal="untargeted", threat="linf", label=None):
    return PlanRow(0, attack, label or attack, {}, goal, threat, epsilon, "spent")


def audit(
    *rows,
    fooled=None,
    targets=None,
    groups=None,
    task=CHEST,
    clean=None,
    flags=None,
    reached=None,
    operating=None,
    measured=None,
):
    """Records in memory: row 0 is clean; `fooled` gives, for each further row, the images `(N,)` that it turns.

    Two classes: an image that is turned gets the other one.
    """
    plan = [PlanRow(0, "none", "none", {}, rows[0].goal if rows else "untargeted", "linf", 0.0, "spent"), *rows]
    plan = tuple(dataclasses.replace(one, number=number) for number, one in enumerate(plan))
    targets = np.arange(N) % 2 if targets is None else targets
    clean = targets if clean is None else clean
    outcomes = {}
    for number in range(len(plan)):
        turned = np.zeros(np.shape(targets), dtype=bool) if number == 0 else np.asarray(fooled[number - 1])
        answers = np.where(turned, 1 - clean, clean)
        logits = (4.0 * answers - 2) if task.multilabel else 4.0 * (answers[:, None] == np.arange(2))
        wins = turned.all(1) if task.multilabel else turned
        cost = np.ones(len(targets), dtype=np.int64)
        outcomes[number, "test"] = Outcome(
            logits=logits,
            concerned=np.ones(len(targets), dtype=bool),
            reached=wins if reached is None or number not in reached else reached[number],
            linf=np.zeros(len(targets)),
            l2=np.zeros(len(targets)),
            l1=np.zeros(len(targets)),
            l0=np.zeros(len(targets)),
            queries=cost,
            gradients=cost,
            flags=(flags or {}).get(number, {}),
            pixels={},
        )
    if measured is not None:
        outcomes = {key: outcome for key, outcome in outcomes.items() if key[0] in measured}
    groups = np.arange(len(targets)) if groups is None else groups
    split = Split(np.array([f"{i}" for i in range(len(targets))]), targets, groups, np.full(len(targets), ""))
    progress = {number: (len(targets), len(targets)) for number in range(len(plan))}
    return Audit(Path("made-up"), task, {}, {}, operating, None, {}, plan, progress, {"test": split}, outcomes)


def first(share):
    """The first images, of N."""
    return np.arange(N) < round(share * N)


def names(found):
    return [flag.name for flag in found]


# -- one step against many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pgd", "raised"), [(0.3, True), (0.68, False), (0.9, False)])
def test_one_step_that_beats_many_is_suspicious_beyond_luck(pgd, raised):
    found = suspicion.one_step_beats_many(audit(row("fgsm"), row("pgd"), fooled=[first(0.7), first(pgd)]))
    assert (found is not None) is raised
    if found:
        assert found.name == "FGSM beats PGD"
        assert found.severity == "serious"
        assert "fgsm (linf, epsilon 4/255) turns 70.0 %" in found.evidence
        assert "pgd (linf, epsilon 4/255) turns 30.0 % [21.9, 39.6], n = 100" in found.evidence


@pytest.mark.parametrize(
    "others",
    [
        {"epsilon": 2 / 255},
        {"threat": "l2"},
        {"goal": "targeted: pneumonia"},
    ],
)
def test_attacks_are_compared_only_where_they_want_the_same_within_the_same_ball(others):
    targets = np.zeros(N, dtype=int)
    found = suspicion.one_step_beats_many(
        audit(row("fgsm"), row("pgd", **others), fooled=[first(0.7), first(0.2)], targets=targets)
    )
    assert found is None


@pytest.mark.parametrize(("size", "raised"), [(1, True), (25, False)])
def test_what_a_few_patients_decide_is_luck(size, raised):
    found = suspicion.one_step_beats_many(
        audit(row("fgsm"), row("pgd"), fooled=[first(0.7), first(0.2)], groups=np.arange(N) // size)
    )
    assert (found is not None) is raised


# -- black box against white box ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mim", "raised"), [(0.2, True), (0.8, False)])
def test_a_black_box_that_beats_every_white_box_is_suspicious(mim, raised):
    made = audit(row("square"), row("pgd"), row("mim"), fooled=[first(0.6), first(0.1), first(mim)])
    found = suspicion.black_box_beats_white_box(made)
    assert (found is not None) is raised


def test_draws_that_beat_a_climb_along_few_parameters_are_not():
    rows = [row(name, 1.0, threat="placement") for name in ("worst_of", "parameter_ascent")]
    assert suspicion.black_box_beats_white_box(audit(*rows, fooled=[first(0.6), first(0.1)])) is None


def test_a_black_box_alone_is_not():
    made = audit(row("square"), row("noise"), fooled=[first(0.6), first(0.1)])
    assert suspicion.black_box_beats_white_box(made) is None


# -- larger balls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "shares", "raised"),
    [
        ("pgd", (0.1, 0.7, 0.4), True),
        ("pgd", (0.7, 0.67, 0.66), False),
        ("pgd", (0.1, 0.4, 0.7), False),
        ("fgsm", (0.1, 0.7, 0.4), False),
        ("noise", (0.1, 0.7, 0.4), False),
    ],
)
def test_a_larger_ball_that_turns_less_is_suspicious(attack, shares, raised):
    rows = [row(attack, level / 255) for level in (1, 2, 4)]
    found = suspicion.not_monotone(audit(*rows, fooled=[first(s) for s in shares]))
    assert (found is not None) is raised
    if found:
        assert "epsilon 2/255) turns 70.0 %" in found.evidence
        assert "epsilon 4/255) turns 40.0 %" in found.evidence


def test_a_slow_fall_is_seen_against_the_highest_point_before():
    rows = [row("pgd", level / 255) for level in (1, 2, 3, 4)]
    found = suspicion.not_monotone(audit(*rows, fooled=[first(s) for s in (0.7, 0.68, 0.64, 0.6)]))
    assert found is not None
    assert "epsilon 1/255" in found.evidence


@pytest.mark.parametrize(
    ("rows", "shares", "raised"),
    [
        ([row("pgd", 1.0)], [0.99], True),
        ([row("pgd", 1.0)], [1.0], False),
        ([row("pgd", 1.0), row("mim", 1.0)], [0.9, 1.0], False),
        ([row("pgd", 0.5)], [0.5], False),
        ([row("pgd", 1.0, threat="l2")], [0.5], False),
        ([row("square", 1.0)], [0.5], False),
    ],
)
def test_an_unbounded_attack_that_leaves_an_image_is_suspicious(rows, shares, raised):
    found = suspicion.unbounded_attack_fails(audit(*rows, fooled=[first(s) for s in shares]))
    assert (found is not None) is raised
    if found:
        assert found.evidence == "linf, epsilon 255/255: 1 of 100 images withstand"


def test_images_that_show_the_wanted_class_need_not_fall():
    targets = np.arange(N) % 2
    made = audit(row("pgd", 1.0, goal="targeted: pneumonia"), fooled=[targets == 0], targets=targets)
    assert suspicion.unbounded_attack_fails(made) is None


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "images", "raised"),
    [("zero-gradient", 1, True), ("zero-gradient", 0, False), ("non-finite-gradient", 1, True), ("other", 9, False)],
)
def test_gradients_that_vanish_are_suspicious(flag, images, raised):
    made = audit(row("pgd"), fooled=[first(0.5)], flags={1: {flag: np.arange(N) < images}})
    assert (suspicion.vanished_gradients(made) is not None) is raised


@pytest.mark.parametrize(
    ("flag", "severity"), [("random-answers", "serious"), ("probabilities", "note"), ("saturated", "note"), ("other", None)]
)
def test_a_model_whose_answers_mask_gradients_is_told(flag, severity):
    made = audit(row("pgd"), fooled=[first(0.5)], flags={1: {flag: np.ones(N, dtype=bool)}})
    found = suspicion.masked_model(made)
    assert (found and found.severity) == severity


def test_one_vanished_gradient_of_a_thousand_images_is_an_accident():
    few = np.arange(1000) < 2
    made = audit(row("pgd"), fooled=[few], targets=np.arange(1000) % 2, flags={1: {"zero-gradient": few}})
    assert suspicion.vanished_gradients(made) is None


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "answers", "raised"),
    [
        (np.arange(N) % 2, np.zeros(N, dtype=int), True),  # half are ill, all are called healthy
        (np.arange(N) % 2, np.arange(N) % 2, False),
        (np.arange(N) % 2, np.arange(N) // 2 % 2, True),  # varied, but no better than chance
        ((np.arange(N) < 2).astype(int), np.zeros(N, dtype=int), True),  # 98 % right, and worth nothing
        ((np.arange(N) < 4).astype(int), (np.arange(N) < 4).astype(int), False),  # 96 % the same, as they are
        ((np.arange(N) < 4).astype(int), (np.arange(N) < 3).astype(int), False),  # one of four missed
    ],
    ids=["constant", "right", "chance", "rare disease never found", "rare disease found", "rare disease mostly found"],
)
def test_an_answer_that_does_not_depend_on_the_image_is_suspicious(targets, answers, raised):
    found = suspicion.answer_nearly_constant(audit(targets=targets, clean=answers))
    assert (found is not None) is raised


def test_findings_that_are_never_called_are_suspicious():
    task = Task(("Effusion", "Mass"), multilabel=True)
    targets = np.stack([np.arange(N) % 2, np.arange(N) // 2 % 2], axis=1)
    ready = {"thresholds": [0.0, 0.0]}
    constant = audit(targets=targets, clean=np.zeros_like(targets), task=task, operating=ready)
    assert suspicion.answer_nearly_constant(constant) is not None
    assert suspicion.answer_nearly_constant(audit(targets=targets, task=task, operating=ready)) is None


@pytest.mark.parametrize("number", [0, 1])
def test_an_answer_that_is_no_number_is_suspicious(number):
    made = audit(row("noise"), fooled=[first(0.1)])
    assert suspicion.answers_that_are_no_numbers(made) is None
    made.outcomes[number, "test"].logits[7, 1] = math.nan
    found = suspicion.answers_that_are_no_numbers(made)
    assert found is not None
    assert found.evidence.endswith(": 1 of 100 images")


# -- noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "attack", "raised"),
    [(0.6, 0.62, True), (0.6, 0.9, False), (0.02, 0.03, False), (1.0, 1.0, True), (0.6, 0.4, True)],
)
def test_noise_that_harms_as_much_as_the_best_attack_is_told(noise, attack, raised):
    made = audit(row("noise"), row("fgsm"), row("pgd"), fooled=[first(noise), first(0.1), first(attack)])
    found = suspicion.noise_as_harmful(made)
    assert (found is not None) is raised
    if found:
        assert found.severity == "note"


# -- successes ---------------------------------------------------------------------------------------------------------


def test_a_success_that_the_answer_does_not_show_is_suspicious():
    made = audit(row("pgd"), fooled=[first(0.5)], reached={1: first(0.53)})
    found = suspicion.success_not_confirmed(made)
    assert found is not None
    assert "3 of 53 successes" in found.evidence
    assert suspicion.success_not_confirmed(audit(row("pgd"), fooled=[first(0.5)])) is None


def test_a_success_that_the_run_itself_withdrew_is_suspicious():
    withdrawn = {1: {"unconfirmed": np.arange(N) == 70}}
    found = suspicion.success_not_confirmed(audit(row("pgd"), fooled=[first(0.5)], flags=withdrawn))
    assert found is not None
    assert "1 of 51 successes" in found.evidence


def test_a_wanted_class_that_was_not_answered_is_suspicious():
    targets, goal = np.zeros(N, dtype=int), "targeted: pneumonia"
    claimed = audit(row("pgd", goal=goal), fooled=[first(0.5)], targets=targets, reached={1: first(0.6)})
    assert suspicion.success_not_confirmed(claimed) is not None
    assert suspicion.success_not_confirmed(audit(row("pgd", goal=goal), fooled=[first(0.5)], targets=targets)) is None


@pytest.mark.parametrize("decisions", [1, 2])
def test_findings_are_confirmed_when_every_one_is_turned(decisions):
    task = Task(("Effusion", "Mass"), multilabel=True)
    targets, turned = np.zeros((N, 2), dtype=int), np.zeros((N, 2), dtype=bool)
    turned[:, :decisions] = True
    made = audit(
        row("pgd", goal="against every finding"),
        fooled=[turned],
        targets=targets,
        task=task,
        operating={"thresholds": [0.0, 0.0]},
        reached={1: np.ones(N, dtype=bool)},
    )
    assert (suspicion.success_not_confirmed(made) is None) is (decisions == 2)


# -- all together ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [CHEST, FINDINGS])
def test_an_ordinary_run_raises_no_suspicion(tmp_path, task):
    run = Run(task, epsilons=(0.25, 0.5, 1, 2, 4), n_test=120, skill=5)
    assert names(suspicions(Audit.read(write_run(tmp_path, run)))) == []


def test_a_flag_survives_json_and_says_everything():
    found = suspicions(audit(row("fgsm"), row("pgd"), fooled=[first(0.7), first(0.3)]))
    assert names(found) == ["FGSM beats PGD"]
    assert tuple(Flag(**values) for values in json.loads(json.dumps([asdict(flag) for flag in found]))) == found
    assert all(asdict(found[0]).values())


def test_many_pieces_of_evidence_are_counted():
    rows = [one for level in range(1, 6) for one in (row("fgsm", level / 255), row("pgd", level / 255))]
    (found,) = suspicions(audit(*rows, fooled=[first(0.9), first(0.2)] * 5))
    assert found.evidence.count("turns") == 6
    assert found.evidence.endswith("; and 2 more")


def test_rows_that_are_not_measured_are_not_looked_at():
    made = audit(row("fgsm"), row("pgd"), fooled=[first(0.7), first(0.3)], measured={0, 1})
    assert suspicions(made) == ()


def test_without_clean_images_nothing_can_be_said():
    with pytest.raises(NotMeasuredError, match="row 0"):
        suspicions(audit(row("fgsm"), fooled=[first(0.7)], measured={1}))


def test_false_alarms_are_rare():
    generator = np.random.default_rng(0)
    rows = [
        one for level in range(1, 7) for one in (row("fgsm", level / 255), row("pgd", level / 255), row("square", level / 255))
    ]
    alarms = 0
    for _ in range(20):
        # Attacks that are equally strong, and differ by luck only.
        turned = [generator.random(N) < 0.4 for _ in rows]
        found = names(suspicions(audit(*rows, fooled=turned)))
        alarms += bool(found)
    assert alarms <= 5
