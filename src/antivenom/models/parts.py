"""What can be built into a backbone: attention and activations, and where each goes. `architectures` reads their names.

The parts are appended to layers that are there, fill a slot that is empty or take the place of a layer without weights, so no
tensor of the backbone changes its name, and pretrained weights load as into the plain network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from antivenom.models.attention import Bam, Cbam, SelfAttention, SoftAttention
from antivenom.models.kwta import RATIO, KWinners, set_ratio

Sites = Mapping[str, tuple[tuple[str, int], ...]]  # for each backbone, as timm calls it: names of layers, and channels there


@dataclass(frozen=True)
class Part:
    """One kind of layer that can be built in.

    Attributes:
        title: as a reader knows it.
        paper: where it is from.
        place: where it goes, in words.
        start: what it does to a pretrained network before it has learnt anything.
        make: the layer for a map of so many channels, `(B, C, H, W)` to the same shape.
        sites: the backbones that it goes into, and where.
        ratio: what stands for the number after its colon where none is given; None: it takes no number.
        note: what a reader of any figure about such a model must be told.
    """

    title: str
    paper: str
    place: str
    start: str
    make: Callable[[int], nn.Module]
    sites: Sites
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class BuiltIn:
    """A part as a name gives it.

    Attributes:
        name: a key of `PARTS`.
        ratio: the share of values that it keeps, where it takes one.
    """

    name: str
    ratio: float | None = None

    @property
    def part(self) -> Part:
        """The row of the table."""
        return PARTS[self.name]

    def insert(self, network: nn.Module, timm_name: str) -> nn.Module:
        """Build it into a network that timm made under this name, in place, and return the network."""
        for site, channels in self.part.sites[timm_name]:
            _put(network, site, self.name, self.part.make(channels))
        if self.ratio is not None:
            set_ratio(network, self.ratio)
        return network


def _put(network: nn.Module, site: str, name: str, layer: nn.Module) -> None:
    holder, _, attribute = site.rpartition(".")
    owner = network.get_submodule(holder)
    there = getattr(owner, attribute)
    if there is None:
        setattr(owner, attribute, nn.Sequential(OrderedDict({name: layer})))
    elif isinstance(there, nn.ReLU):
        setattr(owner, attribute, layer)
    else:
        assert isinstance(there, nn.Sequential), f"timm has changed {site}"
        there.add_module(name, layer)


# -- where -------------------------------------------------------------------------------------------------------------

# Channels and number of the residual blocks of the four stages, and activations in a block.
_RESNETS = {
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2), 2),
    "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3), 2),
    "resnet50": ((256, 512, 1024, 2048), (3, 4, 6, 3), 3),
}
# timm calls the slot in front of the addition `se`, whatever is in it.
_BLOCKS: Sites = {
    name: tuple((f"layer{i + 1}.{j}.se", width) for i, width in enumerate(widths) for j in range(numbers[i]))
    for name, (widths, numbers, _) in _RESNETS.items()
}
# Of an EfficientNet, the ends of its stages at strides 4, 8, 16 and 32; the widening convolution follows the last.
_STAGES: Sites = {
    **{name: tuple((f"layer{i + 1}", width) for i, width in enumerate(row[0])) for name, row in _RESNETS.items()},
    "densenet121": (*((f"features.transition{i + 1}", width) for i, width in enumerate((128, 256, 512))), ("features", 1024)),
    "efficientnet_b0": (("blocks.1", 24), ("blocks.2", 40), ("blocks.4", 112), ("blocks.6", 320)),
}
_BEFORE_THE_LAST: Sites = {name: stages[:-1] for name, stages in _STAGES.items()}
_LAST: Sites = {name: stages[-1:] for name, stages in _STAGES.items()}
_BLOCKS_OR_STAGES: Sites = {**_STAGES, **_BLOCKS}
_DENSE = (
    *(f"denseblock{i + 1}.denselayer{j + 1}.norm{k}" for i, n in enumerate((6, 12, 24, 16)) for j in range(n) for k in (1, 2)),
    *(f"transition{i}.norm" for i in (1, 2, 3)),
)
_ACTIVATIONS: Sites = {
    **{
        name: tuple((f"layer{i + 1}.{j}.act{k + 1}", 0) for i in range(4) for j in range(numbers[i]) for k in range(each))
        for name, (_, numbers, each) in _RESNETS.items()
    },
    "densenet121": tuple((f"features.{name}.act", 0) for name in _DENSE),
}


def _squeeze_excitation(channels: int) -> nn.Module:
    from timm.layers.squeeze_excite import SEModule

    layer: nn.Module = SEModule(channels)
    return layer


def _efficient_channel(channels: int) -> nn.Module:
    from timm.layers.eca import EcaModule

    layer: nn.Module = EcaModule(channels)
    return layer


_AFTER_STAGES = "after every stage of a DenseNet (behind its transition) or an EfficientNet, of which the paper says nothing"

PARTS: dict[str, Part] = {
    "cbam": Part(
        "CBAM",
        "Woo et al., ECCV 2018, https://arxiv.org/abs/1807.06521",
        f"after the last norm of every residual block of a ResNet, before the addition; {_AFTER_STAGES}",
        "half of what its channel gate, a random one near one half, leaves of each map",
        Cbam,
        _BLOCKS_OR_STAGES,
    ),
    "bam": Part(
        "BAM",
        "Park et al., BMVC 2018, https://arxiv.org/abs/1807.06514",
        "after each stage but the last",
        "each map is multiplied by 1 to 2, by about 1.5",
        Bam,
        _BEFORE_THE_LAST,
    ),
    "self": Part(
        "self-attention",
        "Zhang et al., ICML 2019, https://arxiv.org/abs/1805.08318",
        "after the last stage",
        "nothing, its gamma is 0",
        SelfAttention,
        _LAST,
    ),
    "soft": Part(
        "Soft-Attention",
        "Datta et al., iMIMIC 2021, https://arxiv.org/abs/2105.03358",
        "after the last stage",
        "the last map is weighed by random maps that add up to 16 over its places",
        SoftAttention,
        _LAST,
    ),
    "se": Part(
        "squeeze-and-excitation",
        "Hu, Shen, Sun, CVPR 2018, https://arxiv.org/abs/1709.01507; timm's layer, at least 8 channels inside",
        "after the last norm of every residual block, before the addition",
        "each channel is multiplied by a random weight near one half",
        _squeeze_excitation,
        _BLOCKS,
    ),
    "eca": Part(
        "efficient channel attention",
        "Wang et al., CVPR 2020, https://arxiv.org/abs/1910.03151; timm's layer",
        "after the last norm of every residual block, before the addition",
        "each channel is multiplied by a random weight near one half",
        _efficient_channel,
        _BLOCKS,
    ),
    "kwta": Part(
        "k-winners-take-all",
        "Xiao et al., ICLR 2020, https://arxiv.org/abs/1905.10510",
        "for every ReLU of the four stages; those of the stem and, in a DenseNet, in front of the pooling stay",
        "another function than the one learnt, since the largest values pass and not the positive ones",
        lambda _: KWinners(),
        _ACTIVATIONS,
        ratio=RATIO,
        note=(
            "k-winners-take-all hides gradients: attacks that climb them look weaker than they are (Tramèr et al., NeurIPS "
            "2020); read the attacks that only ask for answers, and transfer, beside them."
        ),
    ),
}
