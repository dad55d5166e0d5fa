"""What a model decides, and how often it is right.

A multi-class image has one decision, a multi-label image one per finding. `targets` are class numbers `(N,)`, or 0/1 `(N, K)`;
`logits` are `(N, A)`. Decisions have the shape of their targets, so that `decisions == targets` says what is right. A NaN
decides nothing: the decision is -1, which is no target, hence wrong.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from antivenom.errors import InputError, LabelError
from antivenom.metrics.intervals import Estimate, average_proportion

Array = np.ndarray[Any, Any]
Rule = Literal["youden"] | tuple[Literal["sensitivity", "specificity"], float]

UNDECIDED = -1


def decide(logits: Array, *, multilabel: bool, thresholds: Array | None = None) -> Array:
    """Decide each image: `(N,)` class numbers, or `(N, K)` with 1 present and 0 absent; -1 where a logit is NaN.

    Args:
        logits: `(N, A)`.
        multilabel: whether each class is a finding of its own.
        thresholds: `(K,)` logits above which a finding is present; 0, a probability of one half, where None.

    Of equal logits the first class wins; a logit equal to its threshold is absent.

    Raises:
        InputError: thresholds for a multi-class answer, or a NaN among them.

    >>> decide(np.array([[0.1, 2.0], [np.nan, 0.0]]), multilabel=False).tolist()
    [1, -1]
    >>> decide(np.array([[0.1, -2.0], [np.nan, 0.0]]), multilabel=True).tolist()
    [[1, 0], [-1, 0]]
    """
    logits = np.asarray(logits)
    silent = np.isnan(logits)
    if multilabel:
        limits = np.zeros(logits.shape[1]) if thresholds is None else np.asarray(thresholds)
        if np.isnan(limits).any():
            missing = np.flatnonzero(np.isnan(limits)).tolist()
            raise InputError(f"findings {missing} have no threshold; leave them out or use 0, the probability of one half")
        return np.where(silent, UNDECIDED, (logits > limits).astype(np.int64))
    if thresholds is not None:
        raise InputError("thresholds belong to findings; one class of several is judged by `sensitivity` and `specificity`")
    return np.where(silent.any(1), UNDECIDED, logits.argmax(1))


def right(logits: Array, targets: Array, *, multilabel: bool, thresholds: Array | None = None) -> Array:
    """Say of each decision whether it is right: `(N, 1)` or `(N, K)` bool."""
    decisions = decide(logits, multilabel=multilabel, thresholds=thresholds)
    _same(decisions, targets)
    return np.asarray(decisions == targets).reshape(len(decisions), -1)


def accuracy(decisions: Array, targets: Array) -> float:
    """Give the share of decisions that are right; NaN without any."""
    _same(decisions, targets)
    return float((decisions == targets).mean()) if np.size(targets) else math.nan


def recalls(right: Array, targets: Array, classes: int, *, multilabel: bool) -> Array:
    """Sort right decisions `(N, D)` by what was to be found: one column per class, NaN where another class was.

    Multi-class gives `(N, A)`. Multi-label gives `(N, 2 K)`: K columns of findings that are present (their means are the
    sensitivities), then K of absent ones (specificities); a finding that lacks either is NaN in both.
    """
    targets = np.asarray(targets)
    values = np.asarray(right, dtype=float).reshape(len(targets), -1)
    if not multilabel:
        return np.where(targets[:, None] == np.arange(classes), values, np.nan)
    unmeasured = without_both(one_hot(targets, classes, multilabel=True))
    values = np.where(unmeasured, np.nan, values)
    return np.hstack([np.where(targets == 1, values, np.nan), np.where(targets == 0, values, np.nan)])


def balanced_accuracy(decisions: Array, targets: Array, classes: int, *, multilabel: bool) -> float:
    """Give the mean recall over the classes that occur; over findings, the mean of (sensitivity + specificity) / 2.

    Findings that are always or never present are left out; `without_both` names them. A constant answer scores 1 / classes,
    or one half.

    >>> balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2, multilabel=False)
    0.5
    """
    _same(decisions, targets)
    return balanced_accuracy_estimate(np.asarray(decisions) == targets, targets, classes, multilabel=multilabel).value


def balanced_accuracy_estimate(
    right: Array, targets: Array, classes: int, groups: Array | None = None, *, multilabel: bool, level: float = 0.95
) -> Estimate:
    """Estimate balanced accuracy from right decisions `(N, D)`, with its interval."""
    return average_proportion(recalls(right, targets, classes, multilabel=multilabel), groups, level=level)


def constant_accuracy(targets: Array, *, multilabel: bool) -> float:
    """Give the accuracy of the best constant answer: what a model that looks at nothing can reach.

    >>> constant_accuracy(np.array([0, 0, 0, 1]), multilabel=False)
    0.75
    """
    targets = np.asarray(targets)
    if not targets.size:
        return math.nan
    if multilabel:
        present = targets.mean(0)
        return float(np.maximum(present, 1 - present).mean())
    return float(np.bincount(targets).max() / len(targets))


def answer_share(decisions: Array) -> float:
    """Give the share of images with the most frequent answer; for findings, the most frequent combination.

    >>> answer_share(np.array([1, 1, 1, 0]))
    0.75
    """
    decisions = np.asarray(decisions)
    return float(np.unique(decisions, axis=0, return_counts=True)[1].max() / len(decisions)) if len(decisions) else math.nan


def confusion(decisions: Array, targets: Array, classes: int) -> Array:
    """Count `(A, A)` images by true class (row) and decided class (column); the undecided are in no column.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    decisions, targets = np.asarray(decisions), np.asarray(targets)
    _same(decisions, targets)
    _within(targets, classes)
    decided = decisions != UNDECIDED
    cells = targets[decided] * classes + decisions[decided]
    return np.asarray(np.bincount(cells, minlength=classes * classes)).reshape(classes, classes)


def one_hot(targets: Array, classes: int, *, multilabel: bool) -> Array:
    """Give the truth of each class: `(N, A)` bool.

    Raises:
        LabelError: a class number outside the classes, or a finding that is neither 0 nor 1.
    """
    targets = np.asarray(targets)
    if multilabel:
        if targets.ndim != 2 or targets.shape[1] != classes or not np.isin(targets, (0, 1)).all():
            raise LabelError(f"multi-label targets are 0 or 1 of shape (N, {classes}), got shape {targets.shape}")
        return np.asarray(targets == 1)
    _within(targets, classes)
    return np.asarray(targets[:, None] == np.arange(classes))


def without_both(truth: Array) -> Array:
    """Say which classes of truth `(N, A)` lack positives or negatives, so that nothing can be said of them; `(A,)` bool."""
    truth = np.asarray(truth, dtype=bool)
    return np.asarray(truth.all(0) | ~truth.any(0))


def class_scores(logits: Array, *, multilabel: bool) -> Array:
    """Give each class's log-odds `(N, A)`: the logit of a finding; z_k - log sum over the others exp z for one class of many.

    >>> class_scores(np.array([[0.0, 3.0]]), multilabel=False).tolist()
    [[-3.0, 3.0]]
    """
    logits = np.asarray(logits, dtype=np.float64)
    if multilabel:
        return logits
    # Each class is left out in turn, since subtracting it from the whole sum would lose all digits of a sure answer.
    others = [np.logaddexp.reduce(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    with np.errstate(invalid="ignore"):  # infinite against infinite is NaN, as it should be
        return np.asarray(logits - np.stack(others, axis=1))


def operating_points(scores: Array, truth: Array, rule: Rule = "youden") -> Array:
    """Choose a threshold per class `(A,)`, to be used with `>`; meant for clean validation images.

    Args:
        scores: `(N, A)`.
        truth: `(N, A)` bool.
        rule: 'youden' for the largest sensitivity + specificity; ('sensitivity', 0.9) for the highest threshold that keeps
            it, ('specificity', 0.9) for the lowest.

    Thresholds lie half-way between neighbouring scores. A class that lacks positives or negatives has none: NaN.

    Raises:
        InputError: a NaN among the scores, or a rule that cannot be.

    >>> operating_points(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[False], [False], [True], [True]])).tolist()
    [1.5]
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    _same(scores, truth)
    if np.isnan(scores).any():
        raise InputError(
            f"{int(np.isnan(scores).any(1).sum())} of {len(scores)} images have a NaN score; no threshold fits them"
        )
    if rule != "youden" and not (rule[0] in ("sensitivity", "specificity") and 0 < rule[1] <= 1):
        raise InputError(f"the rule is 'youden', ('sensitivity', share) or ('specificity', share), got {rule!r}")
    missing = without_both(truth)
    points = [math.nan if missing[k] else _operating_point(scores[:, k], truth[:, k], rule) for k in range(scores.shape[1])]
    return np.array(points)


def sensitivity(scores: Array, truth: Array, threshold: float) -> float:
    """Give the share of the positives `(N,)` above the threshold; NaN without positives. A NaN score is missed."""
    truth = np.asarray(truth, dtype=bool)
    return float((np.asarray(scores)[truth] > threshold).mean()) if truth.any() else math.nan


def specificity(scores: Array, truth: Array, threshold: float) -> float:
    """Give the share of the negatives `(N,)` not above the threshold; NaN without negatives. A NaN score is a false alarm."""
    absent = ~np.asarray(truth, dtype=bool)
    return float((np.asarray(scores)[absent] <= threshold).mean()) if absent.any() else math.nan


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Give the positive and the negative predictive value at the prevalence of the place of use; NaN where none is called.

    >>> [round(v, 3) for v in predictive_values(0.9, 0.9, 0.1)]
    [0.5, 0.988]
    """
    hit, alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    miss, clear = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    return hit / (hit + alarm) if hit + alarm else math.nan, clear / (clear + miss) if clear + miss else math.nan


def f1_per_class(decisions: Array, targets: Array, classes: int, *, multilabel: bool) -> Array:
    """Give each class's F1 `(A,)`: 2 hits / (2 hits + false alarms + misses); NaN where it neither occurs nor is answered."""
    hits, called, present = _tallies(decisions, targets, classes, multilabel)
    total = called + present
    return np.asarray(np.divide(2 * hits, total, out=np.full(classes, np.nan), where=total > 0))


def macro_f1(decisions: Array, targets: Array, classes: int, *, multilabel: bool) -> float:
    """Give the plain mean of the classes' F1, over classes that occur or are answered."""
    scores = f1_per_class(decisions, targets, classes, multilabel=multilabel)
    return float(np.nanmean(scores)) if not np.isnan(scores).all() else math.nan


def micro_f1(decisions: Array, targets: Array, classes: int, *, multilabel: bool) -> float:
    """Give F1 over all classes' hits, alarms and misses together; for one class of many this is the accuracy.

    >>> flagged, truth = np.zeros(2000, dtype=int), np.repeat([0, 1], 1000)
    >>> micro_f1(flagged, truth, 2, multilabel=False), positive_f1(flagged, truth)
    (0.5, 0.0)
    """
    hits, called, present = _tallies(decisions, targets, classes, multilabel)
    total = int((called + present).sum())
    return float(2 * hits.sum() / total) if total else math.nan


def positive_f1(decisions: Array, targets: Array) -> float:
    """Give the F1 of class 1 alone, as of a disease, a finding or a detector's alarm."""
    return float(f1_per_class(decisions, targets, 2, multilabel=False)[1])


def _tallies(decisions: Array, targets: Array, classes: int, multilabel: bool) -> tuple[Array, Array, Array]:
    """Hits, answers and occurrences of each class, `(A,)` each."""
    decisions = np.asarray(decisions)
    _same(decisions, targets)
    truth = one_hot(targets, classes, multilabel=multilabel)
    called = decisions == 1 if multilabel else decisions[:, None] == np.arange(classes)
    return (called & truth).sum(0), called.sum(0), truth.sum(0)


def _operating_point(scores: Array, truth: Array, rule: Rule) -> float:
    levels = np.unique(scores)
    # Below the lowest score everything is called, at the highest nothing is.
    cuts = np.concatenate([[np.nextafter(levels[0], -np.inf)], (levels[:-1] + levels[1:]) / 2, [levels[-1]]])
    sens = 1 - np.searchsorted(np.sort(scores[truth]), cuts, side="right") / truth.sum()
    spec = np.searchsorted(np.sort(scores[~truth]), cuts, side="right") / (~truth).sum()
    if rule == "youden":
        best = sens + spec
        # Of equally good thresholds the middle one is the furthest from both sides.
        ties = np.flatnonzero(best >= best.max() - 1e-12)
        return float(cuts[ties[(len(ties) - 1) // 2]])
    kind, least = rule
    enough = np.flatnonzero((sens if kind == "sensitivity" else spec) >= least - 1e-12)
    return float(cuts[enough[-1] if kind == "sensitivity" else enough[0]])


def _same(decisions: Array, targets: Array) -> None:
    if np.shape(decisions) != np.shape(targets):
        raise InputError(f"decisions and targets belong together, got shapes {np.shape(decisions)} and {np.shape(targets)}")


def _within(targets: Array, classes: int) -> None:
    outside = targets[(targets < 0) | (targets >= classes)]
    if targets.ndim != 1 or outside.size:
        raise LabelError(f"targets are class numbers (N,) from 0 to {classes - 1}, got {outside[:1].tolist() or targets.shape}")
