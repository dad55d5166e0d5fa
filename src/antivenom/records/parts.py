"""A measurement in several parts, each a document of its own; a part that cannot be measured says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from antivenom.errors import NotMeasuredError
from antivenom.records.store import Store

WHY_NOT = "why_not"  # in place of what a part measures, where the model or the images do not allow it
Documents = Mapping[str, Mapping[str, Any]]


class InParts:
    """What is known of the parts of a measurement.

    Attributes:
        all_parts: the names of all.
        parts: the documents that are there, by name.
    """

    all_parts: ClassVar[tuple[str, ...]]
    parts: Documents

    @property
    def finished(self) -> bool:
        """Whether every part was looked at."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that nobody has looked at yet."""
        return tuple(name for name in self.all_parts if name not in self.parts)

    @property
    def impossible(self) -> dict[str, str]:
        """Parts that cannot be measured, and why."""
        return {name: str(self.parts[name][WHY_NOT]) for name in self.all_parts if WHY_NOT in self.parts.get(name, {})}

    def has(self, part: str) -> bool:
        """Whether a part was measured."""
        return part in self.parts and WHY_NOT not in self.parts[part]

    def part(self, name: str) -> Mapping[str, Any]:
        """A document.

        Raises:
            NotMeasuredError: it is not there, or says why it cannot be.
        """
        if name not in self.parts:
            raise NotMeasuredError(f"{name} is not measured; run the same command again, it goes on where it stopped")
        if WHY_NOT in self.parts[name]:
            raise NotMeasuredError(f"{name} cannot be measured: {self.parts[name][WHY_NOT]}")
        return self.parts[name]


def read_parts(store: Store, home: str, names: tuple[str, ...]) -> Documents:
    """The documents of a run that are there.

    Raises:
        RecordsError: one is damaged.
    """
    return {name: store.document(f"{home}/{name}") for name in names if store.has_document(f"{home}/{name}")}
