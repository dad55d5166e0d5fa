"""`antivenom compare` as its users meet it: tables, a page with its figures, and one clear line for every wrong input."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.runs import CHEST, Run, write_run

from antivenom.data.imageset import ImageSet, Index
from antivenom.evaluation.protocol import Protocol, Row
from antivenom.evaluation.run import run
from antivenom.models.classifier import Classifier
from antivenom.records.store import Store
from toys import small_network

SMALL = Run(CHEST, n_test=24, n_val=20, keep=0, epsilons=(2, 8), attacks=("noise", "pgd"), flags=())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_run(home / "plain" / "audit", SMALL)
    write_run(home / "hard" / "audit", replace(SMALL, slope=0.3))
    return home


def line(printed, begins):
    """The words of the first line that begins so."""
    return next(text for text in printed.splitlines() if text.startswith(begins)).split()


def test_models_are_printed_side_by_side(typed, home):
    code, printed, _ = typed("compare", home / "plain" / "audit", home / "hard" / "audit")
    assert code == 0
    assert "attacks at L∞ 2/255, where the worst case of plain comes nearest to half" in printed
    assert "plain (baseline)" in printed
    assert line(printed, "any constant answer")[-2:] == line(printed, "any constant answer")[3:5]
    assert "less plain, points" in printed
    assert "best of its column" in printed
    assert "page:" not in printed


def test_a_page_is_written_with_its_figures(typed, home, tmp_path):
    words = ("compare", home / "plain", home / "hard", "--baseline", "hard", "--level", "8", "--threat", "linf")
    code, printed, _ = typed(*words, "--output", tmp_path / "page.html")
    assert code == 0
    assert f"page: {tmp_path / 'page.html'}" in printed
    told = json.loads((tmp_path / "page.json").read_text())["run"]
    assert (told["baseline"], told["size"], told["chosen"]) == ("hard", "8/255", "as asked for")
    assert (tmp_path / "page.csv").read_text().startswith("quantity,")
    assert "<script" not in (tmp_path / "page.html").read_text()


WRONG = {
    "a folder that is not there": (("nowhere",), "nowhere: no such folder"),
    "a folder without an audit": (("empty",), "empty holds no audit"),
    "one model": (("plain",), "needs two audits, got plain"),
    "no such baseline": (("plain", "hard", "--baseline", "soft"), "no model is called 'soft'"),
    "no such threat": (("plain", "hard", "--threat", "l1"), "nothing of the threat 'l1'"),
    "no such level": (("plain", "hard", "--level", "3"), "it has 2/255, 8/255"),
    "no number": (("plain", "hard", "--level", "much"), "--level is a number"),
    "no such place": (("plain", "hard", "--output", "page.csv"), "name it .html"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_one_clear_line(typed, home, monkeypatch, wrong):
    (home / "empty").mkdir(exist_ok=True)
    monkeypatch.chdir(home)
    words, said = WRONG[wrong]
    code, _, err = typed("compare", *words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def images():
    pixels = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(24).remainder(2).numpy()
    index = Index.of([f"{i:02d}.png" for i in range(24)], targets, splits=["val" if i % 4 == 0 else "test" for i in range(24)])
    return ImageSet("toys", CHEST, index, lambda row: pixels[row], channels=1)


def test_an_audit_takes_the_time_of_the_clean_images_for_the_comparison(typed, tmp_path):
    rows = (Row(attack="none"), Row(attack="fgsm", epsilon="2/255"))
    protocol = Protocol(plan=rows, shard=8, execution="as given", keep=0, examined=0)
    for seed in (0, 1):
        model = Classifier(small_network(1, 2, seed), CHEST, channels=1, mean=0.5, std=0.25).eval()
        run(model, images(), protocol, tmp_path / f"toy-{seed}")
    pace = Store(tmp_path / "toy-0").document("provenance")["seconds per image, clean"]
    assert 0 < pace["seconds"] < 1
    assert {name: pace[name] for name in ("images", "batch", "device")} == {"images": 24, "batch": 8, "device": "cpu"}
    assert pace["threads"] == torch.get_num_threads()
    before = Store(tmp_path / "toy-0").document("provenance")
    run(
        Classifier(small_network(1, 2, 0), CHEST, channels=1, mean=0.5, std=0.25).eval(), images(), protocol, tmp_path / "toy-0"
    )
    assert Store(tmp_path / "toy-0").document("provenance")["seconds per image, clean"] == before["seconds per image, clean"]
    code, printed, _ = typed("compare", tmp_path)
    assert code == 0
    assert f"{1000 * pace['seconds']:.2f}" in printed


def test_help_loads_nothing_heavy():
    watch = (
        "import sys, antivenom.cli.main as m; "
        "sys.argv = ['antivenom', 'compare', '--help']\n"
        "try: m.run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--baseline" in done.stdout
