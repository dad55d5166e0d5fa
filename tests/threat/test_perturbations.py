"""The composition of ball, region, tied channels, range and grid keeps every promise of its parts."""

import pytest
import torch

from antivenom.randomness import Draws
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1

KINDS = [Linf, L2, L1, L0]
SIZES = {Linf: 0.2, L2: 0.2, L1: 0.2, L0: 9.0}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [0.3, 8 / 255, 2.55 / 255, 0.25 / 255])
def test_a_stored_image_leaves_no_ball(generator, kind, epsilon):
    epsilon *= 100 if kind is L0 else 1
    x = torch.randint(256, (32, 3, 8, 8), generator=generator) / 255
    allowed = kind(epsilon, Pixels(grid=1 / 255))
    stored = allowed.realise(x + 0.5 * torch.randn(x.shape, generator=generator), x)
    assert (allowed.size(stored - x) <= epsilon * (1 + 1e-5)).all()
    torch.testing.assert_close(255 * stored, (255 * stored).round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_tied_channels_stay_tied_at_the_edge_of_the_range(generator, kind):
    x = torch.rand(32, 3, 8, 8, generator=generator)  # channels reach the edge at different sizes
    delta = kind(30.0 if kind is L0 else 1.0, Pixels(tied=True)).project(x + torch.randn(x.shape, generator=generator), x) - x
    assert delta.abs().amax() > 0.1
    torch.testing.assert_close(delta.amax(1), delta.amin(1))


@pytest.mark.parametrize("kind", KINDS)
def test_projecting_twice_is_projecting_once(generator, kind):
    x = torch.rand(32, 3, 8, 8, generator=generator)
    allowed = kind(SIZES[kind], Pixels(region=(x[:, :1] > 0.3).float(), tied=True))
    once = allowed.project(x + torch.randn(x.shape, generator=generator), x)
    torch.testing.assert_close(allowed.project(once, x), once)


@pytest.mark.parametrize("kind", KINDS)
def test_the_steepest_direction_gains_the_dual_norm(generator, kind):
    gradient = torch.randn(32, 3, 8, 8, generator=generator)
    allowed = kind(1.0, Pixels(region=(gradient[:, :1] > 0).float(), tied=True))
    direction = allowed.steepest(gradient)
    torch.testing.assert_close(allowed.size(direction), torch.full((32,), 3.0 if kind is L0 else 1.0))  # tied: three at once
    torch.testing.assert_close((direction * gradient).flatten(1).sum(1), allowed.dual(gradient) * allowed.size(direction))


@pytest.mark.parametrize("kind", KINDS)
def test_shrinking_never_enlarges_and_leaves_the_inside_alone(generator, kind):
    delta = torch.randn(64, 3, 4, 4, generator=generator) * torch.logspace(-4, 1, 64)[:, None, None, None]
    ball = kind(SIZES[kind])
    assert (ball.size(ball.shrink(delta)) <= ball.size(delta).clamp_max(ball.epsilon) * (1 + 1e-6)).all()
    inside = ball.size(delta) <= ball.epsilon
    torch.testing.assert_close(ball.shrink(delta)[inside], delta[inside])


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_may_have_its_own_epsilon(generator, kind):
    x = torch.full((4, 1, 8, 8), 0.5)
    epsilon = torch.tensor([0.01, 0.02, 0.03, 0.04]) * (100 if kind is L0 else 1)
    far = x + torch.randn(x.shape, generator=generator)
    together = kind(epsilon).project(far, x)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], kind(float(epsilon[i])).project(far[i : i + 1], x[i : i + 1]))
    some = torch.tensor([2, 0])
    torch.testing.assert_close(kind(epsilon).take(some).project(far[some], x[some]), together[some])


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_fills_the_ball_and_an_extreme_one_touches_its_surface(draws, kind):
    like = torch.zeros(32, 1, 16, 16)
    ball = kind(SIZES[kind])
    inside, surface = ball.size(ball.sample(like, draws)), ball.size(ball.extreme(like, draws))
    assert (inside <= ball.epsilon * (1 + 1e-6)).all()
    assert inside.max() > 0.95 * ball.epsilon
    torch.testing.assert_close(surface, torch.full((32,), ball.epsilon))


def test_a_range_of_its_own_is_kept():
    x = torch.full((2, 1, 2, 2), 100.0)
    allowed = Linf(500.0, Pixels(low=torch.tensor([-1000.0, 0.0]), high=torch.tensor([3000.0, 150.0])))
    moved = allowed.project(x - 500, x), allowed.project(x + 500, x)
    assert moved[0].amin((1, 2, 3)).tolist() == [-400, 0]
    assert moved[1].amax((1, 2, 3)).tolist() == [600, 150]


def test_values_at_the_end_of_their_range_pass_one_way_only():
    point = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5]).reshape(1, 1, 1, 5)
    direction = torch.tensor([-1.0, 2.0, 3.0, -4.0, 5.0]).reshape(1, 1, 1, 5)
    assert Pixels().passable(direction, point).flatten().tolist() == [0, 2, 0, -4, 5]
    both = torch.cat([direction, -direction], 1), torch.cat([point, point], 1)
    assert (Pixels(tied=True).passable(*both)[..., :4] == 0).all()
    assert (Pixels(tied=True).passable(*both)[..., 4] != 0).all()


def test_sixteen_bits_are_stored_without_losing_a_step(generator):
    x = torch.randint(65536, (4, 1, 64, 64), generator=generator) / 65535
    steps = torch.randint(-3, 4, x.shape, generator=generator)
    allowed = Linf(8 / 65535, Pixels(grid=1 / 65535))
    moved = (x + steps / 65535).clamp(0, 1)
    once = allowed.realise(moved, x)
    torch.testing.assert_close(once, moved, rtol=0, atol=1e-7)
    torch.testing.assert_close(allowed.realise(once, x), once, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extreme_draw_is_of_full_size_where_channels_are_tied_too(draws, kind):
    x = torch.full((32, 3, 16, 16), 0.5)
    ball = kind(SIZES[kind], Pixels(tied=True))
    moved = ball.project(x + ball.extreme(x, draws), x) - x
    torch.testing.assert_close(ball.size(moved), torch.full((32,), ball.epsilon))
