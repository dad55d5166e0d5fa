import pytest
import torch

from antivenom.errors import SettingsError
from antivenom.models.architectures import ARCHITECTURES, build
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_at_its_smallest_side(name):
    side = ARCHITECTURES[name].smallest
    model = build(name, TASK, channels=1, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, side, side)).shape == (2, 2)
    assert model.backbone.get_submodule(ARCHITECTURES[name].head).out_features == 2
    assert model.backbone.get_submodule(ARCHITECTURES[name].stem).in_channels == 1


@pytest.mark.parametrize("name", ["densenet121", "vgg19"])
def test_images_below_the_smallest_side_are_resampled_and_it_is_said(name):
    model = build(name, TASK, channels=1, size=(28, 28), seed=0).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 2)
    assert model.size == (32, 32)
    assert "resampled to (32, 32)" in model.notes[0]


def test_the_seed_alone_decides_the_start_and_the_world_is_left_alone():
    world = torch.get_rng_state()
    one = build("resnet18", TASK, channels=1, seed=3)
    assert torch.equal(world, torch.get_rng_state())
    torch.rand(7)
    assert one.digest() == build("resnet18", TASK, channels=1, seed=3).digest()
    assert one.digest() != build("resnet18", TASK, channels=1, seed=4).digest()


def test_grey_stays_grey_unless_it_is_to_be_copied():
    grey, copied = (build("resnet18", TASK, channels=1, copy_grey=copy, seed=0) for copy in (False, True))
    assert (grey.backbone.conv1.in_channels, copied.backbone.conv1.in_channels) == (1, 3)
    assert grey.prepare(torch.rand(2, 1, 32, 32)).shape[1] == 1
    assert copied.prepare(torch.rand(2, 1, 32, 32)).shape[1] == 3


def test_a_fine_stem_keeps_twice_the_detail():
    images = torch.rand(1, 1, 64, 64)
    coarse, fine = (build(name, TASK, channels=1, seed=0).eval().backbone for name in ("resnet18", "resnet18-fine"))
    assert coarse.forward_features(images).shape[-1] == 2
    assert fine.forward_features(images).shape[-1] == 4


def test_published_sizes_are_met():
    """ResNet-18 as counted in Chen 2021, Tables 1 and 2; EfficientNet-B0 as counted by its authors."""
    ten = Task(tuple("abcdefghij"))
    count = {n: sum(p.numel() for p in build(n, ten, channels=3, seed=0).parameters()) for n in ("resnet18", "efficientnet_b0")}
    assert count == {"resnet18": 11_181_642, "efficientnet_b0": 4_007_548 + 1281 * 10}


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(SettingsError, match=r"'resnet19'; there are resnet18, .*vgg19"):
        build("resnet19", TASK, channels=1, seed=0)
