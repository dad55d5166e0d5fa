"""What a report says of certificates: how much is proven at which radius, of what, and what that does not say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from antivenom.records.audit import Audit
from antivenom.records.certification import Certification
from antivenom.report import words
from antivenom.report.charts import Chart, Curve, security_chart
from antivenom.report.figures import Figure, Ledger

# What an adversary wants who wants any wrong answer: only such attacks can be set beside a certificate of the right one.
ANY_HARM = ("untargeted", "against every finding")


@dataclass(frozen=True)
class CertifiedLine:
    """Certified accuracy at one radius."""

    radius: str
    in_words: str
    accuracy: Figure
    balanced: Figure


@dataclass(frozen=True)
class Certified:
    """The certificates under one noise.

    Attributes:
        compared: whether the chart shows the worst case of attacks beside them.
    """

    sigma: str
    sentences: tuple[str, ...]
    lines: tuple[CertifiedLine, ...]
    abstained: Figure
    chart: Chart
    compared: bool


def certified_of(audit: Audit, ledger: Ledger) -> Iterator[Certified]:
    """Each certification that is finished."""
    for place, found in enumerate(audit.certifications):
        if not found.finished:
            continue
        worst = _worst(audit, found, ledger)
        yield Certified(
            words.plain(found.sigma),
            tuple(_sentences(audit, found)),
            tuple(_lines(audit, found, ledger)),
            ledger.note_certified("abstained", found.abstention, found.sigma, 0.0),
            _chart(audit, found, worst, f"certified-{place}"),
            bool(worst),
        )


def _sentences(audit: Audit, found: Certification) -> Iterator[str]:
    things = "decisions about findings" if audit.task.multilabel else "images"
    share = words.percent(found.accuracy())
    yield (
        f"Of the {things} asked about, {share} are decided rightly and with enough of a majority among {found.n:,} noisy "
        "copies to prove that no change below some radius undoes it. So many copies can prove a radius of "
        f"{words.plain(found.reach)} at most."
    )
    yield (
        "A certificate says: no change whose L2 norm lies below the image's radius alters the answer of the smoothed model, by "
        f"whatever attack. The noise drawn makes it wrong with a probability of {100 * found.alpha:g} % at most, for each "
        f"image by itself: of a thousand certificates up to {words.plain(1000 * found.alpha)} may be expected to be wrong. "
        "Abstentions count as wrong."
    )
    yield (
        "It says nothing of the model asked once and without noise, of changes that are small in another sense (in the largest "
        "change of a pixel, by shifting or turning), or of images other than those tested. Beyond the radius nothing is known."
    )


def _lines(audit: Audit, found: Certification, ledger: Ledger) -> Iterator[CertifiedLine]:
    sides = audit.protocol["data"]["size"]
    values = int(audit.protocol["data"]["channels"]) * math.prod(sides if isinstance(sides, list) else [sides] * 2)
    for radius in found.radii:
        levels = words.plain(words.typical_levels(radius, values), 2)
        yield CertifiedLine(
            words.plain(radius),
            f"{levels} of 255 grey levels in a typical pixel" if radius else "",
            ledger.note_certified("certified accuracy", found.accuracy(radius), found.sigma, radius),
            ledger.note_certified("certified balanced accuracy", found.balanced_accuracy(radius), found.sigma, radius),
        )


def _worst(audit: Audit, found: Certification, ledger: Ledger) -> Curve:
    """The worst case of attacks in L2 on the certified images; empty where none was run."""
    pairs = [(threat, goal) for goal in audit.goals if goal in ANY_HARM for threat in audit.threats]
    threat, goal = next(((t, g) for t, g in pairs if words.norm(t) == "l2" and audit.epsilons(t, g)), ("", ""))
    if not threat:
        return []
    part = f"images certified at sigma {found.sigma:g}"
    curve = [(0.0, ledger.note("accuracy", found.share(audit.right(0)[found.places]), part=part).estimate)]
    for epsilon in audit.epsilons(threat, goal):
        estimate = found.share(audit.worst_case(threat, epsilon, goal).right[found.places])
        curve.append((epsilon, ledger.note_worst("accuracy", estimate, goal, threat, epsilon, part=part).estimate))
    return curve


def _chart(audit: Audit, found: Certification, worst: Curve, ident: str) -> Chart:
    curves: list[tuple[str, str, Curve]] = [("Certified, smoothed model", "s0", found.curve())]
    if worst:
        curves.append(("Worst case of attacks on the model as it is", "worst", worst))
    beyond = [epsilon for epsilon, _ in worst if epsilon > found.radii[-1]]
    name = audit.constant_answer if audit.task.multilabel else f"always ‘{audit.constant_answer}’"
    return security_chart(
        ident,
        f"Certified accuracy, noise {words.plain(found.sigma)}",
        curves,
        "L2 norm of the change",
        "accuracy, %",
        words.plain,
        level=(audit.constant_accuracy.value, name),
        ticks=[*found.radii, *beyond],
    )
