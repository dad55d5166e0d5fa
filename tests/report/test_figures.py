import csv
import io
import json
import math

from antivenom.metrics.intervals import Estimate
from antivenom.records.plan import PlanRow
from antivenom.report.figures import Ledger, plain_number

SHARE = Estimate(0.5, 0.4, 0.6, 10, 5, "Wilson")
ROW = PlanRow(3, "pgd", "pgd", {}, "untargeted", "linf", 2 / 255, "fooled")


def test_a_figure_that_is_printed_twice_is_noted_once():
    ledger = Ledger()
    assert ledger.note("accuracy", SHARE, ROW) is ledger.note("accuracy", SHARE, ROW)
    assert ledger.note("accuracy", SHARE) is not ledger.note("accuracy", SHARE, ROW)
    assert len(json.loads(ledger.as_json({}))["figures"]) == 2


def test_what_was_not_measured_is_empty_and_no_number():
    ledger = Ledger()
    ledger.note("AUROC", Estimate(math.nan, math.nan, math.nan, 0, 0, "undefined"), part="class x")
    assert json.loads(ledger.as_json({}))["figures"][0]["value"] is None
    assert next(csv.DictReader(io.StringIO(ledger.as_csv())))["value"] == ""


def test_both_files_say_the_same():
    ledger = Ledger()
    ledger.note_worst("accuracy", SHARE, "untargeted", "linf", 2 / 255)
    ledger.note("queries per image", plain_number(12.5, 10, 5, "mean"), ROW)
    table = list(csv.DictReader(io.StringIO(ledger.as_csv())))
    for line, figure in zip(table, json.loads(ledger.as_json({}))["figures"], strict=True):
        assert line["attack"] == figure["attack"]
        assert float(line["value"]) == figure["value"]
        assert line["low"] == ("" if figure["low"] is None else str(figure["low"]))


def test_no_cell_is_a_formula():
    ledger = Ledger()
    for name in ("=1+1", "+1", "-1", "@x", "\tx"):
        ledger.note("accuracy", SHARE, part=name)
    assert all(line["part"].startswith("'") for line in csv.DictReader(io.StringIO(ledger.as_csv())))


def test_an_empty_ledger_makes_empty_files():
    assert Ledger().as_csv().strip() == ""
    assert json.loads(Ledger().as_json({"seed": 0})) == {"run": {"seed": 0}, "figures": []}
