"""Scores and features moved by hand: closed forms, and what they must not be taken for."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from antivenom.errors import InputError, ModelError
from antivenom.evaluation.what_if import feature_perturbation, score_shift
from antivenom.metrics.classification import accuracy, decide
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.models.foreign import adopt
from antivenom.randomness import Draws
from antivenom.task import Task
from antivenom.threat.goals import Findings, Targeted, Untargeted

TASK = Task(("control", "Alzheimer", "Parkinson"))

# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored():
    generator = np.random.default_rng(0)
    return generator.normal(size=(200, 3)), generator.integers(0, 3, 200)


def test_the_curve_is_the_share_of_margins_above_the_shift(scored):
    logits, targets = scored
    own = logits[np.arange(200), targets]
    margins = own - np.where(np.eye(3)[targets] == 1, -np.inf, logits).max(1)
    shifts = np.linspace(-3, 3, 25)
    curve = score_shift(logits, targets, shifts)
    np.testing.assert_allclose(curve, [(margins > shift).mean() for shift in shifts])
    assert (np.diff(curve) <= 0).all()


def test_no_shift_is_the_accuracy_itself(scored):
    logits, targets = scored
    assert score_shift(logits, targets, [0.0]) == accuracy(decide(logits, multilabel=False), targets)


def test_the_threshold_of_one_class_moves_for_all_images_alike(scored):
    logits, targets = scored
    curve = score_shift(logits, targets, [-1e9, 1e9], of=1)
    np.testing.assert_allclose(curve[0], (targets == 1).mean())  # everything is called 1
    left = np.where(logits[:, 0] >= logits[:, 2], 0, 2)
    np.testing.assert_allclose(curve[1], (left == targets).mean())  # nothing is


def test_findings_are_shifted_towards_the_wrong_side_of_their_thresholds():
    logits, targets = np.array([[1.0, -1.0], [3.0, 0.5]]), np.array([[1, 0], [1, 1]])
    assert score_shift(logits, targets, [0.0, 0.6, 1.5, 4.0], multilabel=True).tolist() == [1, 0.75, 0.25, 0]
    moved = score_shift(logits, targets, [0.0, 0.6], of=1, multilabel=True, thresholds=np.array([0.0, 0.0]))
    assert moved.tolist() == [1, 0.75]  # the absent one only becomes more so


def test_an_answer_that_is_no_number_is_never_right():
    logits = np.array([[np.nan, 1.0], [0.0, 1.0]])
    assert score_shift(logits, np.array([1, 1]), [-9.0, 0.0]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("targets", "more", "said"),
    [
        (np.array([0, 1, 1]), {}, "shapes"),
        (np.array([0, 1]), {"multilabel": True}, "shapes"),
        (np.array([0, 1]), {"of": 2}, "2"),
    ],
)
def test_what_does_not_go_together_is_refused(targets, more, said):
    with pytest.raises(InputError, match=said):
        score_shift(np.zeros((2, 2)), targets, [0.0], **more)


# -- features ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def brain():
    """A small network whose features, after a ReLU, are five numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).eval()
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Classifier(network, TASK, channels=1, mean=0.5, std=0.25), network[-1], x


def distance(layer, before, labels):
    """L2 distance of the features to the nearest other class of a linear layer, the smallest change that turns the answer."""
    own = layer.weight[labels]
    margins = before.gather(1, labels[:, None]) - before
    lengths = (own[:, None] - layer.weight[None]).norm(dim=2)
    return (margins / lengths.clamp_min(1e-12)).scatter(1, labels[:, None], math.inf).amin(1)


def test_the_answer_changes_where_the_ball_reaches_another_class_and_nowhere_else(brain):
    model, layer, x = brain
    before = model(x).detach()
    labels = before.argmax(1)
    needed = distance(layer, before, labels).detach()
    epsilon = float(needed.median())
    found = feature_perturbation(model, x, Untargeted(labels), epsilon, generator=Draws.of(0, torch.arange(24)))
    clear = (needed / epsilon - 1).abs() > 0.02
    assert torch.equal(found.changed[clear], (needed < epsilon)[clear])
    assert found.changed.any()
    assert not found.changed.all()
    assert (found.size <= epsilon * (1 + 1e-5)).all()
    torch.testing.assert_close(found.before, before)
    torch.testing.assert_close(found.share, found.size / model.features(x).detach().norm(dim=1))
    assert torch.equal(found.changed, found.after.argmax(1) != labels)


def test_a_target_gains_the_distance_between_the_two_rows():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    model, layer = Classifier(network, Task(("control", "Alzheimer")), channels=1, mean=0.5, std=0.25), network[-1]
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    goal = Targeted(model(x).argmin(1))
    found = feature_perturbation(model, x, goal, 0.05, generator=torch.Generator().manual_seed(0))
    rise = goal.margin(found.after) - goal.margin(found.before)
    torch.testing.assert_close(rise, (0.05 * (layer.weight[0] - layer.weight[1]).norm()).detach().expand(12), rtol=1e-3, atol=0)


def test_a_relative_ball_is_a_share_of_the_features_own_norm(brain):
    model, _, x = brain
    goal = Untargeted(model(x).argmax(1))
    found = feature_perturbation(model, x, goal, 0.1, relative=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.share, torch.full((24,), 0.1))


def test_what_is_wrong_already_is_no_change(brain):
    model, _, x = brain
    goal = Untargeted((model(x).argmax(1) + 1) % 3)
    assert not feature_perturbation(model, x, goal, 1e-4, generator=torch.Generator().manual_seed(0)).changed.any()


def test_findings_are_moved_by_their_features_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    model = Classifier(network, Task(("Effusion", "Mass"), multilabel=True), channels=1, mean=0.5, std=0.25)
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    goal = Findings.against((model(x) > 0).long(), torch.zeros(2))
    found = feature_perturbation(model, x, goal, 100.0, generator=torch.Generator().manual_seed(0))
    assert found.changed.all()
    assert ((found.after > 0) != (found.before > 0)).all()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_the_last_layer_of_every_backbone_is_found(name):
    model = build(name, TASK, channels=1, size=(32, 32), seed=0).eval()
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    assert feature_perturbation(model, x, goal, 10.0, relative=True, generator=torch.Generator().manual_seed(0)).changed.all()


@pytest.mark.parametrize("end", [nn.Identity(), nn.Sigmoid()])
def test_one_number_for_two_classes_is_read_as_the_model_reads_it(end):
    two = Task(("normal", "pneumonia"))
    model = adopt(nn.Sequential(nn.Flatten(), nn.Linear(16, 1), end), two, channels=1, size=(4, 4)).eval()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    assert feature_perturbation(model, x, goal, 100.0, generator=torch.Generator().manual_seed(0)).changed.all()


def test_a_convolution_as_last_layer_is_applied_to_its_pooled_features():
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model = Classifier(network, TASK, channels=1, mean=0.0, std=1.0)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    assert feature_perturbation(model, x, goal, 100.0, generator=torch.Generator().manual_seed(0)).changed.all()


def test_an_answer_that_no_layer_gives_alone_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU()).eval()
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([-9.0, 0.0, 0.0]))
    model = Classifier(network, TASK, channels=1, mean=0.0, std=1.0)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="no single layer"):
        feature_perturbation(model, x, Untargeted(model(x).argmax(1)), 1.0, generator=torch.Generator().manual_seed(0))


def test_training_mode_is_refused(brain):
    model, _, x = brain
    with pytest.raises(ModelError, match="training mode"):
        feature_perturbation(
            model.train(), x, Untargeted(torch.zeros(24).long()), 1.0, generator=torch.Generator().manual_seed(0)
        )
