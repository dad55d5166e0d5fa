import math
from itertools import pairwise

import pytest

from antivenom.metrics.intervals import Estimate
from antivenom.report.charts import FRAME
from antivenom.report.trade_off import LABEL_HEIGHT, style_of, trade_off_chart


def share(value, spread=0.02):
    return Estimate(value, max(0.0, value - spread), min(1.0, value + spread), 100, 100, "Wilson")


def chart(*points, chance=0.5):
    named = [(name, f"s{place}", share(clean), share(worst)) for place, (name, clean, worst) in enumerate(points)]
    return trade_off_chart("t", "Trade-off", named, "unchanged", "attacked", chance=chance)


def test_points_stand_where_their_shares_are():
    plain, hard = chart(("plain", 0.99, 0.0), ("hard", 0.9, 1.0)).crosses
    assert plain.y == FRAME.bottom
    assert hard.y == FRAME.top
    assert hard.x < plain.x < FRAME.right
    assert hard.left < hard.x < hard.right
    assert plain.high < plain.y <= plain.low  # upwards is less, in a drawing


def test_the_axis_begins_at_the_last_ten_below_all():
    found = chart(("plain", 0.97, 0.1), ("hard", 0.83, 0.7))
    assert found.x_ticks[0].text == "80"
    assert found.x_ticks[0].at == FRAME.left
    assert found.x_ticks[-1].at == FRAME.right
    assert found.across is None  # a constant answer has 50 %
    assert chart(("plain", 0.97, 0.1), ("poor", 0.45, 0.4)).across is not None


def test_names_do_not_cover_each_other():
    marks = chart(*[(f"model {i}", 0.9, 0.5 + i / 1000) for i in range(5)]).crosses
    heights = sorted(mark.label_y for mark in marks)
    assert all(below - above >= LABEL_HEIGHT - 1e-6 for above, below in pairwise(heights))


def test_a_name_at_the_right_edge_stands_to_the_left():
    left, right = chart(("left", 0.5, 0.5), ("right", 1.0, 0.5)).crosses
    assert (left.anchor, right.anchor) == ("start", "end")


def test_what_was_not_measured_is_not_drawn():
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0, "nothing to count")
    points = [("plain", "s0", share(0.9), nothing), ("hard", "s1", share(0.9), share(0.5))]
    found = trade_off_chart("t", "Trade-off", points, "unchanged", "attacked", chance=0.5)
    assert [cross.name for cross in found.crosses] == ["hard"]
    assert "plain" not in found.description


def test_a_point_without_an_interval_is_a_point():
    alone = Estimate(0.9, math.nan, math.nan, 9, 9, "all alike")
    (cross,) = trade_off_chart("t", "T", [("m", "s0", alone, alone)], "x", "y", chance=0.5).crosses
    assert cross.left == cross.x == cross.right
    assert cross.low == cross.y == cross.high


def test_the_description_tells_every_model():
    assert "hard: 83.0 % [81.0, 85.0] unchanged, 70.0 % [68.0, 72.0]" in chart(("hard", 0.83, 0.7)).description


@pytest.mark.parametrize(("place", "baseline", "style"), [(0, False, "s0"), (10, False, "s1"), (-1, True, "worst")])
def test_every_model_has_a_look_of_its_own(place, baseline, style):
    assert style_of(place, baseline=baseline) == style
