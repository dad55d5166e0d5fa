"""Numbers and sizes as a reader without a degree in either field understands them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from antivenom.metrics.intervals import Estimate
from antivenom.records.plan import PlanRow

NOT_MEASURED = "not measured"


def norm(threat: str) -> str:
    """The norm of a threat, such as `linf`, or the name of a transformation."""
    return threat.split(",")[0].strip()


def threat_name(threat: str) -> str:
    """A threat as a heading.

    >>> threat_name("linf, grid 1/255")
    'L∞, grid 1/255'
    """
    name, _, rest = threat.partition(",")
    return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}.get(name, name) + (f",{rest}" if rest else "")


def plain(number: float, digits: int = 3) -> str:
    """A number with as few digits as tell it.

    >>> plain(0.5), plain(8.0), plain(0.47619)
    ('0.5', '8', '0.476')
    """
    return f"{number:.{digits}g}"


def size_in_words(threat: str, epsilon: float, values: int) -> str:
    """An epsilon in a sentence; `values` is channels x height x width, over which other norms spread.

    >>> size_in_words("linf", 2 / 255, 4096)
    'at most 2 of 255 grey levels in any pixel'
    >>> size_in_words("l0", 41.0, 4096)
    'any change of 41 values (1 % of the image)'
    """
    kind = norm(threat)
    if kind == "linf":
        return f"at most {plain(epsilon * 255)} of 255 grey levels in any pixel"
    if kind == "stripes":
        return f"at most {plain(epsilon * 255)} of 255 grey levels, the same all down a column"
    if kind == "l2":
        return f"{plain(typical_levels(epsilon, values), 2)} of 255 grey levels in a typical pixel (L2 norm {plain(epsilon)})"
    if kind == "l1":
        return f"{plain(255 * epsilon / values, 2)} of 255 grey levels in the mean over pixels (L1 norm {plain(epsilon)})"
    if kind == "l0":
        return f"any change of {epsilon:g} values ({plain(100 * epsilon / values, 2)} % of the image)"
    return f"{100 * epsilon:.3g} % of the limits of {kind}"


def typical_levels(epsilon: float, values: int) -> float:
    """The root mean square change of a value, in grey levels of 8 bits, of a perturbation of that L2 norm."""
    return 255 * epsilon / math.sqrt(values)


def percent(estimate: Estimate, digits: int = 1) -> str:
    """A share without its interval.

    >>> percent(Estimate(0.834, 0.79, 0.87, 500, 312, "Wilson"))
    '83.4 %'
    """
    return f"{100 * estimate.value:.{digits}f} %" if estimate.measured else NOT_MEASURED


def of_hundred(estimate: Estimate) -> str:
    """How many of a hundred; never 'none' or 'all' by rounding.

    >>> of_hundred(Estimate(0.996, 0.97, 1.0, 250, 250, "Wilson")), of_hundred(Estimate(1.0, 0.97, 1.0, 250, 250, "Wilson"))
    ('more than 99', '100')
    """
    whole = round(100 * estimate.value)
    if whole == 100 and estimate.value < 1:
        return "more than 99"
    if whole == 0 and estimate.value > 0:
        return "fewer than 1"
    return str(whole)


def interval_of_hundred(estimate: Estimate) -> str:
    """The interval of a share, of a hundred.

    >>> interval_of_hundred(Estimate(0.834, 0.791, 0.87, 500, 312, "Wilson"))
    '79 to 87'
    """
    return f"{math.floor(100 * estimate.low + 0.5)} to {math.floor(100 * estimate.high + 0.5)}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a sentence.

    >>> listed(["FGSM", "PGD", "Square"])
    'FGSM, PGD and Square'
    """
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun.

    >>> counted(1, "image"), counted(3, "patient")
    ('1 image', '3 patients')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def goal_in_words(goal: str) -> str:
    """What an adversary wants, in a phrase."""
    kind, _, names = (part.strip() for part in goal.partition(":"))
    return {
        "untargeted": "any wrong answer",
        "targeted": f"the answer ‘{names}’ for images of any other class",
        "against every finding": "the wrong answer about every finding at once",
        "hide": f"to hide: {names}",
        "invent": f"to invent: {names}",
    }.get(kind, goal)


def settings_in_words(row: PlanRow) -> str:
    """An attack's settings, e.g. `steps 40, step size 0.1`.

    >>> settings_in_words(PlanRow(1, "pgd", "pgd", {"steps": 40, "step_size": 0.1}, "untargeted", "linf", 0.1, "fooled"))
    'step size 0.1, steps 40'
    """
    shown = {k: plain(v) if isinstance(v, float) else str(v) for k, v in sorted(row.settings.items())}
    return ", ".join(f"{name.replace('_', ' ')} {value.replace('_', ' ')}" for name, value in shown.items())
