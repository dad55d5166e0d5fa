"""What masks a gradient stops a plain attack, is flagged by it, and does not stop one that knows."""

import pytest
import torch
from torch import nn

from antivenom.attacks import SPENT
from antivenom.attacks.pgd import pgd
from antivenom.errors import SettingsError
from antivenom.models.unmasking import expected, straight_through
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from toys import small_network


@pytest.fixture
def network():
    model = small_network(3)
    x = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(24))


class Noisy(nn.Module):
    """A model that sees its images through noise."""

    def __init__(self, model, scale=0.05):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x):
        return self.model(x + self.scale * torch.randn_like(x))


def rounded(z):
    return (z * 8).round() / 8


def test_rounding_stops_a_plain_attack_and_not_one_with_a_stand_in(network):
    model, x, _, draws = network
    defended = lambda z: model(rounded(z))  # noqa: E731
    y = defended(x).argmax(1)
    plain = pgd(defended, x, Untargeted(y), Linf(0.06), steps=10, random_start=False, generator=draws)
    knowing = pgd(straight_through(model, rounded), x, Untargeted(y), Linf(0.06), steps=10, generator=draws)
    assert not plain.success.any()
    assert plain.flags["zero-gradient"].all()
    assert knowing.success.float().mean() > 0.5
    assert not knowing.flags["zero-gradient"].any()
    assert torch.equal(knowing.success, defended(knowing.x_adv).argmax(1) != y)


def test_a_stand_in_of_its_own_gives_its_gradient(network):
    model, x, *_ = network
    z = x[:2].clone().requires_grad_()
    victim = straight_through(model, rounded, lambda image: image.square())
    (by,) = torch.autograd.grad(victim.propose(z).sum(), z)
    w = rounded(x[:2]).requires_grad_()
    (at,) = torch.autograd.grad(model(w).sum(), w)
    torch.testing.assert_close(by, at * 2 * x[:2])
    torch.testing.assert_close(victim.propose(x[:2]), model(rounded(x[:2])))


def test_a_random_model_is_flagged_and_its_expectation_is_not(network):
    model, x, y, draws = network
    noisy = Noisy(model).eval()
    assert pgd(noisy, x, Untargeted(y), Linf(0.02), steps=2, generator=draws).flags["random-answers"].all()
    victim = expected(noisy, draws=4, judged=8)
    found = pgd(victim, x, Untargeted(y), Linf(0.02), steps=2, generator=draws)
    assert not found.flags["random-answers"].any()


def test_what_fools_the_expectation_fools_fresh_draws_more_often(network):
    model, x, y, draws = network
    noisy, ball = Noisy(model, 0.2).eval(), Linf(0.05)
    rates = []
    for victim in (noisy, expected(noisy, draws=16, judged=32)):
        found = pgd(victim, x, Untargeted(y), ball, steps=10, until=SPENT, generator=draws)
        with torch.random.fork_rng():
            torch.manual_seed(99)
            fresh = torch.stack([noisy(found.x_adv).argmax(1) != y for _ in range(50)]).float().mean(0)
        rates.append(fresh.mean())
    assert rates[1] > rates[0] + 0.02


def test_the_same_seed_gives_the_same_tensors_and_the_world_is_left_as_it_was(network):
    model, x, y, draws = network
    world = torch.get_rng_state()
    found = [
        pgd(expected(Noisy(model).eval(), draws=2, judged=4, seed=seed), x, Untargeted(y), Linf(0.02), steps=3, generator=draws)
        for seed in (5, 5, 6)
    ]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert not torch.equal(found[0].x_adv, found[2].x_adv)
    assert torch.equal(world, torch.get_rng_state())


def test_an_expectation_over_nothing_is_refused(network):
    with pytest.raises(SettingsError, match="at least one draw"):
        expected(network[0], draws=0)
