"""Attention layers are read where they stand, as they weighed these images."""

import pytest
import torch
from torch import nn

from antivenom.explanation.attention_maps import attention_maps
from antivenom.explanation.feature_maps import layer_outputs, over_image
from antivenom.models.architectures import build
from antivenom.models.attention import Bam, Cbam, SelfAttention, SoftAttention
from antivenom.task import Task
from toys import small_network

TASK = Task(("normal", "pneumonia"))


@pytest.fixture
def images():
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def behind(layer, channels=32):
    """A layer behind a convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, channels, 3, stride=4), layer).eval()


def test_the_gates_of_cbam_give_back_what_it_made_of_a_map(images):
    network = behind(Cbam(32))
    nn.init.ones_(network[1].spatial.norm.weight)
    (read,) = attention_maps(network, images).values()
    maps = layer_outputs(network, images, ["0", "1"])
    weighed = maps["0"] * read.channels[:, :, None, None] * read.places[:, None]
    torch.testing.assert_close(weighed, maps["1"])
    assert read.places.unique().numel() > 1


def test_the_gate_of_bam_is_read_by_channel_and_by_place(images):
    network = behind(Bam(32))
    gate = layer_outputs(network, images, "1.gate")["1.gate"]
    (read,) = attention_maps(network, images).values()
    torch.testing.assert_close(read.channels, gate.mean((2, 3)))
    torch.testing.assert_close(read.places, gate.mean(1))


def test_self_attention_tells_where_is_read(images):
    layer = SelfAttention(32)
    nn.init.zeros_(layer.query.weight)
    nn.init.zeros_(layer.query.bias)
    (even,) = attention_maps(behind(layer), images).values()
    torch.testing.assert_close(even.places, torch.full((2, 8, 8), 1 / 64))
    network = behind(SelfAttention(32))
    (read,) = attention_maps(network, images).values()
    reading = layer_outputs(network, images, "1.attention")["1.attention"]
    torch.testing.assert_close(read.places[:, 3, 5], reading[:, :, 8 * 3 + 5].mean(1))
    assert read.places.amax() > 1.01 * read.places.amin()
    torch.testing.assert_close(read.places.sum((1, 2)), torch.ones(2))
    assert read.channels is None


def test_soft_attention_sums_to_one_per_head(images):
    (read,) = attention_maps(behind(SoftAttention(32, heads=5)), images).values()
    assert read.places.shape == (2, 8, 8)
    torch.testing.assert_close(read.places.sum((1, 2)), torch.full((2,), 5.0))


def test_every_block_of_a_resnet_is_read_by_stage(images):
    model = build("resnet18+cbam", TASK, channels=1, seed=0, tell=lambda _: None).eval()
    read = attention_maps(model, images)
    assert list(read)[:2] == ["layer1.0.se.cbam", "layer1.1.se.cbam"]
    by_stage = {layer.stage: layer for layer in read.values()}
    assert {name: tuple(layer.channels.shape) for name, layer in by_stage.items()} == {
        "layer1": (2, 64),
        "layer2": (2, 128),
        "layer3": (2, 256),
        "layer4": (2, 512),
    }
    assert [tuple(layer.places.shape[1:]) for layer in by_stage.values()] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert over_image(model, images, by_stage["layer2"].places).shape == (2, 32, 32)


@pytest.mark.parametrize("part", ["se", "eca"])
def test_timms_channel_gates_are_read(images, part):
    read = attention_maps(build(f"resnet18+{part}", TASK, channels=1, seed=0, tell=lambda _: None).eval(), images)
    assert len(read) == 8
    last = list(read.values())[-1]
    assert last.channels.shape == (2, 512)
    assert last.places is None
    assert 0 <= last.channels.amin() <= last.channels.amax() <= 1


def test_a_stage_is_named_where_the_layer_stands(images):
    network = nn.Sequential()
    network.add_module("features", behind(nn.Identity()))
    network.features.add_module("soft", SoftAttention(32))
    network.eval()
    (read,) = attention_maps(network, images).values()
    assert (read.kind, read.stage) == ("SoftAttention", "features")


def test_a_network_without_attention_has_none(images):
    assert attention_maps(small_network(), images) == {}
    gated = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential())
    gated[1].add_module("gate", nn.Sigmoid())
    assert attention_maps(gated.eval(), images) == {}  # a gate of whole maps, of which nothing is known
