import math

import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference

from antivenom.detection.density import KernelDensity, fit_density
from antivenom.detection.reading import Reading
from antivenom.errors import InputError
from readings import clouds, of, stream


@pytest.fixture(scope="module")
def state():
    return fit_density(stream(clouds(300)), tune=clouds(100, seed=7), seed=0)


def test_it_is_the_density_of_scikit_learn():
    state = fit_density(stream(clouds(300)), tune=clouds(100, seed=7), by_class=False, seed=0)
    seen = clouds(50, seed=1)
    reference = Reference(bandwidth=state.bandwidth).fit(clouds(300).layer("features").numpy())
    expected = torch.from_numpy(-reference.score_samples(seen.layer("features").numpy()))
    torch.testing.assert_close(state(seen).double(), expected, rtol=1e-5, atol=1e-4)


def test_of_a_class_those_alone_count_that_are_answered_alike(state):
    clean, seen = clouds(300), clouds(50, seed=1)
    for answer in range(3):
        own = clean.layer("features")[clean.logits.argmax(1) == answer]
        mine = seen.take((seen.logits.argmax(1) == answer).nonzero()[:, 0])
        reference = Reference(bandwidth=state.bandwidth).fit(own.numpy())
        expected = torch.from_numpy(-reference.score_samples(mine.layer("features").numpy()))
        torch.testing.assert_close(state(mine).double(), expected, rtol=1e-5, atol=1e-4)


def test_an_answer_that_its_features_do_not_bear_out_is_suspicious(state):
    seen = clouds(60, seed=1)
    turned = Reading(seen.logits.roll(1, 1), seen.layers)
    assert bool((state(turned) > state(seen) + 2).float().mean() > 0.9)


def test_the_bandwidth_is_the_likeliest_of_those_tried(state):
    held = clouds(100, seed=7)

    def likelihood(bandwidth):
        return -KernelDensity(**{**state.settings(), "bandwidth": bandwidth}, **state.state_dict())(held).mean().item()

    assert likelihood(state.bandwidth) > max(likelihood(state.bandwidth * 1.2), likelihood(state.bandwidth / 1.2))
    assert state.notes == ()


def test_held_out_images_that_are_in_the_bank_are_left_out(state):
    tune = Reading.join([clouds(100, seed=7), clouds(300)])
    again = fit_density(stream(clouds(300)), tune=tune, seed=0)
    assert again.bandwidth == pytest.approx(state.bandwidth)
    with pytest.raises(InputError, match="none of the 300 held-out"):
        fit_density(stream(clouds(300)), tune=clouds(300), seed=0)
    with pytest.raises(InputError, match="may also be constant"):
        fit_density([of(torch.ones(9, 4))], tune=of(torch.ones(5, 4)), seed=0)
    with pytest.raises(InputError, match="none of the 0 held-out"):
        fit_density(stream(clouds(300)), tune=clouds(0), seed=0)


def test_an_answer_never_seen_is_told_and_compared_with_all():
    clean, seen = clouds(300), clouds(50, seed=1)
    wider = clean.logits.new_full((300, 1), -99)
    rare = Reading(torch.cat([clean.logits, wider], 1), clean.layers)
    state = fit_density(stream(rare), tune=rare.map(lambda values: values + 0.01), seed=0)
    assert "answered with class 3" in state.notes[0]
    fourth = Reading(torch.eye(4)[3].expand(50, -1), seen.layers)
    all_alike = KernelDensity(**{**state.settings(), "by_class": False}, **state.state_dict())
    torch.testing.assert_close(state(fourth), all_alike(fourth))


def test_held_out_images_unlike_the_fitted_ones_are_told():
    apart = of(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) + 2)
    cloud = of(0.01 * torch.randn(40, 64, generator=torch.Generator().manual_seed(1)))
    near = of(torch.cat([apart.layer("features")[:3], cloud.layer("features")[:37] + 0.001]))
    assert any("smallest" in note or "largest" in note for note in fit_density([cloud], tune=near, seed=0).notes)


def test_far_away_the_score_is_finite_and_its_gradient_points_back(state):
    features = torch.full((1, 6), 100.0, requires_grad=True)
    score = state(of(features))
    assert math.isfinite(score.item())
    (gradient,) = torch.autograd.grad(score.sum(), features)
    assert bool((gradient > 0).all())


def test_it_is_rebuilt_to_the_bit_and_has_gradients(state):
    again = KernelDensity(**state.settings(), **state.state_dict())
    assert torch.equal(again(clouds(50, seed=2)), state(clouds(50, seed=2)))
    features = clouds(3, seed=4, dtype=torch.float64).layer("features").requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(of(values)), (features,))


def test_a_bandwidth_that_cannot_be_is_refused(state):
    with pytest.raises(InputError, match="bandwidth"):
        KernelDensity(**{**state.settings(), "bandwidth": 0.0}, **state.state_dict())
