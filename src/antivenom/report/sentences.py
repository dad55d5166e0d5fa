"""What a report says in words: its verdict, its summary, what it did not measure, and what no audit of this kind can say."""

from __future__ import annotations

from collections.abc import Iterator

from antivenom.metrics.intervals import Estimate
from antivenom.records.audit import Audit
from antivenom.records.plan import size
from antivenom.report import words
from antivenom.report.attacked import Headline
from antivenom.report.detected_words import guard_verdict, unmeasured
from antivenom.report.unchanged import Clean

LIMITS = (
    "An accuracy under attack is an upper bound: it holds for the attacks that were run, and a better one can only lower it. "
    "Nothing here is a certificate.",
    "Whether a radiologist, ophthalmologist or dermatologist would notice a change was not asked. The pictures show some "
    "of the changes.",
    "The adversary changes the image as the model receives it. Changes made in the scanner, on paper or screen, or in the "
    "training data are other threats, and so are examples carried over from another model.",
    "The figures hold for images like those tested. At another hospital, camera or population, measure again.",
)


def limits_of(audit: Audit) -> tuple[str, ...]:
    """What the figures cannot say."""
    if not any(found.finished for found in audit.certifications):
        return LIMITS
    return (LIMITS[0].replace("Nothing here is a certificate.", "Only what stands under Certified is proven."), *LIMITS[1:])


def verdict_of(audit: Audit, headline: Headline | None) -> str:
    """The report in one sentence."""
    things = "right decisions" if audit.task.multilabel else "right readings"
    if headline is None or not headline.block.worst.success.measured:
        guarded = guard_verdict(audit.detection)
        if guarded:
            return guarded
        return "No attack is measured yet: this page says how the model reads unchanged images, and nothing about robustness."
    turned = headline.block.worst.success.estimate
    if headline.half_turned:
        first = f"A change of {headline.in_words} turns {words.of_hundred(turned)} of 100 {things} wrong"
        noise = next((line for line in headline.block.lines if line.row and line.row.control), None)
        if noise is None:
            return first + "."
        return f"{first}; random noise of the same size turns {words.of_hundred(noise.success.estimate)}."
    kept = Estimate(1 - turned.value, 1 - turned.high, 1 - turned.low, turned.n, turned.groups, turned.method)
    return f"Of 100 {things}, {words.of_hundred(kept)} withstood every attack tried, up to a change of {headline.in_words}."


def summary_of(audit: Audit, clean: Clean, headline: Headline | None) -> Iterator[str]:
    """The report in a few sentences for an engineer who is no expert in attacks."""
    multilabel = audit.task.multilabel
    accuracy, balanced = clean.accuracy.estimate, clean.balanced.estimate
    constant = words.percent(clean.constant.estimate)
    if multilabel:
        yield (
            f"On unchanged images the model tells images with a finding from those without it with a mean AUROC of "
            f"{clean.mean_auroc.estimate.value:.3f} (0.5 is chance, 1 is perfect). At its operating points it decides "
            f"{words.percent(accuracy)} of all findings rightly; giving {clean.constant_answer} would be right in {constant}, "
            f"since most findings are absent. Sensitivity and specificity average {words.percent(balanced)}; any constant "
            f"answer has 50 %."
        )
    else:
        yield (
            f"On unchanged images the model reads {words.percent(accuracy)} rightly. Always answering "
            f"‘{clean.constant_answer}’ would be right in {constant}. Averaged over the classes (balanced accuracy) it "
            f"is right in {words.percent(balanced)}, a constant answer in {100 * clean.constant_balanced:.1f} %."
        )
    if headline is None or not headline.block.worst.success.measured:
        return
    worst = headline.block.worst
    things, turned = (
        ("findings that the model decides", "decided wrongly") if multilabel else ("scans the model reads", "misread")
    )
    yield (
        f"Of 100 {things} rightly, {words.of_hundred(worst.success.estimate)} (95 % interval "
        f"{words.interval_of_hundred(worst.success.estimate)}) are {turned} after a deliberate change of {headline.in_words}. "
        f"{_comparison(headline)}"
        + (
            "This is the smallest size tested at which at least half are turned."
            if headline.half_turned
            else "This is the largest size tested; none turned half of them."
        )
    )
    helpless = _helpless_from(audit, headline)
    if helpless:
        yield helpless
    outside = [line for line in headline.block.lines if line.sees == "scores"]
    if outside:
        best = max(outside, key=lambda line: line.success.estimate.value)
        queries = best.queries.estimate.value if best.queries else 0
        yield (
            f"An adversary who cannot look inside the model and only sees its scores ({best.title}) turns "
            f"{words.of_hundred(best.success.estimate)} of 100 at that size, asking the model {queries:,.0f} times per "
            "image on average."
        )


def _comparison(headline: Headline) -> str:
    noise = next((line for line in headline.block.lines if line.row and line.row.control), None)
    if noise is None:
        return ""
    e = noise.success.estimate
    return f"Random noise of the same size turns {words.of_hundred(e)} ({words.interval_of_hundred(e)}). "


def _helpless_from(audit: Audit, headline: Headline) -> str:
    """From which size on the model is worth no more than an answer that looks at nothing."""
    chance = audit.constant_balanced_accuracy
    for epsilon in audit.epsilons(headline.threat, headline.goal):
        worst = audit.worst_case(headline.threat, epsilon, headline.goal)
        balanced = audit.balanced_accuracy_of(worst.right)
        if balanced.measured and balanced.value <= chance:
            where = size(headline.threat, epsilon)
            return (
                f"From {where} on, the model under attack is worth no more than an answer that does not look at the image: its "
                f"balanced accuracy is {words.percent(balanced)}, that of any constant answer {100 * chance:.1f} %."
            )
    return ""


def not_measured(audit: Audit, clean: Clean, named: bool) -> Iterator[str]:
    """What a reader might look for and this run did not measure."""
    open_rows = [row for row in audit.rows if not audit.measured(row.number)]
    for row in open_rows:
        done, wanted = audit.progress[row.number]
        yield (
            f"{row.label}, {words.threat_name(row.threat)} {size(row.threat, row.epsilon)}, {row.goal}: {done:,} of "
            f"{wanted:,} images are measured; no figure of it is stated."
            if not row.clean
            else f"clean images: {done:,} of {wanted:,} are measured."
        )
    for part in clean.classes:
        if not part.auroc.measured:
            yield f"AUROC of ‘{part.name}’: the test images hold {part.count} of it, so there is nothing to tell apart."
        if part.threshold is not None and not part.threshold.measured:
            yield f"Sensitivity and specificity of ‘{part.name}’: the validation images gave it no operating point." + (
                " Its decisions are taken at a probability of one half." if audit.task.multilabel else ""
            )
    for found in audit.certifications:
        if not found.finished:
            yield (
                f"Certificates under noise of {found.sigma:g}: {len(found.places):,} of {found.wanted:,} images are certified; "
                "no figure of them is stated."
            )
    yield from unmeasured(audit.detection)
    if audit.flags is None:
        yield "Whether the attacks did their work: nobody has looked for signs of failure in these records yet."
    if not any(row.control and audit.measured(row.number) for row in audit.rows):
        yield "Random noise of the same size, the control without which an attack's success says little."
    if not any(row.unbounded and audit.measured(row.number) for row in audit.rows):
        yield "An attack without bounds, which must reach 0 % if the attacks work at all."
    if not named:
        yield (
            "Patients: the data set names none, so every image counts as a patient of its own. If several images are of one "
            "patient, the intervals are too narrow."
        )
