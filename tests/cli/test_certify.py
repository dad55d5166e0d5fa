"""`antivenom certify` as its users meet it: figures, a report, resuming, and one clear line for every wrong input."""

import json

import pytest

from antivenom.evaluation import certification
from antivenom.models import weights
from antivenom.models.architectures import build
from antivenom.records.store import Store
from antivenom.task import Task


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was never trained: enough for everything but its figures."""
    folder = tmp_path_factory.mktemp("trained")
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0).eval()
    weights.save(model, folder / "model.safetensors", data_digest="", seed=0, metrics={}, recipe={"side": 28})
    return folder / "model.safetensors"


PHANTOMS = ("--data", "phantom-chest", "--count", "40")
FEW = ("--images", "3", "--samples", "40", "--choosing", "10")


def test_a_folder_of_its_own_gets_certificates_and_a_report(typed, trained, tmp_path):
    code, printed, err = typed("certify", "--model", trained, *PHANTOMS, *FEW, "--sigma", "0.5", "--output", tmp_path)
    assert code == 0, err
    assert "3 test images of" in printed
    assert "certified accuracy" in printed
    assert "abstained, which counts as wrong" in printed
    asked = json.loads((tmp_path / "certificates" / "sigma-0.5" / "asked.json").read_text())
    assert (asked["n"], asked["n0"], asked["sigma"], asked["images"]) == (40, 10, 0.5, 3)
    page = (tmp_path / "report.html").read_text()
    assert 'id="certified"' in page
    assert typed("report", tmp_path)[0] == 0
    assert (tmp_path / "report.html").read_text() == page


def test_an_audit_gets_certificates_too(typed, trained, tmp_path):
    battery = ("--levels", "8", "--steps", "2", "--queries", "4", "--attacks", "fgsm", "--images", "4")
    assert typed("audit", "--model", trained, *PHANTOMS, *battery, "--output", tmp_path)[0] == 0
    code, _, err = typed("certify", "--model", trained, *PHANTOMS, *FEW, "--output", tmp_path)
    assert code == 0, err
    assert "Under attack" in (tmp_path / "report.html").read_text()
    assert 'id="certified"' in (tmp_path / "report.html").read_text()


def test_work_that_was_interrupted_goes_on(typed, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(certification, "AT_STAKE", 1)  # one image a shard
    words = ("certify", "--model", trained, *PHANTOMS, *FEW, "--output")
    genuine, written = Store.write_document, []

    def one(self, name, value):
        if "/0" in name:
            if written:
                raise KeyboardInterrupt
            written.append(name)
        genuine(self, name, value)

    monkeypatch.setattr(Store, "write_document", one)
    code, _, err = typed(*words, tmp_path / "a")
    assert code == 130
    assert "same command again" in err
    monkeypatch.setattr(Store, "write_document", genuine)
    first = (tmp_path / "a" / "certificates" / "sigma-0.25" / "000000.json").stat().st_mtime_ns
    assert typed(*words, tmp_path / "a")[0] == 0
    assert (tmp_path / "a" / "certificates" / "sigma-0.25" / "000000.json").stat().st_mtime_ns == first
    assert len(list((tmp_path / "a" / "certificates" / "sigma-0.25").glob("0*.json"))) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sigma", "0"), "sigma: Input should be greater than 0"),
        (("--alpha", "1"), "alpha: Input should be less than 1"),
        (("--device", "abacus"), "--device abacus"),
    ],
)
def test_wrong_input_is_one_line(typed, trained, tmp_path, words, said):
    code, _, err = typed("certify", "--model", trained, *PHANTOMS, "--output", tmp_path, *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--samples", "--choosing", "--images"])
def test_none_of_what_is_counted_is_refused_by_name(typed, trained, tmp_path, option):
    code, _, err = typed("certify", "--model", trained, *PHANTOMS, "--output", tmp_path, option, "0")
    assert code == 2
    assert option in err
