import pytest
import torch
from torch import nn

from antivenom.errors import ImageError, ModelError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier, check_ready
from antivenom.task import Task

TASK = Task(("normal", "pneumonia", "tuberculosis"))


def linear(channels=1, side=4, classes=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, classes))


@pytest.fixture
def images():
    return torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_backbone_sees_normalised_images(images):
    network = linear()
    model = Classifier(network, TASK, channels=1, mean=0.3, std=0.2).eval()
    torch.testing.assert_close(model(images), network((images - 0.3) / 0.2))


def test_normalisation_is_per_channel():
    images = torch.rand(2, 3, 4, 4)
    model = Classifier(linear(3), TASK, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)).eval()
    expected = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    torch.testing.assert_close(model.prepare(images), expected)


def test_grey_is_copied_only_where_it_was_asked_for(images):
    colour = linear(3)
    copied = Classifier(colour, TASK, channels=1, mean=(0.1, 0.2, 0.3), std=1.0, copy_grey=True).eval()
    torch.testing.assert_close(copied(images), colour(images.expand(-1, 3, -1, -1) - copied.mean))
    assert Classifier(linear(1), TASK, channels=1, mean=0.5, std=1.0).prepare(images).shape[1] == 1
    with pytest.raises(ModelError, match="copy_grey"):
        Classifier(colour, TASK, channels=3, mean=0.5, std=1.0, copy_grey=True)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 4, 4)])
def test_images_of_another_kind_are_refused(shape):
    model = Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25).eval()
    with pytest.raises(ImageError, match=r"takes images \(B, 1, H, W\)"):
        model(torch.rand(shape))


def test_mean_and_std_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="mean has 3"):
        Classifier(linear(), TASK, channels=1, mean=(0.1, 0.2, 0.3), std=1.0)
    with pytest.raises(ModelError, match="positive"):
        Classifier(linear(), TASK, channels=1, mean=0.5, std=0.0)


def test_an_answer_of_another_width_is_refused(images):
    model = Classifier(linear(classes=2), TASK, channels=1, mean=0.5, std=0.25).eval()
    with pytest.raises(ModelError, match="tuberculosis"):
        model(images)


def test_images_are_resampled_to_the_size_of_the_backbone():
    model = Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25, size=(4, 4)).eval()
    small, large = torch.full((1, 1, 2, 2), 0.7), torch.full((1, 1, 9, 12), 0.7)
    torch.testing.assert_close(model(small), model(large))
    with pytest.raises(ImageError, match="at least 8 pixels"):
        Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25, smallest=8).eval()(small)


def test_training_mode_is_refused_where_no_gradient_is_recorded(images):
    model = Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25).train()
    assert model(images).requires_grad  # a training step may
    for context in (torch.no_grad, torch.inference_mode):
        with context(), pytest.raises(ModelError, match=r"call \.eval\(\)"):
            model(images)
    with torch.no_grad():
        assert model.eval()(images).shape == (5, 3)


def test_one_part_in_training_mode_is_enough_to_be_refused():
    model = build("resnet18", TASK, channels=1, size=(32, 32), seed=0).eval()
    check_ready(model)
    model.backbone.bn1.train()
    with pytest.raises(ModelError, match="bn1"):
        check_ready(model)


def test_a_backbone_that_is_ready_makes_a_classifier_that_is_ready():
    assert not Classifier(linear().eval(), TASK, channels=1, mean=0.5, std=0.25).training
    assert Classifier(linear().train(), TASK, channels=1, mean=0.5, std=0.25).training


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_features_are_what_the_last_layer_sees(name):
    model = build(name, TASK, channels=1, size=(32, 32), seed=0).eval()
    images = torch.rand(2, 1, 32, 32)
    network = model.backbone
    expected = network.forward_head(network.forward_features(model.prepare(images)), pre_logits=True)
    with torch.no_grad():
        features = model.features(images)
        torch.testing.assert_close(features, expected)
        torch.testing.assert_close(network.get_classifier()(features), model(images))


def test_features_of_a_convolutional_head_are_pooled(images):
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model = Classifier(network, TASK, channels=1, mean=0.0, std=1.0)
    with torch.no_grad():
        features = model.features(images)
        torch.testing.assert_close(features, network[:2](images).mean((2, 3)))


def test_features_carry_the_gradient_and_leave_no_hook(images):
    model = Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25).eval()
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.features(x).sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, 4.0))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_hook_is_gone_even_after_an_error():
    model = Classifier(linear(), TASK, channels=1, mean=0.5, std=0.25).eval()
    with pytest.raises(ImageError):
        model.features(torch.rand(2, 3, 4, 4))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_a_last_layer_has_no_features():
    network = nn.Sequential(nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten()).eval()
    with pytest.raises(ModelError, match="no penultimate features"):
        Classifier(network, TASK, channels=1, mean=0.0, std=1.0).features(torch.rand(2, 1, 4, 4))


def test_the_digest_tells_apart_what_may_answer_differently():
    def made(seed=0, mean=0.5, task=TASK):
        return Classifier(linear(seed=seed), task, channels=1, mean=mean, std=0.25)

    renamed = Task(("normal", "tuberculosis", "pneumonia"))
    digests = {made().digest(), made(seed=1).digest(), made(mean=0.4).digest(), made(task=renamed).digest()}
    assert made().digest() == made().digest()
    assert len(digests) == 4
