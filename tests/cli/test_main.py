"""The command line as its users meet it: the main job from nothing to a report, and one clear line for every wrong input."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from antivenom.models import weights
from antivenom.models.architectures import build
from antivenom.task import Task


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was never trained: enough for everything but its figures."""
    folder = tmp_path_factory.mktemp("trained")
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0).eval()
    weights.save(model, folder / "model.safetensors", data_digest="", seed=0, metrics={}, recipe={"side": 28})
    return folder / "model.safetensors"


AUDIT = (
    *("--data", "phantom-chest", "--count", "40", "--levels", "2,8"),
    *("--steps", "2", "--queries", "4", "--attacks", "noise,fgsm,pgd"),
    "--no-explain",  # what is explained is tested in test_explain
)


def test_the_whole_job_from_nothing_to_a_report(typed, tmp_path):
    code, printed, _ = typed(
        "train",
        "--data",
        "phantom-chest",
        "--count",
        40,
        "--size",
        28,
        "--epochs",
        1,
        "--batch",
        14,
        "--output",
        tmp_path / "m",
    )
    assert code == 0
    assert "validation" in printed
    code, printed, _ = typed("audit", "--model", tmp_path / "m" / "model.safetensors", *AUDIT, "--output", tmp_path / "a")
    assert code == 0
    assert "worst case, linf 8/255" in printed
    page = (tmp_path / "a" / "report.html").read_text()
    assert "<script src" not in page
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())["command"].startswith("antivenom audit --model")
    again = tmp_path / "again.html"
    code, _, _ = typed("report", tmp_path / "a", "--output", again)
    assert code == 0
    assert again.read_text() == page


def test_an_audit_that_was_interrupted_goes_on(typed, trained, tmp_path, monkeypatch):
    from antivenom.records.store import Store

    genuine, written = Store.write_shard, []

    def three(self, name, *tables):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        genuine(self, name, *tables)

    monkeypatch.setattr(Store, "write_shard", three)
    code, _, err = typed("audit", "--model", trained, *AUDIT, "--output", tmp_path)
    assert code == 130
    assert "same command again" in err
    monkeypatch.setattr(Store, "write_shard", genuine)
    assert typed("report", tmp_path)[0] == 0
    code, printed, _ = typed("audit", "--model", trained, *AUDIT, "--output", tmp_path)
    assert code == 0
    assert "report" in printed


def test_a_model_of_ones_own_is_audited_by_its_import_path(typed, tmp_path, monkeypatch):
    (tmp_path / "ward_models.py").write_text(
        "import torch\n"
        "def chest():\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2)\n"
        "    return torch.nn.Sequential(*layers)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, printed, err = typed("audit", "--model", "ward_models:chest", *AUDIT, "--size", 28, "--output", tmp_path / "a")
    assert code == 0, err
    assert "clean" in printed


def test_a_set_is_described_drawn_checked_and_its_split_stored(typed, tmp_path):
    sheet, split = tmp_path / "sheet.png", tmp_path / "split.json"
    code, printed, _ = typed(
        "data", "phantom-fundus", "--count", 40, "--size", 32, "--picture", sheet, "--save-split", split, "--check"
    )
    assert code == 0
    assert "no picture stands in two splits" in printed
    with Image.open(sheet) as opened:
        assert opened.size == (8 * 32, 4 * 32)
    assert typed("data", "phantom-fundus", "--count", 40, "--size", 32, "--split-file", split)[0] == 0
    split.write_text(split.read_text().replace("train", "tests", 1))
    assert typed("data", "phantom-fundus", "--count", 40, "--size", 32, "--split-file", split)[0] == 2


def test_all_sets_are_listed(typed):
    code, printed, _ = typed("data")
    assert code == 0
    assert {"kermany", "chestxray14", "phantom-brain", "folder"} <= set(printed.split())


@pytest.fixture
def scans(tmp_path):
    """A small folder of one's own, with a table."""
    rng = np.random.default_rng(0)
    lines = ["filename,label,split,patient_id"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{('train', 'val', 'test')[i // 8]},p{i}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def change(text):
    def act(folder):
        table = folder / "labels.csv"
        old, new = text
        assert old in table.read_text()
        table.write_text(table.read_text().replace(old, new))

    return act


SPOILED = {
    "a root that is not there": (lambda folder: folder.rename(folder.with_name("elsewhere")), "root"),
    "a column that is missing": (change(("filename", "picture")), "filename"),
    "a truncated image": (lambda folder: (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200]), "3.png"),
    "an image that is no image": (lambda folder: (folder / "3.png").write_text("hello"), "3.png"),
    "an image that is not there": (lambda folder: (folder / "3.png").unlink(), "3.png"),
    "a path that leaves the root": (change(("3.png", "../3.png")), "3.png"),
    "a shared patient": (change(("p23", "p0")), "p0"),
    "an unknown split": (change(("10.png,a,val", "10.png,a,final")), "final"),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_set_is_one_clear_line(typed, scans, spoil):
    act, said = SPOILED[spoil]
    act(scans)
    code, printed, err = typed("data", "labels-csv", "--root", scans, "--check")
    assert code == 2
    assert said in printed + err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


WRONG = {
    "no such set": (("--data", "kermani"), "kermany"),
    "no such attack": (("--attacks", "gps"), "no attack 'gps'"),
    "no number": (("--levels", "a lot"), "--levels"),
    "a level out of range": (("--levels", "300"), "255"),
    "no such goal": (("--goal", "hide: Mass"), "means nothing"),
    "another task": (("--data", "phantom-fundus"), "but the model answers normal, pneumonia"),
    "no such device": (("--device", "abacus"), "abacus"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_option_is_one_clear_line(typed, trained, tmp_path, wrong):
    words, said = WRONG[wrong]
    code, _, err = typed("audit", "--model", trained, *AUDIT, *words, "--output", tmp_path / "a")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


NOT_TOGETHER = {
    "no such defence": (("--defence", "hope"), "no defence 'hope'"),
    "attention where it does not go": (("--defence", "se", "--architecture", "densenet121"), "se does not go into densenet121"),
    "too much to prune": (("--defence", "prune:1"), "below 1, got '1'"),
    "less than no winner": (("--defence", "kwta:-0.2"), "above 0"),
    "two generators": (("--defence", "invgan,defense-gan"), "take one of them"),
    "a defence twice": (("--defence", "median,jpeg,median"), "median is asked for twice"),
    "two adversaries": (("--defence", "trades,adversarial"), "both set adversary"),
    "a size that no generator makes": (("--defence", "invgan", "--size", "30"), "a generator's side is 8, 16, 32"),
}


@pytest.mark.parametrize("wrong", NOT_TOGETHER)
def test_defences_that_cannot_be_are_one_clear_line_before_anything_is_trained(typed, tmp_path, wrong):
    words, said = NOT_TOGETHER[wrong]
    code, _, err = typed("harden", "--data", "phantom-chest", "--count", 40, "--size", 28, *words, "--output", tmp_path / "h")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "h").exists()


def test_a_pickle_as_weights_is_refused_and_nothing_of_it_runs(typed, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"weight": Trap()}, tmp_path / "model.safetensors")
    code, _, err = typed("audit", "--model", tmp_path / "model.safetensors", *AUDIT, "--output", tmp_path / "a")
    assert code == 2
    assert "model.safetensors" in err
    assert not (tmp_path / "sprung").exists()


def test_another_run_in_the_folder_is_not_overwritten(typed, trained, tmp_path):
    assert typed("audit", "--model", trained, *AUDIT, "--output", tmp_path)[0] == 0
    code, _, err = typed("audit", "--model", trained, *AUDIT, "--seed", 1, "--output", tmp_path)
    assert code == 2
    assert "seed" in err


def test_a_protocol_file_says_all_that_is_run(typed, trained, tmp_path):
    plan = [{"attack": "none"}, {"attack": "pgd", "epsilon": "4/255", "settings": {"steps": 2}}]
    (tmp_path / "protocol.json").write_text(json.dumps({"plan": plan, "seed": 7}))
    words = ("--data", "phantom-chest", "--count", 40, "--protocol", tmp_path / "protocol.json")
    assert typed("audit", "--model", trained, *words, "--output", tmp_path / "a")[0] == 0
    ran = json.loads((tmp_path / "a" / "protocol.json").read_text())
    assert ran["plan"][1]["epsilon"] == 4 / 255
    (tmp_path / "protocol.json").write_text(json.dumps({"plan": plan, "sead": 7}))
    code, _, err = typed("audit", "--model", trained, *words, "--output", tmp_path / "b")
    assert code == 2
    assert "sead" in err


def test_a_report_of_what_is_no_run_is_refused(typed, tmp_path):
    code, _, err = typed("report", tmp_path)
    assert code == 2
    assert "not a run's folder" in err


def test_help_answers_at_once_and_loads_nothing_heavy():
    watch = (
        "import sys, antivenom.cli.main as m; "
        "sys.argv = ['antivenom', '--help']\n"
        "try: m.run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'timm', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "audit" in done.stdout
    assert time.perf_counter() - began < 3  # 0.15 s on an idle machine; a loaded one is slower, torch alone would take longer
