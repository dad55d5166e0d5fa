import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tests.runs import CHEST, FINDINGS, SKIN, Run, write_run

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Scan
from antivenom.task import Task

WELL_ILL = Task(("well", "ill"))
TWO = Task(("Mass", "Nodule"), multilabel=True)
UNSURE, RIGHT, WRONG = [0.0, 0.0], [2.0, -2.0], [-2.0, 2.0]  # for an image whose class is 'well'


def plan_row(attack, epsilon=0.0, threat="linf", goal="untargeted", until="fooled", **settings):
    return {"attack": attack, "settings": settings, "goal": goal, "threat": threat, "epsilon": epsilon, "until": until}


def write(folder, task, targets, plan, logits, **changes):
    """Write test images with these answers by row (None: not measured), and one validation image that is answered alike."""
    store = Store(folder)
    targets = [t if isinstance(t, tuple) else (t,) for t in targets]
    groups = changes.get("groups", [f"p{i}" for i in range(len(targets))])
    scans = [Scan("v0", "val", targets[0], "v", "")]
    scans += [Scan(f"t{i}", "test", t, g, "") for i, (t, g) in enumerate(zip(targets, groups, strict=True))]
    store.write_scans(scans)
    data = {"name": "made up", "digest": "d", "size": [2, 2], "channels": 1, "val": 1, "test": len(targets), "caveats": []}
    model = {"name": "toy", "digest": "w"}
    store.write_document(
        "protocol", {"version": 1, "seed": 0, "data": data, "model": model, "shard": 64, "keep": 0, "plan": plan}
    )
    store.write_document("provenance", {"weights": changes.get("weights", "w"), "card": {"task": task.to_dict()}})
    if "operating" in changes:
        store.write_document(
            "operating", {"rule": "", "n": 1, "thresholds": changes["operating"], "classes": list(task.classes)}
        )
    for number, (row, answers) in enumerate(zip(plan, logits, strict=True)):
        said = [("v0", answers[0])] if number == 0 else []
        said += [(f"t{i}", a) for i, a in enumerate(answers)]
        said = [(image, a) for image, a in reversed(said) if a is not None]  # the order on disk is nobody's business
        truth = {scan.image: scan.target for scan in scans}
        examples = [example(number, row, image, changes.get("reached", reached)(a, truth[image])) for image, a in said]
        store.write_shard(
            f"{9 - number}", examples, [Answer(e.example, "w", tuple(a)) for e, (_, a) in zip(examples, said, strict=True)]
        )
    return folder


def example(number, row, image, hit, **changes):
    size = changes.get("size", row["epsilon"])
    threat = row["threat"] if row["attack"] != "none" else "none"
    fields = {name: row[name] for name in ("attack", "goal", "epsilon", "until")}
    return Example(
        f"{number}/{image}", image, number, **fields, settings="{}", threat=threat, seed=0, reached=hit, linf=size, l2=size,
        l1=size, l0=1, queries=3, gradients=2, flags=("zero-gradient",) if image == "t1" else (), pixels="",
    )  # fmt: skip


def reached(answer, target):
    if len(target) > 1:
        return all((a > 0) != t for a, t in zip(answer, target, strict=True))
    own = answer[target[0]]
    return max(a for k, a in enumerate(answer) if k != target[0]) > own


CURVE = [plan_row("none"), plan_row("pgd", 1 / 255), plan_row("pgd", 2 / 255), plan_row("noise", 2 / 255)]
ANSWERS = [
    [RIGHT, RIGHT, RIGHT, WRONG],
    [WRONG, RIGHT, RIGHT, WRONG],
    [RIGHT, WRONG, RIGHT, WRONG],
    [RIGHT, RIGHT, RIGHT, RIGHT],
]


@pytest.fixture
def audit(tmp_path):
    return Audit.read(write(tmp_path, WELL_ILL, [0, 0, 0, 0], CURVE, ANSWERS))


def test_figures_are_what_a_hand_counts(audit):
    assert audit.accuracy().value == 3 / 4
    assert audit.accuracy(1).value == 2 / 4
    assert audit.success_rate(1).value == pytest.approx(1 / 3)
    assert audit.success_rate(1).n == 3
    assert np.isnan(audit.success(1)[3, 0])  # wrong from the start: nothing was to be gained
    assert audit.queries(1) == 3
    assert audit.gradients(1) == 2
    assert audit.outcome(1).flags["zero-gradient"].tolist() == [False, True, False, False]
    assert audit.confusion(1).tolist() == [[2, 2], [0, 0]]
    assert audit.finished
    assert audit.progress[0] == (5, 5)


def test_the_worst_case_keeps_what_a_smaller_change_did(audit):
    worst = audit.worst_case("linf", 2 / 255)
    assert worst.right[:, 0].tolist() == [False, False, True, False]
    assert worst.row.tolist() == [1, 2, 0, 0]
    assert worst.accuracy.value == 1 / 4
    assert worst.success.value == pytest.approx(2 / 3)
    assert [row.number for row in worst.rows] == [0, 1, 2, 3]
    assert audit.worst_case("linf", 1 / 255).accuracy.value == 2 / 4


def test_only_the_worst_case_has_to_fall_with_epsilon(audit):
    assert [e.value for _, e in audit.curve("pgd", "linf")] == [3 / 4, 2 / 4, 2 / 4]
    assert [e.value for _, e in audit.worst_curve("linf")] == [3 / 4, 2 / 4, 1 / 4]
    assert audit.epsilons("linf") == (1 / 255, 2 / 255)


def test_a_row_that_lacks_one_image_states_nothing(tmp_path):
    partial = [*ANSWERS[:2], [RIGHT, None, RIGHT, WRONG], ANSWERS[3]]
    audit = Audit.read(write(tmp_path, WELL_ILL, [0, 0, 0, 0], CURVE, partial))
    assert not audit.finished
    assert not audit.measured(2)
    assert audit.progress[2] == (3, 4)
    with pytest.raises(NotMeasuredError, match="3 of 4"):
        audit.accuracy(2)
    assert [row.number for row in audit.worst_case("linf", 2 / 255).rows] == [0, 1, 3]
    with pytest.raises(NotMeasuredError, match="l2"):
        audit.worst_case("l2", 1.0)
    with pytest.raises(NotMeasuredError, match="no such row"):
        audit.accuracy(17)


def test_clean_validation_images_count_towards_the_clean_row(tmp_path):
    folder = write(tmp_path, WELL_ILL, [0], CURVE[:1], [[RIGHT]])
    table = Store(folder).document("protocol")
    assert Audit.read(folder).measured(0, "val")
    table["data"]["val"] = 2
    Store(folder).write_document("protocol", table)
    with pytest.raises(RecordsError, match="2 val images"):
        Audit.read(folder)


def test_a_wanted_class_is_wanted_of_other_images_only(tmp_path):
    plan = [plan_row("none"), plan_row("pgd", 0.1, goal="targeted: ill")]
    answers = [[RIGHT, RIGHT, WRONG], [WRONG, RIGHT, None]]  # the third image is ill: it is left alone
    audit = Audit.read(write(tmp_path, WELL_ILL, [0, 0, 1], plan, answers))
    assert audit.measured(1)
    assert audit.progress[1] == (2, 2)
    assert audit.success_rate(1).value == 1 / 2
    assert audit.success_rate(1).n == 2
    assert audit.outcome(1).concerned.tolist() == [True, True, False]
    assert audit.logits(1)[2].tolist() == WRONG  # its clean answer stands
    assert audit.worst_case("linf", 0.1).success.value == 1 / 2
    assert audit.accuracy(1).value == 2 / 3


EVERY = "against every finding"


def test_one_example_has_to_do_all_the_harm(tmp_path):
    plan = [plan_row("none", goal=EVERY), plan_row("fgsm", 0.1, goal=EVERY), plan_row("pgd", 0.1, goal=EVERY)]
    answers = [[[2, -2]], [[-2, -2]], [[2, 2]]]
    audit = Audit.read(write(tmp_path, TWO, [(1, 0)], plan, answers, operating=[0.0, 0.0]))
    assert audit.right(0).tolist() == [[True, True]]
    assert audit.worst_case("linf", 0.1).accuracy.value == 1 / 2  # the union would be 0


def test_hiding_counts_findings_that_are_there(tmp_path):
    goal = "hide: Mass"
    plan = [plan_row("none", goal=goal), plan_row("pgd", 0.1, goal=goal)]
    answers = [[[2, -2], [2, 2], [-2, -2]], [[-2, 2], [2, -2], None]]

    def hidden(answer, target):
        return target[0] == 1 and answer[0] < 0

    audit = Audit.read(write(tmp_path, TWO, [(1, 0), (1, 1), (0, 0)], plan, answers, operating=[0, 0], reached=hidden))
    assert np.array_equal(audit.success(1), [[1, np.nan], [0, np.nan], [np.nan, np.nan]], equal_nan=True)
    worst = audit.worst_case("linf", 0.1)
    assert worst.success.value == 1 / 2
    assert worst.row.tolist() == [1, 0, 0]


def test_a_finding_without_an_operating_point_is_judged_at_even_odds(tmp_path):
    audit = Audit.read(
        write(tmp_path, TWO, [(1, 0), (0, 1)], [plan_row("none", goal=EVERY)], [[[1, 0.5], [-1, 0.5]]], operating=[0.2, None])
    )
    assert audit.right(0).tolist() == [[True, False], [True, True]]
    assert math.isnan(audit.thresholds[1])
    measured, missing = audit.sensitivity_specificity()
    assert measured[0].value == measured[1].value == 1
    assert not missing[0].measured
    assert not missing[1].measured


def test_without_an_operating_point_findings_are_not_judged(tmp_path):
    audit = Audit.read(write(tmp_path, TWO, [(1, 0)], [plan_row("none", goal=EVERY)], [[[1, -1]]]))
    with pytest.raises(NotMeasuredError, match="operating point"):
        audit.accuracy()


# -- contradictions ----------------------------------------------------------------------------------------------------


def test_a_success_that_its_answer_denies_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:2], [[RIGHT], [RIGHT]], reached=lambda *_: True)
    with pytest.raises(RecordsError, match="reached on v0"):
        Audit.read(tmp_path)


def test_a_failure_that_its_answer_denies_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:2], [[RIGHT], [WRONG]], reached=lambda *_: False)
    with pytest.raises(RecordsError, match=r"row 1 \(pgd\).*not reached on t0"):
        Audit.read(tmp_path)


def test_a_tie_is_no_contradiction(tmp_path):
    write(tmp_path, WELL_ILL, [1], CURVE[:1], [[UNSURE]])  # of equal logits the first class wins, though no goal was reached
    assert Audit.read(tmp_path).accuracy().value == 0


def test_an_example_outside_its_ball_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:2], [[RIGHT], [None]])
    store = Store(tmp_path)
    store.write_shard("late", [example(1, CURVE[1], "t0", False, size=3 / 255)], [Answer("1/t0", "w", (2.0, -2.0))])
    with pytest.raises(RecordsError, match=r"moved by 0\.0117"):
        Audit.read(tmp_path)


def test_rows_of_another_plan_are_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:2], [[RIGHT], [None]])
    stray = example(1, plan_row("square", 1 / 255), "t0", False)
    Store(tmp_path).write_shard("late", [stray], [Answer("1/t0", "w", (2.0, -2.0))])
    with pytest.raises(RecordsError, match="'pgd', its records say 'square'"):
        Audit.read(tmp_path)


def test_an_image_that_was_measured_twice_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:2], [[RIGHT], [RIGHT]])
    Store(tmp_path).write_shard("late", [example(1, CURVE[1], "t0", False)], [Answer("1/t0", "w", (2.0, -2.0))])
    with pytest.raises(RecordsError, match="twice"):
        Audit.read(tmp_path)


def test_answers_of_other_models_are_not_the_audited_ones(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:1], [[RIGHT]])
    Store(tmp_path).write_shard("late", [], [Answer("0/t0", "another", (-9.0, 9.0))])
    assert Audit.read(tmp_path).accuracy().value == 1


def test_answers_of_another_width_are_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:1], [[[1.0, 0.0, 0.0]]])
    with pytest.raises(RecordsError, match=r"\[3\] logits, the task has 2 classes"):
        Audit.read(tmp_path)


def test_documents_that_lack_something_are_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:1], [[RIGHT]])
    (tmp_path / "provenance.json").write_text(json.dumps({"weights": "w", "card": {}}))
    with pytest.raises(RecordsError, match="another version"):
        Audit.read(tmp_path)
    with pytest.raises(RecordsError, match="not a run's folder"):
        Audit.read(tmp_path / "nowhere")


def test_provenance_of_other_weights_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], CURVE[:1], [[RIGHT]], weights="others")
    with pytest.raises(RecordsError, match="different weights"):
        Audit.read(tmp_path)


def test_a_goal_that_means_nothing_is_refused(tmp_path):
    write(tmp_path, WELL_ILL, [0], [plan_row("none", goal="world peace")], [[RIGHT]])
    with pytest.raises(RecordsError, match="world peace"):
        Audit.read(tmp_path)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_labels_tell_rows_of_one_attack_and_size_apart(tmp_path):
    plan = [plan_row("none"), *(plan_row("pgd", 0.1, steps=s, step_size=0.1) for s in (10, 40)), plan_row("fgsm", 0.1)]
    audit = Audit.read(write(tmp_path, WELL_ILL, [0], plan, [[RIGHT]] * 4))
    assert [row.label for row in audit.rows] == ["none", "pgd steps=10", "pgd steps=40", "fgsm"]


def test_an_unbounded_row_is_no_point_of_a_curve(tmp_path):
    plan = [plan_row("none"), plan_row("pgd", 0.1), plan_row("pgd", 1.0)]
    audit = Audit.read(write(tmp_path, WELL_ILL, [0], plan, [[RIGHT], [RIGHT], [WRONG]]))
    assert audit.epsilons("linf") == (0.1,)
    assert [epsilon for epsilon, _ in audit.curve("pgd", "linf")] == [0, 0.1]
    assert audit.worst_case("linf", 1.0).accuracy.value == 0


def test_noise_of_another_goal_stands_in_where_there_is_none(tmp_path):
    plan = [plan_row("none"), plan_row("noise", 0.1), plan_row("pgd", 0.1, goal="targeted: ill"), plan_row("pgd", 0.1)]
    audit = Audit.read(write(tmp_path, WELL_ILL, [0], plan, [[RIGHT]] * 4, reached=lambda *_: False))
    assert audit.goals == ("targeted: ill", "untargeted")
    assert [row.number for row in audit.select("linf", "targeted: ill")] == [1, 2]
    assert [row.number for row in audit.select("linf", "untargeted")] == [1, 3]


# -- figures of larger runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> dict[str, Audit]:
    runs = {
        "chest": Run(CHEST, n_test=90, images_per_group=3, sources=("north", "south")),
        "skin": Run(SKIN, n_test=90),
        "findings": Run(FINDINGS, n_test=90),
    }
    return {name: Audit.read(write_run(tmp_path_factory.mktemp(name) / "run", run)) for name, run in runs.items()}


def test_auroc_agrees_with_scikit_learn(larger):
    audit = larger["findings"]
    values = [e.value for e in audit.auroc()]
    expected = [
        roc_auc_score(audit.targets[:, k], audit.logits(0)[:, k]) for k in range(14) if 0 < audit.targets[:, k].mean() < 1
    ]
    assert [v for v in values if not math.isnan(v)] == pytest.approx(expected)
    assert audit.mean_auroc().value == pytest.approx(np.mean(expected))
    assert audit.mean_auroc().low < audit.mean_auroc().value < audit.mean_auroc().high


def test_the_two_classes_of_a_binary_task_share_their_auroc(larger):
    one, other = larger["chest"].auroc()
    assert one.value == pytest.approx(other.value) == pytest.approx(larger["chest"].mean_auroc().value)


def test_patients_are_what_is_drawn(larger):
    found = larger["chest"].accuracy()
    assert found.n == 90
    assert found.groups == 30


def test_parts_add_up_to_the_whole(larger):
    audit = larger["chest"]
    sources = audit.by_source(audit.right(1))
    assert list(sources) == ["north", "south"]
    assert sum(e.n * e.value for e in sources.values()) == pytest.approx(90 * audit.accuracy(1).value)
    classes = audit.by_class(audit.right(1))
    assert sum(e.n * e.value for e in classes) == pytest.approx(90 * audit.accuracy(1).value)
    assert audit.by_source(audit.right(0)).keys()
    assert larger["skin"].by_source(larger["skin"].right(0)) == {}


def test_by_finding_counts_the_images_that_show_it(larger):
    audit = larger["findings"]
    for e, count, pair in zip(
        audit.by_class(audit.right(0)), audit.targets.sum(0), audit.sensitivity_specificity(), strict=True
    ):
        assert e.n == count
        assert not pair[0].measured or e.value == pytest.approx(pair[0].value)  # the same question, asked twice


@pytest.mark.parametrize("name", ["chest", "skin", "findings"])
def test_calibration_holds_its_own_error(larger, name):
    found = larger[name].calibration()
    assert found.error.low <= found.error.value <= found.error.high
    assert found.brier.low <= found.brier.value <= found.brier.high
    assert found.reliability.count.sum() == larger[name].targets.size
    gap = found.reliability.count @ (found.reliability.confidence - found.reliability.frequency) / larger[name].targets.size
    assert found.gap.value == pytest.approx(gap)


def test_a_constant_answer_is_no_worse_than_any_other(larger):
    for audit in larger.values():
        truth = audit.targets if audit.task.multilabel else audit.targets[:, None] == np.arange(len(audit.task.classes))
        constant = np.maximum(truth.mean(0), 1 - truth.mean(0)).mean() if audit.task.multilabel else truth.mean(0).max()
        assert audit.constant_accuracy.value == pytest.approx(constant)
    assert larger["skin"].constant_balanced_accuracy == pytest.approx(1 / 7)


def test_findings_are_not_confused_with_each_other(larger):
    with pytest.raises(NotMeasuredError, match="exclude"):
        larger["findings"].confusion()


def test_a_run_that_nobody_has_looked_at_differs_from_one_without_flags(tmp_path: Path):
    flag = {"name": "FGSM beats PGD", "severity": "serious", "evidence": "e", "meaning": "m", "next_step": "n"}
    for name, flags in (("unseen", None), ("clear", ()), ("raised", (flag,))):
        found = Audit.read(write_run(tmp_path / name, Run(CHEST, n_test=4, n_val=4, flags=flags))).flags
        assert found is None if flags is None else len(found or ()) == len(flags)
