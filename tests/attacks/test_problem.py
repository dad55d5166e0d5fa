"""What the door sees of a model that masks its gradients, and that a sound one shows none of it."""

import pytest
import torch

from antivenom.attacks.problem import Problem
from antivenom.attacks.square import square
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from toys import small_network

MODEL = small_network(3)
X = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
GOAL = Untargeted(MODEL(X).argmax(1))


def seen(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = Problem.of(model, X, GOAL, Linf(0.01), Draws.of(0, torch.arange(6)), takes=(Linf,))
    return {name for name, odd in problem.victim.oddities.items() if odd}


@pytest.mark.parametrize(
    ("model", "odd"),
    [
        (MODEL, set()),
        (lambda z: 1000 * MODEL(z), {"saturated"}),
        (lambda z: MODEL(z).softmax(1), {"probabilities"}),
        (lambda z: MODEL(z + 0.1 * torch.randn_like(z)), {"random-answers"}),
        (lambda z: MODEL(z) * (1 + 1e-6 * torch.rand(1)), set()),  # no more than rounding does
    ],
)
def test_each_way_to_mask_a_gradient_is_told_from_a_sound_model(model, odd):
    assert seen(model) == odd


def test_every_image_of_an_attack_carries_what_the_door_saw():
    found = square(lambda z: MODEL(z).softmax(1), X, GOAL, Linf(0.01), queries=3, generator=Draws.of(0, torch.arange(6)))
    assert found.flags["probabilities"].all()
    assert not found.flags["saturated"].any()


def test_a_model_that_was_looked_at_is_not_asked_again():
    asked = []

    def watched(z):
        asked.append(len(z))
        return MODEL(z)

    draws = Draws.of(0, torch.arange(6))
    problem = Problem.of(watched, X, GOAL, Linf(0.01), draws, takes=(Linf,))
    assert asked == [2, 2]
    Problem.of(problem.victim, X, GOAL, Linf(0.01), draws, takes=(Linf,))
    assert asked == [2, 2]
