import pytest
import torch

from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.objectives import dlr, in_turn, log_likelihood, log_odds, margin


def gradient(objective, goal, answer):
    z = answer.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(goal, z).sum(), z)
    return found


def test_log_odds_climb_where_cross_entropy_does():
    answer = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    labels = answer.argmax(1)
    z = answer.clone().requires_grad_()
    (entropy,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, labels, reduction="sum"), z)
    odds = gradient(log_odds, Untargeted(labels), answer)
    cosine = torch.nn.functional.cosine_similarity(entropy, odds)
    torch.testing.assert_close(cosine, torch.ones(32))


def test_log_odds_do_not_vanish_when_the_model_is_sure():
    answer = 1000 * torch.tensor([[3.0, 1.0, 0.0]])
    z = answer.clone().requires_grad_()
    (entropy,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, torch.tensor([0])), z)
    assert (entropy == 0).all()
    assert gradient(log_odds, Untargeted(torch.tensor([0])), answer).abs().max() > 0.9


def test_the_margin_sees_the_deciding_class_alone():
    answer = torch.tensor([[3.0, 1.0, 2.0]])
    assert gradient(margin, Untargeted(torch.tensor([0])), answer).tolist() == [[-1, 0, 1]]
    assert gradient(margin, Targeted(torch.tensor([1])), answer).tolist() == [[-1, 1, 0]]


def test_a_likelihood_is_binary_cross_entropy_of_the_wanted_findings():
    answer = torch.tensor([[0.3, -1.2, 0.5]])
    goal = Findings(torch.tensor([[1, -1, 0]]), torch.zeros(3))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(answer[:, :2], torch.tensor([[1.0, 0.0]]), reduction="sum")
    torch.testing.assert_close(log_likelihood(goal, answer), -entropy[None])
    assert gradient(log_likelihood, goal, answer)[0, 2] == 0


def test_the_ratio_ignores_scale_and_shift_of_the_logits():
    answer = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    for goal in (Untargeted(torch.arange(64) % 5), Targeted(torch.arange(64) % 5)):
        torch.testing.assert_close(dlr(goal, 1000 * answer + 7), dlr(goal, answer), rtol=1e-3, atol=1e-4)


def test_the_ratio_is_the_paper_s():
    answer = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
    assert dlr(Untargeted(torch.tensor([0])), answer).item() == pytest.approx(-(4 - 3) / (4 - 1))
    assert dlr(Untargeted(torch.tensor([1])), answer).item() == pytest.approx((4 - 1) / (4 - 1))
    # Equation 7: (z_t - z_y) / (z_1 - (z_3 + z_4) / 2), here with the strongest rival for z_y, as the goal asks.
    assert dlr(Targeted(torch.tensor([2])), answer).item() == pytest.approx((3 - 4) / (4 - 0.5))


def test_where_the_paper_has_no_ratio_the_stated_ones_stand_in():
    two, three = torch.tensor([[2.0, 5.0]]), torch.tensor([[2.0, 5.0, 1.0]])
    own = Untargeted(torch.tensor([1]))
    assert dlr(own, two).item() == margin(own, two).item() == -3
    assert dlr(Targeted(torch.tensor([0])), three).item() == pytest.approx((2 - 5) / (5 - 1))
    findings = Findings(torch.tensor([[1, -1, 0]]), torch.zeros(3))
    assert dlr(findings, torch.tensor([[-1.0, 3.0, 9.0]])).item() == pytest.approx(-3 / 2)


def test_a_flat_answer_gives_no_nan():
    flat = torch.zeros(1, 4)
    assert dlr(Untargeted(torch.tensor([0])), flat).isfinite().all()
    assert gradient(dlr, Untargeted(torch.tensor([0])), torch.tensor([[1.0, 0.0, 0.0, 0.0]])).isfinite().all()


def test_in_turn_is_all_margins_first_and_the_nearest_later():
    goal, answer = Untargeted(torch.zeros(3, dtype=torch.int64)), torch.tensor([[0.0, -1.0, -1.2]]).expand(3, 3)
    found = in_turn(torch.tensor([0.0, 0.49, 0.5]))(goal, answer)
    assert torch.equal(found[:2], log_odds(goal, answer)[:2])
    assert torch.equal(found[2:], margin(goal, answer)[2:])
    assert found[0] != found[2]
