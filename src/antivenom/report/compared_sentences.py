"""What a comparison says in words: its verdict, how its marks are to be read, and what stands between it and a fair one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from antivenom.metrics.intervals import Estimate
from antivenom.records.audit import SERIOUS, Audit
from antivenom.records.plan import size
from antivenom.report import words
from antivenom.report.contrasts import BEST, TIED
from antivenom.report.lineup import Ground, Member, pace_of, rows_at


def verdict_of(worst: Mapping[str, tuple[Estimate, str]], ground: Ground, chance: float) -> str:
    """The comparison in one sentence.

    Args:
        worst: balanced accuracy in the worst case and its mark, of the models that are ranked.
        chance: balanced accuracy of a constant answer.
    """
    place = f"{words.threat_name(ground.threat)} {ground.size}"
    for name, (share, mark) in worst.items():
        if mark == BEST:
            return f"{name} withstands most at {place}: a balanced accuracy of {words.percent(share)} in the worst case."
    tied = [name for name, (_, mark) in worst.items() if mark == TIED]
    if tied:
        return f"At {place}, {words.listed(tied)} withstand most and cannot be told apart."
    if not worst:
        return f"At {place} no model is measured that reads unchanged images better than chance."
    if len(worst) == 1:
        return f"At {place} only {next(iter(worst))} can be ranked, so nothing is said of which model withstands most."
    return (
        f"At {place} no model is better in the worst case than a constant answer, whose balanced accuracy is "
        f"{100 * chance:.1f} %."
    )


def legend_of(ground: Ground) -> Iterator[str]:
    """What marks and columns mean."""
    yield (
        f"{BEST} best of its column, and apart from every other ranked model: its 95 % interval does not hold the other's "
        "value, and on the same images the interval of the paired difference, widened to the number of pairs of models "
        "(Bonferroni), lies above 0. Without a paired difference (other images, median distances) the two intervals do not "
        "overlap."
    )
    yield f"{TIED} the best and all that do not stand apart from it so: a tie."
    yield (
        "No mark: fewer than two models are ranked, or the best of the column is no better there than a constant answer, with "
        "its balanced accuracy and its interval. A collapsed model, and one not told from chance on unchanged images, is "
        "never ranked."
    )
    yield (
        "Worst case: each image meets the most harmful of every attack and the noise, at this size and all smaller ones. It "
        "bounds robust accuracy from above."
    )
    yield (
        f"Above chance up to: the largest size, of {words.listed([size(ground.threat, e) for e in ground.sizes])}, up to which "
        "balanced accuracy in the worst case lies above that of a constant answer, with its whole interval."
    )
    yield (
        "Median distance: the least change found that makes the model wrong, 0 for an image that it misreads unchanged; half "
        "of the images need no more. Where all attacks are of given sizes, it is no finer than they are."
    )


def notes_of(members: Sequence[Member], ground: Ground) -> Iterator[str]:
    """What stands between these audits and a fair comparison."""
    first = members[0]
    for member in members:
        audit = member.audit
        if member.state:
            yield f"{member.name} is not ranked. It is {member.state}."
        if not audit.finished:
            done = sum(audit.measured(row.number) for row in audit.rows)
            yield f"{member.name}: {done} of {len(audit.rows)} planned measurements are done; the rest is not counted."
        serious = [flag.name for flag in audit.flags or () if flag.severity == SERIOUS]
        if serious:
            yield f"{member.name}: its audit raises {words.listed([f'‘{name}’' for name in serious])}; see its report."
        if audit.flags is None:
            yield f"{member.name}: nobody has looked for signs that its attacks failed."
    for member in members[1:]:
        yield from _unlike(first, member, ground)
    if len({_machine(member.audit) for member in members if pace_of(member.audit)[0]}) > 1:
        yield "Seconds per image were taken on other machines, or under other conditions, and compare only roughly."


def _unlike(first: Member, member: Member, ground: Ground) -> Iterator[str]:
    """In what an audit differs from that of the baseline."""
    if not member.shown_the_same(first):
        mine, theirs = member.audit.splits["test"].images, first.audit.splits["test"].images
        shared = len(np.intersect1d(mine, theirs))
        yield (
            f"{member.name}: {len(mine)} test images, of which {shared} are among the baseline's {len(theirs)} by name: not "
            "the same, so nothing is paired and nothing tested."
        )
    elif first.audit.protocol["data"]["digest"] != member.audit.protocol["data"]["digest"]:
        yield f"{member.name}: names and truths are the baseline's, the data's digest is not; images count as the same."
    if not rows_at(member.audit, ground):
        yield f"{member.name}: no attack of {ground.threat}, {ground.goal}, is measured at {ground.size}."
        return
    rows, base = _plan(member.audit, ground), _plan(first.audit, ground)
    labels, known = {row[0] for row in rows}, {row[0] for row in base}
    lacks, more, other = known - labels, labels - known, {row[0] for row in rows ^ base} & labels & known
    if lacks:
        yield f"{member.name} was not attacked by {words.listed(sorted(lacks))}: its worst case is over less."
    if more:
        yield f"{member.name} was also attacked by {words.listed(sorted(more))}: its worst case is over more."
    if other:
        yield f"{member.name}: {words.listed(sorted(other))} ran at other sizes or with other settings."


def _plan(audit: Audit, ground: Ground) -> set[tuple[str, float, str]]:
    """What the worst case is made of: labels, sizes and settings."""
    rows = audit.worst_case(ground.threat, ground.epsilon, ground.goal).rows
    return {(row.label, round(row.epsilon, 9), f"{words.settings_in_words(row)}, {row.until}") for row in rows if not row.clean}


def _machine(audit: Audit) -> str:
    machine = audit.provenance.get("machine") or {}
    return f"{machine.get('processor')}, {machine.get('cores')}, {pace_of(audit)[1]}"
