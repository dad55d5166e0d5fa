"""The section on reasons: each claim beside its figures, with the verdict that these allow and no other."""

import json
import math

import numpy as np
import pytest
from tests.examinations import Examined, write_examination
from tests.records.test_reasons import PATHS, TRIALS, write_reasons
from tests.report.test_write import Page
from tests.runs import CHEST, Run, write_run

from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import HOME, Detection
from antivenom.records.parts import WHY_NOT
from antivenom.records.reasons import BLACK, SINGLE, STRANGER, WHITE, noise_like
from antivenom.records.store import Store
from antivenom.report.figures import Ledger
from antivenom.report.reason_charts import growth_chart, quantile_chart, scatter_chart
from antivenom.report.reasons import unreasoned, why_of
from antivenom.report.write import write_report

STEPS = tuple({**one, "settings": {"steps": 10}} if one["attack"] == "pgd" else one for one in TRIALS)


def section(folder, trials=STEPS, **changes):
    """The section of made-up reasons, and the figures noted for it."""
    ledger = Ledger()
    made = write_reasons(write_examination(folder, Examined(trials=trials, n_test=40)), **changes)
    return why_of(Detection.read(made), ledger), json.loads(ledger.as_json({}))["figures"]


def claims(told):
    return {claim.name.split(" ")[0]: (claim.verdict, claim.text) for claim in told.claims}


def test_each_reason_is_put_beside_what_was_measured(tmp_path):
    told, figures = section(tmp_path)
    assert "20 test images of 10 patients" in told.opening
    assert "PGD-10 on the model, L∞ 5.1/255 and PGD-10 on another model, L∞ 12.8/255" in told.opening
    layers, many, apart, normal = told.claims
    assert layers.verdict == "supported"
    assert "multiplied by 15.0" in layers.text
    assert "grows at every stage in 100.0 % of the images" in layers.text
    assert "noise as large as PGD-10 on the model × 0.5" in layers.text
    assert many.verdict == "supported"
    assert "2.00" in many.text
    assert "made on another model, 0.50" in many.text
    assert apart.verdict == "supported"
    assert "90 %" in apart.text
    assert "50 % is chance" in apart.text
    assert normal.verdict == "not supported"
    assert "80 held-out images, one a patient, in 3 directions" in normal.text
    noted = {(figure["quantity"], figure["attack"], figure["part"]): figure for figure in figures}
    change = noted["relative change of features", "pgd", ""]
    assert (change["value"], change["n"], change["groups"]) == (pytest.approx(0.6, rel=0.01), 20, 10)
    assert ("relative change of features", "none", "another image") in noted
    assert ("p of the skewness", "none", "clean held-out images") in noted


def test_what_the_figures_do_not_show_is_not_said(tmp_path, monkeypatch):
    monkeypatch.setitem(PATHS, WHITE, (0.04, 0.06, 0.05, 0.3, 0.2, 1.2))
    monkeypatch.setitem(PATHS, BLACK, (0.1, 0.12, 0.11, 0.09, 0.4, 0.1))
    found = claims(section(tmp_path / "part", parted=False)[0])
    verdict, text = found["“The"]
    assert verdict == "supported in part"
    assert "It does not surely grow from stem to stage 1 × 0.83" in text
    assert found["Many"][0] == "not supported"
    assert found["Features"][0] == "not contradicted"
    assert "nothing tells them from normal draws" in found["Features"][1]
    monkeypatch.setitem(PATHS, WHITE, (0.3, 0.2, 0.1, 0.1, 0.05, 0.01))
    assert claims(section(tmp_path / "not")[0])["“The"][0] == "not supported"


def test_an_attack_of_one_step_is_not_called_one_of_many(tmp_path):
    single = tuple({**one, "settings": {"steps": 1}} if one["attack"] == "pgd" else one for one in TRIALS)
    assert "Many" not in claims(section(tmp_path, trials=single)[0])


def test_without_another_model_only_the_model_is_spoken_of(tmp_path):
    kinds = (WHITE, SINGLE[WHITE], noise_like(WHITE), STRANGER)
    told, _ = section(tmp_path, kinds=kinds)
    assert "another model" not in told.opening
    assert "No other model was attacked" in claims(told)["Many"][1]
    assert [line.name for line in told.growth.lines] == [
        "PGD-10 on the model",
        "noise as large as PGD-10 on the model",
        "another image",
    ]
    assert [cloud.name for cloud in told.scatter.clouds] == ["clean, held out", "clean, tested", "PGD-10 on the model"]


def test_tables_and_pictures_hold_what_was_measured(tmp_path):
    told, _ = section(tmp_path)
    assert [(line.name, line.detail) for line in told.stages] == [
        ("pixels", ""), ("stem", ""), ("stage 1", "layer1"), ("stage 2", "layer2"), ("features", ""), ("logits", ""),
    ]  # fmt: skip
    assert len(told.headers) == len(told.stages[0].figures) == 7
    assert [line.name for line in told.normality] == ["all", "answered normal", "answered pneumonia"]
    assert told.normality[0].departing == "1 of 3"
    assert "512 features are reduced to 3 directions" in told.tested
    (panel,) = told.panels
    assert all(picture.startswith("data:image/png") for picture in (*panel.pictures, *panel.maps))
    assert panel.maps_factor == 1


def test_parts_that_are_missing_are_told_and_not_stated(tmp_path):
    made = write_reasons(write_examination(tmp_path, Examined(trials=STEPS, n_test=40)), leave_out=("growth", "maps"))
    Store(made / HOME).write_document("reasons/normality", {WHY_NOT: "9 patients are too few"})
    found = Detection.read(made)
    told = why_of(found, Ledger())
    assert [claim.name[:11] for claim in told.claims] == ["In features"]
    assert told.growth is told.quantiles is None
    assert told.panels == told.stages == ()
    said = list(unreasoned(found))
    assert "how changes grow from stage to stage and maps of the first block" in said[0]
    assert "9 patients are too few" in said[1]


def test_an_examination_without_reasons_has_no_section(tmp_path):
    found = Detection.read(write_examination(tmp_path, Examined(trials=STEPS)))
    assert why_of(found, Ledger()) is None
    assert list(unreasoned(found)) == []


def test_the_page_holds_the_section_its_papers_and_what_is_missing(tmp_path):
    home = write_run(tmp_path, Run(CHEST, n_test=20, n_val=20, flags=(), attacks=("noise", "pgd"), epsilons=(2,)))
    write_examination(home, Examined(trials=STEPS, n_test=40))
    assert 'id="why"' not in write_report(home).read_text()
    write_reasons(home, leave_out=("maps",))
    html = write_report(home).read_text()
    for text in ('id="why"', "vandermaaten08a", "biomet/57.3.519", "Tests of normality", "maps of the first block; that work"):
        assert text in html
    Page(html)
    assert write_report(home).read_text() == html


# -- charts ------------------------------------------------------------------------------------------------------------


def known(value, low=math.nan, high=math.nan):
    return Estimate(value, low, high, 9, 9, "made up")


def test_equal_factors_stand_equally_far_apart():
    chart = growth_chart("c", "t", ["a", "b", "c"], [("pgd", "harm", [known(0.01), known(0.1, 0.05, 0.2), known(1.0)])])
    first, second, third = chart.lines[0].marks
    assert first.y - second.y == pytest.approx(second.y - third.y, abs=0.02)
    assert second.high < second.y < second.low  # upwards is smaller
    assert [tick.text for tick in chart.y_ticks] == ["1", "2", "5", "10", "20", "50", "100"]
    flat = growth_chart("c", "t", ["a", "b"], [("none", "s0", [known(0.0), known(math.nan)])])
    assert flat.lines[0].marks == ()


def test_points_keep_their_shape_and_stay_in_the_frame():
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0], [0.0, 1.0]])
    chart = scatter_chart("s", "t", [("clean", "s2", corners), ("pgd", "harm", corners / 2)])
    points = np.array(chart.clouds[0].points)
    assert np.ptp(points[:, 0]) == pytest.approx(4 * np.ptp(points[:, 1]), rel=0.01)
    assert points.min() >= 0
    assert (points <= [chart.width, chart.height]).all()
    assert "4 images: pgd" in chart.description


def test_quantiles_that_agree_lie_on_the_diagonal():
    squared = np.linspace(0.1, 9, 200)
    chart = quantile_chart("q", "t", [("all", "worst", squared, squared)])
    start, end = (part.split(",") for part in chart.diagonal.removeprefix("M").split(" L"))
    slope = (float(end[1]) - float(start[1])) / (float(end[0]) - float(start[0]))
    for point in chart.lines[0].path.removeprefix("M").split(" L"):
        x, y = map(float, point.split(","))
        assert y == pytest.approx(float(start[1]) + slope * (x - float(start[0])), abs=0.05)
    assert [tick.text for tick in chart.x_ticks] == ["0", "1", "2", "3"]
