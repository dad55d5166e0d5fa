"""What a report says of detectors in words: the bottom line, what it costs, and signs that an attacker was too weak."""

from __future__ import annotations

from collections.abc import Iterator

from antivenom.errors import NotMeasuredError
from antivenom.metrics.intervals import Estimate
from antivenom.records.detection import Detection, Passed
from antivenom.records.plan import size
from antivenom.records.trials import CLEAN_ROW, TrialRow
from antivenom.report import words
from antivenom.report.figures import Ledger
from antivenom.report.reasons import unreasoned

SURE, WEAK = 0.9, 0.5  # a detector that notices so much, and an attacker who knows it and gets past with so little, do not fit
GUARD = "the guard"
NAMES = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "pgd": "PGD",
    "mim": "MIM",
    "ddn": "DDN",
    "deepfool": "DeepFool",
    "square": "Square",
    "noise": "Random noise",
    "orthogonal_pgd": "Orthogonal PGD",
    "feature_matching": "Feature matching",
}


def sentences_of(found: Detection, ledger: Ledger, judge: str | None) -> Iterator[str]:
    who = called(found, judge)
    alarms = ledger.note_detection("false alarms", found.alarms(judge), CLEAN_ROW, who).estimate
    yield _opening(found, judge, who, alarms)
    rows = [row for row in found.rows if row.naive and found.measured(row.number)]
    if rows:
        seen = [(found.noticed(row.number, judge), row) for row in rows]
        ordered = sorted(((share, row) for share, row in seen if share.measured), key=lambda pair: pair[0].value)
        if ordered:
            (low, least), (high, most) = ordered[0], ordered[-1]
            yield (
                f"Of all the images that an attack which does not know it changed, whether that turned an answer or not, {who} "
                f"flags between {words.percent(low)} ({told(least, least.threat)}) and {words.percent(high)} "
                f"({told(most, most.threat)})."
            )
    kept = found.accepted(0, judge)
    everything = found.accepted(0, judge, all_=True)
    things = "decisions about them" if found.task.multilabel else "them"
    yield (
        f"What it costs: {words.percent(kept.coverage)} of the unchanged images are let through. Of {things} "
        f"{words.percent(kept.accuracy)} are right; of all it would be {words.percent(everything.accuracy)}."
    )
    yield (
        "A detector is worth what is left of it once it is known: whoever can read the weights of the model can read those of "
        "the detector beside it. Shares noticed of attackers who know nothing are no bound for any who do."
    )


def guard_verdict(found: Detection | None) -> str | None:
    """The examination of a guard in one sentence; None where it is not that far."""
    if found is None or not (found.measured(0) and found.deciding):
        return None
    passed, where = main_passed(found, None)
    if passed is None:
        return None
    past, within = words.of_hundred(stopped(passed.evasion)), size_told(*where)
    naive = stopped(passed.naive_evasion)
    before = f"; {words.of_hundred(naive)} while it is not known" if naive.measured else ""
    return f"Of 100 answers changed within {within} {GUARD} stops {past} once the attacker knows it{before}."


def _opening(found: Detection, judge: str | None, who: str, alarms: Estimate) -> str:
    """The bottom line: at which false-alarm rate how much is stopped, without and with knowledge of the detector."""
    at = f"At {words.percent(alarms)} false alarms on unchanged test images (95 % interval {_ends(alarms)})"
    passed, where = main_passed(found, judge)
    if passed is None:
        whom = "all of its detectors" if judge is None and len(found.deciding) > 1 else "it"
        return (
            f"{at}, what {who} stops of an attacker who knows it cannot be said: none who knows {whom} was measured. What "
            "follows is about attackers who do not, and no bound for those who do."
        )
    naive, knowing = stopped(passed.naive_evasion), stopped(passed.evasion)
    past = f"{words.of_hundred(knowing)} (95 % interval {words.interval_of_hundred(knowing)})"
    unaware = f"{words.of_hundred(naive)} (95 % interval {words.interval_of_hundred(naive)})" if naive.measured else ""
    done = (
        f"stops {unaware} of 100 changed answers while the attacker does not know it, and {past} once it is known"
        if unaware
        else f"stops {past} of 100 changed answers of an attacker who knows it"
    )
    return (
        f"{at}, {who} {done}. The attacks stay within {size_told(*where)} and change the answers about "
        f"{words.percent(passed.overturned)} of the images, noticed or not; each image meets the worst of what was tried."
    )


def warnings_of(found: Detection) -> Iterator[str]:
    """Signs that the attackers who know a detector are weaker than they should be."""
    for watch in found.watches:
        for where in found.sizes:
            passed = passed_at(found, watch.name, where)
            if passed is None or not passed.adaptive_evasion.measured:
                continue
            seen = [found.noticed(row.number, watch.name).value for row in found.unknowing(where) if row.until == "spent"]
            share = words.percent(passed.adaptive_evasion)
            if passed.naive_evasion.measured and passed.adaptive_evasion.value < passed.naive_evasion.value:
                yield (
                    f"{watch.title}: attackers who know it get past with {share} of the changed answers, those who do not "
                    f"with {words.percent(passed.naive_evasion)}. Knowledge cannot harm: these attacks are too weak."
                )
            elif seen and min(seen) >= SURE and passed.adaptive_evasion.value < WEAK:
                yield (
                    f"{watch.title}: attackers who know it get past with {share} of the changed answers only. Until stronger "
                    "ones were tried, that says more of these attacks than of the detector."
                )


def unmeasured(found: Detection | None) -> Iterator[str]:
    """What the examination asked for and did not measure yet."""
    if found is None:
        return
    for (number, split), (done, wanted) in found.progress.items():
        if not found.measured(number, split):
            row = found.rows[number]
            what = f"unchanged images of ‘{split}’" if number == 0 else told(row, row.threat)
            yield f"Detection, {what}: {done:,} of {wanted:,} images are measured; no figure of it is stated."
    if not any(row.adaptive for row in found.rows):
        yield "Detection under an attacker who knows the detector: none was asked for. Those who do not know it are no bound."
    yield from unreasoned(found)


def main_passed(found: Detection, detector: str | None) -> tuple[Passed | None, tuple[str, float]]:
    """What gets past a detector at the first size at which attackers who know it were measured."""
    for where in found.sizes:
        passed = passed_at(found, detector, where)
        if passed is not None and passed.evasion.measured:
            return passed, where
    return None, ("", 0.0)


def passed_at(found: Detection, detector: str | None, where: tuple[str, float]) -> Passed | None:
    try:
        return found.passed(detector, where)
    except NotMeasuredError:
        return None


def stopped(evasion: Estimate) -> Estimate:
    e = evasion
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.groups, e.method)


def called(found: Detection, judge: str | None) -> str:
    return GUARD if judge is None else found.watch(judge).title


def told(row: TrialRow, threat: str = "") -> str:
    """A trial in a few words: the attack, what tells it from others, and its size where that is asked for.

    >>> from dataclasses import replace
    >>> told(replace(CLEAN_ROW, kind="attack", attack="pgd", label="pgd step_size=0.1 until=spent"))
    'PGD, step size 0.1, until spent'
    """
    traits = [trait.replace("_", " ").replace("=", " ") for trait in row.label.removeprefix(row.attack).split()]
    if row.kind == "corruption":
        traits = [f"{name} {value}" for name, value in row.settings.items()]
    name = NAMES.get(row.attack, row.attack.replace("_", " "))
    return ", ".join([name, *traits, *([size_told(threat, row.epsilon)] if threat else [])])


def size_told(threat: str, epsilon: float) -> str:
    """A size as a heading; a limit that nothing can reach is none.

    >>> size_told("linf", 0.02), size_told("l2", 1e6)
    ('L∞ 5.1/255', 'L2, as much as it takes')
    """
    kind = words.norm(threat)
    if (kind == "linf" and epsilon >= 1) or (kind in ("l1", "l2", "l0") and epsilon >= 1e5):
        return f"{words.threat_name(threat)}, as much as it takes"
    return f"{words.threat_name(threat)} {size(threat, epsilon)}"


def _ends(share: Estimate) -> str:
    return f"{100 * share.low:.1f} to {100 * share.high:.1f}"
