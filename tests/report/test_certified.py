"""The report says what is certified, beside what attacks found, and refuses to say what is not finished."""

import json

import numpy as np
import pytest
from tests.runs import CHEST, FINDINGS, Run, write_run

from antivenom.metrics.certificates import ABSTAINED, certified_radius
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.report.certified import certified_of
from antivenom.report.figures import Ledger
from antivenom.report.write import write_report

SIGMA, COPIES, ALPHA = 0.25, 1000, 0.001


def certify(folder, votes, *, wanted=None, sigma=SIGMA):
    """Write certificates of the first test images: each votes so often for its true class; findings all alike."""
    audit, store = Audit.read(folder), Store(folder)
    width, multilabel = audit.task.decisions, audit.task.multilabel
    images = audit.splits["test"].images[: len(votes)].tolist()
    votes = np.repeat(np.array(votes)[:, None], width, 1)
    radius = certified_radius(votes, COPIES, sigma, ALPHA / width)
    classes = np.where(radius > 0, audit.targets[: len(votes)].reshape(-1, width), ABSTAINED)
    columns = {"class": classes, "radius": radius, "votes": votes}
    asked = {"sigma": sigma, "n0": 100, "n": COPIES, "alpha": ALPHA, "images": wanted or len(votes)}
    store.write_document(f"certificates/sigma-{sigma:g}/asked", asked)
    shaped = {name: (values if multilabel else values[:, 0]).tolist() for name, values in columns.items()}
    store.write_document(f"certificates/sigma-{sigma:g}/000000", {"image": images, **shaped})
    return Audit.read(folder)


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", Run(CHEST, images_per_group=2, l2=(0.25, 1), flags=()))


def test_certified_accuracy_falls_with_the_radius_and_abstentions_are_wrong(folder):
    ledger = Ledger()
    (found,) = certified_of(certify(folder, [1000] * 10 + [700] * 5 + [500] * 5), ledger)
    shares = {line.radius: line.accuracy.estimate for line in found.lines}
    assert list(shares) == ["0", "0.125", "0.25", "0.375", "0.5"]
    assert [shares[radius].value for radius in ("0", "0.125", "0.5")] == [0.75, 0.5, 0.5]
    assert found.abstained.estimate.value == 0.25
    assert all(e.low <= e.value <= e.high and (e.n, e.groups) == (20, 10) for e in shares.values())
    noted = [figure for figure in json.loads(ledger.as_json({}))["figures"] if figure["quantity"] == "certified accuracy"]
    assert [(figure["epsilon"], figure["value"]) for figure in noted][:2] == [(0.0, 0.75), (0.125, 0.5)]
    assert {(figure["part"], figure["threat"], figure["attack"]) for figure in noted} == {
        ("sigma 0.25", "l2", "any, certified")
    }


def test_the_worst_case_of_attacks_in_l2_stands_beside_it_on_the_same_images(folder):
    audit = certify(folder, [1000] * 10)
    (found,) = certified_of(audit, Ledger())
    certified, worst = found.chart.lines
    assert found.compared
    assert len(worst.marks) == 3
    shares = [audit.right(0)[:10].mean(), *(audit.worst_case("l2", e).right[:10].mean() for e in (0.25, 1))]
    assert [f"{100 * share:.1f} %" in mark.text for share, mark in zip(shares, worst.marks, strict=True)] == [True] * 3
    assert "at 1: " in worst.marks[-1].text
    assert [mark.x for mark in certified.marks] == [tick.at for tick in found.chart.x_ticks[:-1]]


def test_without_attacks_in_l2_nothing_stands_beside_it(tmp_path):
    (found,) = certified_of(certify(write_run(tmp_path, Run(CHEST)), [1000] * 5), Ledger())
    assert not found.compared
    assert [line.name for line in found.chart.lines] == ["Certified, smoothed model"]


def test_the_page_says_what_a_certificate_means_and_what_not(folder):
    plain = write_report(folder).read_text()
    assert 'id="certified"' not in plain
    assert "Nothing here is a certificate." in plain
    certify(folder, [1000] * 10)
    certify(folder, [1000] * 10, sigma=0.5)
    told = write_report(folder).read_text()
    for text in (
        "a probability of 0.1 % at most",
        "L2 norm lies below the image",
        "Abstentions count as wrong",
        "asked once and without noise",
        "two curves are of two models",
        "https://arxiv.org/abs/1902.02918",
    ):
        assert text in told
    assert told.count("Certified accuracy by radius.") == 2
    assert "Nothing here is a certificate." not in told
    assert "Only what stands under Certified is proven." in told


def test_a_certification_half_done_is_told_and_not_stated(folder):
    assert not list(certified_of(certify(folder, [1000] * 3, wanted=8), Ledger()))
    told = write_report(folder).read_text()
    assert 'id="certified"' not in told
    assert "3 of 8 images are certified" in told
    assert "Nothing here is a certificate." in told


def test_findings_are_told_as_decisions(tmp_path):
    folder = write_run(tmp_path, Run(FINDINGS, until="spent"))
    (found,) = certified_of(certify(folder, [1000] * 10 + [500] * 10), Ledger())
    assert found.abstained.estimate.n == 20 * 14
    assert found.lines[0].accuracy.estimate.value == 0.5
    assert "decisions about findings" in found.sentences[0]
    assert "Certified accuracy by radius" in write_report(folder).read_text()


def test_too_few_copies_prove_nothing_and_are_told_so(folder):
    audit = certify(folder, [500] * 4)
    (found,) = certified_of(audit, Ledger())
    assert found.lines[0].accuracy.estimate.value == 0
    assert all(np.isfinite(mark.x) for line in found.chart.lines for mark in line.marks)
