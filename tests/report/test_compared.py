import csv
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.report.test_write import Page
from tests.runs import CHEST, FINDINGS, SKIN, Run, write_run

from antivenom.errors import InputError, NotMeasuredError, RecordsError, SettingsError
from antivenom.metrics.significance import holm, mcnemar
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.report.compared import compare, write_comparison

CHESTS = Run(CHEST, n_test=60, n_val=20, keep=0, epsilons=(1, 2, 4, 8), attacks=("noise", "fgsm", "pgd"), flags=())
SMALL = replace(CHESTS, n_test=24, epsilons=(2, 8), attacks=("noise", "pgd"))


def change(folder, name, **values):
    """Alter a document of an audit."""
    store = Store(folder)
    store.write_document(name, {**store.document(name), **values})


def constant(monkeypatch, folder, run):
    """Write the run of a model that answers its first class, whatever it is shown."""
    with monkeypatch.context() as patch:
        patch.setattr("tests.runs._clean_logits", lambda run, *_: np.eye(len(run.task.classes))[0] * 30)
        return write_run(folder, replace(run, slope=0.2))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three audits of one set: a plain model, one that is as good, and one that gives up little for much."""
    home = tmp_path_factory.mktemp("home")
    write_run(home / "plain" / "audit", CHESTS)
    write_run(home / "twin" / "audit", replace(CHESTS, slope=1.5))
    write_run(home / "hard" / "audit", replace(CHESTS, slope=0.3, skill=2.6))
    return home


@pytest.fixture
def three(home):
    return [home / "plain" / "audit", home / "twin" / "audit", home / "hard" / "audit"]


@pytest.fixture
def pair(tmp_path):
    """Two small audits that a test may spoil."""
    write_run(tmp_path / "home" / "plain", SMALL)
    write_run(tmp_path / "home" / "hard", replace(SMALL, slope=0.3))
    return tmp_path / "home"


def row(found, name):
    return next(row for row in found.rows if row.name == name)


def said(found):
    return " ".join(found.notes)


# -- who is compared ---------------------------------------------------------------------------------------------------


def test_a_model_is_called_by_its_folder_and_the_first_is_the_baseline(three):
    found = compare(three)
    assert [row.name for row in found.rows] == ["plain", "twin", "hard"]
    assert [row.baseline for row in found.rows] == [True, False, False]
    assert [row.name for row in compare(three, baseline="hard").rows] == ["hard", "plain", "twin"]


def test_audits_are_found_one_level_down(pair, three):
    assert [row.name for row in compare([pair]).rows] == ["hard", "plain"]
    assert [row.name for row in compare([three[0].parent, three[1]]).rows] == ["plain", "twin"]


def test_a_folder_named_twice_is_one_model(three):
    assert len(compare([*three, three[0]]).rows) == 3


def test_models_of_one_name_are_told_apart_by_the_folder_around_them(tmp_path):
    for side in ("one", "two"):
        write_run(tmp_path / side / "resnet", SMALL)
    found = compare([tmp_path / "one" / "resnet", tmp_path / "two" / "resnet"])
    assert [row.name for row in found.rows] == ["one/resnet", "two/resnet"]


def test_wrong_folders_and_options_are_refused(three, home, tmp_path):
    with pytest.raises(RecordsError, match=r"no such folder"):
        compare([tmp_path / "nowhere", *three])
    with pytest.raises(RecordsError, match=r"holds no audit, nor does a folder in it"):
        compare([tmp_path, *three])
    with pytest.raises(InputError, match=r"needs two audits, got plain"):
        compare([home / "plain"])
    with pytest.raises(SettingsError, match=r"no model is called 'wooden'; .* plain, twin, hard"):
        compare(three, baseline="wooden")
    with pytest.raises(SettingsError, match=r"nothing of the threat 'l2'; it has linf"):
        compare(three, threat="l2")
    with pytest.raises(SettingsError, match=r"nothing of linf at 3; it has 1/255, 2/255, 4/255, 8/255"):
        compare(three, level="3")
    with pytest.raises(SettingsError, match=r"got 'much'"):
        compare(three, level="much")


def test_models_of_other_tasks_are_refused(pair, tmp_path):
    write_run(tmp_path / "skin", replace(SMALL, task=SKIN))
    with pytest.raises(InputError, match=r"skin decides actinic keratosis.* hard normal, pneumonia: only models of one task"):
        compare([pair, tmp_path / "skin"])


def test_an_audit_without_clean_images_is_refused(pair, tmp_path):
    write_run(tmp_path / "begun", replace(SMALL, finished=lambda row: row["number"] > 0))
    with pytest.raises(NotMeasuredError, match=r"begun: 0 of 44 clean images"):
        compare([pair, tmp_path / "begun"])


# -- where they are compared -------------------------------------------------------------------------------------------


def test_the_size_is_where_the_baselines_worst_case_comes_nearest_to_half(three):
    found, audit = compare(three), Audit.read(three[0])
    distances = {
        e: abs(audit.worst_case("linf", e).accuracy.value - audit.accuracy().value / 2) for e in audit.epsilons("linf")
    }
    assert found.ground.epsilon == min(distances, key=distances.get)
    assert "worst case of plain comes nearest to half" in found.ground.chosen
    assert compare(three, baseline="hard").ground.epsilon > found.ground.epsilon


@pytest.mark.parametrize("level", ["4", "4/255", "4.0"])
def test_the_size_can_be_asked_for(three, level):
    found = compare(three, level=level)
    assert (found.ground.size, found.ground.chosen) == ("4/255", "as asked for")


def test_only_sizes_that_all_audits_measured_are_compared(home, tmp_path):
    write_run(tmp_path / "coarse", replace(CHESTS, epsilons=(2, 8, 16)))
    found = compare([home / "plain" / "audit", tmp_path / "coarse"])
    assert [round(e * 255) for e in found.ground.sizes] == [2, 8]
    assert [tick.text for tick in found.curves.x_ticks] == ["0", "2", "8"]


def test_sizes_of_another_norm_stand_as_they_are(tmp_path):
    for name, slope in (("plain", 1.6), ("hard", 0.3)):
        write_run(tmp_path / name, replace(SMALL, l2=(0.5, 2), slope=slope))
    found = compare([tmp_path], baseline="plain", threat="l2", level="0.5")
    assert (found.ground.threat, found.ground.epsilon) == ("l2", 0.5)
    assert row(found, "hard").distance.figure.threat == "l2"


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_each_audit_alone(three):
    found = compare(three, level="2")
    for model, folder in zip(found.rows, three, strict=True):
        audit = Audit.read(folder)
        worst = audit.worst_case("linf", 2 / 255)
        assert model.clean_accuracy.figure.estimate == audit.accuracy()
        assert model.clean_balanced.figure.estimate == audit.balanced_accuracy()
        assert model.worst_accuracy.figure.estimate == worst.accuracy
        assert model.worst_balanced.figure.estimate == audit.balanced_accuracy_of(worst.right)
        pgd = next(r for r in audit.select("linf", epsilon=2 / 255) if r.attack == "pgd")
        place = [label for label, _ in found.heads].index("pgd")
        assert model.attacks[place].accuracy.figure.estimate == audit.accuracy(pgd.number)
    assert found.heads[-1][0] == "noise"


def test_what_withstands_more_reaches_further(three):
    found = compare(three)
    reaches = [row.reach for row in found.rows]
    assert reaches[0] == reaches[1] == "1/255"
    assert reaches[2] in ("4/255", "8/255 or more")
    distances = [row.distance.figure.estimate.value for row in found.rows]
    assert distances[0] <= distances[1] < distances[2]


def test_the_median_distance_is_that_of_the_least_change_found(three):
    found, audit = compare(three), Audit.read(three[0])
    least = np.where(audit.right(0)[:, 0], np.inf, 0.0)
    for plan in audit.rows[1:]:
        turned = ~audit.right(plan.number)[:, 0]
        least[turned] = np.minimum(least[turned], audit.outcome(plan.number).linf[turned])
    assert row(found, "plain").distance.figure.estimate.value == pytest.approx(np.median(least))


def test_a_model_that_withstands_everything_is_beyond_all_sizes(pair, tmp_path):
    write_run(tmp_path / "rock", replace(SMALL, slope=0.0, skill=9.0))
    rock = row(compare([pair, tmp_path / "rock"], baseline="plain"), "rock")
    assert rock.reach == "8/255 or more"
    assert rock.distance_text[0] == "above 8/255"
    assert math.isinf(rock.distance.figure.estimate.value)


def test_findings_have_no_median_distance(tmp_path):
    run = replace(SMALL, task=FINDINGS, until="spent", slope=0.8, images_per_group=2)
    for name, slope in (("plain", 0.8), ("hard", 0.1)):
        write_run(tmp_path / name, replace(run, slope=slope))
    found = compare([tmp_path], baseline="plain")
    assert [row.distance for row in found.rows] == [None, None]
    assert found.unit == "decisions"
    assert "patient" in found.against[0].test


# -- differences -------------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_image_and_corrected(three):
    found = compare(three, level="2")
    hard = next(a for a in found.against if a.name == "hard")
    first, second = Audit.read(three[0]), Audit.read(three[2])
    last = hard.contrasts[-1]
    one, two = (a.worst_case("linf", 2 / 255).right for a in (second, first))
    assert last.what == "Worst case"
    assert last.accuracy.estimate.value == pytest.approx(one.mean() - two.mean())
    assert (last.won.estimate.value, last.lost.estimate.value) == ((one & ~two).sum(), (~one & two).sum())
    assert last.p.estimate.value == mcnemar(one, two)
    alone = np.array([c.p.estimate.value for c in hard.contrasts])
    assert [c.adjusted.estimate.value for c in hard.contrasts] == pytest.approx(holm(alone).tolist())
    assert hard.test == "McNemar, exact"
    assert hard.contrasts[0].what == "Unchanged"


def test_the_order_of_the_images_is_not_that_of_the_files(pair):
    before = compare([pair], baseline="plain").against[0]
    store = Store(pair / "hard")
    store.write_scans([_scan(s) for s in reversed(store.scans().to_pylist())])
    after = compare([pair], baseline="plain").against[0]
    assert [c.lost.estimate.value for c in before.contrasts] == [c.lost.estimate.value for c in after.contrasts]
    assert before.contrasts[-1].p.estimate.value == after.contrasts[-1].p.estimate.value


def _scan(values):
    from antivenom.records.tables import Scan

    return Scan(**{**values, "target": tuple(values["target"])})


def test_other_images_are_never_paired(three, tmp_path):
    write_run(tmp_path / "fewer", replace(CHESTS, n_test=40))
    found = compare([*three[:1], tmp_path / "fewer"])
    (against,) = found.against
    assert against.contrasts == ()
    assert "not the same images as plain" in against.why_not
    assert "40 test images, of which 40 are among the baseline's 60" in said(found)
    page = Page(write_comparison([*three[:1], tmp_path / "fewer"], tmp_path / "p.html")[1].read_text())
    assert "No paired test: not the same images" in page.said


def test_the_same_names_with_other_truths_are_other_images(three, tmp_path):
    write_run(tmp_path / "other", replace(CHESTS, seed=5))
    assert compare([three[0], tmp_path / "other"]).against[0].why_not


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_the_best_is_marked_only_where_it_stands_apart(three):
    found = compare(three, level="4")
    assert [row.worst_balanced.mark for row in found.rows] == ["", "", "*"]
    assert [row.clean_balanced.mark for row in found.rows] == ["=", "=", "="]
    assert found.verdict.startswith("hard withstands most at L∞ 4/255")
    assert all(text in " ".join(found.legend) for text in ("*", "=", "tie"))


def test_models_that_cannot_be_told_apart_are_tied(three):
    found = compare(three[:2], level="1")
    assert [row.worst_balanced.mark for row in found.rows] == ["=", "="]
    assert "plain and twin withstand most and cannot be told apart" in found.verdict


def test_where_no_model_is_better_than_chance_nothing_is_best(three):
    found = compare(three[:2], level="8")
    assert [row.worst_balanced.mark for row in found.rows] == ["", ""]
    assert "no model is better in the worst case than a constant answer" in found.verdict


def test_a_collapsed_model_is_flagged_and_never_ranked(three, tmp_path, monkeypatch):
    constant(monkeypatch, tmp_path / "clock", CHESTS)
    found = compare([*three[:2], tmp_path / "clock"], level="4")
    clock = row(found, "clock")
    assert clock.worst_accuracy.figure.estimate.value > row(found, "plain").worst_accuracy.figure.estimate.value + 0.2
    assert clock.state == "collapsed: it answers one class (‘normal’) for 100.0 % of the images"
    cells = [clock.clean_balanced, clock.clean_accuracy, clock.worst_balanced, clock.worst_accuracy, clock.distance]
    assert {cell.mark for cell in cells} | {cell.accuracy.mark for cell in clock.attacks} == {""}
    assert "clock" not in found.verdict
    assert "clock is not ranked" in said(found)
    page = Page(write_comparison([*three[:2], tmp_path / "clock"], tmp_path / "p.html")[1].read_text())
    assert "Not ranked: clock." in page.said


def test_a_model_no_better_than_chance_is_not_ranked_either(pair, tmp_path):
    write_run(tmp_path / "dice", replace(SMALL, skill=0.0))
    found = compare([pair, tmp_path / "dice"], baseline="plain")
    assert row(found, "dice").state.startswith("not told from chance")
    assert row(found, "dice").clean_balanced.mark == ""


# -- what to mind ------------------------------------------------------------------------------------------------------


def test_other_attacks_and_settings_are_told(pair, tmp_path):
    write_run(tmp_path / "spared", replace(SMALL, attacks=("noise", "fgsm")))
    found = compare([pair, tmp_path / "spared"], baseline="plain")
    assert "spared was not attacked by pgd" in said(found)
    assert "spared was also attacked by fgsm" in said(found)
    assert row(found, "spared").attacks[[label for label, _ in found.heads].index("pgd")] is None
    protocol = Store(pair / "hard").document("protocol")
    plan = [{**r, "settings": {"steps": 5}} if r["attack"] == "pgd" else r for r in protocol["plan"]]
    change(pair / "hard", "protocol", plan=plan)
    assert "hard: pgd ran at other sizes or with other settings" in said(compare([pair], baseline="plain"))
    assert "hard: pgd" not in said(compare([pair / "plain", tmp_path / "spared"]))


def test_a_threat_that_an_audit_lacks_is_told_and_not_made_up(pair, tmp_path):
    write_run(tmp_path / "l2", replace(SMALL, l2=(0.5,)))
    found = compare([tmp_path / "l2", pair / "hard"], threat="l2")
    lacking = row(found, "hard")
    assert (lacking.worst_balanced, lacking.distance, lacking.reach) == (None, None, "–")
    assert "hard: no attack of l2" in said(found)
    assert [c.what for c in found.against[0].contrasts] == ["Unchanged"]
    page = Page(write_comparison([tmp_path / "l2", pair / "hard"], tmp_path / "p.html", threat="l2")[1].read_text())
    assert "not run" in page.said


def test_unfinished_audits_and_serious_flags_are_told(pair, tmp_path):
    flag = {"name": "FGSM beats PGD", "severity": "serious", "evidence": "e", "meaning": "m", "next_step": "n"}
    write_run(tmp_path / "half", replace(SMALL, finished=lambda row: row["number"] < 3, flags=(flag,)))
    write_run(tmp_path / "unseen", replace(SMALL, flags=None))
    found = compare([pair, tmp_path / "half", tmp_path / "unseen"], baseline="plain")
    assert "half: 3 of 5 planned measurements are done" in said(found)
    assert "half: its audit raises ‘FGSM beats PGD’" in said(found)
    assert "unseen: nobody has looked" in said(found)
    assert said(compare([pair])) == ""


def test_time_and_zeros_are_told_where_the_audit_knows_them(pair):
    pace = {"seconds": 0.0125, "images": 44, "batch": 64, "threads": 1, "device": "cpu"}
    change(pair / "hard", "provenance", **{"seconds per image, clean": pace})
    card = Store(pair / "hard").document("provenance")["card"]
    change(pair / "hard", "provenance", card={**card, "zeros": 5806795})
    found = compare([pair], baseline="plain")
    assert row(found, "plain").seconds is None
    assert (row(found, "plain").zeros, row(found, "plain").parameters) == ("–", "11,177,538")
    assert row(found, "hard").seconds.estimate.value == 0.0125
    assert row(found, "hard").conditions == "64 at a time, 1 thread, cpu"
    assert row(found, "hard").zeros == "5,806,795 = 52.0 %"
    assert "other machines" not in said(found)
    change(pair / "plain", "provenance", **{"seconds per image, clean": {**pace, "threads": 2}})
    assert "other machines" in said(compare([pair]))


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(home, tmp_path_factory):
    folders = [home / name / "audit" for name in ("plain", "twin", "hard")]
    return write_comparison(folders, tmp_path_factory.mktemp("page") / "page.html")[1]


def test_the_page_needs_nothing_but_itself_and_can_be_read_without_seeing_it(page):
    read = Page(page.read_text())
    assert not read.all("script")
    assert not read.all("link")
    assert all(attrs["href"].startswith("#") for attrs in read.all("a"))
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in read.tags:
        assert set(attrs.get("aria-labelledby", "").split()) <= set(ids)
        assert attrs.get("href", "#side")[1:] in ids
    assert all(attrs.get("scope") for attrs in read.all("th"))
    assert len(read.all("h1")) == 1
    plots = [attrs for attrs in read.all("svg") if attrs.get("role") == "img"]
    assert len(plots) == 2
    assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") == "true" for attrs in read.all("svg"))
    assert len(read.all("desc")) == len(plots)


def test_the_same_records_give_the_same_bytes(home, page, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(home, moved)
    again = write_comparison([moved / name for name in ("plain", "twin", "hard")], tmp_path / "again.html")[1]
    for suffix in (".html", ".json", ".csv"):
        assert page.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()


def test_every_printed_figure_is_in_the_files(page):
    figures = json.loads(page.with_suffix(".json").read_text())["figures"]
    known = {
        (f"{factor * f['value']:,.{digits}f}", f["n"])
        for f in figures
        if f["value"] is not None
        for factor, digits in ((100, 1), (1, 0), (1000, 2))
    }
    printed = re.findall(r'<span title="n = ([\d,]+), [^"]*">([−\d.,]+)', page.read_text())
    assert len(printed) > 70
    for n, value in printed:
        assert (value.replace("−", "-"), int(n.replace(",", ""))) in known
    with page.with_suffix(".csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(figures)


def test_the_files_say_what_was_compared_and_who_was_best(page):
    told = json.loads(page.with_suffix(".json").read_text())["run"]
    assert told["baseline"] == "plain"
    assert [model["name"] for model in told["models"]] == ["plain", "twin", "hard"]
    assert told["models"][2]["marks"]["balanced accuracy, worst case"] == "*"
    assert told["models"][0]["paired with the baseline"] is None
    assert told["models"][1]["paired with the baseline"] is True


def test_names_from_others_are_text_and_nothing_else(tmp_path):
    evil = "<b onclick=x>&"
    for name in (evil, "plain"):
        write_run(tmp_path / "home" / name, replace(SMALL, title=evil))
    read = Page(write_comparison([tmp_path / "home"], tmp_path / "page.html")[1].read_text())
    assert evil in read.said
    assert not read.all("b")


def test_a_page_is_not_written_over_its_own_figures(pair, tmp_path):
    with pytest.raises(SettingsError, match=r"name it \.html"):
        write_comparison([pair], tmp_path / "page.json")
    assert write_comparison([pair], tmp_path)[1] == tmp_path / "compare.html"


def test_a_comparison_runs_no_model():
    code = "import sys, antivenom.report.compared; print({'torch', 'timm', 'matplotlib', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
