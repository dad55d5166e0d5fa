"""What every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real sets: ANTIVENOM_DATA, else ../shared/data beside the repository; skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ANTIVENOM_DATA") or beside)
    if not root.is_dir():
        pytest.skip(f"real data are not at {root}; set ANTIVENOM_DATA to the folder that holds them")
    return root
