"""Which room may import which: the table of docs/house.md, held by reading every import."""

import ast
from pathlib import Path

import pytest

import antivenom

ROOT = Path(antivenom.__file__).parent
LEAVES = {"errors", "task", "randomness", "provenance"}
MAY = {
    "errors": set(),
    "task": {"errors"},
    "randomness": set(),
    "provenance": set(),
    "metrics": {"errors"},
    "threat": {"randomness", "errors", "task"},
    "records": {"metrics", "provenance", "errors", "task"},
    "data": {"randomness", "provenance", "errors", "task"},
    "models": {"randomness", "provenance", "errors", "task"},
    "explanation": {"models", "metrics", *LEAVES},
    "attacks": {"threat", "models.execution", "randomness", "errors", "task"},
    "defences": {"models", "metrics", "randomness", "errors", "task"},
    "training": {"attacks", "threat", "metrics", "models", "defences", "data", *LEAVES},
    "corruptions": {"randomness", "errors"},
    "detection": {"models", "metrics", "randomness", "errors"},
    "guard": {"models", "defences", "detection", "metrics", *LEAVES},
    "evaluation": {"corruptions", "detection", "guard", "explanation", "training", "data", "models", "attacks", "threat"}
    | {"metrics", "defences", "records", *LEAVES},
    "report": {"records", "metrics", "errors", "task"},
}
MAY["cli"] = set(MAY)
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            names = [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.removeprefix("antivenom.") for n in names if n.startswith("antivenom.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_the_table_allows(path):
    own = room(path)
    for name in imported(path):
        allowed = name.split(".")[0] == own or any(name == may or name.startswith(f"{may}.") for may in MAY[own])
        assert allowed or name == "__version__", f"{path.relative_to(ROOT)} imports antivenom.{name}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_costs_nothing_until_it_is_used(path):
    heavy = {"torch", "timm", "torchvision", "pyarrow", "sklearn", "scipy", "matplotlib", "pydicom"}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not {n.split(".")[0] for n in names} & heavy or path.parent.name == "attacks"
