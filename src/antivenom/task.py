"""What a classifier is asked to decide. Data sets, models, records and reports all carry the same `Task`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antivenom.errors import LabelError


@dataclass(frozen=True)
class Task:
    """Class names and whether an image has exactly one of them.

    Attributes:
        classes: names in the order of the logits. A binary task has two classes; by convention the last one is the disease.
        multilabel: False where each image has exactly one class (softmax); True where each class is a finding of its own
            that is present or absent (sigmoid).

    >>> Task(("normal", "pneumonia")).positive
    'pneumonia'
    >>> Task(("Effusion", "Mass"), multilabel=True).decisions
    2
    """

    classes: tuple[str, ...]
    multilabel: bool = False

    def __post_init__(self) -> None:
        fewest = 1 if self.multilabel else 2
        if len(self.classes) < fewest or len(set(self.classes)) != len(self.classes):
            raise LabelError(f"a task needs at least {fewest} classes with different names, got {list(self.classes)}")

    @property
    def binary(self) -> bool:
        """Two classes that exclude each other."""
        return not self.multilabel and len(self.classes) == 2

    @property
    def positive(self) -> str:
        """The disease of a binary task: its last class."""
        if not self.binary:
            raise LabelError(f"only a binary task has a positive class, this one has {len(self.classes)} classes")
        return self.classes[-1]

    @property
    def decisions(self) -> int:
        """Decisions taken about one image: one, or one per finding."""
        return len(self.classes) if self.multilabel else 1

    def index(self, name: str) -> int:
        """The place of a class by its name."""
        if name not in self.classes:
            raise LabelError(f"no class {name!r}; this task has {', '.join(self.classes)}")
        return self.classes.index(name)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"classes": list(self.classes), "multilabel": self.multilabel}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Task:
        """The task that `to_dict` wrote."""
        classes: Sequence[Any] = values["classes"]
        return Task(tuple(str(name) for name in classes), bool(values["multilabel"]))
