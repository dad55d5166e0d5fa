"""Certificates against a truth in closed form: a plane smoothed by noise keeps its answer up to the plane, and no farther."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from antivenom.attacks import SPENT
from antivenom.attacks.pgd import pgd
from antivenom.defences.smoothing import Smoothed
from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.randomness import Draws
from antivenom.task import Task
from antivenom.threat.goals import Findings, Untargeted
from antivenom.threat.perturbations import L2
from toys import FREE, Plane, Sphere

BINARY = Task(("normal", "pneumonia"))
FINDINGS = Task(("Effusion", "Mass"), multilabel=True)
ALPHA = 0.001


class Planes(nn.Module):
    """A finding on the far side of each of two planes through the origin of the images, less 0.5; distances are known."""

    w = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.w.T


class Broken(nn.Module):
    """NaN wherever the first value is above 0.5; elsewhere always the first class."""

    def forward(self, x):
        first = x.flatten(1)[:, :1]
        return torch.where(first > 0.5, torch.nan, torch.tensor([1.0, 0.0]))


def wrapped(module, task=BINARY):
    return Classifier(module, task, channels=1, mean=0.0, std=1.0).eval()


def at(*distances):
    """Images (B, 1, 4, 12) that lie so far from the plane, on the side of the second class where above 0."""
    plane = Plane()
    away = plane.w.detach() / plane.w.detach().norm()
    return plane, torch.stack([0.5 + d * away for d in distances]).reshape(-1, 1, 4, 12)


def streams(count, seed=0):
    return Draws.of(seed, torch.arange(count))


def test_the_radius_never_exceeds_the_distance_to_the_plane_and_nears_it_with_more_copies():
    distances = torch.linspace(-0.4, 0.4, 40)
    plane, images = at(*distances.tolist())
    smoothed = Smoothed(wrapped(plane), 0.25, batch=4096)
    gaps = []
    for n in (100, 1000, 5000):
        found = smoothed.certify(images, 50, n, ALPHA, streams(40))
        sure = found.classes >= 0
        assert torch.equal(found.classes[sure], (distances > 0).long()[sure])
        assert (found.radius <= distances.abs()).all()
        assert (found.radius[~sure] == 0).all()
        gaps.append(float((distances.abs() - found.radius).mean()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


def test_certificates_are_wrong_no_more_often_than_alpha():
    plane, images = at(*[0.1] * 400)
    found = Smoothed(wrapped(plane), 0.25, batch=4096).certify(images, 10, 100, 0.1, streams(400))
    wrong = (found.classes == 0) | (found.radius > 0.1)
    assert 0 < wrong.sum() <= 40 + 3 * math.sqrt(400 * 0.1 * 0.9)


def test_all_votes_prove_the_known_radius():
    plane, images = at(9.0)
    found = Smoothed(wrapped(plane), 0.25, batch=1000).certify(images, 10, 1000, ALPHA, streams(1))
    assert (found.classes.tolist(), found.votes.tolist()) == ([1], [1000])
    assert found.radius.item() == pytest.approx(0.61582, abs=5e-6)


def test_on_the_boundary_it_abstains_and_off_it_it_answers():
    plane, images = at(0.0, 0.0, 0.0, 0.5, -0.5)
    smoothed = Smoothed(wrapped(plane), 0.25)
    found = smoothed.certify(images, 50, 500, ALPHA, streams(5))
    assert found.classes.tolist() == [-1, -1, -1, 1, 0]
    assert (found.radius > 0).tolist() == [False, False, False, True, True]
    assert smoothed.predict(images, 500, ALPHA, streams(5)).tolist() == [-1, -1, -1, 1, 0]


def test_the_same_seed_gives_the_same_votes_and_another_seed_others():
    plane, images = at(0.1, -0.1, 0.2)
    smoothed = Smoothed(wrapped(plane), 0.25)
    one, two, other = (smoothed.certify(images, 20, 300, ALPHA, streams(3, seed)).votes for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_neither_batch_nor_company_moves_a_vote():
    plane, images = at(0.1, -0.1, 0.2)
    wide = Smoothed(wrapped(plane), 0.25, batch=512).certify(images, 20, 300, ALPHA, streams(3))
    narrow = Smoothed(wrapped(plane), 0.25, batch=7).certify(images, 20, 300, ALPHA, streams(3))
    alone = Smoothed(wrapped(plane), 0.25).certify(images[1:2], 20, 300, ALPHA, streams(3).take(torch.tensor([1])))
    assert torch.equal(wide.votes, narrow.votes)
    assert torch.equal(wide.votes[1:2], alone.votes)
    assert torch.equal(wide.radius, narrow.radius)


def test_no_more_copies_are_answered_at_once_than_the_batch_holds():
    seen = []
    plane, images = at(0.1, -0.1, 0.2)
    plane.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    Smoothed(wrapped(plane), 0.25, batch=8).certify(images, 5, 10, ALPHA, streams(3))
    assert max(seen) == 8
    assert sum(seen) == 3 * 15


def test_noise_has_the_stated_size_and_is_not_clipped():
    seen = []
    plane = Plane()
    plane.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    Smoothed(wrapped(plane), 0.25).certify(torch.ones(1, 1, 4, 12), 10, 500, ALPHA, streams(1))
    noise = torch.cat(seen) - 1
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert len(noise.flatten(1).unique(dim=0)) == 510  # no copy meets the noise of another, nor those that chose


def test_findings_are_certified_each_for_itself_and_share_alpha():
    images = torch.full((2, 1, 2, 2), 0.5)
    images[0, 0, 0, 0] += 0.3 / 0.6  # 0.3 beyond the first plane, on the second
    images[1, 0, 1, 0] -= 0.3
    found = Smoothed(wrapped(Planes(), FINDINGS), 0.25, batch=4096).certify(images, 100, 5000, ALPHA, streams(2))
    assert found.classes.tolist() == [[1, -1], [-1, 0]]
    assert found.radius[[0, 1], [0, 1]].tolist() == pytest.approx([0.3, 0.3], abs=0.05)
    assert (found.radius <= 0.3).all()
    far = Smoothed(wrapped(Planes(), FINDINGS), 0.25).certify(torch.full((1, 1, 2, 2), 9.0), 10, 1000, ALPHA, streams(1))
    halved = 0.25 * torch.special.ndtri(torch.tensor((ALPHA / 2) ** (1 / 1000), dtype=torch.float64))
    assert far.radius.tolist() == [[pytest.approx(halved.item(), abs=1e-6)] * 2]


def test_a_threshold_moves_the_boundary_of_its_finding():
    images, thresholds = torch.full((1, 1, 2, 2), 0.5), torch.tensor([-1.0, 1.0])
    smoothed = Smoothed(wrapped(Planes(), FINDINGS), 0.25, thresholds)
    assert smoothed.predict(images, 500, ALPHA, streams(1)).tolist() == [[1, 0]]
    assert smoothed.certify(images, 50, 500, ALPHA, streams(1)).classes.tolist() == [[1, 0]]


def test_a_copy_answered_with_nan_votes_for_nothing():
    images = torch.full((1, 1, 1, 2), 0.5)
    found = Smoothed(wrapped(Broken()), 0.25).certify(images, 20, 1000, ALPHA, streams(1))
    assert 400 < found.votes.item() < 600
    assert found.classes.tolist() == [-1]


def test_an_attack_on_the_smoothed_model_breaks_no_certificate_and_gets_through_beyond():
    away = F.normalize(streams(12).normal(16)).reshape(12, 1, 4, 4)
    images = 0.5 + torch.linspace(0, 0.5, 12).reshape(-1, 1, 1, 1) * away  # from the middle of the sphere to well outside
    smoothed = Smoothed(wrapped(Sphere()), 0.05, batch=600)
    found = smoothed.certify(images, 50, 500, ALPHA, streams(12))
    sure = found.radius > 0
    x, labels, radius = images[sure], found.classes[sure], found.radius[sure]
    assert labels.unique().tolist() == [0, 1]
    assert len(x) >= 8
    victim = smoothed.victim(x, streams(1), copies=8, judged=64)
    broken = {}
    for factor in (0.999, 6.0):
        allowed = L2((factor * radius).float())
        result = pgd(victim, x, Untargeted(labels), allowed, steps=10, until=SPENT, generator=streams(len(x)))
        assert (result.gradients > 0).all()
        assert not result.flags["probabilities"].any()
        said = smoothed.predict(result.x_adv, 500, ALPHA, streams(len(x), seed=1))
        broken[factor] = ((said != labels) & (said >= 0)).sum()
    assert broken[0.999] == 0
    assert broken[6.0] >= 5


def test_the_adversary_climbs_the_mean_probability_of_fixed_noise():
    plane, images = at(0.05, -0.1)
    smoothed = Smoothed(wrapped(plane), 0.25)
    victim = smoothed.victim(images, streams(1), copies=64, judged=2000)
    x = images.clone().requires_grad_()
    answer = victim.propose(x)
    assert torch.allclose(answer.exp().sum(1), torch.ones(2))
    assert torch.equal(answer, victim.propose(x))
    assert torch.allclose(answer[1:], victim.propose(x[1:]))
    (slope,) = torch.autograd.grad(answer[:, 1].sum(), x)
    assert torch.cosine_similarity(slope.flatten(1), plane.w[None]).min() > 0.999
    share = victim.judge(images)[:, 1].exp()
    wanted = torch.special.ndtr(torch.tensor([0.05, -0.1]) / 0.25)
    assert torch.allclose(share, wanted, atol=0.04)


def test_findings_are_attacked_around_the_same_boundary():
    images = torch.full((1, 1, 2, 2), 0.5)
    images[0, 0, 1, 0] = 0.6
    smoothed = Smoothed(wrapped(Planes(), FINDINGS), 0.25, torch.tensor([-1.0, 0.0]))
    victim = smoothed.victim(images, streams(1), copies=8, judged=500)
    assert (victim.judge(images) > 0).tolist() == [[True, True]]
    goal, thresholds = Findings.against(torch.tensor([[1, 1]]), torch.zeros(2)), L2(3.0, pixels=FREE)
    result = pgd(victim, images, goal, thresholds, steps=10, generator=streams(1))
    assert result.success.tolist() == [True]
    assert smoothed.predict(result.x_adv, 500, ALPHA, streams(1)).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sigma": 0.0}, "sigma"), ({"sigma": math.inf}, "sigma"), ({"batch": 0}, "batch"), ({"thresholds": torch.zeros(3)}, "3")],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(SettingsError, match=said):
        Smoothed(**{"classifier": wrapped(Plane()), "sigma": 0.25, **changes})


@pytest.mark.parametrize(
    ("n0", "n", "alpha", "count", "said"),
    [
        (0, 10, 0.1, 1, "one copy"),
        (10, 0, 0.1, 1, "one copy"),
        (10, 10, 0.0, 1, "alpha"),
        (10, 10, 1.0, 1, "alpha"),
        (10, 10, 0.1, 2, "streams"),
    ],
)
def test_votes_that_cannot_be_are_refused(n0, n, alpha, count, said):
    plane, images = at(0.1)
    with pytest.raises(SettingsError, match=said):
        Smoothed(wrapped(plane), 0.25).certify(images, n0, n, alpha, streams(count))
    if n0:
        with pytest.raises(SettingsError, match=said):
            Smoothed(wrapped(plane), 0.25).predict(images, n, alpha, streams(count))


def test_what_is_no_image_and_a_model_in_training_are_refused():
    plane, images = at(0.1)
    smoothed = Smoothed(wrapped(plane), 0.25)
    for bad in (images[0], images.long(), images * np.nan, images[:0]):
        with pytest.raises(ImageError):
            smoothed.predict(bad, 10, 0.1, streams(1))
    with pytest.raises(SettingsError, match="stream"):
        smoothed.victim(images, streams(2))
    with pytest.raises(SettingsError, match="copy"):
        smoothed.victim(images, streams(1), copies=0)
    smoothed.classifier.train()
    with pytest.raises(ModelError, match="training mode"):
        smoothed.certify(images, 10, 10, 0.1, streams(1))
    with pytest.raises(ModelError, match="training mode"):
        smoothed.victim(images, streams(1))
