"""The adversary of adversarial training keeps its limits, and does harm."""

import pytest
import torch
from pydantic import ValidationError

from antivenom.randomness import Draws
from antivenom.training.adversary import Adversary, divergence
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


def test_several_attacks_take_turns():
    adversary = Adversary(epsilon=0.2, warm_up=0, attacks=("fgsm", "stripes", "square"))
    y = MODEL(X).argmax(1)
    step, stripes, squares = ((adversary.disturb(MODEL, X, y, DRAWS, 1.0, turn) - X) for turn in (0, 1, 2))
    assert torch.equal(adversary.disturb(MODEL, X, y, DRAWS, 1.0, 3) - X, step)
    inside = (X > 0.2) & (X < 0.8)
    assert (step.abs() - 0.2)[inside].abs().amax() < 1e-6
    columns = stripes.where(inside, torch.nan)
    assert (columns - columns.nanmean(2, keepdim=True)).nan_to_num(0).abs().amax() < 1e-6
    assert squares.abs().amax().item() == pytest.approx(0.2, abs=1e-6)


def test_trades_climbs_away_from_the_answer_to_the_clean_image():
    adversary = Adversary(epsilon=0.05, warm_up=0, trades=6, steps=5)
    found = adversary.disturb(MODEL, X, MODEL(X).argmin(1), DRAWS, 1.0)  # whatever the label says
    noise = (X + 0.05 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1)).sign()).clamp(0, 1)
    moved = divergence(MODEL(X), MODEL(found), multilabel=False)
    assert (moved > divergence(MODEL(X), MODEL(noise), multilabel=False)).all()


def test_one_step_is_tried_out_beside_several():
    y = MODEL(X).argmax(1)
    single = HARD.one_step(MODEL, X, y, DRAWS)
    inside = (X > 0.2) & (X < 0.8)
    assert ((single - X).abs() - 0.2)[inside].abs().amax() < 1e-6
    loss = torch.nn.functional.cross_entropy
    assert loss(MODEL(HARD.try_out(MODEL, X, y, DRAWS)), y) >= loss(MODEL(single), y) - 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0},
        {"epsilon": "much"},
        {"epsilon": 0.1, "norm": "l7"},
        {"epsilon": 0.1, "steps": 0},
        {"epsilon": 0.1, "trades": 6, "clean": 0.5},
        {"epsilon": 0.1, "trades": 6, "attacks": ["fgsm"]},
        {"epsilon": 0.1, "attacks": []},
        {"epsilon": 0.1, "norm": "l2", "attacks": ["stripes"]},
    ],
)
def test_an_adversary_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Adversary(**wrong)
