"""Gathering taps gives what a convolution gives, in every setting, forward and backward."""

import copy

import pytest
import timm
import torch
from torch import nn

from antivenom.models import small_maps
from antivenom.models.small_maps import SmallMapConv2d, on_small_maps


@pytest.fixture
def gathers(monkeypatch):
    """Let every map be small enough."""
    monkeypatch.setattr(small_maps, "PAIRS_A_PIXEL", 0)


def results(layer, x):
    z = x.clone().requires_grad_()
    y = layer(z)
    y.square().sum().backward()
    return [y.detach(), z.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 1), ((1, 3), (2, 1), (0, 2)), (2, 2, 0), (5, 3, 2)])
@pytest.mark.parametrize("side", [(2, 2), (5, 4)])
@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.usefixtures("gathers")
def test_the_same_answer_and_gradients(shape, side, bias, few, monkeypatch):
    monkeypatch.setattr(small_maps, "FEW_PIXELS", few)
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, *shape, bias=bias)
    x = torch.randn(3, 6, *side)
    for found, wanted in zip(results(SmallMapConv2d.of(copy.deepcopy(layer)), x), results(layer, x), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("gathers")
def test_the_gathering_is_what_ran(monkeypatch):
    """A control: without torch's own convolution nothing is lost on a small map, and everything on a large one."""
    layer, x = SmallMapConv2d.of(nn.Conv2d(6, 4, 3, padding=1)), torch.randn(1, 6, 2, 2)

    def absent(*_):
        raise AssertionError("torch's own convolution ran")

    monkeypatch.setattr(nn.Conv2d, "forward", absent)
    layer(x)
    monkeypatch.setattr(small_maps, "PAIRS_A_PIXEL", 7)
    with pytest.raises(AssertionError, match="own convolution"):
        layer(x)


def test_a_network_keeps_its_names_weights_and_answers():
    torch.manual_seed(0)
    plain = timm.create_model("resnet18", num_classes=3, in_chans=1).eval()
    quick = on_small_maps(copy.deepcopy(plain))
    exchanged = [name for name, layer in quick.named_modules() if isinstance(layer, SmallMapConv2d)]
    assert "layer4.1.conv2" in exchanged
    assert "conv1" not in exchanged
    assert "layer4.0.downsample.0" not in exchanged  # 1 x 1: a matrix product already
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(quick(x), plain(x), rtol=1e-4, atol=1e-5)
    assert list(quick.state_dict()) == list(plain.state_dict())
    fresh = timm.create_model("resnet18", num_classes=3, in_chans=1).eval()
    fresh.load_state_dict(quick.state_dict())
    torch.testing.assert_close(fresh(x), plain(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(256, 256, 3, groups=2),
        nn.Conv2d(256, 256, 3, dilation=2),
        nn.Conv2d(256, 256, 3, padding="same"),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(256, 256, 1),
    ],
)
def test_what_gathering_cannot_serve_is_left_alone(layer):
    assert type(on_small_maps(nn.Sequential(layer))[0]) is nn.Conv2d


def test_a_frozen_layer_stays_frozen():
    layer = nn.Conv2d(256, 256, 3).requires_grad_(False).eval()
    found = on_small_maps(nn.Sequential(layer).eval())[0]
    assert not found.weight.requires_grad
    assert not found.training
