"""The detector that learnt one attack: it knows that one, and a run that goes on finds it as it was."""

import json

import numpy as np
import pytest
import torch
from tests.evaluation.test_detection import classifier, images, order, pgd, rows

from antivenom.errors import RecordsError
from antivenom.evaluation import baseline
from antivenom.evaluation.baseline import kept_baseline, supervised_baseline
from antivenom.evaluation.detection import examine
from antivenom.evaluation.guarding import fit_on
from antivenom.guard.policy import Policy
from antivenom.records.store import Store

TRIAL = pgd(epsilon=0.3)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    names = ("gaussian", "isolation-forest")
    return fit_on(classifier(), images(), tmp_path_factory.mktemp("r"), detectors=names, policy=Policy(0.1, ("gaussian",)))


def test_it_knows_the_attack_that_it_learnt_from(guard, tmp_path):
    watch = supervised_baseline(guard, images(), TRIAL, rate=0.1)
    assert watch.name == "supervised on pgd"
    examine(guard, images(), order(TRIAL), tmp_path, baselines=[watch])
    asked = json.loads((tmp_path / "detection" / "asked.json").read_text())
    assert [d["part of the guard"] for d in asked["detectors"]] == [True, True, False]
    examples, _, scores = rows(tmp_path / "detection")
    test = {scan["image"] for scan in Store(tmp_path / "detection").scans().to_pylist() if scan["split"] == "test"}
    score = {row["example"]: row["score"] for row in scores if row["detector"] == watch.name}
    clean = [score[e["example"]] for e in examples if e["row"] == 0 and e["image"] in test]
    attacked = [score[e["example"]] for e in examples if e["row"] == 1]
    assert np.median(attacked) > np.median(clean)


def test_a_run_that_goes_on_compares_with_the_very_same(guard, tmp_path, monkeypatch):
    path = tmp_path / "baseline-pgd.safetensors"
    first = kept_baseline(path, guard, images(), TRIAL)
    monkeypatch.setattr(baseline, "supervised_baseline", None)  # fitted again by nobody
    again = kept_baseline(path, guard, images(), TRIAL)
    assert again.to_dict() == first.to_dict()
    assert again.model == first.model
    states = again.detector.state_dict()
    assert all(torch.equal(values, states[name]) for name, values in first.detector.state_dict().items())
    with pytest.raises(RecordsError, match="baseline of another examination"):
        kept_baseline(path, guard, images(), pgd(epsilon=0.2))
