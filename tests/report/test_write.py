import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.runs import CHEST, FINDINGS, SKIN, Run, write_run

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.records.store import Store
from antivenom.report.write import write_report
from antivenom.task import Task

VOID = {"meta", "img", "br", "link", "hr", "input"}
FLAG = {"name": "FGSM beats PGD", "severity": "serious", "evidence": "seen", "meaning": "meant", "next_step": "do this"}
RUNS = {
    "chest": Run(
        CHEST,
        n_test=80,
        images_per_group=2,
        sources=("Lima", "Graz"),
        l2=(0.5, 2),
        targeted="normal",
        flags=(FLAG,),
        caveats=("Beware.",),
    ),
    "skin": Run(SKIN, n_test=80, channels=3, flags=()),
    "findings": Run(FINDINGS, n_test=80, images_per_group=2, until="spent", slope=0.8),
}


class Page(HTMLParser):
    """What a page is made of; refuses tags that are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.html = [], [], [], html
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    @property
    def said(self):
        return " ".join(" ".join(self.text).split())


def report(folder, **changes):
    """The page of a made-up run with these changes."""
    return Page(write_report(write_run(folder / "run", Run(CHEST, n_test=20, n_val=20, **changes))).read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: write_run(tmp_path_factory.mktemp(name) / "run", run) for name, run in RUNS.items()}
    for folder in made.values():
        write_report(folder)
    return made


@pytest.fixture(params=list(RUNS))
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def page(folder):
    return Page((folder / "report.html").read_text())


def test_the_page_needs_nothing_but_itself(page):
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    sources = [attrs["src"] for attrs in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(a["href"].startswith(("#", "https://")) for a in page.all("a"))
    assert not re.search(r"url\(|@import|@font-face", page.html)


def test_the_page_can_be_read_without_seeing_it(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        assert set(attrs.get("aria-labelledby", "").split()) <= set(ids)
        assert attrs.get("href", "#")[0] != "#" or attrs.get("href", "#summary")[1:] in ids
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("scope") for attrs in page.all("th"))
    assert len(page.all("h1")) == 1
    for attrs in page.all("svg"):
        assert attrs.get("role") == "img" or attrs.get("aria-hidden") == "true"


def test_the_same_records_give_the_same_bytes(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    again = write_report(moved, tmp_path / "out" / "page.html")
    for name, other in (("report.html", "page.html"), ("figures.json", "figures.json"), ("figures.csv", "figures.csv")):
        assert (folder / name).read_bytes() == (again.with_name(other)).read_bytes()


def test_every_printed_figure_is_in_the_files(folder, page):
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    known = {
        (f"{factor * f['value']:,.{digits}f}", f["n"])
        for f in figures
        if f["value"] is not None
        for factor, digits in ((100, 1), (1, 3), (1, 2), (1, 1))
    }
    printed = re.findall(r'<span title="n = ([\d,]+), [^"]*">([−\d.,]+)', page.html)
    assert len(printed) > 100
    for n, value in printed:
        assert (value.replace("−", "-").replace("-0.0", "0.0"), int(n.replace(",", ""))) in known
    with (folder / "figures.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(figures)


def test_every_figure_about_the_model_has_an_interval_and_its_sample(folder):
    for figure in json.loads((folder / "figures.json").read_text())["figures"]:
        counted = figure["method"] in ("mean", "validation")
        assert figure["n"] > 0 or figure["value"] is None
        assert counted or figure["value"] is None or figure["low"] <= figure["value"] <= figure["high"]


def test_the_summary_says_what_the_records_hold(folders):
    figures = json.loads((folders["chest"] / "figures.json").read_text())["figures"]
    worst = [
        f
        for f in figures
        if (f["quantity"], f["attack"], f["goal"], f["threat"]) == ("success rate", "worst case", "untargeted", "linf")
    ]
    first = next(f for f in sorted(worst, key=lambda f: f["epsilon"]) if f["value"] >= 0.5)
    said = Page((folders["chest"] / "report.html").read_text()).said
    assert (
        f"at most {first['epsilon'] * 255:.3g} of 255 grey levels in any pixel turns {round(100 * first['value'])} of 100"
        in said
    )
    accuracy = next(f for f in figures if (f["quantity"], f["attack"]) == ("accuracy", "none"))
    assert f"the model reads {100 * accuracy['value']:.1f} % rightly" in said
    assert "Always answering" in said
    assert "balanced accuracy" in said
    assert "L2" in said
    assert "the answer ‘normal’ for images of any other class" in said
    assert "Lima" in said
    assert "Beware." in said
    assert "AML.T0043.000" in said
    assert "AML.T0043.001" in said


def test_the_summary_looks_at_the_smallest_size_that_turns_half(tmp_path):
    folder = write_run(tmp_path / "run", Run(CHEST, n_test=80, n_val=40, epsilons=(1, 2, 2.5, 3, 8)))
    said = Page(write_report(folder).read_text()).said
    success = {
        f["epsilon"]: f["value"]
        for f in json.loads((folder / "figures.json").read_text())["figures"]
        if (f["quantity"], f["attack"]) == ("success rate", "worst case")
    }
    first = min(epsilon for epsilon, value in success.items() if value >= 0.5)
    assert success[first] < 0.9 < max(success.values())
    assert f"{first * 255:.3g} of 255 grey levels in any pixel turns" in said


def test_findings_are_judged_by_auroc_first(folders):
    said = Page((folders["findings"] / "report.html").read_text()).said
    assert "Mean AUROC over findings" in said
    assert "Hernia" in said
    assert "Confusion" not in said


def test_flags_come_before_the_figures_that_they_spoil(folders):
    said = Page((folders["chest"] / "report.html").read_text()).said
    assert said.index("1 serious flag") < said.index("Accuracy, unchanged")
    assert said.index("FGSM beats PGD") < said.index("Who is assumed to do what")
    assert "do this" in said
    assert "None of the known signs was found" in Page((folders["skin"] / "report.html").read_text()).said
    assert "Nobody has looked" in Page((folders["findings"] / "report.html").read_text()).said


def test_names_from_others_tables_are_text_and_nothing_else(tmp_path):
    evil = '<script>alert("x")</script>'
    run = Run(
        Task((evil, '"><img src=x onerror=alert(1)>')),
        title=evil,
        n_test=20,
        n_val=20,
        sources=(evil, "=HYPERLINK(1)"),
        caveats=(evil,),
        flags=({**FLAG, "name": evil, "severity": '"><b>'},),
        targeted=evil,
    )
    folder = write_run(tmp_path / "run", run)
    store = Store(folder)
    facts = store.document("attacks")
    store.write_document("attacks", {**facts, "pgd": {**facts["pgd"], "url": "javascript:alert(1)", "title": evil}})
    page = Page(write_report(folder).read_text())
    assert not page.all("script")
    assert evil in page.said
    assert not any("onerror" in attrs for attrs in page.all("img"))
    assert not any("javascript" in attrs["href"] for attrs in page.all("a"))
    text = (folder / "figures.csv").read_text()
    assert "\n=" not in text
    assert ",=" not in text


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    page = report(tmp_path, finished=lambda row: row["number"] < 5)
    assert "Unfinished run. 5 of 25 planned measurements" in page.said
    assert "pgd, L∞ 8/255, untargeted: 0 of 20 images are measured" in page.said
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())["figures"]
    assert {f["epsilon"] for f in figures} == {0, 0.25 / 255}


def test_clean_images_alone_say_nothing_about_robustness(tmp_path):
    page = report(tmp_path, finished=lambda row: row["number"] == 0)
    assert "No attack is measured yet" in page.said
    assert "withstood" not in page.said
    assert {f["threat"] for f in json.loads((tmp_path / "run" / "figures.json").read_text())["figures"]} == {""}


def test_a_run_without_clean_images_has_no_report(tmp_path):
    folder = write_run(tmp_path / "run", Run(CHEST, n_test=20, n_val=20, finished=lambda row: row["number"] > 0))
    with pytest.raises(NotMeasuredError, match="0 of 40 clean images"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="not a run's folder"):
        write_report(tmp_path)


def test_a_damaged_picture_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", Run(CHEST, n_test=20, n_val=20))
    for path in folder.glob("pixels/*/*.npy"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordsError, match="damaged"):
        write_report(folder)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    folder = write_run(tmp_path / "run", Run(CHEST, n_test=4, n_val=8))
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"cannot write .*choose another place"):
        write_report(folder, tmp_path / "file" / "report.html")


def test_a_model_that_withstands_is_told_so(tmp_path):
    said = report(tmp_path, slope=0.0, skill=9.0).said
    assert re.search(r"Of 100 right readings, 100 withstood every attack tried, up to a change of at most 8 of 255", said)
    assert "none turned half of them" in said
    assert "An accuracy under attack is an upper bound" in said


def test_classes_without_images_are_not_measured(tmp_path):
    run = replace(RUNS["skin"], n_test=30, n_val=30, prevalence=(1, 1, 1, 0, 1, 1, 1))
    said = Page(write_report(write_run(tmp_path / "run", run)).read_text()).said
    assert "AUROC of ‘dermatofibroma’: the test images hold 0 of it" in said
    assert "Sensitivity and specificity of ‘dermatofibroma’: the validation images gave it no operating point" in said


def test_patients_are_named_only_where_the_data_names_them(folders, tmp_path):
    assert "80 test images of 40 patients" in Page((folders["chest"] / "report.html").read_text()).said
    lesions = Page(
        write_report(
            write_run(tmp_path / "skin", Run(CHEST, n_test=20, n_val=20, images_per_group=2, unit="lesion"))
        ).read_text()
    ).said
    assert "20 test images of 10 lesions" in lesions
    assert "20 images (10 lesions)" in lesions
    folder = write_run(tmp_path / "run", Run(CHEST, n_test=20, n_val=20, patients=False))
    said = Page(write_report(folder).read_text()).said
    assert "20 test images 2 classes" in said
    assert "Patients: the data set names none" in said


def test_a_report_runs_no_model():
    code = "import sys, antivenom.report.write; print({'torch', 'timm', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
