"""`antivenom guard` as its users meet it: fitted, asked and tried, and one clear line for every wrong input."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from antivenom.cli import main
from antivenom.data.datasets import load as load_set
from antivenom.guard.files import load_guard
from antivenom.models import weights
from antivenom.models.architectures import build
from antivenom.task import Task

PHANTOMS = ("--data", "phantom-chest", "--count", "120")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was never trained: enough for everything but its figures."""
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0, size=(28, 28)).eval()
    weights.save(model, path, data_digest="", seed=0, metrics={}, recipe={"side": 28})
    return path


@pytest.fixture(scope="module")
def guard(trained, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("guard") / "guard.safetensors"
        patch.setattr(
            sys, "argv", ["antivenom", "guard", "fit", "-m", str(trained), *PHANTOMS, "--rate", "0.2", "-o", str(path)]
        )
        with pytest.raises(SystemExit):
            main.run()
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Eight phantoms as PNG, one in a folder, an image of noise, and a file that is none."""
    folder = tmp_path_factory.mktemp("scans")
    phantoms = load_set("phantom-chest", None, n=120, size=28).split("test")
    (folder / "ward").mkdir()
    for place, name in enumerate(("ward/0.png", *(f"{place}.png" for place in range(1, 8)))):
        Image.fromarray((phantoms[place].image[0].numpy() * 255).round().astype(np.uint8)).save(folder / name)
    noise = np.random.default_rng(0).integers(0, 2, (28, 28), dtype=np.uint8) * 255
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_guard_is_one_file_that_says_what_it_promises(typed, trained, tmp_path):
    path = tmp_path / "guard.safetensors"
    options = ("--detectors", "gaussian,energy", "--decides", "gaussian", "--rate", "0.2", "--output", path)
    code, printed, err = typed("guard", "fit", "--model", trained, *PHANTOMS, *options)
    assert code == 0, err
    assert "rejects what gaussian flags at a false-alarm rate of 20 %" in printed
    assert "held-out clean images" in printed
    assert re.search(r"gaussian +yes", printed)
    assert {p.name for p in tmp_path.iterdir()} == {"guard.safetensors", "guard.json"}
    assert [watch.name for watch in load_guard(path).watches] == ["gaussian", "energy"]


def test_detectors_read_the_layers_that_they_are_told_to(typed, trained, tmp_path):
    path = tmp_path / "guard.safetensors"
    options = ("--detectors", "gaussian:layer2,mahalanobis:stages,energy", "--rate", "0.6", "--output", path)
    code, _, err = typed("guard", "fit", "--model", trained, *PHANTOMS, *options)
    assert code == 0, err
    read = {watch.name: watch.detector.layers for watch in load_guard(path).watches}
    assert read["gaussian"] == ("layer2",)
    assert read["energy"] == ()
    assert read["mahalanobis"][-1] == "features"
    assert {"layer1", "layer2", "layer3"} <= set(read["mahalanobis"])


def test_images_are_judged_and_what_cannot_be_read_is_named(typed, guard, scans, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nothing")
    written, maps = tmp_path / "out" / "findings.json", tmp_path / "maps"
    code, printed, err = typed("guard", "check", scans, broken, "--guard", guard, "--json", written, "--overlay", maps)
    assert code == 2
    assert "1 of 10 images could not be read" in err
    assert "notes.txt" not in printed
    findings = {entry["image"].rsplit("/", 1)[-1]: entry for entry in json.loads(written.read_text())["findings"]}
    assert set(findings) == {"noise.png", "broken.png", *(f"{place}.png" for place in range(8))}
    assert findings["noise.png"]["verdict"] == "reject"
    assert "looks unlike the clean images" in findings["noise.png"]["reason"]
    threshold = load_guard(guard).watches[0].threshold.value
    scores = {name: found["scores"]["gaussian"] for name, found in findings.items() if "scores" in found}
    assert max(scores, key=scores.__getitem__) == "noise.png"
    assert all((findings[name]["verdict"] == "reject") == (score > threshold) for name, score in scores.items())
    assert min(scores.values()) <= threshold
    assert findings["broken.png"]["verdict"] == "unreadable"
    pictures = sorted(path.name for path in maps.iterdir())
    assert len(pictures) == 9
    with Image.open(maps / pictures[0]) as picture:
        assert picture.size == (28, 28)


def test_an_image_is_judged_from_its_file_as_from_the_set(guard, tmp_path):
    from antivenom.cli.guard import presented

    rng = np.random.default_rng(0)
    for name in ("normal", "pneumonia"):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 256, (50, 70), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    model, data = load_guard(guard).model, load_set("folder", tmp_path, size=28)
    for sample in data:
        whole, image = presented(tmp_path / sample.key, model)
        assert torch.equal(image, sample.image)
        assert whole.shape == (1, 50, 70)


def test_a_guard_is_tried_and_the_report_tells(typed, guard, tmp_path):
    few = ("--images", "6", "--steps", "4", "--adaptive", "all", "--no-natural", "--others", "phantom-brain")
    code, printed, err = typed("guard", "audit", "--guard", guard, *PHANTOMS, *few, "--output", tmp_path)
    assert code == 0, err
    assert "6 test images of" in printed
    assert re.search(r"Gaussian +yes", printed)
    page = (tmp_path / "report.html").read_text()
    assert 'id="detection"' in page
    assert 'id="why"' in page
    assert typed("report", tmp_path)[0] == 0
    assert (tmp_path / "report.html").read_text() == page
    asked = json.loads((tmp_path / "detection" / "asked.json").read_text())
    assert list(asked["others"]) == ["phantom-brain"]
    assert {trial["attack"] for trial in asked["trials"]} >= {"fgsm", "bim", "pgd", "mim", "ddn", "orthogonal_pgd"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "-m", "MODEL", *PHANTOMS, "-o", "guard.pt"), "a guard is a .safetensors file"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--detectors", "magic", "-o", "g.safetensors"), "no detector 'magic'"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--detectors", "mahalanobis:layer9", "-o", "g.safetensors"), "layer9"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--detectors", "energy:layer1", "-o", "g.safetensors"), "reads no layer"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--detectors", "gaussian:layer1+layer2", "-o", "g.safetensors"), "reads one layer"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--detectors", "energy,energy", "-o", "g.safetensors"), "names energy twice"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--decides", "energy", "-o", "g.safetensors"), "energy"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--rate", "0.001", "-o", "g.safetensors"), "too few"),
        (("fit", "-m", "MODEL", *PHANTOMS, "--rate", "2", "-o", "g.safetensors"), "between 0 and 1"),
        (("check", "nowhere.png", "-g", "GUARD"), "no such file or folder"),
        (("check", "EMPTY", "-g", "GUARD"), "no image in"),
        (("check", "nowhere.png", "-g", "MODEL"), "guard"),
        (("audit", "-g", "GUARD", *PHANTOMS, "--adaptive", "magic", "-o", "OUT"), "no detector 'magic'"),
        (("audit", "-g", "GUARD", *PHANTOMS, "--supervised", "magic", "-o", "OUT"), "--supervised 'magic'"),
        (("audit", "-g", "GUARD", *PHANTOMS, "--epsilon", "much", "-o", "OUT"), "--epsilon"),
        (("audit", "-g", "GUARD", *PHANTOMS, "--others", "phantom-skin", "-o", "OUT"), "channel"),
        (("audit", "-g", "GUARD", "--data", "phantom-brain", "--count", "40", "-o", "OUT"), "asks for"),
    ],
)
def test_every_wrong_input_is_one_line_and_exit_code_2(typed, trained, guard, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"MODEL": trained, "GUARD": guard, "EMPTY": tmp_path / "empty", "OUT": tmp_path / "out"}
    code, _, err = typed("guard", *(places.get(word, word) for word in words))
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
