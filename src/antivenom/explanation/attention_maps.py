"""What the attention layers of a network did on given images: what each gave to channels and to places.

Chen, Zhao, Chen, "Enhancing adversarial defense for medical image analysis systems with pruning and attention mechanism",
Medical Physics 2021, https://doi.org/10.1002/mp.15208: channel and spatial maps of CBAM, stage by stage (their Figure 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from antivenom.explanation.feature_maps import layer_outputs, network
from antivenom.models.attention import Bam, Cbam, SelfAttention, SoftAttention


@dataclass(frozen=True)
class Attention:
    """What one layer gave on each image.

    Attributes:
        kind: name of the layer's class.
        stage: the part of the network that it stands in.
        channels: `(B, C)`, the weight of each channel: of CBAM, of squeeze-and-excitation and its kin in [0, 1]; of BAM, whose
            gate is one for channels and places together, the mean over places. None: it weighs no channels.
        places: `(B, h, w)`, the weight of each place: of CBAM in [0, 1]; of BAM the mean over channels; of self-attention the
            mean over places of what they read there, which sums to 1; of Soft-Attention the sum over heads, each of which
            sums to 1. None: it weighs no places.
    """

    kind: str
    stage: str
    channels: Tensor | None
    places: Tensor | None


def attention_maps(model: nn.Module, images: Tensor) -> dict[str, Attention]:
    """Read every attention layer, by its name, in the order in which they run; none where the network has none.

    For one layer per stage, the last, take `{layer.stage: layer for layer in attention_maps(model, images).values()}`. To lay
    places over the stored image, use `feature_maps.over_image`.

    Args:
        model: a `Classifier`, whose layers are named as its backbone names them, or any other module; in evaluation mode. Read
            are the layers of `models.attention`, and layers of timm that answer with channels in a submodule `gate`.
        images: `(B, C, H, W)` in [0, 1], on any device; a bounded number is run at a time.

    Returns:
        Float32 on the CPU.

    Raises:
        ImageError, ModelError: as `layer_outputs`.

    >>> network = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), Cbam(32)).eval()
    >>> import torch
    >>> (layer,) = attention_maps(network, torch.rand(2, 1, 7, 7)).values()
    >>> layer.kind, tuple(layer.channels.shape), tuple(layer.places.shape)
    ('Cbam', (2, 32), (2, 7, 7))
    """
    layers = dict(network(model).named_modules())
    told = {name: _telling(layer) for name, layer in layers.items()}
    wanted = {_joined(name, part) for name, parts in told.items() for part in parts}
    seen = layer_outputs(model, images, lambda name, _: name in wanted)
    found = {}
    for told_by in seen:
        name = next(name for name, parts in told.items() if told_by in {_joined(name, part) for part in parts})
        if name not in found and (read := _read(layers[name], name, seen)) is not None:
            found[name] = read
    return found


def _telling(layer: nn.Module) -> tuple[str, ...]:
    """The submodules whose answers say what a layer attended to; an empty name for the layer itself, whose map has the size."""
    match layer:
        case Cbam():
            return "channel", "spatial"
        case SelfAttention():
            return "attention", ""
        case SoftAttention():
            return "heads", ""
        case _:
            return ("gate",) if "gate" in dict(layer.named_children()) else ()


def _read(layer: nn.Module, name: str, seen: Mapping[str, Tensor]) -> Attention | None:
    parts = [seen.get(_joined(name, part)) for part in _telling(layer)]
    first, last = parts[0], parts[-1]
    if first is None or last is None:
        return None
    channels: Tensor | None = None
    places: Tensor | None = None
    match layer:
        case Cbam():
            channels, places = first[:, :, 0, 0], last[:, 0]
        case Bam():
            channels, places = first.mean((2, 3)), first.mean(1)
        case SelfAttention():
            places = first.mean(1).reshape(len(first), *last.shape[2:])
        case SoftAttention():
            places = first.sum(1).reshape(len(first), *last.shape[2:])
        case _ if first.shape[2:].numel() == 1 or (first.ndim == 3 and first.shape[1] == 1):
            channels = first.flatten(1)
        case _:
            return None
    return Attention(type(layer).__name__, _stage(name), channels, places)


def _stage(name: str) -> str:
    """The name up to its first number: `layer1` of `layer1.0.se.cbam`; else all but its end: `features` of `features.soft`."""
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part[-1:].isdigit()), max(0, len(parts) - 2))
    return ".".join(parts[: numbered + 1])


def _joined(name: str, part: str) -> str:
    return ".".join(filter(None, (name, part)))
