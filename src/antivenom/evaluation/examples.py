"""What a record holds of an attacked image itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from antivenom.attacks import AttackResult


def measures(x: Tensor, result: AttackResult, reached: Tensor) -> list[dict[str, Any]]:
    """What an `Example` holds of the stored image itself: whether the goal was met, sizes, cost and what was suspicious.

    Args:
        x: the unchanged images `(B, C, H, W)`.
        result: what the attack left of them.
        reached: `(B,)` on the CPU: whether the caller's own model, in float32, says that the goal is met.
    """
    flags = {**result.flags, "unconfirmed": result.success.cpu() & ~reached}
    delta = (result.x_adv - x).cpu().flatten(2)
    columns = {
        "reached": reached.tolist(),
        "linf": delta.abs().amax((1, 2)).tolist(),
        "l2": delta.square().sum((1, 2)).sqrt().tolist(),
        "l1": delta.abs().sum((1, 2)).tolist(),
        "l0": (delta != 0).sum((1, 2)).tolist(),
        "queries": result.queries.tolist(),
        "gradients": result.gradients.tolist(),
        "flags": [tuple(name for name, raised in flags.items() if raised[i]) for i in range(len(x))],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
