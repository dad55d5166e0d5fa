"""Where the figures come from: weights, data, code, seed, machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from antivenom.records.audit import Audit
from antivenom.report import words


def provenance_of(audit: Audit) -> Iterator[tuple[str, str]]:
    """Names and values of everything that the figures hang on."""
    found, protocol = audit.provenance, audit.protocol
    yield "Model digest", str(found["weights"])
    yield "Data digest", str(found["data"])
    yield "Code digest", str(found["code"])
    data = protocol["data"]
    size = " × ".join(map(str, data["size"])) if isinstance(data["size"], list) else str(data["size"])
    yield (
        "Images",
        f"{data['name']}: {size}, {words.counted(data['channels'], 'channel')}; {data['val']} validation, {data['test']} test",
    )
    yield "Seed", str(protocol["seed"])
    yield "Plan", f"{len(audit.rows)} rows, shards of {protocol['shard']} images"
    for name in ("precision", "machine", "versions"):
        if found.get(name):
            yield name.capitalize(), _flat(found[name])
    yield "Started", str(found["started"])
    yield "Finished", f"{found['finished']} ({_duration(found['seconds'])})" if found.get("finished") else "not finished"
    for name, value in found["card"].items():
        if value not in (None, "", [], {}) and name != "task":
            yield f"Model card: {name.replace('_', ' ')}", _flat(value)
    yield "Classes", ", ".join(audit.task.classes) + (" (each present or absent)" if audit.task.multilabel else "")


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_flat(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(part) for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{n} {u}" for n, u in ((hours, "h"), (minutes, "min"), (rest, "s")) if n) or "0 s"


def run_identity(audit: Audit) -> dict[str, Any]:
    """What tells this run from others, for the files beside the page."""
    return {
        "model": audit.protocol["model"],
        "data": {name: audit.protocol["data"][name] for name in ("name", "digest", "val", "test")},
        "code": audit.provenance["code"],
        "seed": audit.protocol["seed"],
        "finished": audit.finished,
        "classes": list(audit.task.classes),
        "operating": json.loads(json.dumps(audit.operating)),
    }
