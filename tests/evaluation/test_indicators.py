"""Each sign is shown by a model built to fail it, and not by one built to pass."""

import pytest
import torch

from antivenom.evaluation.indicators import indicators
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import L2, Linf
from toys import small_network


@pytest.fixture
def network():
    model = small_network(3)
    x = torch.rand(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(20))


@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.3)])
def test_an_honest_model_shows_none(network, ball):
    model, x, y, draws = network
    seen = indicators(Victim(model, model, batch=7), x, Untargeted(y), ball, generator=draws)
    assert not seen.vanished.any()
    assert not seen.refused.any()
    assert seen.rough.median() < 0.2
    assert seen.unfinished.median() < 0.05
    assert seen.fooled.any()
    assert seen.heights.shape == (41, 20)
    assert (seen.heights[-1] > seen.heights[0]).all()


def test_rounded_input_has_no_gradient(network):
    model, x, y, draws = network
    assert indicators(lambda z: model((z * 16).round() / 16), x, Untargeted(y), Linf(0.02), generator=draws).vanished.all()


def test_ripples_are_rough(network):
    model, x, y, draws = network

    def rippled(z):
        return model(z) + 2 * torch.sin(3000 * z.flatten(1)[:, :3])

    assert indicators(rippled, x, Untargeted(y), Linf(0.02), generator=draws).rough.median() > 0.2


def test_too_few_or_too_small_steps_are_unfinished(network):
    model, x, y, draws = network
    small = indicators(model, x, Untargeted(y), Linf(0.1), steps=8, step_size=0.01, generator=draws)
    assert small.unfinished.median() > 0.15


def test_what_the_stand_in_claims_and_the_model_refuses_is_told(network):
    model, x, y, draws = network
    boaster = Victim(model, lambda z: model(z) - 100 * torch.nn.functional.one_hot(y, 3)[: len(z)])
    seen = indicators(boaster, x, Untargeted(y), Linf(1e-4), generator=draws)
    assert seen.refused.all()
    assert not seen.fooled.any()
