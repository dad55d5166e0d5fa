"""Loss surfaces of models whose loss is a known function of the image."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.explanation.loss_surface import loss_surface
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from toys import Plane, Sphere, small_network

DRAWS = Draws.of(0, torch.arange(1))
BOTH = pytest.mark.parametrize("order", [math.inf, 2])


def first(answer):
    return answer[:, 0]


@BOTH
def test_of_a_linear_loss_it_is_a_plane_that_rises_by_the_dual_norm_and_is_level_across(order):
    model, image = Plane().eval(), torch.full((3, 4, 4), 0.5)
    surface = loss_surface(model, image, first, epsilon=0.01, order=order, side=9, draws=DRAWS)
    dual = torch.linalg.vector_norm(model.w, 1 if order == math.inf else 2).item()
    expected = 0.01 * dual * surface.distances
    if order == 2:
        np.testing.assert_allclose(surface.values, np.broadcast_to(expected[:, None], (9, 9)), atol=1e-6)
    np.testing.assert_allclose(surface.values[:, 4], expected, atol=1e-6)
    assert surface.bend == pytest.approx(0, abs=1e-6)
    if order == 2:
        assert surface.rise == pytest.approx(0.01 * dual, rel=1e-4)


@BOTH
def test_the_two_directions_are_orthogonal_and_of_unit_size(order):
    seen, model, image = [], Plane().eval(), torch.full((3, 4, 4), 0.5)

    def watched(x):
        seen.append(x.detach())
        return model(x)

    surface = loss_surface(watched, image, first, epsilon=0.01, order=order, reach=1.0, side=3, draws=DRAWS)
    grid = (torch.stack(seen[1:]) - image) / 0.01
    along, across = grid[2, 1], grid[1, 2]
    assert not grid[1, 1].any()
    assert (along * across).sum().abs() < 1e-3
    for way in (along, across):
        assert torch.linalg.vector_norm(way, order).item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(grid[2, 2], along + across, rtol=0, atol=1e-4)
    assert surface.distances.tolist() == [-1, 0, 1]


def test_a_curved_loss_bends():
    model, image = Sphere((1, 4, 4)).eval(), torch.full((1, 4, 4), 0.6)
    surface = loss_surface(model, image, first, epsilon=0.05, order=2, reach=1.0, side=21, draws=DRAWS)
    along, across = np.meshgrid(surface.distances, surface.distances, indexing="ij")
    expected = (0.4 + 0.05 * along) ** 2 + (0.05 * across) ** 2 - 0.09
    np.testing.assert_allclose(surface.values, expected, atol=1e-6)
    assert surface.rise == pytest.approx(0.45**2 - 0.4**2, abs=1e-6)
    squares = (along**2 + across**2)[surface.within] * 0.05**2
    assert surface.bend == pytest.approx(squares.std(), rel=1e-4)


def test_within_epsilon_is_a_disc_or_a_diamond():
    model, image = Plane().eval(), torch.full((3, 4, 4), 0.5)
    counts = [
        int(loss_surface(model, image, first, epsilon=0.01, order=order, reach=1.0, side=5, draws=DRAWS).within.sum())
        for order in (math.inf, 2)
    ]
    assert counts == [13, 13]
    wide = loss_surface(model, image, first, epsilon=0.01, reach=1.0, side=21, draws=DRAWS)
    assert wide.within.sum() == 221  # of 441, where a disc holds 317


def test_values_stay_in_the_range_and_the_image_is_in_the_middle():
    seen, network = [], small_network()
    image = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0)).round()
    goal = Untargeted(torch.tensor([0]))

    def watched(x):
        seen.append(x.detach())
        return network(x)

    surface = loss_surface(watched, image, goal.margin, epsilon=0.1, side=5, draws=DRAWS)
    assert all(x.amin() >= 0 and x.amax() <= 1 for x in seen)
    with torch.no_grad():
        torch.testing.assert_close(surface.values[2, 2].item(), goal.margin(network(image[None])).item(), rtol=0, atol=1e-5)


def test_the_same_luck_gives_the_same_surface():
    network, image = small_network(), torch.full((1, 12, 12), 0.5)
    one, again, other = (loss_surface(network, image, first, epsilon=0.1, side=3, draws=d) for d in (DRAWS, DRAWS, DRAWS.at(1)))
    assert np.array_equal(one.values, again.values)
    assert not np.array_equal(one.values, other.values)
    np.testing.assert_allclose(one.values[:, 1], other.values[:, 1], atol=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_what_spans_no_plane_is_refused():
    network, image = small_network(), torch.full((1, 12, 12), 0.5)
    with pytest.raises(ModelError, match="no slope"):
        loss_surface(network, image, lambda answer: 0 * answer[:, 0], epsilon=0.1, draws=DRAWS)
    with pytest.raises(ModelError, match="no slope"):
        loss_surface(lambda x: x.detach().flatten(1), image, first, epsilon=0.1, draws=DRAWS)
    with pytest.raises(ImageError, match="more values"):
        loss_surface(nn.Flatten().eval(), torch.full((1, 1, 1), 0.5), first, epsilon=0.1, draws=DRAWS)
    with pytest.raises(ImageError, match=r"\(B, C, H, W\)"):
        loss_surface(network, image[None], first, epsilon=0.1, draws=DRAWS)
    with pytest.raises(SettingsError, match="order"):
        loss_surface(network, image, first, epsilon=0.1, order=1, draws=DRAWS)
    for settings in ({"side": 4}, {"side": 1}, {"epsilon": 0.0}, {"reach": 0.0}, {"draws": Draws.of(0, torch.arange(2))}):
        with pytest.raises(SettingsError, match="odd side"):
            loss_surface(network, image, first, **{"epsilon": 0.1, "draws": DRAWS, **settings})
    with pytest.raises(ModelError, match="training mode"):
        loss_surface(small_network().train(), image, first, epsilon=0.1, draws=DRAWS)
