"""The table of detectors and attacks of examinations that `antivenom guard audit` wrote, as JSON.

    python benchmarks/detection/table.py runs/guards/kermany runs/guards/nih14-64 --output benchmarks/results/detection.json

Of each detector: false alarms on clean test images; of each attack that knows nothing of it the share flagged at its own
threshold and the AUROC; and what attackers get past it, who know nothing of it and who know it. Every share is [value, low,
high, n], a 95 % interval by patient.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Detection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/detection.json"))
    options = parser.parse_args()
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for folder in options.folders:
        found[folder.name] = table(Detection.read(folder))
    options.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def table(found: Detection) -> dict[str, Any]:
    """One examination."""
    asked = found.asked
    rows = [row for row in found.rows if row.kind == "attack" and not row.adaptive and found.measured(row.number)]
    return {
        "architecture": asked["architecture"],
        "surrogate": asked["surrogate"],
        "data": asked["data"],
        "seed": asked["seed"],
        "detectors": {watch.name: detector(found, watch.name, rows) for watch in found.watches},
    }


def detector(found: Detection, name: str, rows: list[Any]) -> dict[str, Any]:
    """One detector of it."""
    passed = {
        f"{size[0]} {size[1]:g}": {
            "overturned": plain(share.overturned),
            "unnoticed, detector not known": plain(share.naive),
            "unnoticed, detector known": plain(share.known),
        }
        for size in found.sizes
        if found.knowing(name, size)
        for share in [found.passed(name, size)]
    }
    flagged = {
        f"{row.number} {row.attack} {row.threat} {row.epsilon:g} until {row.until} on the {row.made_on} {dict(row.settings)}": {
            "flagged": plain(found.noticed(row.number, name)),
            "AUROC": plain(found.auroc(row.number, name)),
        }
        for row in rows
    }
    return {"false alarms": plain(found.alarms(name)), "trials": flagged, "passed": passed}


def plain(share: Estimate) -> list[float | int | None]:
    """A share without its method."""
    return [*(None if math.isnan(value) else round(value, 4) for value in (share.value, share.low, share.high)), share.n]


if __name__ == "__main__":
    main()
