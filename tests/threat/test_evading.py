import math

import pytest
import torch

from antivenom.errors import LabelError, SettingsError
from antivenom.threat.evading import Evading, Matching
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.objectives import dlr, likeness, log_odds, margin, selective


def evading(labels=(0, 0, 0), thresholds=(1.0, 2.0), scale=(1.0, 2.0)):
    return Evading(Untargeted(torch.tensor(labels)), torch.tensor(thresholds), torch.tensor(scale))


ANSWER = torch.tensor(
    [
        [0.0, 1.0, 0.5, 1.0],  # fooled, unnoticed by both
        [0.0, 1.0, 0.5, 4.0],  # fooled, noticed by the second
        [2.0, 1.0, 0.5, 1.0],  # not fooled
    ]
)


def test_only_who_fools_and_is_noticed_by_nobody_reaches_the_goal():
    assert evading().reached(ANSWER).tolist() == [True, False, False]


def test_margins_are_that_of_the_goal_and_the_scaled_ways_to_the_thresholds():
    torch.testing.assert_close(evading().margins(ANSWER), torch.tensor([[1, 0.5, 0.5], [1, 0.5, -1], [-1, 0.5, 0.5]]))


def test_a_score_at_its_threshold_is_noticed_by_nobody_and_one_above_is():
    goal = evading((0,), (1.0,), (1.0,))
    at, above = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.000001]])
    assert goal.reached(at).tolist() == [True]
    assert goal.reached(above).tolist() == [False]


def test_a_score_that_is_no_number_is_noticed():
    assert not evading((0,), (1.0,), (1.0,)).reached(torch.tensor([[0.0, 1.0, math.nan], [0.0, 1.0, math.inf]])[:1]).any()
    assert not evading((0,), (1.0,), (1.0,)).reached(torch.tensor([[0.0, 1.0, math.inf]])).any()


def test_some_images_of_it_are_the_same_goal():
    goal = evading((0, 1, 0))
    torch.testing.assert_close(goal.take(torch.tensor([2, 1])).margins(ANSWER[[2, 1]]), goal.margins(ANSWER)[[2, 1]])


def test_each_way_of_the_inner_goal_stays_unnoticed():
    answer = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    goal = Evading(Untargeted(torch.tensor([0])), torch.tensor([1.0]), torch.tensor([1.0]))
    ways = goal.aims(answer, 5)
    assert [int(way.aim.goal.targets) for way in ways] == [1, 2]
    assert all(isinstance(way.aim.goal, Targeted) and way.reached(answer).item() is False for way in ways)


def test_it_stands_over_findings_as_well():
    goal = Evading(Findings.against(torch.tensor([[1, 0]]), torch.zeros(2)), torch.tensor([0.0]), torch.tensor([1.0]))
    assert goal.reached(torch.tensor([[-1.0, 1.0, -0.1]])).tolist() == [True]
    assert goal.reached(torch.tensor([[-1.0, -1.0, -0.1]])).tolist() == [False]


@pytest.mark.parametrize(
    ("thresholds", "scale"), [((1.0, math.inf), (1.0, 1.0)), ((1.0, 2.0), (1.0, 0.0)), ((1.0, 2.0), (1.0,))]
)
def test_a_threshold_that_is_not_finite_or_a_scale_that_is_not_positive_is_refused(thresholds, scale):
    with pytest.raises(LabelError, match="finite threshold and a positive scale"):
        evading(thresholds=thresholds, scale=scale).check(3, 4)


def test_labels_are_checked_against_the_logits_alone():
    evading((0, 1, 1)).check(3, 4)
    with pytest.raises(LabelError, match=r"0\.\.1"):
        evading((0, 1, 2)).check(3, 4)


def test_selective_climbs_what_is_wanting():
    z = ANSWER.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(selective(evading(), z).sum(), z)
    assert (gradient[1:, :2].abs().sum(1) > 0).tolist() == [False, True]
    assert (gradient[1:, 2:].abs().sum(1) > 0).tolist() == [True, False]
    with pytest.raises(SettingsError, match="needs the goal Evading"):
        selective(Untargeted(torch.zeros(3, dtype=torch.int64)), ANSWER)


def test_the_joint_objective_climbs_both_at_once():
    z = ANSWER.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_odds(evading(), z).sum(), z)
    assert (gradient.abs() > 0).all()


def test_the_spread_of_logits_is_not_that_of_scores():
    torch.testing.assert_close(dlr(evading(), ANSWER), margin(evading(), ANSWER))


def matching():
    return Matching(Untargeted(torch.tensor([0, 0])), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))


def test_likeness_is_highest_at_the_guide_and_success_is_the_goal_alone():
    answer = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 3.0, 0.0, 0.0]])
    assert likeness(matching(), answer).tolist() == [0, -3]
    assert matching().reached(answer).tolist() == [True, False]
    assert matching().take(torch.tensor([1])).distance(answer[1:]).tolist() == [3]
    with pytest.raises(SettingsError, match="needs the goal Matching"):
        likeness(evading(), ANSWER)


def test_a_guide_for_each_image_is_needed():
    matching().check(2, 5)
    with pytest.raises(LabelError, match="a finite guide each"):
        matching().check(3, 5)
    with pytest.raises(LabelError, match="a finite guide each"):
        Matching(Untargeted(torch.tensor([0])), torch.tensor([[math.nan]])).check(1, 3)
