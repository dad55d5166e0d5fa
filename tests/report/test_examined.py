"""What the report says of the main attack itself comes from the stored examination, and of effort from the stored counts."""

import numpy as np
import pytest
from tests.runs import CHEST, FINDINGS, Run, write_run

from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.report.examined import cost_chart, examined_of
from antivenom.report.figures import Ledger
from antivenom.report.write import write_report

IMAGES = [f"test/{i:04d}.png" for i in range(20)]


def document(row, planted=True):
    def first(count):
        return [i < count for i in range(20)]

    found = {
        "row": row,
        "images": IMAGES,
        "convergence": {"as run": first(10), "twice the steps": first(11), "twice the restarts": first(10)},
        "signs": {
            "vanished": first(0),
            "rough": [0.1] * 20,
            "unfinished": [0.0] * 20,
            "refused": first(2),
            "fooled": first(10),
        },
    }
    return (
        {**found, "planted": {"posed": first(18), "found": first(17), "chance": [0.01] * 18 + [None] * 2}} if planted else found
    )


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path, Run(CHEST, images_per_group=2, flags=()))


def audit_with(folder, planted=True):
    row = next(row.number for row in Audit.read(folder).rows if row.attack == "pgd" and row.epsilon > 1 / 255)
    Store(folder).write_document("diagnosis", document(row, planted))
    return Audit.read(folder)


def test_every_share_has_its_n_and_interval(folder):
    ledger = Ledger()
    found = examined_of(audit_with(folder), ledger)
    shares = {line.name: line.figure.estimate for line in found.findings}
    assert shares["fooled, as run"].value == 0.5
    assert shares["fooled, twice the steps"].value == 0.55
    assert (shares["planted examples found"].value, shares["planted examples found"].n) == (pytest.approx(17 / 18), 18)
    assert shares["only the source of gradients fooled"].value == 0.1
    assert all(e.low <= e.value <= e.high and e.n in (18, 20) and e.groups <= 10 for e in shares.values())
    assert "random points of the same size find 1 %" in found.findings[3].meaning
    assert '"planted examples found"' in ledger.as_json({})


def test_what_was_not_examined_is_not_stated(folder):
    assert examined_of(Audit.read(folder), Ledger()) is None
    assert not any("planted" in line.name for line in examined_of(audit_with(folder, planted=False), Ledger()).findings)


def test_the_page_tells_both_outcomes(folder, tmp_path):
    plain = write_report(folder, tmp_path / "plain.html").read_text()
    assert "The main attack, examined" not in plain
    assert "Accuracy left against effort" in plain
    audit_with(folder)
    told = write_report(folder, tmp_path / "told.html").read_text()
    assert "The main attack, examined" in told
    assert "planted examples found" in told


def test_effort_falls_from_clean_accuracy_to_that_of_the_attack(folder):
    audit = Audit.read(folder)
    epsilon = audit.epsilons("linf")[-1]
    chart = cost_chart(audit, "linf", "untargeted", epsilon)
    assert {line.name for line in chart.lines} == {audit.attacks[name].title for name in ("fgsm", "pgd", "square")}
    for line in chart.lines:
        heights = [mark.y for mark in line.marks]
        assert heights == sorted(heights)  # downwards on the page
    row = next(row for row in audit.select("linf", epsilon=epsilon) if row.attack == "pgd")
    last = next(line for line in chart.lines if line.name == audit.attacks["pgd"].title).marks[-1]
    assert f"{100 * audit.accuracy_of(audit.right(0) & audit.right(row.number)).value:.1f} %" in last.text
    assert np.isfinite(last.y)


def test_attacks_that_spend_their_budget_say_nothing_of_effort(tmp_path):
    audit = Audit.read(write_run(tmp_path, Run(FINDINGS, until="spent")))
    assert cost_chart(audit, "linf", "against every finding", audit.epsilons("linf")[-1]) is None
