"""Everything that antivenom raises on purpose. A message repeats the caller's value and says what to do.

AntivenomError
├── InputError (ValueError)     something the caller handed in
│   ├── DataError               a root, a file, a column or a set that is missing or malformed
│   │   ├── ImageError          one image: unreadable, truncated, not finite, out of range, wrong channels
│   │   ├── LabelError          a label outside the classes, or of the wrong kind
│   │   └── SplitError          a patient, subject or lesion in more than one split
│   ├── WeightsError            a weight file that is unsafe, damaged or does not fit
│   └── SettingsError           a protocol, preset or option that cannot be
├── ModelError                  a model in training mode, or one that answers in the wrong shape
├── EndpointError               a model that only answers, and does so no more: its budget is spent, or it cannot be reached
├── RecordsError                a run folder that belongs to another run, or cannot be written
└── NotMeasuredError            a report was asked to state what no record shows
"""

from __future__ import annotations


class AntivenomError(Exception):
    """The root of the tree: the command line turns it into one line and exit code 2."""


class InputError(AntivenomError, ValueError):
    """Something the caller handed in."""


class DataError(InputError):
    """A root, a file, a column or a set that is missing or malformed."""


class ImageError(DataError):
    """An image that is unreadable, truncated, not finite, out of range or has the wrong channels."""


class LabelError(DataError):
    """A label outside the classes, or of the wrong kind."""


class SplitError(DataError):
    """A patient, subject or lesion in more than one split."""


class WeightsError(InputError):
    """A weight file that is unsafe, damaged or does not fit."""


class SettingsError(InputError):
    """A protocol, preset or option that cannot be."""


class ModelError(AntivenomError):
    """A model in training mode, or one that answers in the wrong shape."""


class EndpointError(AntivenomError):
    """A model that only answers, and does so no more: its budget is spent, or it cannot be reached."""


class RecordsError(AntivenomError):
    """A run folder that belongs to another run, or cannot be written."""


class NotMeasuredError(AntivenomError):
    """A report was asked to state what no record shows."""


class InterruptedWorkError(AntivenomError):
    """The user stopped long work; what is finished is stored."""
