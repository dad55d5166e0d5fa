"""Did the attacks do their work? An audit that distrusts its own figures.

Robust accuracy is an upper bound: an attack that fails for a reason of its own makes a model look strong. The symptoms are
known, and each is a function here, from an audit to a flag or none. A difference counts when exchanging the two attacks patient
by patient produces one as large in fewer than one of twenty cases, after Holm's correction for the comparisons that the
function makes.

Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, https://arxiv.org/abs/1802.00420
Carlini et al., "On evaluating adversarial robustness", 2019, https://arxiv.org/abs/1902.06705
Pintor et al., "Indicators of attack failure: debugging and improving optimization of adversarial examples", NeurIPS 2022,
https://arxiv.org/abs/2106.09947
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from antivenom.attacks import ATTACKS, Sees
from antivenom.evaluation.difficulties import DIFFICULTIES, MANY_ZERO
from antivenom.metrics.classification import answer_share
from antivenom.metrics.significance import holm, sign_flip
from antivenom.records.audit import NOTE, SERIOUS, Audit, Flag
from antivenom.records.plan import PlanRow, open_to, size
from antivenom.threat.card import NORMS

Array = np.ndarray[Any, Any]

LEVEL = 0.05  # chance of a false alarm, of each function
CONSTANT = 0.95  # share of one answer above which a model hardly looks at the image
HARMFUL_NOISE = 0.05  # success of noise below which it is harmless


def suspicions(audit: Audit) -> tuple[Flag, ...]:
    """Look for every known symptom; empty where there is none. Rows that are not measured are not looked at.

    Raises:
        NotMeasuredError: the clean images (or, for findings, the operating point) are not measured yet.
    """
    return tuple(flag for check in CHECKS if (flag := check(audit)) is not None)


def one_step_beats_many(audit: Audit) -> Flag | None:
    """An attack of one gradient step turns more decisions than one of many steps in the same ball."""
    pairs = [
        (one, many)
        for rows in _battles(audit)
        for one in rows
        for many in rows
        if _sees(one, Sees.GRADIENT) and _sees(many, Sees.GRADIENT) and not _iterates(one) and _iterates(many)
    ]
    return Flag.on(
        "FGSM beats PGD",
        SERIOUS,
        _beaten(audit, pairs),
        "Many small steps can do all that one large step can. Where they do less, they were led astray: the gradient near the "
        "image points elsewhere than the model's error lies (gradient masking), or the steps were too few or too small.",
        "Attack again with more steps, several restarts and a larger step size, and by transfer from another model; until then "
        "read the worst case over all attacks, not PGD alone.",
    )


def black_box_beats_white_box(audit: Audit) -> Flag | None:
    """An attack that sees scores only turns more decisions than the best of those that see gradients.

    Transformations are not held to this: along a few parameters the error has many hills, and draws all over them find the
    highest more often than a climb (Engstrom et al., ICML 2019).
    """
    pairs = []
    for rows in _battles(audit):
        if rows[0].threat.split(",")[0] not in NORMS:
            continue
        white = [row for row in rows if _sees(row, Sees.GRADIENT)]
        if white:
            best = max(white, key=lambda row: _damage(audit, row).mean())
            pairs += [(row, best) for row in rows if _sees(row, Sees.SCORES)]
    return Flag.on(
        "black box beats white box",
        SERIOUS,
        _beaten(audit, pairs),
        "Who sees gradients knows more than who sees scores. Where that does not help, the gradients mislead: the model, or "
        "what stands in front of it, is not differentiable, random or saturated.",
        "Attack through a differentiable stand-in for the part without a useful gradient (BPDA), or average gradients over "
        "random draws (EOT); raise the number of steps.",
    )


def not_monotone(audit: Audit) -> Flag | None:
    """An attack of many steps turns fewer decisions in a larger ball than in a smaller one.

    Noise and attacks of a single step are not held to this: a full step may land beyond the error that a shorter one hits.
    """
    pairs = []
    for threat in audit.threats:
        for goal in audit.goals:
            rows = [row for row in audit.select(threat, goal) if not row.control and _iterates(row)]
            for label in dict.fromkeys(row.label for row in rows):
                curve = sorted((row for row in rows if row.label == label), key=lambda row: row.epsilon)
                for place, larger in enumerate(curve[1:], 1):
                    pairs.append((max(curve[:place], key=lambda row: _damage(audit, row).mean()), larger))
    return Flag.on(
        "accuracy not monotone in epsilon",
        SERIOUS,
        _beaten(audit, pairs),
        "A larger ball holds every example of a smaller one, so the model cannot really be safer in it: the attack lost its "
        "way there. Its figures at the larger sizes are too good.",
        "Give the attack more steps, or step sizes in proportion to epsilon, at the larger sizes; the worst case already "
        "carries smaller examples over.",
    )


def unbounded_attack_fails(audit: Audit) -> Flag | None:
    """Allowed to change every value at will, attacks that see gradients still leave an image with nothing turned."""
    evidence = []
    for rows in _battles(audit):
        white = [row for row in rows if _sees(row, Sees.GRADIENT) and _iterates(row)]
        if not white or not white[0].unbounded:
            continue
        open_to_it = ~np.isnan(audit.success(white[0].number)).all(1)
        withstood = open_to_it & ~np.any([_damage(audit, row).any(1) for row in white], axis=0)
        if withstood.any():
            evidence.append(f"{_where(white[0])}: {withstood.sum()} of {open_to_it.sum()} images withstand")
    return Flag.on(
        "unbounded attack does not reach 0 %",
        SERIOUS,
        evidence,
        "Within this ball lie images of every other class, so no model withstands it. Either the attack is broken or blocked, "
        "or the model answers the same whatever it is shown.",
        "Look at the flags about gradients and constant answers; attack without what stands in front of the model; then with "
        "more steps and restarts.",
    )


def vanished_gradients(audit: Audit) -> Flag | None:
    """Gradients were zero in every value, or not finite."""
    evidence = []
    for row in _attacks(audit):
        outcome = audit.outcome(row.number)
        raised, images = outcome.flags, int(outcome.concerned.sum())
        zero, broken = (int(np.sum(raised.get(name, 0))) for name in ("zero-gradient", "non-finite-gradient"))
        if zero >= max(1, MANY_ZERO * images):
            evidence.append(f"{_named(row)}: zero on {zero} of {images} images")
        if broken:
            evidence.append(f"{_named(row)}: not finite on {broken} of {images} images")
    return Flag.on(
        "zero gradients",
        SERIOUS,
        evidence,
        "An attack that climbs has nowhere to go where the gradient is zero or no number. Rounding, quantisation, a hard "
        "threshold or a saturated output hide the slope from the attack, not the error from an adversary.",
        "Attack in float32, on logits instead of probabilities, and through a differentiable stand-in for what has no slope "
        "(BPDA); compare with Square, which needs none.",
    )


def answer_nearly_constant(audit: Audit) -> Flag | None:
    """Clean images get nearly always the same answer although they differ, or the answers are no better than chance."""
    evidence = []
    share, truth = audit.answer_share(), answer_share(audit.targets)
    if share > CONSTANT >= truth:
        evidence.append(f"{100 * share:.1f} % of the clean answers are the same; {100 * truth:.1f} % of the truths are")
    balanced, chance = audit.balanced_accuracy(), audit.constant_balanced_accuracy
    if balanced.measured and balanced.low <= chance:
        evidence.append(f"balanced accuracy {balanced.percent()}; a constant answer has {100 * chance:.1f} %")
    return Flag.on(
        "answer (nearly) constant",
        SERIOUS,
        evidence,
        "A model that does not look at the image cannot be misled by it: its robust accuracy is that of a stopped clock.",
        "Check the preprocessing and the order of the classes first; if they are right, train the model further. Compare "
        "robust accuracy with that of the constant answer, and read balanced accuracy.",
    )


def noise_as_harmful(audit: Audit) -> Flag | None:
    """Random noise of the same size turns many decisions, and the best attack no more than that."""
    pairs = []
    for rows in _battles(audit, with_noise=True):
        noise = [row for row in rows if row.control]
        attacks = [row for row in rows if not row.control]
        if noise and attacks:
            pairs.append((max(attacks, key=lambda row: _damage(audit, row).mean()), noise[0]))
    better = {noise.number for _, noise in _significant(audit, pairs)}
    evidence = [
        _against(audit, noise, best)
        for best, noise in pairs
        if noise.number not in better and audit.success_rate(noise.number).low > HARMFUL_NOISE
    ]
    return Flag.on(
        "noise fools as well as the attack",
        NOTE,
        evidence,
        "At this size the image itself is destroyed, or the model is so brittle that any disturbance does: the figure says "
        "nothing about adversaries.",
        "Read the security curve at smaller sizes. If noise already harms there, the model needs training with the noise that "
        "scanners make before it needs defending.",
    )


def success_not_confirmed(audit: Audit) -> Flag | None:
    """The attack said that it reached its goal, yet the recorded answer does not show it."""
    evidence = []
    for row in _attacks(audit):
        outcome = audit.outcome(row.number)
        withdrawn = outcome.flags.get("unconfirmed", np.zeros_like(outcome.reached))
        refuted = withdrawn | (outcome.reached & ~_shown(audit, row))
        if refuted.any():
            evidence.append(f"{_named(row)}: {refuted.sum()} of {(withdrawn | outcome.reached).sum()} successes")
    return Flag.on(
        "success not confirmed",
        SERIOUS,
        evidence,
        "The model gave the attack another answer than it gave the record: it is random, depends on the other images of a "
        "batch, or lies so near a tie that rounding decides.",
        "Ask the model the same image twice. If its answers differ, judge each example over several draws; if not, count only "
        "confirmed successes, as the figures here do.",
    )


def answers_that_are_no_numbers(audit: Audit) -> Flag | None:
    """The model answered NaN; such an answer counts as wrong, though no adversary earned it."""
    evidence = []
    for row in (audit.rows[0], *_attacks(audit, with_noise=True)):
        silent = np.asarray(np.isnan(audit.logits(row.number)).any(1))
        if silent.any():
            evidence.append(f"{_named(row)}: {silent.sum()} of {len(silent)} images")
    return Flag.on(
        "answer not a number",
        SERIOUS,
        evidence,
        "A NaN decides nothing and counts as wrong. It comes from an overflow, a division by zero in the preprocessing or "
        "damaged weights, not from an attack.",
        "Find the first layer that turns NaN on one of these images; run in float32.",
    )


def masked_model(audit: Audit) -> Flag | None:
    """The model itself was seen to answer at random, with probabilities, or so surely that cross-entropy has no slope."""
    raised = {name for row in _attacks(audit) for name, flag in audit.outcome(row.number).flags.items() if flag.any()}
    told = {
        "random-answers": "the model answers the same image twice differently",
        "probabilities": "the model answers with probabilities, not logits",
        "saturated": "the leading logit stands so far above the rest that softmax in float32 is 1",
    }
    return Flag.on(
        "answers that mask gradients",
        SERIOUS if "random-answers" in raised else NOTE,
        [text for name, text in told.items() if name in raised],
        "A random model has another gradient at each look, probabilities flatten it, and where softmax is 1 the gradient of "
        "cross-entropy is 0. The attacks here climb log-odds, which does not mind large logits; other tools may see nothing.",
        "Attack a random model through its expectation (EOT, `models.unmasking.expected`); give logits instead of "
        "probabilities; compare with a black-box attack.",
    )


CHECKS: tuple[Callable[[Audit], Flag | None], ...] = (
    answers_that_are_no_numbers,
    answer_nearly_constant,
    one_step_beats_many,
    black_box_beats_white_box,
    not_monotone,
    unbounded_attack_fails,
    vanished_gradients,
    success_not_confirmed,
    masked_model,
    *DIFFICULTIES,
    noise_as_harmful,
)


def _attacks(audit: Audit, *, with_noise: bool = False) -> list[PlanRow]:
    """The measured rows of attacks, in the plan's order."""
    return [row for row in audit.rows if not row.clean and (with_noise or not row.control) and audit.measured(row.number)]


def _battles(audit: Audit, *, with_noise: bool = False) -> Iterator[list[PlanRow]]:
    """Measured rows that want the same within the same ball."""
    rows = _attacks(audit, with_noise=with_noise)
    for key in dict.fromkeys((row.threat, row.goal, row.epsilon) for row in rows):
        yield [row for row in rows if (row.threat, row.goal, row.epsilon) == key]


def _sees(row: PlanRow, what: Sees) -> bool:
    return row.attack in ATTACKS and ATTACKS[row.attack].sees is what


def _iterates(row: PlanRow) -> bool:
    return row.attack in ATTACKS and ATTACKS[row.attack].iterative


def _damage(audit: Audit, row: PlanRow) -> Array:
    """Which decisions the adversary turned as wanted, `(N, D)` float; those with nothing to gain count as not turned."""
    return np.nan_to_num(audit.success(row.number), nan=0.0)


def _significant(audit: Audit, pairs: Sequence[tuple[PlanRow, PlanRow]]) -> list[tuple[PlanRow, PlanRow]]:
    """The pairs of which the first turns more than the second, by more than luck."""
    damage = [(_damage(audit, first), _damage(audit, second)) for first, second in pairs]
    adjusted = holm(np.array([sign_flip(first, second, audit.groups) for first, second in damage]))
    return [
        pair
        for pair, (first, second), p in zip(pairs, damage, adjusted, strict=True)
        if p < LEVEL and first.sum() > second.sum()
    ]


def _beaten(audit: Audit, pairs: Sequence[tuple[PlanRow, PlanRow]]) -> list[str]:
    return [_against(audit, first, second) for first, second in _significant(audit, pairs)]


def _against(audit: Audit, first: PlanRow, second: PlanRow) -> str:
    one, other = (f"turns {audit.success_rate(row.number).percent()}" for row in (first, second))
    return f"{_named(first)} {one}; {_named(second)} {other}"


def _shown(audit: Audit, row: PlanRow) -> Array:
    """Whether the recorded answer shows the goal that a row claims, `(N,)`: all decisions that it concerns are turned."""
    if row.target is not None:
        return np.asarray(audit.decisions(row.number) == audit.task.index(row.target))
    return np.asarray((~audit.right(row.number) | ~open_to(row.goal, audit.task, audit.targets)).all(1))


def _named(row: PlanRow) -> str:
    return "clean" if row.clean else f"{row.label} ({_where(row)})"


def _where(row: PlanRow) -> str:
    return f"{row.threat}, epsilon {size(row.threat, row.epsilon)}"
