"""Surrogates propose, the target judges: who is asked, how often, and which point is given back."""

import pytest
import torch
from torch import nn

from antivenom.attacks import SPENT
from antivenom.attacks.mim import mim
from antivenom.attacks.pgd import pgd
from antivenom.attacks.problem import PROBED
from antivenom.errors import ModelError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.models.ensemble import SURROGATES, Ensemble, transfer
from antivenom.randomness import Draws
from antivenom.task import Task
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from toys import Counting, Plane, small_network


def classifier(classes=("normal", "pneumonia", "other"), *, multilabel=False):
    return Classifier(small_network(1, classes=len(classes)), Task(classes, multilabel), channels=1, mean=0.5, std=0.25).eval()


@pytest.fixture
def scene():
    target, surrogate = small_network(3, seed=0), small_network(3, seed=1)
    x = torch.rand(7, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return target, surrogate, x, Untargeted(target(x).argmax(1)), Draws.of(0, torch.arange(7))


def test_logits_are_averaged_as_they_are():
    models = [small_network(seed=seed) for seed in range(3)]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = torch.stack([model(x) for model in models])
    torch.testing.assert_close(Ensemble(models)(x), answers.mean(0))
    torch.testing.assert_close(Ensemble(models, [2, 1, 1])(x), answers[0] / 2 + answers[1] / 4 + answers[2] / 4)
    torch.testing.assert_close(Ensemble(models, [0, 5, 0])(x), answers[1])


def test_the_gradient_of_an_ensemble_is_the_mean_of_its_models():
    models = [Plane(seed=seed).eval() for seed in range(3)]
    x = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(Ensemble(models)(x)[:, 1].sum(), x)
    torch.testing.assert_close(gradient[0].flatten(), torch.stack([model.w for model in models]).mean(0))


def test_centring_each_model_would_change_no_margin():
    models = [small_network(seed=seed) for seed in range(2)]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    centred = [lambda z, model=model: model(z) - model(z).mean(1, keepdim=True) for model in models]
    goal = Untargeted(torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(goal.margin(Ensemble(centred)(x)), goal.margin(Ensemble(models)(x)))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(SettingsError, match="weights"):
        Ensemble([small_network(), small_network()], weights)


def test_an_ensemble_of_none_or_of_models_in_training_is_refused():
    with pytest.raises(SettingsError, match="at least one"):
        Ensemble([])
    with pytest.raises(ModelError, match="training mode"):
        Ensemble([small_network(), small_network().train()])


def test_answers_of_other_shapes_are_refused_when_they_come():
    both = Ensemble([small_network(classes=2), small_network(classes=3)])
    with pytest.raises(ModelError, match="alike"):
        both(torch.rand(1, 1, 8, 8))


def test_a_transfer_keeps_target_and_surrogates_apart(scene):
    target, surrogate, x, _, _ = scene
    victim = transfer(target, [surrogate], like=x, batch=5)
    assert victim.judge is target
    torch.testing.assert_close(victim.propose(x), surrogate(x))
    assert (victim.batch, victim.execution) == (5, SURROGATES)


def test_surrogates_that_decide_something_else_are_refused():
    target = classifier()
    with pytest.raises(ModelError, match="2 classes"):
        transfer(target, [classifier(), classifier(("normal", "pneumonia"))])
    with pytest.raises(ModelError, match="3 findings"):
        transfer(target, [classifier(multilabel=True)])
    with pytest.raises(ModelError, match="another order"):
        transfer(target, [classifier(("pneumonia", "normal", "other"))])
    assert transfer(target, [classifier(("NORMAL", "PNEUMONIA", "REST"))]).judge is target


def test_what_cannot_be_told_of_a_plain_model_is_asked_of_it(scene):
    target, surrogate, x, _, _ = scene
    with pytest.raises(SettingsError, match="like"):
        transfer(target, [surrogate])
    with pytest.raises(ModelError, match=r"target answers \(7, 3\)"):
        transfer(target, [surrogate, small_network(3, classes=4)], like=x)


@pytest.mark.parametrize("which", [0, 1])
def test_models_in_training_mode_are_refused(which):
    models = [classifier(), classifier()]
    models[which].train()
    with pytest.raises(ModelError, match="training mode"):
        transfer(models[0], models[1:])


def test_a_transfer_without_surrogates_is_refused():
    with pytest.raises(SettingsError, match="at least one"):
        transfer(classifier(), [])


def test_with_a_spent_budget_the_target_is_asked_once_an_image(scene):
    target, surrogate, x, goal, draws = scene
    counted, proposing = Counting(target).eval(), Counting(surrogate).eval()
    victim = transfer(counted, [proposing], like=x[:1])
    counted.images = proposing.images = 0
    result = mim(victim, x, goal, Linf(0.05), steps=6, until=SPENT, generator=draws)
    assert counted.images == 2 * PROBED + len(x)
    assert proposing.images == 7 * len(x)
    assert (result.queries == 8).all()
    assert torch.equal(result.success, goal.reached(target(result.x_adv)))


def test_until_fooled_the_target_is_asked_of_the_image_and_wherever_the_surrogate_is_fooled(scene):
    target, _, x, goal, draws = scene
    counted = Counting(target).eval()
    rejected = transfer(counted, [lambda z: target(z) - 99 * torch.nn.functional.one_hot(goal.labels[: len(z)], 3)], like=x)
    counted.images = 0
    result = pgd(rejected, x, goal, Linf(1e-6), steps=3, generator=draws)  # boasts at every look, and is never right
    assert not result.success.any()
    assert counted.images == 2 * PROBED + len(x) * (1 + 4)
    silent = transfer(counted, [lambda z: target(z) + 99 * torch.nn.functional.one_hot(goal.labels[: len(z)], 3)], like=x)
    counted.images = 0
    pgd(silent, x, goal, Linf(1e-6), steps=3, generator=draws)  # never claims a success: asked at the end only
    assert counted.images == 2 * PROBED + len(x) * (1 + 1)


def test_the_point_given_back_is_best_on_the_surrogate_whatever_the_target_says(scene):
    target, surrogate, x, goal, draws = scene
    shown = []

    def watched(z):
        answer = surrogate(z)
        shown.append((z.detach().clone(), goal.margin(answer.detach())))
        return answer

    result = mim(transfer(target, [watched], like=x), x, goal, Linf(0.05), steps=8, until=SPENT, generator=draws)
    points, margins = (torch.stack(parts) for parts in zip(*shown[1:], strict=True))  # the first is what `like` asked
    best = margins.argmax(0)
    torch.testing.assert_close(result.x_adv, points[best, torch.arange(len(x))], rtol=0, atol=1e-6)
    by_target = torch.stack([goal.margin(target(part)) for part in points]).argmax(0)
    assert (best != by_target).any()  # else the surrogate's choice and the target's could not be told apart


class Lopsided(nn.Module):
    """A plane whose answer is louder: what a louder model says weighs more in an ensemble."""

    def __init__(self, seed, loud):
        super().__init__()
        self.plane, self.loud = Plane(seed=seed), loud

    def forward(self, x):
        return self.loud * self.plane(x)


def test_an_ensemble_transfers_where_one_of_its_models_does_not():
    """Three planes: the target's normal is the mean of the other two, which are at right angles to each other."""
    one, other, target = Plane(seed=1).eval(), Plane(seed=2).eval(), Plane().eval()
    with torch.no_grad():
        other.w -= one.w * (other.w @ one.w) / (one.w @ one.w)
        target.w.copy_((one.w + other.w) / 2)
    x = 0.5 + 0.02 * torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, draws = Untargeted(target(x).argmax(1)), Draws.of(0, torch.arange(32))
    size = 1.05 * target.distance(x, Linf).max().item()

    def success(*surrogates, weights=None):
        victim = transfer(target, surrogates, like=x, weights=weights)
        return mim(victim, x, goal, Linf(size), steps=60, until=SPENT, generator=draws).success

    assert success(one, other).all()
    assert not success(one).all()
    assert not success(Lopsided(1, 1e3).eval(), other).all()
    assert success(Lopsided(1, 1e3).eval(), other, weights=[1e-3, 1]).all()
