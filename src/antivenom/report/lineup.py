"""The models of a comparison: whose audits they are, where they are compared, and what each audit holds there."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.errors import InputError, NotMeasuredError, RecordsError, SettingsError
from antivenom.metrics.classification import answer_share
from antivenom.metrics.intervals import Estimate, estimate
from antivenom.metrics.robustness import median_distance
from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow, size
from antivenom.records.store import Store
from antivenom.report import words
from antivenom.report.attacked import HALF
from antivenom.report.figures import plain_number

Array = np.ndarray[Any, Any]

# Share of one answer above which a model hardly looks at the image, as in `evaluation.suspicion.answer_nearly_constant`.
CONSTANT = 0.95
DRAWS = 500  # resamples of patients behind the interval of a median
PACE = "seconds per image, clean"  # in provenance.json
NORMS = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True, eq=False)
class Member:
    """One of the models that are compared; `baseline` is the one that the others are held against."""

    name: str
    audit: Audit
    baseline: bool

    @cached_property
    def order(self) -> Array:
        """Places of the test images `(N,)` in the order of their names, in which models are laid side by side."""
        return np.argsort(self.audit.splits["test"].images)

    @cached_property
    def state(self) -> str:
        """Why the model is not ranked, in words; empty where it is."""
        audit = self.audit
        share, balanced, chance = audit.answer_share(), audit.balanced_accuracy(), audit.constant_balanced_accuracy
        helpless = balanced.measured and balanced.low <= chance
        if share > CONSTANT and (helpless or answer_share(audit.targets) <= CONSTANT):
            return f"collapsed: it answers {self._answer()} for {100 * share:.1f} % of the images"
        if helpless:
            own = balanced.range(100, 1, " %")
            return f"not told from chance: balanced accuracy {own}, any constant answer {100 * chance:.1f} %"
        return ""

    def _answer(self) -> str:
        if self.audit.task.multilabel:
            return "one combination of findings"
        answers = self.audit.decisions(0)
        return f"one class (‘{self.audit.task.classes[int(np.bincount(answers[answers >= 0]).argmax())]}’)"

    def shown_the_same(self, other: Member) -> bool:
        """Whether both were shown images of the same names with the same truths."""
        one, two = self.audit.splits["test"], other.audit.splits["test"]
        return np.array_equal(one.images[self.order], two.images[other.order]) and np.array_equal(
            one.targets[self.order], two.targets[other.order]
        )


@dataclass(frozen=True)
class Ground:
    """Where models are compared.

    Attributes:
        threat, goal: of the attacks.
        epsilon: the size at which each attack is looked at.
        chosen: how that size was found, in words.
        sizes: those of the curves, ascending: what every audit has measured, or where that is nothing, the baseline.
        attacks: labels of the attacks at that size in any audit, noise last.
    """

    threat: str
    goal: str
    epsilon: float
    chosen: str
    sizes: tuple[float, ...]
    attacks: tuple[str, ...]

    @property
    def size(self) -> str:
        """The size as a label."""
        return size(self.threat, self.epsilon)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_members(folders: Sequence[str | os.PathLike[str]], baseline: str | None = None) -> tuple[Member, ...]:
    """Read audits, the baseline's first; folders and errors as in `compared.compare`."""
    paths = _named(list(dict.fromkeys(path for folder in folders for path in _audits_in(Path(folder)))))
    if len(paths) < 2:
        raise InputError(f"a comparison needs two audits, got {', '.join(paths) or 'none'}; give the folders of more")
    first = baseline or next(iter(paths))
    if first not in paths:
        raise SettingsError(f"no model is called {first!r}; choose the baseline from {', '.join(paths)}")
    names = [first, *(name for name in paths if name != first)]
    members = tuple(Member(name, Audit.read(paths[name]), name == first) for name in names)
    for member in members:
        audit = member.audit
        if not audit.measured(0):
            done, wanted = audit.progress[0]
            raise NotMeasuredError(f"{audit.folder}: {done} of {wanted} clean images are measured; run the same audit again")
        if audit.task != members[0].audit.task:
            raise InputError(
                f"{member.name} decides {', '.join(audit.task.classes)}, but {first} "
                f"{', '.join(members[0].audit.task.classes)}: only models of one task can be compared"
            )
    return members


def _audits_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RecordsError(f"{folder}: no such folder; give what `antivenom audit` wrote")
    if Store(folder).has_document("protocol"):
        return [folder.resolve()]
    below = [path.resolve() for path in sorted(folder.iterdir()) if path.is_dir() and Store(path).has_document("protocol")]
    if not below:
        raise RecordsError(f"{folder} holds no audit, nor does a folder in it; give what `antivenom audit` wrote")
    return below


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Audits by the name of their folder; of one called `audit`, as of two of one name, the folder around it tells more."""
    names = [path.parent.name if path.name == "audit" else path.name for path in paths]
    full = [
        f"{path.parent.name}/{path.name}" if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)
    ]
    if len(set(full)) < len(full):
        twice = next(name for name in full if full.count(name) > 1)
        raise InputError(f"two audits are called {twice}; rename one of the folders")
    return dict(zip(full, paths, strict=True))


def ground_of(members: Sequence[Member], asked: str = "linf", level: str | None = None) -> Ground:
    """Find where models can be compared; threat, level and errors as in `compared.compare`."""
    first, goal = members[0].audit, members[0].audit.goals[0]
    by_threat = {threat: _sizes(first, threat, goal) for threat in first.threats}
    threats = [threat for threat, sizes in by_threat.items() if sizes and asked in (threat, words.norm(threat))]
    if not threats:
        known = [threat for threat, sizes in by_threat.items() if sizes]
        raise SettingsError(f"{members[0].name} has nothing of the threat {asked!r}; it has {', '.join(known) or 'no attack'}")
    threat = asked if asked in threats else threats[0]
    common = [e for e in by_threat[threat] if all(_rows(member.audit, threat, goal, e) for member in members)]
    sizes = tuple(common) or by_threat[threat]
    if level is not None:
        epsilon, chosen = _asked(by_threat[threat], threat, level), "as asked for"
    else:
        half = HALF * first.accuracy().value
        epsilon = min(sizes, key=lambda e: abs(first.worst_case(threat, e, goal).accuracy.value - half))
        chosen = f"where the worst case of {members[0].name} comes nearest to half of its accuracy on unchanged images"
    rows = [row for member in members for row in _rows(member.audit, threat, goal, epsilon)]
    labels = dict.fromkeys(row.label for row in sorted(rows, key=lambda row: row.control))
    return Ground(threat, goal, epsilon, chosen, sizes, tuple(labels))


def _asked(sizes: Sequence[float], threat: str, level: str) -> float:
    try:
        wanted = float(level.removesuffix("/255")) / (255 if words.norm(threat) in ("linf", "stripes") else 1)
    except ValueError:
        raise SettingsError(f"--level is a number, such as 2 for 2/255, got {level!r}") from None
    found = next((e for e in sizes if math.isclose(e, wanted, rel_tol=1e-6)), None)
    if found is None:
        known = ", ".join(size(threat, e) for e in sizes)
        raise SettingsError(f"the baseline has nothing of {threat} at {level}; it has {known}")
    return found


def _sizes(audit: Audit, threat: str, goal: str) -> tuple[float, ...]:
    """The sizes at which an attack was measured, and not noise alone."""
    return tuple(e for e in audit.epsilons(threat, goal) if _rows(audit, threat, goal, e))


def _rows(audit: Audit, threat: str, goal: str, epsilon: float) -> tuple[PlanRow, ...]:
    """What was measured there; nothing where that is noise alone, as it is where the goal is another."""
    rows = audit.select(threat, goal, epsilon=epsilon)
    return rows if any(not row.control for row in rows) else ()


# -- what an audit holds there -----------------------------------------------------------------------------------------


def rows_at(audit: Audit, ground: Ground, epsilon: float | None = None) -> tuple[PlanRow, ...]:
    """The measured rows at a size of the ground, its own where None; nothing where no attack is among them."""
    return _rows(audit, ground.threat, ground.goal, ground.epsilon if epsilon is None else epsilon)


def distance_of(audit: Audit, ground: Ground) -> Estimate | None:
    """The median over the test images of the least change found that makes the model wrong; 0 for an image that it misreads.

    It is made of every row of the threat up to the largest size compared, so that attacks that look for the nearest example
    make it tight, and a ladder of sizes bounds it from above. None for findings, and where a change has no length.
    """
    norm = words.norm(ground.threat)
    rows = [row for e in ground.sizes for row in rows_at(audit, ground, e)]
    if audit.task.multilabel or norm not in NORMS or not rows:
        return None
    found = np.full((1 + len(rows), len(audit.targets)), np.inf)
    found[0, ~audit.right(0)[:, 0]] = 0
    for place, row in enumerate(rows, 1):
        turned = ~audit.right(row.number)[:, 0]
        found[place, turned] = getattr(audit.outcome(row.number), norm)[turned]
    least = found.min(0)
    return estimate(lambda images: median_distance(least[images]), audit.groups, draws=DRAWS)


def reach_of(audit: Audit, ground: Ground) -> float | None:
    """The size up to which balanced accuracy in the worst case lies above chance, with its whole interval; 0 where at none."""
    sizes = [e for e in ground.sizes if rows_at(audit, ground, e)]
    reached = 0.0
    for epsilon in sizes:
        worst = audit.balanced_accuracy_of(audit.worst_case(ground.threat, epsilon, ground.goal).right)
        if not worst.low > audit.constant_balanced_accuracy:
            break
        reached = epsilon
    return reached if sizes else None


def pace_of(audit: Audit) -> tuple[Estimate | None, str]:
    """Seconds an image of the pass over the clean images, and under which conditions; older audits did not look."""
    found = audit.provenance.get(PACE)
    if not isinstance(found, Mapping):
        return None, ""
    conditions = f"{found['batch']} at a time, {words.counted(found['threads'], 'thread')}, {found['device']}"
    return plain_number(float(found["seconds"]), int(found["images"]), 0, "mean"), conditions


def title_of(audit: Audit, row: PlanRow) -> str:
    """The attack of a row by its full name, with the settings that tell it from others."""
    facts = audit.attacks.get(row.attack)
    return (facts.title if facts else row.attack) + row.label.removeprefix(row.attack)


def values_of(audit: Audit) -> int:
    """Values of an image: channels x height x width."""
    data = audit.protocol["data"]
    sides = data["size"] if isinstance(data["size"], list) else [data["size"]] * 2
    return int(data["channels"]) * math.prod(int(side) for side in sides)
