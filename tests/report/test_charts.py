import math

import numpy as np
import pytest

from antivenom.metrics.calibration import reliability
from antivenom.metrics.intervals import Estimate
from antivenom.report.charts import FRAME, reliability_chart, security_chart


def estimate(value, spread=0.05):
    return Estimate(value, value - spread, value + spread, 100, 100, "Wilson")


def chart(curves):
    return security_chart("c", "Accuracy", curves, "size", "accuracy", lambda e: f"{e:g}", level=(0.5, "constant"))


def test_values_stand_between_the_ends_of_the_axis():
    (line,) = chart([("PGD", "s0", [(0.0, estimate(1.0)), (1.0, estimate(0.5)), (8.0, estimate(0.0))])]).lines
    assert [mark.y for mark in line.marks] == [FRAME.top, (FRAME.top + FRAME.bottom) / 2, FRAME.bottom]
    assert [line.marks[0].x, line.marks[-1].x] == [FRAME.left, FRAME.right]


def test_doublings_stand_nearly_evenly():
    ticks = [t.at for t in chart([("PGD", "s0", [(float(e), estimate(0.5)) for e in (0, 1, 2, 4, 8)])]).x_ticks]
    steps = np.diff(ticks)
    assert (steps > 0).all()
    assert steps.max() < 1.8 * steps.min()


def test_the_band_holds_the_line():
    (line,) = chart([("PGD", "s0", [(0.0, estimate(0.9)), (1.0, estimate(0.4))])]).lines
    assert all(mark.high < mark.y < mark.low for mark in line.marks)  # upwards is less, in a drawing
    assert line.band.endswith("Z")


def test_what_was_not_measured_is_not_drawn():
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0, "nothing to count")
    (line,) = chart([("PGD", "s0", [(0.0, estimate(0.9)), (1.0, nothing)])]).lines
    assert len(line.marks) == 1
    assert "nan" not in line.path + line.band


def test_points_tell_their_figures():
    (line,) = chart([("PGD", "s0", [(0.0, estimate(0.9))])]).lines
    assert line.marks[0].text == "PGD at 0: 90.0 % [85.0, 95.0]"


def test_a_perfectly_calibrated_model_stands_on_the_diagonal():
    bins = reliability(np.repeat([0.25, 0.75], 100), np.r_[np.arange(100) < 25, np.arange(100) < 75])
    (line,) = reliability_chart("r", "Reliability", bins).lines
    for mark in line.marks:
        across, up = (mark.x - FRAME.left) / (FRAME.right - FRAME.left), (FRAME.bottom - mark.y) / (FRAME.bottom - FRAME.top)
        assert across == pytest.approx(up, abs=1e-3)
