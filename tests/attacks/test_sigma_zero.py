"""Sigma-zero where the fewest values are known, beside JSMA, and its own mechanics: thresholds, steps, units."""

import math

import pytest
import torch

from antivenom.attacks import FOOLED
from antivenom.attacks.jsma import jsma
from antivenom.attacks.sigma_zero import _Thinning, sigma_zero
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0
from toys import Plane, small_network

ANY = L0(math.inf)


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(8))


@pytest.fixture
def network():
    model = small_network(3, classes=5)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1))


@pytest.fixture
def states(monkeypatch):
    """Whether each look fooled, the changes and the thresholds after it."""
    seen, look = [], _Thinning.look

    def watched(self, problem, state, step):
        found = look(self, problem, state, step)
        seen.append((found.margin > 0, found.state[0], found.state[3]))
        return found

    monkeypatch.setattr(_Thinning, "look", watched)
    return seen


def test_on_a_plane_it_changes_about_as_few_values_as_can(draws):
    model = Plane().eval()
    far = torch.linspace(0.02, 0.4, 8)[:, None] * model.w.detach().sign()
    x = (
        (0.5 + far * (0.75 + 0.5 * torch.rand(8, 48, generator=torch.Generator().manual_seed(1))))
        .clamp(0, 1)
        .reshape(8, 3, 4, 4)
    )
    fewest = model.distance(x, L0)
    assert fewest.min() == 1
    assert fewest.max() >= 10
    result = sigma_zero(model, x, Untargeted(model(x).argmax(1)), ANY, generator=draws)
    size = ANY.size(result.x_adv - x)
    assert result.success.all()
    assert (size >= fewest).all()
    assert (size <= (1.1 * fewest).maximum(fewest + 1)).all()


def test_changes_at_most_half_as_many_values_as_jsma(network, draws):
    model, x, goal = network
    greedy = jsma(model, x, goal, ANY, pairs=False, generator=draws)
    found = sigma_zero(model, x, goal, ANY, steps=150, generator=draws)
    assert greedy.success.all()
    assert found.success.all()
    assert ANY.size(found.x_adv - x).median() <= ANY.size(greedy.x_adv - x).median() / 2


def test_the_first_point_that_fools_has_more_values_than_the_last(network, draws):
    model, x, goal = network
    first, last = (sigma_zero(model, x, goal, ANY, steps=100, generator=draws, **until) for until in ({"until": FOOLED}, {}))
    assert first.success.all()
    assert (ANY.size(last.x_adv - x) < ANY.size(first.x_adv - x)).all()
    assert (first.gradients < last.gradients).all()
    assert (last.gradients == 100).all()
    assert (last.queries == 101).all()


def test_the_first_step_takes_every_value_to_the_end_of_its_range(network, states, draws):
    model, x, goal = network
    sigma_zero(model, x, goal, ANY, steps=1, threshold=0.0, generator=draws)
    ends = (x + states[0][1]).flatten(1)
    assert (((ends == 0) | (ends == 1)).float().mean(1) > 0.99).all()


def test_thresholds_rise_where_it_fools_and_fall_where_not_less_and_less(network, states, draws):
    model, x, goal = network
    sigma_zero(model, x, goal, ANY, steps=30, generator=draws)
    before = torch.full((8,), 0.3)
    for step, (fools, change, threshold) in enumerate(states[:-1]):
        rate = 0.1 + 0.9 * (1 + math.cos(math.pi * (step + 1) / 30)) / 2
        expected = (before + 0.01 * rate * (2 * fools.float() - 1)).clamp(0, 1)
        torch.testing.assert_close(threshold, expected)
        assert ((change == 0) | (change.abs() >= threshold.reshape(-1, 1, 1, 1))).all()
        before = threshold
    assert any(fools.any() for fools, _, _ in states)
    assert not all(fools.all() for fools, _, _ in states)


def test_all_changes_are_in_units_of_each_image_s_own_range(network, draws):
    model, x, goal = network
    high = torch.tensor([1.0, 2048.0]).repeat(4)
    scale = high.reshape(-1, 1, 1, 1)

    def stretched(z):  # the door shows two images, the attack all
        return model(z / scale[: len(z)])

    wide = sigma_zero(stretched, scale * x, goal, L0(math.inf, Pixels(high=high)), steps=60, generator=draws)
    plain = sigma_zero(model, x, goal, ANY, steps=60, generator=draws)
    assert wide.success.all()
    torch.testing.assert_close(ANY.size(wide.x_adv - scale * x), ANY.size(plain.x_adv - x), rtol=0.1, atol=1)


def test_a_tied_pixel_is_one_value_and_what_is_stored_is_judged(network, draws):
    model, x, _ = network
    x = (255 * x[:, :1]).round().expand(-1, 3, -1, -1) / 255
    goal, allowed = Untargeted(model(x).argmax(1)), L0(432.0, Pixels(tied=True, grid=1 / 255))
    result = sigma_zero(model, x, goal, allowed, steps=100, generator=draws)
    delta = result.x_adv - x
    assert result.success.all()
    assert torch.equal(delta[:, 0], delta[:, 1])
    assert torch.equal(delta[:, 0], delta[:, 2])
    torch.testing.assert_close(255 * result.x_adv, (255 * result.x_adv).round(), rtol=0, atol=1e-3)
    alone = sigma_zero(lambda z: model(z.expand(-1, 3, -1, -1)), x[:, :1], goal, ANY, steps=100, generator=draws)
    torch.testing.assert_close(ANY.size(alone.x_adv - x[:, :1]), ANY.size(delta) / 3, rtol=0.1, atol=1)


def test_a_limit_of_values_is_kept(network, draws):
    model, x, goal = network
    free = sigma_zero(model, x, goal, ANY, steps=100, generator=draws)
    size = ANY.size(free.x_adv - x)
    limit = size.median()
    kept = sigma_zero(model, x, goal, L0(limit.item()), steps=100, generator=draws)
    assert (ANY.size(kept.x_adv - x) <= limit).all()
    assert kept.success[size <= limit].all()
    assert not kept.success.all()
