"""What a guard says of one image, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from antivenom.guard.policy import Verdict, holds, looks_unlike, unsure
from antivenom.task import Task

if TYPE_CHECKING:
    from antivenom.guard.guard import Guard, Guarded

NOTHING = "nothing"  # the decision where no finding is present, or the answer is not finite


@dataclass(frozen=True)
class Finding:
    """What a guard says of one image, for people.

    Attributes:
        decision: the likeliest class, or the findings present, whatever the verdict; `nothing` where there is none.
        probability: calibrated, by class.
        set: the classes in the prediction set; of findings, each with what it may be (`Mass absent`, `Mass present`).
        verdict: what becomes of the image.
        reason: why, in words; empty where it is accepted.
        scores: by detector.
    """

    decision: str
    probability: dict[str, float]
    set: tuple[str, ...]
    verdict: Verdict
    reason: str
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: text where a number is not finite."""
        return {
            "decision": self.decision,
            "probability": {name: _plain(value) for name, value in self.probability.items()},
            "set": list(self.set),
            "verdict": self.verdict.name.lower(),
            "reason": self.reason,
            "scores": {name: _plain(value) for name, value in self.scores.items()},
        }


def explained(guard: Guard, answer: Guarded, row: int, *, sound: bool) -> Finding:
    """Put one row of a guard's answer in words.

    Args:
        guard: that answered.
        answer: on the CPU.
        row: of the image.
        sound: whether its values were finite.
    """
    scores = {watch.name: score for watch, score in zip(guard.watches, answer.scores[row].tolist(), strict=True)}
    verdict = Verdict(int(answer.verdict[row]))
    reasons: list[str] = []
    if verdict is Verdict.REJECT:
        reasons = _alarms(guard, answer, row, scores) if sound else ["its values are not all finite"]
    elif verdict is Verdict.ABSTAIN:
        reasons = _doubts_of_findings(guard, answer, row) if guard.task.multilabel else _doubts(guard, answer, row)
    return Finding(
        _decision(answer.logits[row], guard.task),
        dict(zip(guard.task.classes, answer.probabilities[row].tolist(), strict=True)),
        _names(answer.members[row], guard.task),
        verdict,
        "; ".join(reasons),
        scores,
    )


def _alarms(guard: Guard, answer: Guarded, row: int, scores: dict[str, float]) -> list[str]:
    if not bool(answer.logits[row].isfinite().all()):
        return ["the classifier's answer is not finite"]
    decides, flagged = guard.policy.deciding(list(scores)), answer.flagged[row].tolist()
    said = []
    for watch, deciding, above in zip(guard.watches, decides, flagged, strict=True):
        score = scores[watch.name]
        if not math.isfinite(score):
            said.append(f"the {watch.name} score is not finite")
        elif deciding and above:
            said.append(looks_unlike(watch.name, score, watch.threshold.value, watch.threshold.rate))
    return said


def _doubts(guard: Guard, answer: Guarded, row: int) -> list[str]:
    members, least = _names(answer.members[row], guard.task), guard.policy.confidence
    said = [holds(members, guard.sets.coverage)] if guard.policy.single and len(members) != 1 else []
    most = answer.probabilities[row].max()
    if least is not None and not float(most) >= least:
        said.append(unsure(_decision(answer.logits[row], guard.task), float(most), least))
    return said


def _doubts_of_findings(guard: Guard, answer: Guarded, row: int) -> list[str]:
    least, said = guard.policy.confidence, []
    for place, (name, counts) in enumerate(zip(guard.task.classes, guard.policy.sure(guard.task), strict=True)):
        if not counts:
            continue
        chance, sides = float(answer.probabilities[row, place]), _sides(name)
        held = [side for side, there in zip(sides, answer.members[row, place].tolist(), strict=True) if there]
        if guard.policy.single and len(held) != 1:
            said.append(holds(held or [f"neither {' nor '.join(sides)}"], guard.sets.coverage))
        if least is not None and not max(chance, 1 - chance) >= least:
            said.append(unsure(sides[chance > 0.5], max(chance, 1 - chance), least))
    return said


def _decision(logits: Tensor, task: Task) -> str:
    if not bool(logits.isfinite().all()):
        return NOTHING
    if not task.multilabel:
        return task.classes[int(logits.argmax())]
    return ", ".join(name for name, value in zip(task.classes, logits.tolist(), strict=True) if value > 0) or NOTHING


def _names(members: Tensor, task: Task) -> tuple[str, ...]:
    sides = [side for name in task.classes for side in (_sides(name) if task.multilabel else (name,))]
    return tuple(side for side, there in zip(sides, members.flatten().tolist(), strict=True) if there)


def _sides(name: str) -> tuple[str, str]:
    return f"{name} absent", f"{name} present"


def _plain(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)
