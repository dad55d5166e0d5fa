import pytest
import torch

from antivenom.errors import LabelError, SettingsError
from antivenom.task import Task
from antivenom.threat.card import goal_for, perturbation_set
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.transforms import BiasField, Exposure, Placement, Stripes

CHEST = Task(("normal", "pneumonia"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)
SHOWN = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    "allowed",
    [
        Linf(0.1),
        L2(0.5, Pixels(tied=True)),
        Linf(0.1, Pixels(tied=True, grid=1 / 4095)),
        Placement(1.0, Pixels(grid=1 / 255)),
        Placement(0.5, degrees=30.0, shift=1 / 3),
        Exposure(1.0, Pixels(tied=True)),
        BiasField(1.0, Pixels(tied=True, grid=1 / 255), limit=0.5, knots=6),
        Stripes(4 / 255, Pixels(tied=True)),
    ],
)
def test_words_name_the_set_that_they_describe(allowed):
    assert perturbation_set(allowed.describe(), allowed.epsilon) == allowed


@pytest.mark.parametrize(
    "threat",
    [
        "l7",
        "",
        "linf, grid 255",
        "linf, tied",
        "linf, grid 1/0",
        "linf, degrees 10",
        "placement, degrees",
        "placement, degrees ten",
        "placement, degrees -3",
        "placement, knots 5",
        "placement, epsilon 3",
        "bias field, knots 4.5",
        "bias field, knots 2",
        "biasfield",
    ],
)
def test_words_that_mean_nothing_are_refused(threat):
    with pytest.raises(SettingsError):
        perturbation_set(threat, 0.1)


def test_a_refusal_says_which_words_mean_something():
    with pytest.raises(SettingsError, match=r"'tied channels', 'grid 1/255', 'degrees 10.0' and 'shift 0.05' do"):
        perturbation_set("placement, slowly", 1.0)
    with pytest.raises(SettingsError, match="whole number"):
        perturbation_set("bias field, knots many", 1.0)


def test_goals_of_a_class_task():
    labels = torch.tensor([0, 1, 1])
    goal, concerned = goal_for("untargeted", CHEST, labels, torch.zeros(2))
    assert isinstance(goal, Untargeted)
    assert concerned.all()
    goal, concerned = goal_for("targeted: normal", CHEST, labels, torch.zeros(2))
    assert isinstance(goal, Targeted)
    assert goal.targets.tolist() == [0, 0]
    assert concerned.tolist() == [False, True, True]


def test_goals_of_a_multi_label_task():
    goal, concerned = goal_for("against every finding", FINDINGS, SHOWN, torch.zeros(3))
    assert isinstance(goal, Findings)
    assert goal.wanted[0].tolist() == [-1, 1, 1]
    assert concerned.all()
    goal, concerned = goal_for("hide: Mass, Nodule", FINDINGS, SHOWN, torch.zeros(3))
    assert concerned.tolist() == [False, False, True]
    assert goal.wanted.tolist() == [[0, -1, -1]]
    goal, concerned = goal_for("invent: Effusion", FINDINGS, SHOWN, torch.zeros(3))
    assert concerned.tolist() == [False, True, True]
    assert goal.wanted.tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(("text", "task"), [("untargeted", FINDINGS), ("hide: Mass", CHEST), ("targeted", CHEST)])
def test_a_goal_of_another_kind_of_task_is_refused(text, task):
    with pytest.raises(SettingsError, match="means nothing"):
        goal_for(text, task, SHOWN if task.multilabel else torch.tensor([0, 1]), torch.zeros(3))


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(LabelError, match="tumour"):
        goal_for("targeted: tumour", CHEST, torch.tensor([0]), torch.zeros(2))
