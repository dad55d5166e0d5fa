"""The report says where the model looks, beside chance and noise, and refuses to say what was not measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.records.test_explanation import CHESTS, write_explanation
from tests.report.test_write import Page
from tests.runs import FINDINGS, write_run

from antivenom.records.audit import Audit
from antivenom.records.explanation import PARTS
from antivenom.records.parts import WHY_NOT
from antivenom.records.store import Store
from antivenom.report.compared import compare, identity, write_comparison
from antivenom.report.compared_looks import area_change, paper_order
from antivenom.report.explained import explained_of
from antivenom.report.figures import Ledger
from antivenom.report.heat import coloured, enlarged, field, picture, strip
from antivenom.report.write import write_report


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", CHESTS)


# -- the chapter -------------------------------------------------------------------------------------------------------


def test_the_opening_says_what_was_measured_beside_noise_and_another_image(folder):
    found = explained_of(write_explanation(folder), Ledger())
    for text in (
        "8 test images of 4 patients",
        "attends to 20.0 % of an unchanged image",
        "Projected gradient descent, L∞ 2/255",
        "turns 50 of 100",
        "attends to 40.0 %",
        "share 30 % of what either covers",
        "noise of the same size they share 90 %",
        "two different images 15 %",
    ):
        assert text in found.opening
    assert "4 × 4 places" in " ".join(found.sentences)
    assert "All of these images are read rightly" in found.sentences[0]


def test_every_figure_is_noted_with_its_sample_and_the_attack_it_belongs_to(folder):
    ledger = Ledger()
    found = explained_of(write_explanation(folder, lesions=True), ledger)
    noted = json.loads(ledger.as_json({}))["figures"]
    area = [figure for figure in noted if figure["quantity"] == "attended area"]
    assert [(figure["attack"], figure["value"], figure["n"], figure["groups"]) for figure in area] == [
        ("none", pytest.approx(0.2), 8, 4),
        ("pgd", pytest.approx(0.4), 8, 4),
    ]
    lines = {line.name: [figure and round(figure.estimate.value, 3) for figure in line.figures] for line in found.where}
    assert lines["Of the map on the lesion"] == [0.6, 0.3, 0.25]
    assert lines["Attended area"] == [0.2, 0.4, None]
    drift = {line.name: [round(figure.estimate.value, 3) for figure in line.figures] for line in found.drift}
    assert drift["Areas shared"] == [0.3, 0.9, 0.15]
    assert drift["Rank correlation"] == [-0.25, 0.95, 0.05]
    outside = {line.name: [round(figure.estimate.value, 3) for figure in line.figures] for line in found.outside}
    assert outside["Loss raised by the part outside"] == [0.6, 0.8]
    assert outside["Loss raised by the part inside"] == [0.25, 0.2]
    fooled = {figure["part"]: figure["value"] for figure in noted if figure["quantity"] == "fooled"}
    assert fooled["explained, lesion: inside"] == 1
    assert [bar[0] for bar in found.confined[1].bars][1:3] == ["outside the lesion only", "inside the lesion only"]


def test_distances_are_told_in_grey_levels_and_what_was_not_found_is_said(folder):
    ledger = Ledger()
    linf, l2 = explained_of(write_explanation(folder), ledger).distances
    assert (linf.median, linf.quartiles, linf.in_words) == (
        "4/255",
        ("2/255", "6/255"),
        "at most 4 of 255 grey levels in any pixel",
    )
    assert l2.median == "3.5"
    never = {"steps": 40, "linf": [None] * 8, "l2": [0.5] * 8}
    audit = write_explanation(folder, distances=never)
    assert explained_of(audit, Ledger()).distances[0].median == "none found"
    assert "none found" in write_report(folder).read_text()


def test_the_page_has_the_chapter_and_its_pictures(folder):
    write_explanation(folder, attention=True, lesions=True)
    html = write_report(folder).read_text()
    Page(html)
    for text in (
        'href="#looks"',
        "Maps, unchanged and attacked",
        "light blue one the lesion",
        "layer3, Cbam",
        "as large an area elsewhere",
        "Distance to the boundary",
        "Orthopaedic pin",
        "Blocks in another order",
        "The loss around an image",
        "https://arxiv.org/abs/1610.02391",
    ):
        assert text in html
    assert html.count("Grad-CAM, attacked") == 2
    assert write_report(folder).read_text() == html


def test_an_audit_without_an_explanation_says_nothing_of_it(folder):
    html = write_report(folder).read_text()
    assert 'id="looks"' not in html
    assert "Where it looks" not in html
    assert explained_of(Audit.read(folder), Ledger()) is None


@pytest.mark.parametrize("part", PARTS)
def test_what_is_missing_is_told_under_limits_and_not_stated(folder, part):
    write_explanation(folder, parts=tuple(name for name in PARTS if name != part))
    html = write_report(folder).read_text()
    assert "the explanation is not finished, and no figure of them is stated" in html
    absent = {
        "focus": "How far the map moves",
        "regions": "Attacks on a part of the image",
        "distances": "Distance to the boundary</h3>",
        "artefacts": "A pin and dust</h3>",
        "shuffled": "Blocks in another order</h3>",
        "surface": "The loss around an image",
    }
    assert absent[part] not in html
    assert all(text in html for name, text in absent.items() if name != part)


def test_what_cannot_be_measured_is_told_with_its_reason(folder):
    write_explanation(folder, focus={WHY_NOT: "the model has no layer that puts out maps, so it has no Grad-CAM"})
    html = write_report(folder).read_text()
    assert "The model has no maps to show" in html
    assert "no layer that puts out maps" in html


def test_an_empty_map_is_told(folder):
    drift = write_explanation(folder).explanation.parts["focus"]
    drift = {**drift, "drift": {**drift["drift"], "clean_area": [None] + [0.2] * 7}}
    found = explained_of(write_explanation(folder, focus=drift), Ledger())
    assert any("1 map is empty" in text for text in found.sentences)


def test_findings_are_told_as_decisions(tmp_path):
    folder = write_run(tmp_path, replace(CHESTS, task=FINDINGS, until="spent"))
    found = explained_of(write_explanation(folder), Ledger())
    assert found.drawn[0].kept.estimate.n == 8 * 14
    assert "112 decisions that were right" in write_report(folder).read_text()


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_colours_run_from_dark_to_bright():
    light = coloured(np.linspace(0, 1, 9)[None])[:, 0].sum(0)
    assert (np.diff(light) > 0).all()


def test_pictures_are_made_of_grey_and_colour_small_and_large():
    for channels, side in ((1, 16), (3, 64), (1, 300)):
        image, heat = np.full((channels, side, side), 0.5), np.eye(side)
        assert picture(image, heat, heat > 0).startswith("data:image/png;base64,")
        assert picture(image, np.zeros((side, side))) == picture(image)
        assert picture(image, heat) != picture(image)
    assert strip(np.linspace(0, 1, 5), np.zeros(5)).startswith("data:image/png")
    assert field(np.ones((3, 3))) != field(np.arange(9.0).reshape(3, 3))


def test_a_map_enlarged_stays_within_its_range():
    found = enlarged(np.array([[0.0, 1.0], [0.5, 0.2]]), (40, 30))
    assert found.shape == (40, 30)
    assert (found.min(), found.max()) == (0, 1)


# -- beside other models -----------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Two models that were explained, the second with a wider focus, and one that was not."""
    for name, area in (("plain", 0.2), ("cbam", 0.3), ("other", None)):
        folder = write_run(tmp_path / name, CHESTS)
        if area:
            write_explanation(folder, area=area)
    return [tmp_path / name for name in ("plain", "cbam", "other")]


def test_explained_models_stand_beside_each_other(three, tmp_path):
    found, page = write_comparison(three, tmp_path / "compare.html")
    plain, cbam = found.looks.rows
    assert (plain.change, plain.area.estimate.value) == (None, pytest.approx(0.2))
    assert cbam.change.estimate.value == pytest.approx(0.1)
    assert cbam.overlap.estimate.value == pytest.approx(0.3)
    assert [text for text, _ in cbam.distances] == ["4/255", "3.5"]
    assert found.looks.columns == ("plain", "cbam")
    assert len(found.looks.shared) == 2
    assert all(len(one.maps) == 2 for one in found.looks.shared)
    assert "Not explained: other." in found.looks.notes
    html = page.read_text()
    assert 'href="#looks"' in html
    assert "The same images through each model" in html
    noted = json.loads(page.with_suffix(".json").read_text())
    assert noted["run"]["where they look"] == list(found.looks.notes)
    assert any(f["quantity"] == "difference in attended area" for f in noted["figures"])


def test_fewer_than_two_explained_models_say_nothing(three):
    found = compare([three[0], three[2]])
    assert found.looks is None
    assert identity(found)["where they look"] is None


def test_pictures_that_are_not_shared_are_left_out_and_other_attacks_are_noted(three):
    write_explanation(three[1], kept=0, number=2, n=6)
    looks = compare(three).looks
    assert looks.shared == ()
    assert any("different sizes" in note for note in looks.notes)
    assert any("not all of them are the same" in note for note in looks.notes)
    one, other = (Audit.read(folder).explanation for folder in three[:2])
    assert area_change(other, one).n == 6


def test_models_stand_in_the_order_of_the_papers_figures(three):
    store, wanted = Store(three[0]), []
    known = [
        ("resnet34", 0),
        ("resnet34", 9),
        ("resnet34+bam", 0),
        ("resnet34+self", 0),
        ("resnet34+cbam", 0),
        ("resnet34+cbam", 9),
        ("resnet34+kwta", 0),
    ]
    provenance = store.document("provenance")
    for architecture, zeros in known:
        card = {**provenance["card"], "architecture": architecture, "zeros": zeros}
        store.write_document("provenance", {**provenance, "card": card})
        wanted.append(paper_order(Audit.read(three[0])))
    assert wanted == sorted(wanted)
    assert len(set(wanted)) == len(wanted)
