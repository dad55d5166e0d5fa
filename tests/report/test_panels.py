import base64
import io

import numpy as np
import pytest
from PIL import Image
from tests.runs import CHEST, FINDINGS, SKIN, Run, write_run

from antivenom.records.audit import Audit
from antivenom.report.panels import change_in_colour, data_uri, panels


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.fixture(scope="module", params=[CHEST, SKIN, FINDINGS], ids=["chest", "skin", "findings"])
def audit(request, tmp_path_factory):
    channels = 3 if request.param is SKIN else 1
    run = Run(request.param, n_test=24, n_val=24, size=16, channels=channels, keep=8, l2=(0.5, 2))
    return Audit.read(write_run(tmp_path_factory.mktemp("run") / "run", run))


def test_the_smallest_change_that_turned_the_answer_is_shown(audit):
    shown = panels(audit, "linf")
    assert shown
    for panel in shown:
        place = audit.splits["test"].images.tolist().index(panel.image)
        assert panel.fooled == (np.nansum(audit.success(panel.row.number)[place]) >= max(1, audit.right(0)[place].sum() / 2))
        smaller = [r for r in audit.select("linf") if not r.control and r.epsilon < panel.row.epsilon]
        for row in smaller:
            assert np.nansum(audit.success(row.number)[place]) < max(1, audit.right(0)[place].sum() / 2)


def test_only_images_that_were_read_rightly_are_shown(audit):
    for panel in panels(audit, "linf"):
        place = audit.splits["test"].images.tolist().index(panel.image)
        assert audit.right(0)[place].any()
        assert panel.before in (panel.truth, panel.before if audit.task.multilabel else panel.truth)


def test_pictures_are_the_stored_pixels(audit):
    for panel in panels(audit, "linf"):
        clean, attacked = pixels(panel.clean).astype(int), pixels(panel.attacked).astype(int)
        assert np.abs(attacked - clean).max() <= np.ceil(panel.row.epsilon * 255) + 1
        assert panel.factor * panel.row.epsilon <= 0.5 + 1e-3
        assert panel.size == f"{panel.row.epsilon * 255:.3g}/255"


def test_the_change_leads_from_the_clean_image_to_the_attacked_one(tmp_path):
    audit = Audit.read(write_run(tmp_path / "run", Run(CHEST, n_test=24, n_val=24, size=16)))
    for panel in panels(audit, "linf"):
        red, _, blue = pixels(panel.change).astype(int).transpose(2, 0, 1)
        moved = pixels(panel.attacked).astype(int) - pixels(panel.clean).astype(int)
        assert (red > blue)[moved > 0].all()
        assert (red < blue)[moved < 0].all()
        assert (moved != 0).any()


def test_bars_hold_probabilities(audit):
    for panel in panels(audit, "l2"):
        assert 1 <= len(panel.bars) <= 4
        assert all(0 <= value <= 1 for bar in panel.bars for value in (bar.before, bar.after))
        assert audit.task.multilabel or sum(bar.true for bar in panel.bars) == 1


def test_classes_take_turns(tmp_path):
    run = Run(CHEST, n_test=40, n_val=24, size=8, keep=30, prevalence=(4, 1))
    truths = [panel.truth for panel in panels(Audit.read(write_run(tmp_path / "run", run)), "linf", most=4)]
    assert sorted(truths) == ["normal", "normal", "pneumonia", "pneumonia"]


def test_no_change_is_white_and_direction_is_colour():
    change = np.array([[[0.0, 0.1, -0.1]]])
    red, green, blue = change_in_colour(change, 5)
    assert (red[0, 0], green[0, 0], blue[0, 0]) == (1, 1, 1)
    assert red[0, 1] > blue[0, 1]
    assert blue[0, 2] > red[0, 2]


def test_a_change_of_colour_is_shown_channel_by_channel():
    change = np.zeros((3, 1, 1))
    change[0] = 0.02
    assert change_in_colour(change, 10)[:, 0, 0].tolist() == pytest.approx([0.7, 0.5, 0.5])


def test_values_survive_the_picture():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4) / 255
    assert np.array_equal(pixels(data_uri(image)), np.arange(12).reshape(3, 4))
    assert pixels(data_uri(image, step=2)).shape == (2, 2)
