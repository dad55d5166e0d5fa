"""Grad-CAM where it is known: class activation maps, and networks whose classes look at different places."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from antivenom.errors import ImageError, LabelError, ModelError
from antivenom.explanation.grad_cam import grad_cam, last_map
from antivenom.models.architectures import build
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.models.presentation import CentreCrop, Presented, Undifferentiable
from antivenom.task import Task
from toys import small_network

TASK = Task(("normal", "pneumonia"))


def pooled(classes=3, seed=0):
    """Convolution, global average, linear: the network whose maps CAM weighs by the last layer's own weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1)]
        return nn.Sequential(
            *layers, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        ).eval()


class Quadrants(nn.Module):
    """Class 0 is the mean of the upper left quarter, class 1 that of the lower right one, class 2 is against all light."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x):
        seen = self.maps(F.avg_pool2d(x, 2)).sum(1)
        half = seen.shape[-1] // 2
        return torch.stack([seen[:, :half, :half].mean((1, 2)), seen[:, half:, half:].mean((1, 2)), -seen.mean((1, 2))], 1)


class Gates(nn.Module):
    """Two maps, of the left and of the right half; class 0 reads the one, class 1 the other."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x):
        left = x.clone()
        left[..., x.shape[-1] // 2 :] = 0
        return self.maps(torch.cat([left, x - left], 1)).mean((2, 3))


@pytest.fixture
def images():
    return torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_with_a_global_average_and_a_linear_layer_it_is_cam(images, wanted):
    network = pooled()
    found = grad_cam(network, images, classes=torch.full((4,), wanted))
    cam = (network[:5](images) * network[7].weight[wanted][None, :, None, None]).sum(1, keepdim=True).relu()
    cam = F.interpolate(cam, (16, 16), mode="bilinear")[:, 0].detach()
    for mine, theirs in zip(found, cam, strict=True):
        assert theirs.max() > 0
        assert np.corrcoef(mine.flatten(), theirs.flatten())[0, 1] > 0.9999
    assert found.amin() >= 0
    assert torch.equal(found.flatten(1).amax(1), torch.ones(4))


def test_a_layer_is_explained_as_it_was_before_the_next_wrote_into_it(images):
    network = pooled()
    found = grad_cam(network, images, layer="3")
    for relu in (network[1], network[4]):
        relu.inplace = False
    torch.testing.assert_close(found, grad_cam(network, images, layer="3"))
    assert not torch.allclose(found, grad_cam(network, images, layer="4"), atol=0.01)


def test_a_network_that_looks_at_one_half_has_its_map_there(images):
    left, right = (grad_cam(Gates().eval(), images, classes=torch.full((4,), k), layer="maps") for k in (0, 1))
    assert left[..., :8].amax() == right[..., 8:].amax() == 1
    assert not left[..., 8:].any()
    assert not right[..., :8].any()


def test_a_map_lies_in_the_quadrant_that_gave_the_evidence():
    image = torch.zeros(1, 1, 16, 16)
    image[..., :8, :8] = 1
    found = grad_cam(Quadrants().eval(), image, classes=torch.tensor([0]))
    assert found[0, :6, :6].amin() > 0.9
    assert not found[0, 9:].any()
    assert not found[0, :, 9:].any()


def test_no_evidence_leaves_a_map_of_zeros(images):
    against = grad_cam(Quadrants().eval(), images, classes=torch.full((4,), 2))
    assert torch.equal(against, torch.zeros(4, 16, 16))


def test_the_class_explained_is_the_predicted_one_unless_told(images):
    network = pooled()
    predicted = network(images).argmax(1)
    assert torch.equal(grad_cam(network, images), grad_cam(network, images, classes=predicted))
    other = grad_cam(network, images, classes=(predicted + 1) % 3)
    assert not torch.allclose(grad_cam(network, images), other, atol=0.1)
    mixed = torch.where(torch.arange(4) < 2, predicted, (predicted + 1) % 3)
    torch.testing.assert_close(grad_cam(network, images, classes=mixed)[2:], other[2:])


def test_of_findings_the_highest_is_explained(images):
    network = pooled()
    model = Classifier(network, Task(("a", "b", "c"), multilabel=True), channels=1, mean=0.0, std=1.0)
    assert torch.equal(grad_cam(model, images), grad_cam(network, images))


def test_the_model_is_left_as_it_was(images):
    network = pooled()
    network[0].requires_grad_(False)
    network[7].weight.grad = torch.ones_like(network[7].weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    handle = network[4].register_forward_hook(lambda *_: None)
    grad_cam(network, images)
    with pytest.raises(LabelError):
        grad_cam(network, images, classes=torch.full((4,), 9))
    assert list(network[4]._forward_hooks) == [handle.id]
    assert not any(layer._forward_hooks for layer in network if layer is not network[4])
    assert not any(layer.training for layer in network.modules())
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True, True, True]
    assert torch.equal(network[7].weight.grad, torch.ones_like(network[7].weight))
    assert all(p.grad is None for p in network.parameters() if p is not network[7].weight)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert images.grad is None


def test_frozen_weights_switched_off_gradients_and_large_batches_change_nothing():
    images = torch.rand(AT_ONCE + 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    network = pooled()
    expected = grad_cam(network, images)
    with torch.no_grad():
        assert torch.equal(grad_cam(network.requires_grad_(False), images.requires_grad_()), expected)
    torch.testing.assert_close(grad_cam(network, images[-2:].detach()), expected[-2:])


def test_preprocessing_may_have_no_gradient_and_the_map_lies_on_the_stored_image(images):
    class Rounded(Undifferentiable):
        def exactly(self, image):
            return (image * 4).round() / 4

    inner = Classifier(pooled(2), TASK, channels=1, mean=0.5, std=0.25, size=(16, 16))
    plain = grad_cam(inner, F.interpolate(images, (32, 24), mode="bilinear"))
    assert plain.shape == (4, 32, 24)
    model = Presented(inner, [Rounded(), CentreCrop((8, 8))])
    found = grad_cam(model, images)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    assert found[:, inside].flatten(1).amax(1).tolist() == [1, 1, 1, 1]
    assert not found[:, ~inside].any()


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet18", 64, "layer4"),
        ("resnet18+cbam", 64, "layer4"),
        ("densenet121", 64, "features"),
        ("efficientnet_b0", 64, "bn2"),
        # At 32 px they end in one pixel, so the last layer before that is taken.
        ("resnet18", 32, "layer3"),
        ("densenet121", 32, "features.transition3.conv"),
        ("efficientnet_b0", 32, "blocks.5.0.bn1"),
    ],
)
def test_the_last_map_is_found_in_timms_networks(name, side, expected):
    model = build(name, TASK, channels=1, seed=0, tell=lambda _: None).eval()
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert last_map(model, image) == expected
    found = grad_cam(model, image)
    assert found.shape == (1, side, side)
    assert found.isfinite().all()
    torch.testing.assert_close(grad_cam(model, image, layer=expected), found)


def test_where_every_map_is_one_pixel_the_last_is_taken():
    network = nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)).eval()
    assert last_map(network, torch.rand(1, 1, 4, 4)) == "1"
    assert last_map(network[:2], torch.rand(1, 1, 4, 4)) == "1"


def test_what_cannot_be_explained_is_refused(images):
    network = small_network()
    for classes in (torch.tensor([0]), torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64)):
        with pytest.raises(LabelError, match="whole numbers"):
            grad_cam(network, images, classes=classes)
    with pytest.raises(LabelError, match=r"0\.\.2"):
        grad_cam(network, images, classes=torch.full((4,), 3))
    with pytest.raises(ModelError, match="puts out no maps"):
        grad_cam(network, images, layer="8")
    with pytest.raises(ModelError, match="no layer 'conv'"):
        grad_cam(network, images, layer="conv")
    with pytest.raises(ModelError, match="no Grad-CAM"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).eval(), images)
    with pytest.raises(ImageError, match=r"image\[None\]"):
        grad_cam(network, images[0])
    with pytest.raises(ModelError, match="training mode"):
        grad_cam(network.train(), images)


def test_a_layer_beside_the_answer_is_refused(images):
    class Aside(Gates):
        def forward(self, x):
            self.maps(x)
            return x.mean((2, 3)) * torch.ones(2, requires_grad=True)

    with pytest.raises(ModelError, match="does not depend on"):
        grad_cam(Aside().eval(), images)
