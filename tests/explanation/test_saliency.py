"""Saliency where the gradient is known."""

import pytest
import torch
from torch import nn

from antivenom.errors import LabelError, ModelError, SettingsError
from antivenom.explanation.saliency import gradients, saliency, smooth_saliency
from antivenom.randomness import Draws
from toys import Affine, small_network


@pytest.fixture
def images():
    return torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Square(nn.Module):
    """One logit, the sum of squares: its gradient is twice the image."""

    def forward(self, x):
        return x.square().flatten(1).sum(1, keepdim=True)


def test_of_a_linear_model_it_is_the_size_of_the_weights_the_largest_over_channels():
    x = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gradients(Affine().eval(), x, torch.tensor([0, 2])).flatten(1), Affine.W[[0, 2]])
    assert torch.equal(saliency(Affine().eval(), x), torch.ones(2, 1, 1))


def test_the_class_explained_is_the_predicted_one_unless_told(images):
    network = small_network()
    predicted = network(images).argmax(1)
    assert torch.equal(saliency(network, images), saliency(network, images, classes=predicted))
    assert not torch.allclose(saliency(network, images), saliency(network, images, classes=(predicted + 1) % 3), atol=0.1)


def test_smoothing_averages_the_signed_gradient_over_noise(images):
    model, draws = Square().eval(), Draws.of(0, torch.arange(4))
    assert torch.equal(smooth_saliency(model, images, noise=0.0, samples=2, draws=draws), saliency(model, images))
    spread = 0.5 * (images.flatten(1).amax(1) - images.flatten(1).amin(1)).reshape(4, 1, 1, 1)
    noise = torch.stack([draws.at(i).normal(1, 12, 12) for i in range(3)]).mean(0)
    expected = (images + spread * noise).abs()[:, 0]
    found = smooth_saliency(model, images, noise=0.5, samples=3, draws=draws)
    torch.testing.assert_close(found, expected / expected.flatten(1).amax(1)[:, None, None])


def test_the_same_luck_gives_the_same_map_whoever_else_is_in_the_batch(images):
    network, draws, state = small_network(), Draws.of(0, torch.arange(4)), torch.get_rng_state()
    together = smooth_saliency(network, images, samples=3, draws=draws)
    alone = smooth_saliency(network, images[2:3], samples=3, draws=draws.take(torch.tensor([2])))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, smooth_saliency(network, images, samples=3, draws=draws.at(9)), atol=0.1)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_does_not_change_which_class_is_explained(images):
    network, draws = small_network(), Draws.of(0, torch.arange(4))
    told, untold = (
        smooth_saliency(network, images, classes=c, samples=2, noise=3.0, draws=draws)
        for c in (network(images).argmax(1), None)
    )
    assert torch.equal(told, untold)


def test_nothing_is_left_behind(images):
    network = small_network()
    with torch.no_grad():
        saliency(network, images)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not images.requires_grad


def test_a_flat_model_has_a_map_of_zeros(images):
    network = small_network()
    with torch.no_grad():
        network[-1].weight.zero_()
    assert not saliency(network, images).any()


def test_what_cannot_be_explained_is_refused(images):
    network, draws = small_network(), Draws.of(0, torch.arange(4))
    with pytest.raises(LabelError, match="whole numbers"):
        saliency(network, images, classes=torch.zeros(4))
    with pytest.raises(ModelError, match="no gradient"):
        saliency(nn.Sequential(Detached(), nn.Flatten()).eval(), images)
    with pytest.raises(ModelError, match="does not depend on the image"):
        saliency(nn.Sequential(Detached(), nn.Flatten(), nn.Linear(144, 2)).eval(), images)
    with pytest.raises(ModelError, match="training mode"):
        saliency(small_network().train(), images)
    for settings in ({"samples": 0}, {"noise": -0.1}, {"draws": Draws.of(0, torch.arange(3))}):
        with pytest.raises(SettingsError, match="a stream per image"):
            smooth_saliency(network, images, **{"draws": draws, **settings})


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()
