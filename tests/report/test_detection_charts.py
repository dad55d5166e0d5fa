import math

import numpy as np
import pytest

from antivenom.metrics.intervals import Estimate
from antivenom.metrics.selective import risk_coverage
from antivenom.report.charts import FRAME
from antivenom.report.detection_charts import bar_chart, histogram_chart, risk_chart, roc_chart


def points(path):
    return [tuple(map(float, pair.split(","))) for pair in path.removeprefix("M").removesuffix(" Z").split(" L")]


def share(value):
    return Estimate(value, value - 0.05, value + 0.05, 100, 100, "Wilson")


def test_a_roc_curve_runs_from_corner_to_corner_with_low_rates_spread_out():
    chart = roc_chart("r", "ROC", [("PGD", "s0", np.array([0, 0.05, 1]), np.array([0, 0.8, 1]))])
    path = points(chart.lines[0].path)
    assert path[0] == (FRAME.left, FRAME.bottom)
    assert path[-1] == (FRAME.right, FRAME.top)
    ticks = {tick.text: tick.at for tick in chart.x_ticks}
    assert ticks["5"] - ticks["1"] > ticks["100"] - ticks["50"]
    assert "PGD: 80.0 %" in chart.description
    assert chart.diagonal


def test_a_histogram_puts_each_kind_where_its_scores_are_and_the_threshold_between():
    luck = np.random.default_rng(0)
    clean, attacked = luck.normal(size=200), 1000 + luck.normal(size=200)
    chart = histogram_chart("h", "Scores", [("unchanged", "s2", clean), ("PGD", "s0", attacked)], 5.0)
    low, high, threshold = (points(line.path) for line in chart.lines)
    assert threshold[0][0] == threshold[1][0]
    peak_low, peak_high = (min(path, key=lambda p: p[1])[0] for path in (low, high))
    assert peak_low < threshold[0][0] < peak_high
    assert min(y for path in (low, high) for _, y in path) == FRAME.top
    assert [tick.text for tick in chart.x_ticks].count("0") == 1
    assert "unchanged: 0.0 %; PGD: 100.0 %" in chart.description


def test_scores_without_spread_or_without_end_are_drawn():
    odd = np.array([math.inf, 2.0])
    chart = histogram_chart("h", "Scores", [("unchanged", "s2", np.zeros(9)), ("PGD", "s0", odd)], 0.0)
    assert all(math.isfinite(x) and math.isfinite(y) for line in chart.lines for x, y in points(line.path))


def test_what_is_kept_stands_beside_random_rejection():
    right = np.arange(100) < 80
    chart = risk_chart("k", "Kept", [("gaussian", "s0", risk_coverage(np.arange(100.0), right))])
    curve, random = chart.lines
    assert points(curve.path)[0][1] == FRAME.top
    assert points(curve.path)[-1] == points(random.path)[-1]
    assert random.band
    assert "random rejection: 80.0 %" in chart.description
    assert chart.y_ticks[-1].at == FRAME.top


def test_bars_are_as_long_as_their_shares_and_lie_below_each_other():
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0, "nothing to count")
    kinds = [("all", "noise"), ("known", "harm")]
    chart = bar_chart("b", "Past", kinds, [("gaussian", (share(1.0), share(0.5))), ("energy", (share(0.2), nothing))], "%")
    first, second = chart.rows
    assert first.bars[0].x == chart.right
    assert first.bars[1].x == pytest.approx((chart.left + chart.right) / 2)
    assert first.bars[1].low < first.bars[1].x < first.bars[1].high
    assert len(second.bars) == 1
    assert first.bars[0].y < first.bars[1].y < second.y < second.bars[0].y < chart.bottom
    assert "gaussian, known: 50.0 % [45.0, 55.0]" in chart.description
