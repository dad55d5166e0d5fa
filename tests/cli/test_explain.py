"""`--explain` as its users meet it: on where it is the default, off where it is not, and gone on with after a kill."""

import json
from types import SimpleNamespace

import pytest

from antivenom.cli import harden as command
from antivenom.evaluation import looking
from antivenom.models import weights
from antivenom.models.architectures import build
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.task import Task


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    """Few steps: what is tested is not how near they come."""
    for name, value in {"STEPS": 2, "SURFACES": 1, "SIDE": 3, "SEVERITIES": (5,), "BLOCKS": (2,)}.items():
        monkeypatch.setattr(looking, name, value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was never trained: enough for everything but its figures."""
    folder = tmp_path_factory.mktemp("trained")
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0).eval()
    weights.save(model, folder / "model.safetensors", data_digest="", seed=0, metrics={}, recipe={"side": 28})
    return folder / "model.safetensors"


FEW = ("--data", "phantom-chest", "--count", "40", "--images", "3", "--levels", "8", "--steps", "2", "--queries", "4")
PGD = ("--attacks", "pgd")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--battery", "quick"), False),
        (("--battery", "quick", "--explain"), True),
        (("--battery", "standard"), True),
        (("--battery", "standard", "--no-explain"), False),
    ],
)
def test_an_audit_is_explained_after_all_batteries_but_quick_or_as_asked(typed, trained, tmp_path, words, told):
    code, _, err = typed("audit", "--model", trained, *FEW, *PGD, *words, "--output", tmp_path)
    assert code == 0, err
    assert (tmp_path / "explanation" / "asked.json").is_file() == told
    assert ('id="looks"' in (tmp_path / "report.html").read_text()) == told


def test_a_protocol_file_is_explained_where_that_is_asked_for(typed, trained, tmp_path):
    plan = [{"attack": "none"}, {"attack": "pgd", "epsilon": "4/255", "settings": {"steps": 2}}]
    (tmp_path / "protocol.json").write_text(json.dumps({"plan": plan, "images": 3}))
    words = ("--data", "phantom-chest", "--count", "40", "--protocol", tmp_path / "protocol.json")
    assert typed("audit", "--model", trained, *words, "--output", tmp_path / "a")[0] == 0
    assert not (tmp_path / "a" / "explanation").exists()
    assert typed("audit", "--model", trained, *words, "--explain", "--output", tmp_path / "a")[0] == 0
    assert (tmp_path / "a" / "explanation" / "surface.json").is_file()


def test_an_explanation_that_was_interrupted_goes_on(typed, trained, tmp_path, monkeypatch):
    words = ("audit", "--model", trained, *FEW, *PGD, "--output", tmp_path)
    genuine = Store.write_document

    def stopped(self, name, value):
        if name == "explanation/regions":
            raise KeyboardInterrupt
        genuine(self, name, value)

    monkeypatch.setattr(Store, "write_document", stopped)
    code, _, err = typed(*words)
    assert code == 130
    assert "same command again" in err
    monkeypatch.setattr(Store, "write_document", genuine)
    first = (tmp_path / "explanation" / "focus.json").stat().st_mtime_ns
    assert typed(*words)[0] == 0
    assert (tmp_path / "explanation" / "focus.json").stat().st_mtime_ns == first
    assert (tmp_path / "explanation" / "surface.json").is_file()


@pytest.mark.parametrize(("words", "told"), [((), True), (("--no-explain",), False)])
def test_hardening_is_explained_unless_that_is_not_wanted(typed, trained, tmp_path, monkeypatch, words, told):
    """With a model that stands for the hardened one, and the audit left out: both have tests of their own."""
    asked = []
    hardened = SimpleNamespace(checkpoint=trained, classifier=weights.load(trained))
    monkeypatch.setattr(command, "harden", lambda *_, **__: hardened)
    monkeypatch.setattr(command, "run", lambda *_, **__: None)
    monkeypatch.setattr(command, "explained", lambda *given: asked.append(given[2:]))
    monkeypatch.setattr(command, "summarise", lambda _: None)
    monkeypatch.setattr(command, "write_report", lambda folder: folder)
    monkeypatch.setattr(Audit, "read", lambda folder: folder)
    base = ("harden", "--data", "phantom-chest", "--count", "40", "--size", "28", "--defence", "plain", "--seed", "3")
    code, _, err = typed(*base, *words, "--output", tmp_path)
    assert code == 0, err
    assert asked == ([(tmp_path / "audit", 3)] if told else [])
