"""Where a command computes."""

from __future__ import annotations

import torch

from antivenom.errors import SettingsError


def chosen_device(name: str | None) -> torch.device:
    """The device asked for; the GPU where there is one and none is asked for.

    Raises:
        SettingsError: no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
