import math

import pytest
import torch

from antivenom.task import Task
from antivenom.training.losses import StandardLoss, class_weights

THREE, FINDINGS = Task(("a", "b", "c")), Task(("x", "y"), multilabel=True)


def test_cross_entropy_is_the_mean_of_minus_the_log_probability():
    logits, targets = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2])
    expected = -(logits.softmax(1)[0, 0].log() + math.log(1 / 3)) / 2
    torch.testing.assert_close(StandardLoss(False)(logits, targets), expected)


def test_the_findings_of_an_image_are_judged_one_by_one_and_added():
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    chances = logits.sigmoid()
    torch.testing.assert_close(StandardLoss(True)(logits, targets), -(chances[0, 0].log() + (1 - chances[0, 1]).log()))


def test_weights_count_a_class_more():
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    targets = torch.tensor([0, 1])
    weighted = StandardLoss(False, torch.tensor([1.0, 3.0, 1.0]))(logits, targets)
    each = -logits.log_softmax(1)[torch.arange(2), targets]
    torch.testing.assert_close(weighted, (each[0] + 3 * each[1]) / 4)
    presence = StandardLoss(True, torch.tensor([5.0, 1.0]))
    plain = StandardLoss(True)
    one, none = torch.tensor([[1, 0]]), torch.tensor([[0, 0]])
    start = torch.zeros(1, 2)
    torch.testing.assert_close(presence(start, one) - plain(start, one), torch.tensor(4 * math.log(2)))
    torch.testing.assert_close(presence(start, none), plain(start, none))


def test_smoothing_never_rewards_certainty():
    sure, target = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([0])
    assert StandardLoss(False)(sure, target) < 1e-6 < 1 < StandardLoss(False, smoothing=0.1)(sure, target)
    findings, present = torch.tensor([[50.0, -50.0]]), torch.tensor([[1, 0]])
    assert StandardLoss(True)(findings, present) < 1e-6 < 1 < StandardLoss(True, smoothing=0.1)(findings, present)


def test_the_loss_is_in_float32_whatever_the_logits_are():
    assert StandardLoss(False)(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32


def test_weighted_classes_count_alike():
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    weights = class_weights(targets, THREE)
    totals = [float(weights[k] * (targets == k).sum()) for k in range(3)]
    assert totals == pytest.approx([100 / 3] * 3)


def test_weighted_findings_balance_presence_and_absence():
    targets = torch.tensor([[1, 1]] * 10 + [[0, 1]] * 30)
    assert class_weights(targets, FINDINGS).tolist() == pytest.approx([3.0, 1 / 20])  # never absent: as low as it goes


def test_a_class_that_is_absent_or_very_rare_does_not_drown_the_others():
    targets = torch.tensor([0] * 9999 + [1])
    assert class_weights(targets, THREE)[1:].tolist() == [20.0, 20.0]
    assert class_weights(torch.zeros(100, 2, dtype=torch.int64), FINDINGS).tolist() == [20.0, 20.0]
