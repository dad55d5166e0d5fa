"""Layers are read as they were at the moment, by name, and the model is left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from antivenom.errors import ImageError, ModelError
from antivenom.explanation.feature_maps import feature_maps, layer_outputs, liveliest, over_image
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.models.presentation import CentreCrop, Presented, Resize, Window
from antivenom.task import Task
from toys import small_network

TASK = Task(("normal", "pneumonia"))


@pytest.fixture
def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Idle(nn.Module):
    """A network with a layer that never runs, one that puts out a pair, and one without a row per image."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.pair, self.whole = nn.Flatten(), nn.Linear(4, 2), Pair(), Whole()

    def forward(self, x):
        return self.used(x)[:, :2] + self.pair(x)[0] + self.whole(x)


class Pair(nn.Module):
    def forward(self, _):
        return torch.tensor(0.0), torch.tensor(1.0)


class Whole(nn.Module):
    def forward(self, _):
        return torch.zeros(2)


def test_a_layer_is_read_before_the_next_writes_into_it(images):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)).eval()
    seen = layer_outputs(network, images, ["0", "1"])
    expected = F.conv2d(images, network[0].weight, network[0].bias)
    assert (expected < 0).any()
    torch.testing.assert_close(seen["0"], expected)
    torch.testing.assert_close(seen["1"], expected.relu())


def test_layers_of_a_classifier_are_named_as_its_backbone_names_them(images):
    network = small_network()
    model = Classifier(network, Task(("a", "b", "c")), channels=1, mean=0.5, std=0.25)
    seen = layer_outputs(model, images, lambda _, layer: isinstance(layer, nn.Conv2d))
    assert list(seen) == ["0", "3"]
    torch.testing.assert_close(seen["0"], network[0]((images - 0.5) / 0.25))
    torch.testing.assert_close(feature_maps(model, images, "0"), seen["0"])
    assert not seen["0"].requires_grad


def test_any_number_of_images_is_read_a_bounded_number_at_a_time():
    network, seen = small_network(), []
    images = torch.rand(2 * AT_ONCE + 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = layer_outputs(network, images, "7")
    handle.remove()
    assert seen == [AT_ONCE, AT_ONCE, 1]
    assert len(found["7"]) == len(images)


def test_no_hook_stays(images):
    network = small_network()
    layer_outputs(network, images, lambda *_: True)
    with pytest.raises(RuntimeError):
        layer_outputs(network, torch.rand(1, 2, 8, 8), "0")
    assert not any(layer._forward_hooks for layer in network.modules())


def test_an_unknown_layer_is_refused_with_the_nearest_names(images):
    network = nn.ModuleDict({"layer1": nn.Identity(), "layer2": nn.Identity(), "head": nn.Identity()}).eval()
    with pytest.raises(ModelError, match="no layer 'layr1'; the nearest are layer1, layer2"):
        layer_outputs(network, images, "layr1")


@pytest.mark.parametrize("name", ["unused", "pair", "whole"])
def test_a_layer_with_nothing_to_read_is_refused_by_name_and_left_out_by_rule(images, name):
    model = Idle().eval()
    with pytest.raises(ModelError, match=f"{name} did not run"):
        layer_outputs(model, images, name)
    assert list(layer_outputs(model, images, lambda *_: True)) == ["used"]


def test_training_mode_no_images_and_no_maps_are_refused(images):
    network = small_network()
    with pytest.raises(ImageError, match="at least one"):
        layer_outputs(network, images[:0], "0")
    with pytest.raises(ModelError, match="no maps"):
        feature_maps(network, images, "8")
    with pytest.raises(ModelError, match="training mode"):
        layer_outputs(network.train(), images, "0")


def test_the_liveliest_map_is_the_one_that_varies_most():
    assert liveliest(torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]]), most=1).tolist() == [0]


def test_a_map_lies_on_the_stored_image_where_the_network_saw_it(images):
    inner = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), TASK, channels=1, mean=0.5, std=0.25, size=(4, 4)).eval()
    maps = torch.ones(3, 2, 2)
    assert torch.equal(over_image(inner, images, maps), torch.ones(3, 8, 8))
    cropped = over_image(Presented(inner, [Window(0.1, 0.9), CentreCrop((4, 6))]), images, maps)
    inside = torch.zeros(8, 8)
    inside[2:6, 1:7] = 1
    assert torch.equal(cropped, inside.expand(3, 8, 8))
    twice = over_image(Presented(inner, [CentreCrop((6, 6)), CentreCrop((4, 2))]), images, maps)
    assert twice[:, 2:6, 3:5].sum() == twice.sum() == 24
    resized = over_image(Presented(inner, [Resize((16, 16)), CentreCrop((8, 8))]), images, maps)
    assert resized[:, 2:6, 2:6].amin() > 0.7
    assert not resized[:, 0].any()
    torch.testing.assert_close(resized.mean(), torch.tensor(0.25))
