"""The chapter on detection: what it says of attackers who know the detector and who do not, and what it does not say."""

import csv
import json
import math
import shutil

import pytest
from tests.examinations import Examined, trial, write_examination
from tests.runs import CHEST, FINDINGS, Run, write_run

from antivenom.errors import RecordsError
from antivenom.records.audit import Audit
from antivenom.records.detection import Detection
from antivenom.report.detected import detected_of
from antivenom.report.detected_words import unmeasured
from antivenom.report.figures import Ledger
from antivenom.report.write import write_report

SMALL = Run(CHEST, n_test=20, n_val=20, flags=(), attacks=("noise", "pgd"), epsilons=(2,))
FEW = (
    trial("fgsm"),
    trial("pgd"),
    trial("pgd", until="fooled"),
    trial("pgd", epsilon=0.05, made_on="surrogate"),
    trial("orthogonal_pgd", until="fooled", evading=["gaussian"]),
    trial("blur", kind="corruption", settings={"severity": 3}, threat="none", epsilon=0.0),
)


def chapter(folder, **changes):
    """The chapter of a made-up examination, and its ledger."""
    ledger = Ledger()
    found = Detection.read(write_examination(folder, Examined(**{"trials": FEW, "n_test": 40, **changes})))
    return detected_of(found, ledger), json.loads(ledger.as_json({}))["figures"], found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = write_run(tmp_path_factory.mktemp("run"), SMALL)
    made = Examined(sources=("Lima", "Graz"), trials=FEW, n_test=40, notes=("it was fitted on few images",))
    return write_examination(home, made)


def test_the_opening_sentence_is_the_bottom_line(tmp_path):
    told, _, found = chapter(tmp_path)
    passed, alarms = found.passed("gaussian", ("linf", 0.02)), found.alarms()
    opening = told.sentences[0]
    assert f"At {100 * alarms.value:.1f} % false alarms" in opening
    assert f"stops {100 * (1 - passed.naive_evasion.value):.0f} (" in opening
    assert "once it is known" in opening
    assert f"{100 * passed.overturned.value:.1f} % of the images" in opening
    coverage = found.accepted(0).coverage
    assert f"{100 * coverage.value:.1f} % of the unchanged images are let through" in " ".join(told.sentences)


def test_the_detector_that_decides_is_marked_and_each_cell_has_its_sample(tmp_path):
    told, _, found = chapter(tmp_path)
    gaussian, forest, _ = told.detectors
    assert (gaussian.decides, forest.decides) == (True, False)
    assert "no gradient" in forest.detail
    assert gaussian.alarms.estimate == found.alarms("gaussian")
    assert gaussian.stopped.estimate.value == pytest.approx(1 - found.passed("gaussian", ("linf", 0.02)).evasion.value)
    assert gaussian.stopped.estimate.low <= gaussian.stopped.estimate.value <= gaussian.stopped.estimate.high
    assert forest.stopped is None  # nobody who knows it was measured
    assert gaussian.least_name == "PGD, until fooled, L∞ 5.1/255"
    assert (gaussian.alarms.estimate.n, gaussian.alarms.estimate.groups) == (40, 20)


def test_attacks_are_told_by_who_made_them_at_one_rate(tmp_path):
    told, figures, found = chapter(tmp_path)
    assert [block.name for block in told.attacks] == ["On the model itself, L∞ 5.1/255", "On another model, L∞ 12.8/255"]
    fgsm = told.attacks[0].lines[0]
    assert fgsm.name == "FGSM"
    assert fgsm.noticed[0].estimate == found.noticed(1, "gaussian", 0.05)
    noted = {(f["attack"], f["part"]): f["value"] for f in figures if f["quantity"] == "noticed"}
    assert noted["fgsm", "gaussian at 5 % false alarms"] == fgsm.noticed[0].estimate.value
    assert (
        noted["pgd on a surrogate", "gaussian at 5 % false alarms"] != noted["pgd until=spent", "gaussian at 5 % false alarms"]
    )


def test_who_knows_the_detector_is_told_at_its_own_threshold_worst_case_first(tmp_path):
    told, _, found = chapter(tmp_path)
    (block,) = told.knowing
    worst, line = block.lines
    assert worst.worst
    assert worst.unnoticed.estimate == found.passed("gaussian", ("linf", 0.02)).adaptive
    assert line.name == "Orthogonal PGD"
    assert line.noticed.estimate == found.noticed(5, "gaussian")
    assert [row.name for row in told.bars.rows] == ["gaussian"]
    assert told.scores.lines[-1].name == "threshold"
    assert [line.name for line in told.curves[0].lines][-1] == "Orthogonal PGD, detector known"


def test_without_an_attacker_who_knows_it_no_strength_is_stated(tmp_path):
    told, _, found = chapter(tmp_path, trials=FEW[:4])
    assert "cannot be said: none who knows it was measured" in told.sentences[0]
    assert told.knowing == ()
    assert told.bars is None
    assert all(line.stopped is None for line in told.detectors)
    assert any("none was asked for" in text for text in unmeasured(found))


def test_several_detectors_that_decide_need_an_attacker_who_knows_them_all(tmp_path):
    names = ["gaussian", "one-class-svm"]
    told, _, _ = chapter(tmp_path / "one", deciding=tuple(names))
    assert "none who knows all of its detectors was measured" in told.sentences[0]
    both = (*FEW, trial("pgd", settings={"objective": "selective"}, evading=names))
    told, _, _ = chapter(tmp_path / "both", deciding=tuple(names), trials=both)
    assert "once it is known" in told.sentences[0]
    assert any(block.name.startswith("the guard") for block in told.knowing)


def test_attackers_who_know_and_fail_are_suspected(tmp_path):
    told, _, _ = chapter(tmp_path, evades=0.05)
    assert any("too weak" in text or "says more of these attacks" in text for text in told.warnings)
    assert chapter(tmp_path / "strong")[0].warnings == ()


def test_alarms_without_an_attack_are_told_by_class_source_change_and_set(tmp_path):
    told, _, found = chapter(tmp_path, sources=("Lima", "Graz"))
    blocks = {block.name: {line.name: line.figure.estimate for line in block.lines} for block in told.alarms}
    assert list(blocks) == ["Class", "Source", "Images of another set"]
    assert blocks["Class"] == found.alarms_by_class()
    assert blocks["Source"] == found.alarms_by_source()
    assert blocks["Images of another set"]["phantoms"] == found.alarms(split="phantoms")
    assert told.natural.columns == ("severity 3",)
    assert told.natural.lines[0].figures[0].estimate == found.alarms(number=6)


def test_what_is_let_through_stands_beside_all_and_beside_random_rejection(tmp_path):
    told, _, found = chapter(tmp_path)
    clean, fgsm, pgd = told.kept
    assert clean.name == "Unchanged images alone"
    assert pgd.coverage.estimate == found.accepted(2).coverage
    assert pgd.accuracy.estimate.value > pgd.accuracy_all.estimate.value
    curve = found.risk_coverage(1, "gaussian")
    assert fgsm.random == f"{100 * curve.random_low:.1f} to {100 * curve.random_high:.1f}"
    assert [chart.lines[-1].name for chart in told.risks] == ["random rejection"] * 2
    assert "normal" in told.classes_kept


def test_the_published_table_stands_beside_chest_findings_alone(tmp_path):
    li = tuple(trial(name) for name in ("fgsm", "bim", "pgd", "mim"))
    told, figures, found = chapter(tmp_path / "nih", task=FINDINGS, trials=li, data="nih14", others=())
    (block,) = told.paper.blocks
    assert (block.name, block.epsilon) == ("white box", "0.02")
    assert [row.theirs for row in block.rows] == ["No Defense", "ISO", "SVM", "MGM"]
    mgm = block.rows[-1].cells[2]
    assert mgm.published == (0.975, 0.82, 0.089)
    assert mgm.f1.estimate == found.micro_f1(3, "gaussian", 0.05)
    assert mgm.auroc.estimate == found.accepted(3, "gaussian", 0.05).auroc.estimate
    assert block.rows[0].cells[0].f1.estimate.value == 0.5
    assert math.isnan(block.rows[0].cells[0].f1.estimate.low)
    assert sum(figure["quantity"] == "F1, micro" for figure in figures) == 16
    assert told.paper.images == found.trial(1).concerned.sum()
    assert chapter(tmp_path / "skin", task=FINDINGS, trials=li, data="skin", others=())[0].paper is None
    assert chapter(tmp_path / "classes", data="nih14")[0].paper is None
    half = tuple(trial(name, epsilon=0.03) for name in ("fgsm", "bim"))
    assert chapter(tmp_path / "size", task=FINDINGS, trials=half, data="nih14", others=())[0].paper is None


def test_an_attack_of_the_published_table_that_was_not_run_is_said_so(tmp_path):
    told, _, _ = chapter(tmp_path, task=FINDINGS, trials=(trial("fgsm"),), data="nih14", others=())
    fgsm, bim, *_ = told.paper.blocks[0].rows[-1].cells
    assert fgsm.f1.measured
    assert bim.f1 is bim.auroc is None
    assert bim.published == (0.975, 0.82, 0.089)


def test_the_page_holds_the_chapter_and_the_files_beside_it_its_figures(folder):
    html = write_report(folder).read_text()
    for text in (
        'id="detection"',
        'href="#detection"',
        "Attackers who know the detector",
        "it was fitted on few images",
        "https://arxiv.org/abs/1705.07263",
        "10.1109/ISBI45749.2020.9098628",
        "Alarms where nobody attacks",
    ):
        assert text in html
    assert "Beside the published table" not in html
    with folder.joinpath("figures.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "changed and unnoticed"]
    assert {row["attack"] for row in rows} == {"orthogonal_pgd past gaussian", "worst case"}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)


def test_the_same_records_give_the_same_bytes(folder, tmp_path):
    first = write_report(folder).read_bytes()
    shutil.copytree(folder, tmp_path / "moved")
    assert write_report(tmp_path / "moved").read_bytes() == first


def test_a_run_without_a_guard_has_no_such_chapter(tmp_path):
    html = write_report(write_run(tmp_path, SMALL)).read_text()
    assert 'id="detection"' not in html
    assert Audit.read(tmp_path).detection is None
    assert list(unmeasured(None)) == []
    assert detected_of(None, Ledger()) is None


def test_trials_half_done_are_told_and_not_stated(tmp_path):
    told, figures, found = chapter(tmp_path, finished=lambda row: row["attack"] != "pgd")
    assert all(not figure["attack"].startswith("pgd") for figure in figures)
    said = list(unmeasured(found))
    assert sum("0 of 40 images are measured" in text for text in said) == 3
    assert told is not None


def test_an_examination_of_another_model_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "detection" / "asked.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "ee" * 32}))
    with pytest.raises(RecordsError, match="another model"):
        write_report(tmp_path / "run")
