"""The adversary of adversarial training keeps its limits, and does harm."""

import pytest
import torch
from pydantic import ValidationError

from antivenom.randomness import Draws
from antivenom.training.adversary import Adversary
from toys import small_network

HARD = Adversary(epsilon=0.2, warm_up=0.2)
MODEL = small_network(3, classes=4)
X = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
DRAWS = Draws.of(0, torch.arange(16))


@pytest.mark.parametrize(("done", "share"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_epsilon_grows_to_its_full_size_and_is_kept(done, share):
    found = HARD.disturb(MODEL, X, MODEL(X).argmax(1), DRAWS, done)
    assert (found - X).abs().amax().item() == pytest.approx(0.2 * share, abs=1e-6)
    assert found.amin() >= 0
    assert found.amax() <= 1


def test_without_a_warm_up_it_is_at_full_size_at_once():
    found = Adversary(epsilon="8/255", warm_up=0).disturb(MODEL, X, MODEL(X).argmax(1), DRAWS, 0.0)
    assert (found - X).abs().amax().item() == pytest.approx(8 / 255, abs=1e-6)


def test_it_raises_the_loss_of_classes_and_of_findings():
    classes, findings = MODEL(X).argmax(1), (MODEL(X) > 0).long()
    for targets, loss in (
        (classes, lambda images: torch.nn.functional.cross_entropy(MODEL(images), classes)),
        (findings, lambda images: torch.nn.functional.binary_cross_entropy_with_logits(MODEL(images), findings.float())),
    ):
        noise = 0.2 * torch.rand(X.shape, generator=torch.Generator().manual_seed(1)).sub(0.5).sign()
        assert loss(HARD.disturb(MODEL, X, targets, DRAWS, 1.0)) > max(loss(X), loss((X + noise).clamp(0, 1)))


def test_validation_meets_it_at_full_size_from_the_first_epoch():
    tried = HARD.try_out(MODEL, X, MODEL(X).argmax(1), DRAWS)
    assert (tried - X).abs().amax().item() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0}, {"epsilon": "much"}, {"epsilon": 0.1, "norm": "l7"}, {"epsilon": 0.1, "steps": 0}]
)
def test_an_adversary_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Adversary(**wrong)
