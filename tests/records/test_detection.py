"""An examination of a guard, read back: figures that can be foretold, and records that contradict each other."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.examinations import CHEST, Examined, trial, write_examination
from tests.runs import FINDINGS

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.metrics.false_alarms import held_out_threshold
from antivenom.records.detection import HOME, Detection, read_detection
from antivenom.records.store import Store
from antivenom.records.trials import trial_rows

SIZE = ("linf", 0.02)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return Detection.read(write_examination(tmp_path_factory.mktemp("run"), Examined(sources=("Lima", "Graz"))))


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    made = Examined(FINDINGS, n_test=120, others=(), data="nih14")
    return Detection.read(write_examination(tmp_path_factory.mktemp("run"), made))


def number(found, attack, **wanted):
    """The trial of an attack with these traits."""
    rows = [row for row in found.rows if row.attack == attack and all(getattr(row, k) == v for k, v in wanted.items())]
    return rows[0].number


naive_pgd = partial(number, attack="pgd", until="spent", made_on="model", evading=())


def test_a_folder_without_an_examination_has_none(tmp_path):
    assert read_detection(Store(tmp_path)) is None
    with pytest.raises(RecordsError, match="no examination"):
        Detection.read(tmp_path)


def test_everything_that_was_asked_for_is_there(found):
    assert found.finished
    assert found.task == CHEST
    assert [watch.name for watch in found.watches] == ["gaussian", "isolation-forest", "one-class-svm"]
    assert found.deciding == ("gaussian",)
    assert found.sizes == (SIZE,)
    assert found.others == ("phantoms",)
    assert (len(found.splits["val"]), len(found.groups), len(found.splits["phantoms"])) == (120, 60, 30)


def test_trials_of_one_attack_are_told_apart():
    one, other, noise = trial("pgd"), trial("pgd", settings={"steps": 5}), trial("noise")
    rows = trial_rows([one, other, noise, trial("pgd", evading=["gaussian"])])
    assert [row.label for row in rows] == ["none", "pgd steps=default", "pgd steps=5", "noise", "pgd"]
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    assert [row.naive for row in rows] == [False, True, True, False, False]
    assert rows[3].control
    assert rows[4].adaptive


def test_the_threshold_of_a_rate_is_taken_from_held_out_images_by_patient(found):
    scores, groups = found.trial(0, "val").scores["gaussian"], found.splits["val"].groups
    assert found.threshold("gaussian", 0.1) == held_out_threshold(scores, 0.1, groups)
    assert found.threshold("gaussian") == found.threshold("gaussian", 0.05)  # the made-up guard took the same
    assert math.isnan(found.threshold("gaussian", 0.01))  # of 60 patients nobody can tell
    nothing = found.alarms("gaussian", 0.01)
    assert not nothing.measured
    assert nothing.n == 0


def test_false_alarms_are_the_share_of_clean_images_above_it(found):
    scores = found.trial(0).scores["gaussian"]
    seen = found.alarms("gaussian")
    assert seen.value == pytest.approx((scores > found.threshold("gaussian")).mean())
    assert (seen.n, seen.groups) == (60, 30)
    assert seen.low <= seen.value <= seen.high
    assert found.alarms() == seen  # one detector decides


def test_false_alarms_are_told_by_class_and_source(found):
    by_class, by_source = found.alarms_by_class(), found.alarms_by_source()
    assert list(by_class) == ["normal", "pneumonia"]
    assert sum(e.n for e in by_class.values()) == sum(e.n for e in by_source.values()) == 60
    assert sum(e.n * e.value for e in by_class.values()) == pytest.approx(60 * found.alarms().value)
    assert sorted(by_source) == ["Graz", "Lima"]


def test_other_sets_and_corruptions_have_alarms_of_their_own(found):
    other = found.alarms("gaussian", split="phantoms")
    assert other.n == 30
    assert other.value > 0.7
    mild, strong = (number(found, "blur", settings={"severity": s}) for s in (1, 5))
    assert found.alarms("gaussian", number=mild).value <= found.alarms("gaussian", number=strong).value


def test_the_guard_flags_what_any_deciding_detector_flags(tmp_path):
    asked = (trial("pgd"), trial("pgd", evading=["gaussian"]))
    made = Examined(deciding=("gaussian", "one-class-svm"), others=(), trials=asked)
    guard = Detection.read(write_examination(tmp_path, made))
    each = [guard.flagged(0, name) for name in guard.deciding]
    assert guard.flagged(0).tolist() == np.maximum(*each).tolist()
    with pytest.raises(NotMeasuredError, match="the guard as a whole has its own thresholds"):
        guard.flagged(0, None, 0.05)
    with pytest.raises(NotMeasuredError, match="no attacker who knows the guard"):
        guard.passed(None, SIZE)
    assert guard.passed("gaussian", SIZE).trials


def test_attacks_that_know_nothing_are_noticed_and_those_that_know_are_not(found):
    pgd = naive_pgd(found)
    seen = found.noticed(pgd, "gaussian")
    assert seen.value > 0.8
    assert seen.n == 60
    assert found.success(pgd).value > 0.8
    fooling = found.noticed(pgd, "gaussian", fooling=True)
    assert fooling.n == round(found.success(pgd).value * 60)
    passed = found.passed("gaussian", SIZE)
    assert passed.adaptive.value > 0.9
    assert passed.naive.value < passed.adaptive.value
    assert passed.evasion.value > 0.9
    assert passed.evasion.n == round(passed.overturned.value * 60)
    assert len(passed.trials) == 3
    assert found.passed(None, SIZE).adaptive == passed.adaptive


def test_the_worst_of_several_attackers_is_taken_by_image(found):
    rows = found.knowing("gaussian", SIZE)
    single = [found.unnoticed(row.number, "gaussian").value for row in rows]
    assert found.passed("gaussian", SIZE).adaptive.value >= max(single)
    reached = np.any([found.trial(row.number).reached for row in rows], axis=0)
    assert found.passed("gaussian", SIZE).adaptive.value == pytest.approx(reached.mean())


def test_a_detector_is_told_without_its_threshold(found):
    pgd = naive_pgd(found)
    area = found.auroc(pgd, "gaussian")
    alarms, hits = found.roc(pgd, "gaussian")
    assert np.trapezoid(hits, alarms) == pytest.approx(area.value)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    assert area.n == 120
    assert area.groups == 30
    precision = found.average_precision(pgd, "gaussian", draws=50)
    assert 0.9 < precision.low < precision.value <= 1
    assert found.auroc(pgd, "isolation-forest").value < area.value


def test_f1_is_as_the_paper_counts_it(found):
    pgd = naive_pgd(found)
    hit, alarm = found.noticed(pgd, "gaussian").value, found.alarms("gaussian").value
    assert found.micro_f1(pgd, "gaussian").value == pytest.approx((hit + 1 - alarm) / 2)
    assert found.positive_f1(pgd, "gaussian").value == pytest.approx(2 * hit / (1 + hit + alarm))


def test_rejecting_the_attacked_leaves_the_accuracy_of_clean_images(found):
    pgd = naive_pgd(found)
    everything, kept, clean = found.accepted(pgd, all_=True), found.accepted(pgd, "gaussian"), found.accepted(0, "gaussian")
    assert everything.coverage.value == 1
    assert everything.coverage.n == 120
    assert kept.coverage.value == pytest.approx(1 - (found.noticed(pgd, "gaussian").value + found.alarms("gaussian").value) / 2)
    assert everything.accuracy.value < 0.6
    assert kept.accuracy.value > everything.accuracy.value + 0.2
    assert clean.coverage.value == pytest.approx(1 - found.alarms("gaussian").value)
    assert clean.coverage.n == 60
    assert sum(kept.positives) == kept.accuracy.n
    with pytest.raises(NotMeasuredError, match=r"no threshold at a rate of 0\.01"):
        found.accepted(pgd, "gaussian", 0.01)


def test_risk_and_coverage_stand_beside_random_rejection(found):
    pgd = naive_pgd(found)
    curve, area = found.risk_coverage(pgd, "gaussian"), found.risk_coverage_area(pgd, "gaussian")
    assert len(curve.coverage) == 120
    assert curve.right[-1] == pytest.approx(found.accepted(pgd, all_=True).accuracy.value)
    assert curve.area > curve.random_high
    assert area.value == pytest.approx(curve.area)
    assert area.groups == 30
    assert len(found.risk_coverage(0, "gaussian").coverage) == 60


def test_findings_that_are_not_present_are_nothing_to_overturn(findings):
    pgd = naive_pgd(findings)
    concerned = findings.trial(pgd).concerned
    assert 0 < concerned.sum() < 120
    assert findings.finished
    assert findings.success(pgd).n == findings.noticed(pgd, "gaussian").n == concerned.sum()
    kept = findings.accepted(pgd, "gaussian")
    assert kept.coverage.n == 2 * concerned.sum()
    assert kept.accuracy.n == 14 * round(kept.coverage.value * kept.coverage.n)
    assert len(kept.positives) == 14
    assert 0 < kept.auroc.deviation < 0.3
    assert kept.auroc.left_out == ()


def test_what_is_not_measured_is_not_stated(tmp_path):
    made = Examined(finished=lambda row: row["number"] != 3, others=(), trials=(trial("fgsm"), trial("bim"), trial("pgd")))
    half = Detection.read(write_examination(tmp_path, made))
    assert not half.finished
    assert half.progress[3, "test"] == (0, 60)
    with pytest.raises(NotMeasuredError, match=r"trial 3 .* is not measured on 'test' .0 of 60"):
        half.noticed(3, "gaussian")
    with pytest.raises(NotMeasuredError, match="no such trial"):
        half.noticed(99, "gaussian")
    with pytest.raises(NotMeasuredError, match="no detector 'tea leaves'"):
        half.alarms("tea leaves")
    assert half.measured(2)


def test_a_score_that_cannot_be_told_is_an_alarm(tmp_path):
    def silent(example, answer, said):
        if example.row == 0 and example.image == "test/0000.png":
            said = [replace(one, score=math.nan) for one in said]
        return example, answer, said

    found = Detection.read(write_examination(tmp_path, Examined(spoil=silent, others=(), trials=(trial("fgsm"),))))
    assert found.flagged(0)[0] == 1
    assert found.auroc(1, "gaussian").measured


def _lost(example, answer, said):
    return example, answer, said[1:] if example.row == 2 else said


def _unknown(example, answer, said):
    return example, answer, [*said, replace(said[0], detector="tea leaves")]


def _loud(example, answer, said):
    known = example.row and example.reached and example.attack == "orthogonal_pgd"
    return example, answer, [replace(one, score=99.0) for one in said] if known else said


def _claimed(example, answer, said):
    return replace(example, reached=example.attack == "noise" or example.reached), answer, said


def _denied(example, answer, said):
    return replace(example, reached=example.reached and example.attack != "bim"), answer, said


def _outside(example, answer, said):
    return replace(example, linf=0.5 if example.attack == "bim" else example.linf), answer, said


def _another(example, answer, said):
    return replace(example, until="fooled" if example.row == 1 else example.until), answer, said


def _clean_goal(example, answer, said):
    return replace(example, reached=example.attack == "none" or example.reached), answer, said


def _twice(example, answer, said):
    if example.row != 2:
        return example, answer, said
    return replace(example, example="one"), replace(answer, example="one"), [replace(one, example="one") for one in said]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_lost, "20 examples have no score of gaussian"),
        (_unknown, "detector 'tea leaves' that the guard does not have"),
        (_loud, "passed .* unnoticed, but its score is above the threshold"),
        (_claimed, "was overturned, but the answer stands"),
        (_denied, "was not overturned, but the answer is another"),
        (_outside, r"allows 0.02 in linf, but an image moved by 0\.5"),
        (_another, "trial 1 has until 'spent', its records say 'fooled'"),
        (_clean_goal, "wants nothing"),
        (_twice, "stand twice"),
    ],
)
def test_records_that_contradict_each_other_are_refused(tmp_path, spoil, says):
    asked = (trial("fgsm"), trial("bim"), trial("noise"), trial("orthogonal_pgd", evading=["gaussian"]))
    write_examination(tmp_path, Examined(spoil=spoil, others=(), trials=asked, detectors=("gaussian",), n_test=20))
    with pytest.raises(RecordsError, match=says):
        Detection.read(tmp_path)


def test_an_examination_of_another_model_or_of_other_images_is_refused(tmp_path):
    write_examination(tmp_path, Examined(others=(), trials=(trial("fgsm"),)))
    with pytest.raises(RecordsError, match="another model"):
        read_detection(Store(tmp_path), "cd" * 32)
    store = Store(tmp_path / HOME)
    asked = store.document("asked")
    store.write_document("asked", {**asked, "data": {**asked["data"], "test": 61}})
    with pytest.raises(RecordsError, match=r"61 images of 'test' were asked for, scans\.parquet has 60"):
        Detection.read(tmp_path)
    asked["trials"][0]["evading"] = ["tea leaves"]
    store.write_document("asked", asked)
    with pytest.raises(RecordsError, match="a trial passes 'tea leaves'"):
        Detection.read(tmp_path)
    store.write_document("asked", {name: asked[name] for name in asked if name != "task"})
    with pytest.raises(RecordsError, match="another version"):
        Detection.read(tmp_path)
