"""What the tests of the command line share."""

import sys

import pytest
import timm

from antivenom.cli import main
from antivenom.cli.console import out


@pytest.fixture(scope="module", autouse=True)
def _thin_backbones():
    """ResNet-18s a quarter as wide: running and storing eleven million weights takes time, and nothing here needs them."""
    genuine = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        thin = {"channels": (16, 32, 64, 128)}
        patch.setattr(
            timm, "create_model", lambda name, **given: genuine(name, **given, **(thin if name == "resnet18" else {}))
        )
        yield


@pytest.fixture
def typed(monkeypatch, capsys):
    """Type a command; give its exit code and what it printed."""

    def run(*words):
        monkeypatch.setattr(out, "_width", 300)  # the variable COLUMNS is read when the console is made, which may be long ago
        monkeypatch.setattr(sys, "argv", ["antivenom", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.run()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run
