"""When an image is accepted, when nothing is said about it, and when it is turned away; and the words for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from antivenom.errors import SettingsError
from antivenom.task import Task


class Verdict(IntEnum):
    """What becomes of an image; as a number in `Guarded.verdict`."""

    ACCEPT = 0  # the answer may be used
    ABSTAIN = 1  # the image looks as it should, but the classifier is not sure
    REJECT = 2  # the image does not look as those that the classifier is known on: its answer means nothing


@dataclass(frozen=True)
class Policy:
    """What decides. Rejecting wins over abstaining, and whatever is not finite is rejected.

    Attributes:
        rate: joint false-alarm rate: at most this share of clean images is expected to be rejected. Several detectors share it
            evenly (Bonferroni), so that the promise holds however their scores depend on each other.
        detectors: names of those that decide; None: all. The others are scored and flagged, at a threshold of the same share.
        confidence: least calibrated probability of the answer below which the guard abstains, in (0, 1); None: any will do.
            For findings, of each one's answer, present or absent.
        single: whether the guard abstains where the prediction set does not hold exactly one class; of findings, where the
            set of one of them does not hold exactly one decision.
        findings: of a multi-label task, those that must be sure; None: all. With many findings some is nearly always unsure.

    Raises:
        SettingsError: a rate or confidence that is no probability, or an empty or repeated list of names.

    >>> Policy(rate=0.05, detectors=("gaussian", "energy")).share(3)
    0.025
    """

    rate: float = 0.05
    detectors: tuple[str, ...] | None = None
    confidence: float | None = None
    single: bool = True
    findings: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise SettingsError(f"a false-alarm rate lies between 0 and 1, got {self.rate}; 0.05 is usual")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise SettingsError(f"a least confidence lies between 0 and 1, got {self.confidence}; leave it out for none")
        for what, names in (("detectors", self.detectors), ("findings", self.findings)):
            if names is not None and (not names or len(set(names)) != len(names)):
                raise SettingsError(f"{what} are named once each, at least one; got {list(names)}; None stands for all")

    def deciding(self, names: Sequence[str]) -> list[bool]:
        """Which of the detectors decide.

        Raises:
            SettingsError: one that decides is not there.
        """
        return _which(names, self.detectors, "detector")

    def sure(self, task: Task) -> list[bool]:
        """Which findings must be sure.

        Raises:
            SettingsError: one that is not among them, or a list of findings where classes exclude each other.
        """
        if self.findings is not None and not task.multilabel:
            raise SettingsError(f"findings {list(self.findings)} are named, but the classes exclude each other; leave them out")
        return _which(task.classes, self.findings, "finding")

    def share(self, detectors: int) -> float:
        """The false-alarm rate of each detector that decides: of so many, where this policy names none."""
        return self.rate / (detectors if self.detectors is None else len(self.detectors))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "rate": self.rate,
            "detectors": None if self.detectors is None else list(self.detectors),
            "confidence": self.confidence,
            "single": self.single,
            "findings": None if self.findings is None else list(self.findings),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Policy:
        """The policy that `to_dict` wrote."""
        detectors, findings, confidence = values["detectors"], values["findings"], values["confidence"]
        return Policy(
            float(values["rate"]),
            None if detectors is None else tuple(str(name) for name in detectors),
            None if confidence is None else float(confidence),
            bool(values["single"]),
            None if findings is None else tuple(str(name) for name in findings),
        )

    def describe(self, names: Sequence[str]) -> str:
        """The policy in a sentence, for the card.

        >>> Policy().describe(["gaussian"])
        'rejects what gaussian flags at a false-alarm rate of 5 %; abstains where the prediction set does not hold exactly one'
        """
        deciding = [name for name, decides in zip(names, self.deciding(names), strict=True) if decides]
        rate, each = f"{100 * self.rate:g} %", f"{100 * self.share(len(names)):.3g} %"
        joint = f"{rate}, {each} each" if len(deciding) > 1 else rate
        rejects = (
            f"rejects what {_or(deciding)} flags at a false-alarm rate of {joint}" if deciding else "rejects nothing unlike"
        )
        unsure = [f"the answer is below {100 * self.confidence:g} %"] if self.confidence is not None else []
        unsure += ["the prediction set does not hold exactly one"] if self.single else []
        return f"{rejects}; {f'abstains where {_or(unsure)}' if unsure else 'never abstains'}"


def looks_unlike(name: str, score: float, threshold: float, rate: float) -> str:
    """Say why a detector rejects.

    >>> looks_unlike("gaussian", 1490.77, 1450.2, 0.05)
    'looks unlike the clean images it was fitted on: gaussian score 1490.8, above 1450.2, which 5 % of clean images exceed'
    """
    above, below = _apart(score, threshold)
    return (
        f"looks unlike the clean images it was fitted on: {name} score {above}, above {below}, "
        f"which {100 * rate:.3g} % of clean images exceed"
    )


def holds(members: Sequence[str], coverage: float) -> str:
    """Say why a prediction set abstains.

    >>> holds(["normal", "pneumonia"], 0.9)
    'prediction set holds normal and pneumonia at 90 % coverage'
    """
    return f"prediction set holds {_and(members) or 'no class'} at {100 * coverage:g} % coverage"


def unsure(decision: str, probability: float, least: float) -> str:
    """Say why a confidence abstains.

    >>> unsure("pneumonia", 0.612, 0.8)
    'pneumonia at 61.2 %, below the 80 % asked for'
    """
    return f"{decision} at {100 * probability:.1f} %, below the {100 * least:g} % asked for"


def _apart(score: float, threshold: float) -> tuple[str, str]:
    """Both numbers with as many digits as tell them apart, at least one."""
    for digits in range(1, 8):
        above, below = f"{score:.{digits}f}", f"{threshold:.{digits}f}"
        if above != below and (abs(threshold) >= 1 or digits > 2):
            return above, below
    return f"{score:.9g}", f"{threshold:.9g}"


def _which(names: Sequence[str], named: Sequence[str] | None, what: str) -> list[bool]:
    unknown = [name for name in named or () if name not in names]
    if unknown:
        raise SettingsError(f"the policy names {what} {unknown[0]!r}; there is {', '.join(names) or 'none'}")
    return [named is None or name in named for name in names]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
