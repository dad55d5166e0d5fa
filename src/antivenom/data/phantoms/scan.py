"""One drawn picture."""

from __future__ import annotations

from dataclasses import dataclass

from antivenom.data.phantoms.canvas import Array


@dataclass(frozen=True)
class Scan:
    """A picture and where it differs from the same body in health."""

    image: Array  # (C, H, W) float32 in [0, 1]
    mask: Array  # (H, W) bool
