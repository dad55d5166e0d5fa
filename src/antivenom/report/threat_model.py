"""The threat model of a report: what the adversary wants, knows and may do, in words and in the ids that auditors use.

NIST AI 100-2 E2025, "Adversarial Machine Learning: A Taxonomy and Terminology of Attacks and Mitigations",
https://doi.org/10.6028/NIST.AI.100-2e2025
MITRE ATLAS, https://atlas.mitre.org
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from antivenom.records.audit import Audit
from antivenom.records.plan import PlanRow
from antivenom.report import words

SCENES = {
    "placement": "the image may be turned and shifted, as by how a patient is placed",
    "exposure": "contrast, brightness and gamma may change, as by how an image is taken or windowed",
    "bias field": "the image may be multiplied by a smooth field, as by a coil",
}
WHITE_BOX, BLACK_BOX, TRANSFER = "AML.T0043.000", "AML.T0043.001", "AML.T0043.002"


@dataclass(frozen=True)
class Statement:
    """One line of the card: a term, what holds here, and how the taxonomies call it."""

    term: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]


def threat_model(audit: Audit) -> tuple[Statement, ...]:
    """State the threat model of the rows that are measured."""
    rows = [row for row in audit.rows if not row.clean and audit.measured(row.number)]
    attacks = [row for row in rows if not row.control]
    if not attacks:
        return (Statement("Adversary", ("None: no attack is measured yet.",), ()),)
    return (
        _goal(attacks),
        _knowledge(audit, attacks),
        _capability(audit, rows),
        Statement(
            "Label used",
            (
                "The adversary is given the true label of the data set, so that it never wastes effort on images that are "
                "misread anyway. An adversary who has to guess it does no better.",
            ),
            (),
        ),
        Statement(
            "Stage",
            ("Deployment: the trained model is left alone, the image is changed on its way to it.",),
            ("NIST AI 100-2: evasion", "MITRE ATLAS AML.T0015", "OWASP ML01"),
        ),
        Statement(
            "Stopping",
            tuple(_stopping(attacks)),
            (),
        ),
    )


def _goal(attacks: Sequence[PlanRow]) -> Statement:
    goals = dict.fromkeys(words.goal_in_words(row.goal) for row in attacks)
    return Statement(
        "Goal",
        tuple(f"{goal[0].upper()}{goal[1:]}." for goal in goals),
        ("NIST AI 100-2: integrity violation",),
    )


def _knowledge(audit: Audit, attacks: Sequence[PlanRow]) -> Statement:
    seen: dict[str, list[str]] = {}
    for row in attacks:
        facts = audit.attacks.get(row.attack)
        names = seen.setdefault(facts.sees if facts else "unknown", [])
        title = facts.title if facts else row.attack
        if title not in names:
            names.append(title)
    texts, ids = [], []
    if "gradient" in seen:
        texts.append(f"White box: weights, architecture and preprocessing are known ({words.listed(seen['gradient'])}).")
        ids.append(f"MITRE ATLAS {WHITE_BOX}")
    if "scores" in seen:
        texts.append(f"Black box with queries: only the model's scores are seen ({words.listed(seen['scores'])}).")
        ids.append(f"MITRE ATLAS {BLACK_BOX}")
    if "labels" in seen:
        texts.append(f"Black box with queries: only the model's decisions are seen ({words.listed(seen['labels'])}).")
        ids.append(f"MITRE ATLAS {BLACK_BOX}")
    if "unknown" in seen:
        texts.append(f"Not recorded: {words.listed(seen['unknown'])}.")
    texts.append(f"Not tried: examples carried over from another model ({TRANSFER}).")
    return Statement("Knowledge", tuple(texts), ("NIST AI 100-2: white-box and black-box evasion", *dict.fromkeys(ids)))


def _capability(audit: Audit, rows: Sequence[PlanRow]) -> Statement:
    data = audit.protocol["data"]
    sides = data["size"] if isinstance(data["size"], list) else [data["size"]] * 2
    values = int(data["channels"]) * math.prod(int(side) for side in sides)
    texts = []
    for threat in dict.fromkeys(row.threat for row in rows):
        sizes = sorted({row.epsilon for row in rows if row.threat == threat and not row.unbounded})
        name, pixels = words.threat_name(threat), _pixels(threat)
        if sizes:
            texts.append(f"{name}: {_allowed(words.norm(threat), sizes, values)} {pixels}")
        if any(row.threat == threat and row.unbounded for row in rows):
            texts.append(f"{name} without bound, as a check that the attack works: every value may become any other.")
    return Statement("Capability", tuple(texts), ("NIST AI 100-2: testing data control, query access",))


def _allowed(kind: str, sizes: Sequence[float], values: int) -> str:
    """What one kind of change may do, at all of its sizes."""
    levels = words.listed([words.plain(e * 255) for e in sizes], "or")
    radii = words.listed([words.plain(e) for e in sizes], "or")
    if kind == "linf":
        return (
            f"every value of the image may change by at most {levels} of 255 grey levels. One of 255 levels is "
            "0.39 % of the range, or 16 of the 4095 levels of a 12-bit image."
        )
    if kind == "l2":
        spread = words.listed([words.plain(words.typical_levels(e, values), 2) for e in sizes], "or")
        return (
            f"the root of the summed squares of all changes is at most {radii} (values in [0, 1]); spread evenly, "
            f"that is {spread} of 255 grey levels per value."
        )
    if kind == "l1":
        return f"all changes add up to at most {radii} (values in [0, 1])."
    if kind == "l0":
        return f"at most {radii} of the {values:,} values may change, each as far as it likes."
    if kind == "stripes":
        return f"every column of the image may become lighter or darker by at most {levels} of 255 grey levels, as one."
    shares = words.listed([f"{100 * e:.3g}" for e in sizes], "or")
    return f"{SCENES.get(kind, kind)}, up to {shares} % of the limits stated with the transformation."


def _pixels(threat: str) -> str:
    parts = [part.strip() for part in threat.split(",")[1:]]
    said = ["The changed image stays in [0, 1]"]
    for part in parts:
        if part == "tied channels":
            said.append("channels move as one")
        else:
            said.append(f"values lie on a {part}" if part.startswith("grid") else f"limited to {part}")
    if not any(part.startswith("grid") for part in parts):
        said.append("its values are not rounded to those that a file can hold")
    return "; ".join(said) + "."


def _stopping(attacks: Sequence[PlanRow]) -> list[str]:
    ways = {row.until for row in attacks}
    texts = []
    if "fooled" in ways:
        texts.append(
            "An image leaves the attack at the first step that fools the model: its change is not the strongest found."
        )
    if "spent" in ways:
        texts.append("An image climbs to the end of its budget, and the highest point counts.")
    return texts
