"""What a step makes small, put together by hand."""

import pytest
import torch
from torch.nn import functional as F

from antivenom.training.adversary import divergence
from antivenom.training.lesson import Lesson
from antivenom.training.losses import StandardLoss

CLASSES, FINDINGS = StandardLoss(multilabel=False), StandardLoss(multilabel=True)
X = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
WEIGHTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))


def model(images):
    return images.flatten(1) @ WEIGHTS


def test_without_an_adversary_it_is_the_loss():
    assert Lesson(CLASSES)(model, X, None, Y) == F.cross_entropy(model(X), Y)


def test_disturbed_images_take_the_place_of_clean_ones_or_share_it():
    worse = X.flip(0)
    plain, harmed = F.cross_entropy(model(X), Y), F.cross_entropy(model(worse), Y)
    assert Lesson(CLASSES)(model, X, worse, Y) == harmed
    torch.testing.assert_close(Lesson(CLASSES, clean=0.25)(model, X, worse, Y), 0.75 * harmed + 0.25 * plain)


def test_trades_adds_how_far_the_answers_part():
    worse = X.flip(0)
    p, q = model(X).softmax(1), model(worse).softmax(1)
    apart = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(Lesson(CLASSES, trades=6.0)(model, X, worse, Y), F.cross_entropy(model(X), Y) + 6 * apart)


def test_of_findings_the_divergence_is_the_sum_of_their_own():
    clean, harmed = model(X), model(X.flip(0))
    p, q = clean.sigmoid(), harmed.sigmoid()
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(divergence(clean, harmed, multilabel=True), by_hand)
    assert (divergence(clean, clean, multilabel=True) == 0).all()


def test_a_temperature_divides_the_logits_of_pupil_and_teacher():
    lesson = Lesson(CLASSES, temperature=20.0)
    soft = lesson.soft(model(X))
    torch.testing.assert_close(soft, (model(X) / 20).softmax(1))
    torch.testing.assert_close(lesson(model, X, None, soft), -(soft * (model(X) / 20).log_softmax(1)).sum(1).mean())
    assert torch.equal(Lesson(FINDINGS, temperature=2.0).soft(model(X)), (model(X) / 2).sigmoid())


def test_the_penalty_is_the_squared_length_of_each_image_s_own_gradient():
    z = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(z), Y, reduction="sum"), z)
    expected = F.cross_entropy(model(X), Y) + 3 * slope.flatten(1).square().sum(1).mean()
    torch.testing.assert_close(Lesson(CLASSES, gradient_penalty=3.0)(model, X, None, Y), expected)


def test_the_penalty_is_learnt_from():
    weights = WEIGHTS.clone().requires_grad_()
    lengths = []
    for penalty in (0.0, 10.0):
        value = Lesson(CLASSES, gradient_penalty=penalty)(lambda z: z.flatten(1) @ weights, X, None, Y)
        lengths.append(torch.autograd.grad(value, weights)[0].norm())
    assert lengths[1] != pytest.approx(lengths[0].item(), rel=0.1)
