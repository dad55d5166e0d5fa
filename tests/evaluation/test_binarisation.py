"""An attack is sent after what was planted: one that works finds it, one that is blinded does not, and chance rarely."""

from functools import partial

import pytest
import torch
from torch import nn

from antivenom.attacks.noise import noise
from antivenom.attacks.pgd import pgd
from antivenom.evaluation.binarisation import binarisation
from antivenom.models.classifier import Classifier
from antivenom.randomness import Draws
from antivenom.task import Task
from antivenom.threat.perturbations import L2, Linf
from toys import small_network

TASK = Task(("a", "b", "c"))


class Rounded(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 255).round() / 255)


def classifier(blind=False):
    network = small_network(1)
    return Classifier(Rounded(network) if blind else network, TASK, channels=1, mean=0.0, std=1.0).eval()


def posed(model, attack, ball, count=8):
    x = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return binarisation(model, x, ball, attack, inner=199, random=100, generator=Draws.of(0, torch.arange(count)))


@pytest.mark.parametrize("ball", [Linf(4 / 255), L2(0.3)])
def test_an_attack_that_works_finds_what_was_planted_and_chance_does_not(ball):
    seen = posed(classifier(), partial(pgd, steps=40), ball)
    assert seen.posed.all()
    assert seen.found.all()
    assert seen.chance.mean() < 0.1


def test_an_attack_without_a_gradient_is_found_out():
    seen = posed(classifier(blind=True), partial(pgd, steps=40), Linf(4 / 255))
    assert seen.posed.any()
    assert seen.found[seen.posed].float().mean() < 0.5


def test_noise_is_no_attack():
    seen = posed(classifier(), partial(noise, tries=1), Linf(4 / 255))
    assert seen.found.float().mean() < 0.3


def test_a_model_that_does_not_look_at_the_image_poses_no_task():
    model = classifier()
    with torch.no_grad():
        model.backbone[0].weight.zero_()
    seen = posed(model, partial(pgd, steps=2), Linf(4 / 255), count=2)
    assert not seen.posed.any()
    assert seen.chance.isnan().all()


def test_the_same_draws_give_the_same_tasks():
    one, other = (posed(classifier(), partial(pgd, steps=3), Linf(4 / 255), count=3) for _ in range(2))
    assert torch.equal(one.chance, other.chance)
    assert torch.equal(one.found, other.found)
