"""`antivenom attack` as its users meet it: files, figures, resuming, and one clear line for every wrong input."""

import csv
import json

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from antivenom.data.reading import read_image
from antivenom.evaluation import adversarial_files
from antivenom.models import weights
from antivenom.models.architectures import build
from antivenom.models.execution import Victim
from antivenom.task import Task


@pytest.fixture(autouse=True)
def as_given(monkeypatch):
    """No choice of execution by the clock: it takes longer than everything else here."""
    monkeypatch.setattr(adversarial_files, "accelerate", lambda model, _, batch: Victim(model, model, batch))


def checkpoint(folder, task, channels=1):
    model = build("resnet18", task, channels=channels, seed=0).eval()
    weights.save(model, folder / "model.safetensors", data_digest="", seed=0, metrics={}, recipe={"side": 28})
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was never trained: enough for everything but its figures."""
    return checkpoint(tmp_path_factory.mktemp("trained"), Task(("normal", "pneumonia")))


PHANTOMS = ("--data", "phantom-chest", "--count", "40")
FEW = ("--attack", "pgd", "--epsilon", "8/255", "--set", "steps=2", "--set", "step_size=1/2")


def records(folder):
    with (folder / "records.csv").open() as file:
        return list(csv.DictReader(file))


def test_images_are_attacked_written_and_judged_again(typed, trained, tmp_path):
    code, printed, err = typed("attack", "--model", trained, *PHANTOMS, *FEW, "--output", tmp_path)
    assert code == 0, err
    assert "by the files, read again" in printed
    assert "success that storage changed: 0 of" in printed
    assert "n = " in printed
    assert "note:" not in printed
    model = weights.load(trained).eval()
    for record in records(tmp_path):
        again = read_image(tmp_path / record["filename"])
        assert again.shape == (1, 28, 28)
        assert record["decision_stored"] == ("normal", "pneumonia")[int(model(again[None]).argmax())]
        assert record["split"] == "test"
    asked = json.loads((tmp_path / "attack.json").read_text())
    assert asked["settings"] == {"steps": 2, "step_size": 0.5}
    assert asked["epsilon"] == 8 / 255
    assert json.loads((tmp_path / "provenance.json").read_text())["command"].startswith("antivenom attack --model")


def test_work_that_was_interrupted_goes_on(typed, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial_files, "SHARD", 3)
    words = ("attack", "--model", trained, *PHANTOMS, *FEW, "--images", 7, "--output")
    genuine, written = adversarial_files.write_whole, []

    def one(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        genuine(path, content)

    monkeypatch.setattr(adversarial_files, "write_whole", one)
    code, _, err = typed(*words, tmp_path / "a")
    assert code == 130
    assert "same command again" in err
    assert [p.name for p in (tmp_path / "a" / "shards").iterdir()] == ["000000.csv"]
    monkeypatch.setattr(adversarial_files, "write_whole", genuine)
    assert typed(*words, tmp_path / "a")[0] == 0
    assert typed(*words, tmp_path / "b")[0] == 0
    assert len(records(tmp_path / "a")) == 7
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_other_splits_goals_and_formats(typed, trained, tmp_path):
    words = ("--split", "val, test", "--images", 9, "--goal", "targeted: normal", "--format", "npz", "--threat", "l2")
    code, printed, err = typed(
        "attack", "--model", trained, *PHANTOMS, *FEW, *words, "--epsilon", 0.5, "--until", "spent", "--output", tmp_path
    )
    assert code == 0, err
    assert "meet the goal as they are" in printed
    assert "note:" not in printed  # floats need no grid
    found = records(tmp_path)
    assert {record["label"] for record in found} == {"pneumonia"}
    assert {record["split"] for record in found} <= {"val", "test"}
    assert all(record["filename"].endswith(".npz") for record in found)
    assert max(float(record["l2"]) for record in found) <= 0.5 + 1e-5


def test_findings_are_attacked_at_their_operating_points(typed, tmp_path):
    from antivenom.data.datasets import load

    model = checkpoint(tmp_path, load("phantom-chest", label="findings", n=40, size=28).task)
    code, printed, err = typed(
        "attack",
        "--model",
        model,
        *PHANTOMS,
        "--label",
        "findings",
        *FEW,
        "--set",
        "objective=log_likelihood",
        "--output",
        tmp_path / "a",
    )
    assert code == 0, err
    assert "goal against every finding" in printed
    assert json.loads((tmp_path / "a" / "attack.json").read_text())["until"] == "spent"
    assert (tmp_path / "a" / "operating.json").exists()


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        ("linf", "has no grid"),
        ("linf, grid 1/100", "no whole number of the files' steps of 1/255"),
        ("linf, grid 1/85", ""),
        ("linf, grid 1/255", ""),
    ],
)
def test_a_threat_that_storage_may_undo_is_told(typed, trained, tmp_path, threat, said):
    words = ("--threat", threat, "--epsilon", "16/255", "--images", 2)
    code, printed, err = typed("attack", "--model", trained, *PHANTOMS, *FEW, *words, "--output", tmp_path)
    assert code == 0, err
    assert said in printed
    assert ("note:" in printed) == bool(said)


@pytest.fixture
def scans(tmp_path):
    """DICOM files of one's own, with a table."""
    lines = ["filename,label,split"]
    stored = np.random.default_rng(0).integers(0, 4096, (6, 40, 36))
    for i, values in enumerate(stored):
        file = pydicom.Dataset()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = f"1.2.{i + 1}"
        file.PatientID = f"p{i}"
        file.Rows, file.Columns = values.shape
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, f"MONOCHROME{1 + i % 2}", 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
        file.PixelData = values.astype("<u2").tobytes()
        file["PixelData"].VR = "OW"
        (tmp_path / "scans").mkdir(exist_ok=True)
        file.save_as(tmp_path / "scans" / f"{i}.dcm", enforce_file_format=True)
        lines.append(f"{i}.dcm,{('normal', 'pneumonia')[i % 2]},{('val', 'test')[i // 2 > 0]}")
    (tmp_path / "scans" / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "scans"


def test_dicom_stays_dicom_at_its_own_size(typed, trained, scans, tmp_path):
    words = ("--data", "dicom-folder", "--root", scans, "--output")
    code, printed, err = typed("attack", "--model", trained, *FEW, "--native", *words, tmp_path / "native")
    assert code == 0, err
    assert "success that storage changed: 0 of 4" in printed
    for record in records(tmp_path / "native"):
        before, after = (pydicom.dcmread(p) for p in (scans / record["image"], tmp_path / "native" / record["filename"]))
        assert after.ImageType[0] == "DERIVED"
        assert after.pixel_array.shape == (40, 36)
        moved = np.abs(after.pixel_array.astype(int) - before.pixel_array)
        assert moved.max() <= 4095 * 8 / 255
        assert (moved.max() > 0) == (float(record["linf"]) > 0)
    code, _, err = typed("attack", "--model", trained, *FEW, *words, tmp_path / "resampled")
    assert code == 0, err
    assert all(record["filename"].endswith(".npz") for record in records(tmp_path / "resampled"))
    code, _, err = typed("attack", "--model", trained, *FEW, "--format", "dicom", *words, tmp_path / "none")
    assert code == 2
    assert "was resampled" in err


def test_a_model_of_ones_own_meets_files_of_several_sizes(typed, tmp_path, monkeypatch):
    (tmp_path / "ward_network.py").write_text(
        "import torch\n"
        "def pooled():\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()\n"
        "    return torch.nn.Sequential(*layers, torch.nn.Linear(4, 2))\n"
    )
    rng = np.random.default_rng(0)
    for i in range(30):
        home = tmp_path / "set" / "ab"[i % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i % 3, 24), dtype=np.uint8)).save(home / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    words = ("--data", "folder", "--root", tmp_path / "set", "--native", "--split", "all", "--output", tmp_path / "out")
    code, printed, err = typed("attack", "--model", "ward_network:pooled", *FEW, *words)
    assert code == 0, err
    assert "30 images" in printed
    for record in records(tmp_path / "out"):
        assert read_image(tmp_path / "out" / record["filename"]).shape == read_image(tmp_path / "set" / record["image"]).shape


WRONG = {
    "no such set": (("--data", "kermani"), "kermany"),
    "no such attack": (("--attack", "gps"), "no attack 'gps'"),
    "no number": (("--epsilon", "a lot"), "--epsilon"),
    "a negative epsilon": (("--epsilon", "-1"), "--epsilon"),
    "an epsilon below the grid": (("--epsilon", "0.2/255"), "finer epsilon"),
    "a threat that means nothing": (("--threat", "linf, grid 2"), "means nothing"),
    "a threat that the attack does not take": (("--threat", "l0, stored grid"), "does not take the threat 'l0'"),
    "no such goal": (("--goal", "hide: Mass"), "means nothing"),
    "a class that is none": (("--goal", "targeted: healthy"), "healthy"),
    "no such setting": (("--set", "stepz=3"), "no setting 'stepz'"),
    "a setting of another type": (("--set", "steps=many"), "whole number"),
    "half a step": (("--set", "steps=2.5"), "whole number"),
    "a negative setting": (("--set", "steps=-1"), "negative"),
    "neither true nor false": (("--set", "random_start=maybe"), "true or false"),
    "no such objective": (("--set", "objective=luck"), "no objective 'luck'"),
    "no such end": (("--until", "dawn"), "--until"),
    "no such split": (("--split", "holdout"), "--split"),
    "no such format": (("--format", "gif"), "no format 'gif'"),
    "phantoms as DICOM": (("--format", "dicom"), "no DICOM file"),
    "native at a size": (("--native", "--size", "32"), "leave out --size"),
    "another task": (("--data", "phantom-fundus"), "but the model answers normal, pneumonia"),
    "no such model": (("--model", "absent.safetensors"), "absent.safetensors"),
    "no such device": (("--device", "abacus"), "abacus"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_option_is_one_clear_line(typed, trained, tmp_path, wrong):
    words, said = WRONG[wrong]
    code, _, err = typed("attack", "--model", trained, *PHANTOMS, *FEW, *words, "--output", tmp_path / "a")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_other_work_in_the_folder_is_not_overwritten(typed, trained, tmp_path):
    words = ("attack", "--model", trained, *PHANTOMS, *FEW, "--images", 2, "--output", tmp_path)
    assert typed(*words)[0] == 0
    before = (tmp_path / "records.csv").read_bytes()
    code, _, err = typed(*words, "--seed", 1)
    assert code == 2
    assert "seed" in err
    assert (tmp_path / "records.csv").read_bytes() == before


def test_a_checkpoint_that_is_a_trap_is_refused(typed, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    code, _, err = typed("attack", "--model", tmp_path / "model.safetensors", *PHANTOMS, *FEW, "--output", tmp_path / "a")
    assert code == 2
    assert "model.safetensors" in err
