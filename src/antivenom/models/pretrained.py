"""Weights that were learnt elsewhere, put into a network for another task, with an account of what really went in."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from antivenom.errors import WeightsError
from antivenom.models.tensor_files import load_weights_file

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_PATIENCE = 5.0  # seconds; timm's own download tries for most of a minute before it says that there is no network


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a weight file and of every tensor of the network.

    Attributes:
        source: where the weights came from.
        loaded: tensors of the network that were filled, by name; some of them `adapted`.
        adapted: how those that did not fit as they were were made to fit.
        skipped: tensors of the file that were not used, and why.
        missing: tensors of the network that kept their random start, and why.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    skipped: Mapping[str, str]
    missing: Mapping[str, str]

    def __str__(self) -> str:
        """One line: counts, and the reasons."""
        total = len(self.loaded) + len(self.missing)
        parts = [f"{self.source}: {len(self.loaded)} of {total} tensors loaded"]
        if self.adapted:
            parts.append("adapted: " + "; ".join(f"{name} ({how})" for name, how in self.adapted.items()))
        for word, group in (("skipped", self.skipped), ("left as initialised", self.missing)):
            reasons = Counter(group.values())
            if group:
                parts.append(f"{len(group)} {word} ({'; '.join(f'{n} {why}' for why, n in reasons.items())})")
        return ", ".join(parts)


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str, stem: str, head: str) -> LoadReport:
    """Fill a network with the tensors that fit it; the stem is adapted to other channels, a head for other classes left out.

    Args:
        stem, head: names of the first convolution and of the last layer in the network.

    Raises:
        WeightsError: less than half of the network besides its head would be filled: these are the weights of another.
    """
    own = network.state_dict()
    values, adapted, missing = {}, {}, {}
    for name, wanted in own.items():
        given = tensors.get(name)
        if given is None:
            missing[name] = "not in the file"
        elif given.shape == wanted.shape:
            values[name] = given
        elif name == f"{stem}.weight" and given.shape[2:] == wanted.shape[2:] and {given.shape[1], wanted.shape[1]} == {1, 3}:
            # Grey copied to three channels would meet the sum of the three; colour averaged to grey, a third of it each.
            values[name] = given.sum(1, keepdim=True) if wanted.shape[1] == 1 else given.expand_as(wanted) / 3
            adapted[name] = f"{given.shape[1]} to {wanted.shape[1]} channel(s)"
        elif name.startswith(f"{head}."):
            missing[name] = "for other classes"
        else:
            missing[name] = "of another shape"
    body = {name: tensor.numel() for name, tensor in own.items() if not name.startswith(f"{head}.")}
    if sum(body[name] for name in values if name in body) < sum(body.values()) / 2:
        raise WeightsError(
            f"{source} fits only {len(values)} of {len(own)} tensors of this network, less than half of its weights; "
            "are these the weights of another architecture?"
        )
    skipped = {name: missing.get(name, "not in the network") for name in tensors if name not in values}
    network.load_state_dict({**own, **values})
    return LoadReport(source, tuple(values), adapted, skipped, missing)


def initialise(network: nn.Module, pretrained: bool | Path, *, timm_name: str, stem: str, head: str) -> LoadReport:
    """Fill a network with timm's own pretrained weights (True) or those of a local file.

    Raises:
        WeightsError: they cannot be reached, or do not fit.
    """
    if isinstance(pretrained, Path):
        tensors, source = _as_timm(load_weights_file(pretrained), timm_name), str(pretrained)
    else:
        tensors, source = _from_timm(timm_name)
    return load_tensors(network, tensors, source=source, stem=stem, head=head)


def learnt_on(timm_name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that timm's weights expect; their averages where the stem was summed to grey."""
    config = _config(timm_name)
    if channels == 3:
        return tuple(config.mean), tuple(config.std)
    return (sum(config.mean) / 3,), (sum(config.std) / 3,)


def _config(timm_name: str) -> PretrainedCfg:
    import timm

    config = timm.get_pretrained_cfg(timm_name)
    if config is None:
        raise WeightsError(f"timm has no pretrained weights of {timm_name}; train it from scratch")
    return config


def _from_timm(timm_name: str) -> tuple[dict[str, Tensor], str]:
    import timm

    repository = _config(timm_name).hf_hub_id
    source = repository or timm_name
    advice = f"weights of {timm_name} ({source}) cannot be downloaded; give a local .safetensors or .pth file instead"
    if not _in_cache(repository) and not _reachable():
        raise WeightsError(f"no network: {advice}")
    try:
        with torch.random.fork_rng(devices=[]):
            donor = timm.create_model(timm_name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{advice} ({str(error).splitlines()[0]})") from error
    return dict(donor.state_dict()), source


def _in_cache(repository: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return repository is not None and isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def _reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}:
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False


def _as_timm(tensors: dict[str, Tensor], timm_name: str) -> dict[str, Tensor]:
    """Names and shapes of torchvision's files as timm has them; other files stay as they are."""
    if timm_name.startswith("vgg"):
        layers = {"classifier.0": ("pre_logits.fc1", 7), "classifier.3": ("pre_logits.fc2", 1), "classifier.6": ("head.fc", 0)}
        renamed = {}
        for name, tensor in tensors.items():
            layer, _, kind = name.rpartition(".")
            new, side = layers.get(layer, (layer, 0))
            kernel = (len(tensor), -1, side, side) if side and kind == "weight" else tensor.shape
            renamed[f"{new}.{kind}"] = tensor.reshape(kernel)
        return renamed
    if timm_name.startswith("densenet"):  # files older than 2018 write norm.1 for norm1
        return {re.sub(r"(norm|conv)\.([12])\.", r"\1\2.", name): tensor for name, tensor in tensors.items()}
    return tensors
