import pytest
import torch

from antivenom.errors import LabelError
from antivenom.threat.goals import Findings, Targeted, Untargeted, against_own_answer

TIE, WIN, LOSS = [1.0, 1.0, 0.0], [0.0, 1.0, 0.5], [2.0, 1.0, 0.5]


def test_a_tie_and_a_nan_satisfy_nobody():
    answers = torch.tensor([TIE, WIN, LOSS, [torch.nan] * 3])
    assert Untargeted(torch.zeros(4, dtype=torch.long)).reached(answers).tolist() == [False, True, False, False]
    assert Targeted(torch.ones(4, dtype=torch.long)).reached(answers).tolist() == [False, True, False, False]


def test_findings_left_alone_do_not_count():
    goal = Findings(torch.tensor([[1, -1, 0]]), torch.zeros(3))
    assert goal.reached(torch.tensor([[1.0, -1.0, 9.0]]))
    assert not goal.reached(torch.tensor([[1.0, 1.0, 0.0]]))


def test_one_finding_or_every_finding():
    answer = torch.tensor([[1.0, 1.0]])
    targets = torch.tensor([[0, 1]])  # the first is invented, the second still seen
    assert Findings.against(targets, torch.zeros(2), every=False).reached(answer)
    assert not Findings.against(targets, torch.zeros(2)).reached(answer)


def test_a_finding_is_present_above_its_threshold_only():
    goal = Findings(torch.tensor([[1]]), torch.tensor([2.0]))
    assert goal.reached(torch.tensor([[2.1]]))
    assert not goal.reached(torch.tensor([[2.0]]))


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (Untargeted(torch.tensor([0, 3])), "0..2"),
        (Untargeted(torch.tensor([0.0, 1.0])), "Findings"),
        (Targeted(torch.tensor([0, -1])), "0..2"),
        (Findings(torch.zeros(2, 4), torch.zeros(3)), r"\(2, 3\)"),
        (Findings(torch.full((2, 3), 2), torch.zeros(3)), "leave alone"),
        (Findings(torch.tensor([[1, 0, 0], [0, 0, 0]]), torch.zeros(3)), "image 1"),
    ],
)
def test_a_goal_that_does_not_fit_is_refused(goal, said):
    with pytest.raises(LabelError, match=said):
        goal.check(2, 3)


def test_a_goal_that_fits_is_taken():
    Untargeted(torch.tensor([0, 2])).check(2, 3)
    Findings(torch.tensor([[1, 0, -1], [0, 1, 0]]), torch.zeros(3)).check(2, 3)


@pytest.mark.parametrize("goal", [Untargeted(torch.tensor([0, 1])), Targeted(torch.tensor([0, 1]))])
def test_some_images_have_the_same_goal(goal):
    answers = torch.tensor([LOSS, WIN])
    index = torch.tensor([1])
    assert torch.equal(goal.take(index).margin(answers[index]), goal.margin(answers)[index])


def test_each_other_class_is_a_way_to_any_of_them():
    answer = torch.tensor([LOSS, [0.5, 1.0, 2.0]])
    goal = Untargeted(torch.tensor([0, 2]))
    ways = goal.aims(answer, 9)
    assert [way.aim.targets.tolist() for way in ways] == [[1, 1], [2, 0]]
    assert len(goal.aims(answer, 1)) == 1
    third = torch.tensor([[0.0, 1.0, 3.0], [3.0, 1.0, 2.0]])
    assert ways[0].reached(third).tolist() == [True, True]  # success is any class but the true one
    assert (ways[0].aim.margin(third) < 0).all()  # though another was aimed at
    ways[0].check(2, 3)
    assert ways[0].take(torch.tensor([1])).aim.targets.tolist() == [1]


def test_where_any_finding_does_each_is_a_way_and_where_all_are_wanted_there_is_one():
    answer, targets = torch.tensor([[1.0, -0.2, 3.0]]), torch.tensor([[1, 0, 1]])
    ways = Findings.against(targets, torch.zeros(3), every=False).aims(answer, 2)
    assert [way.aim.wanted.tolist() for way in ways] == [[[0, 1, 0]], [[-1, 0, 0]]]
    every = Findings.against(targets, torch.zeros(3))
    assert every.aims(answer, 9) == [every]


def test_the_most_probable_class_or_finding_is_overturned():
    answer = torch.tensor([[0.2, 1.5, -1.0], [3.0, 2.9, 0.0]])
    classes = against_own_answer(answer)
    assert not classes.reached(answer).any()
    assert classes.reached(answer.flip(1)).tolist() == [False, True]  # the first has its largest logit in the middle
    findings = against_own_answer(answer, torch.zeros(3))
    assert findings.wanted.tolist() == [[0, -1, 0], [-1, 0, 0]]
    assert not findings.reached(answer).any()
    assert findings.reached(answer - torch.tensor([[0.0, 1.6, 0.0], [3.1, 0.0, 0.0]])).all()  # the others are left alone
    findings.check(2, 3)
