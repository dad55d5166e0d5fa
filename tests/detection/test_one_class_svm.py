"""The border against scikit-learn's own."""

import pytest
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM as Reference

from antivenom.detection.one_class_svm import OneClassSvm, fit_one_class_svm
from antivenom.errors import InputError, SettingsError
from readings import clouds, of, stream


@pytest.fixture(scope="module")
def state():
    return fit_one_class_svm(stream(clouds(300)), seed=0)


def test_it_scores_as_scikit_learn_does(state):
    seen = clouds(200, seed=1, shift=0.5)
    scaler = StandardScaler().fit(clouds(300).layer("features").double().numpy())
    reference = Reference(nu=0.1, gamma="scale").fit(scaler.transform(clouds(300).layer("features").double().numpy()))
    expected = torch.from_numpy(-reference.decision_function(scaler.transform(seen.layer("features").double().numpy())))
    torch.testing.assert_close(state(seen.map(torch.Tensor.double)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state(seen), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [None, 0.3])
def test_values_as_they_are_score_as_in_scikit_learn(gamma):
    bank, seen = clouds(300), clouds(200, seed=1, shift=0.5)
    reference = Reference(nu=0.2, gamma=gamma or "scale").fit(bank.layer("features").double().numpy())
    state = fit_one_class_svm(stream(bank), nu=0.2, gamma=gamma, standardised=False, seed=0)
    expected = torch.from_numpy(-reference.decision_function(seen.layer("features").double().numpy()))
    torch.testing.assert_close(state(seen.map(torch.Tensor.double)), expected, rtol=1e-6, atol=1e-6)


def test_about_nu_of_the_fitted_images_lie_outside(state):
    outside = (state(clouds(300)) > 0).float().mean().item()
    assert 0.05 < outside < 0.15


def test_far_away_the_score_levels_off_at_rho(state):
    assert state(of(torch.full((1, 6), 1e3))).item() == pytest.approx(state.rho)


def test_the_gradient_is_that_of_the_score(state):
    features = clouds(3, seed=4, dtype=torch.float64).layer("features").requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(of(values)), (features,))


def test_it_is_rebuilt_to_the_bit(state):
    again = OneClassSvm(**state.settings(), **state.state_dict())
    assert torch.equal(again(clouds(50, seed=2)), state(clouds(50, seed=2)))


def test_constant_values_are_told_and_do_not_divide_by_zero():
    seen = clouds(100)
    seen.layer("features")[:, 2] = 0.1
    state = fit_one_class_svm(stream(seen), seed=0)
    assert "1 of 6 values were the same in all 100" in state.notes[0]
    assert bool(state(clouds(9)).isfinite().all())


def test_what_cannot_be_is_refused():
    for features in (torch.ones(9, 4), torch.rand(1, 4)):
        with pytest.raises(InputError, match="no border"):
            fit_one_class_svm([of(features)], seed=0)
    for settings in ({"nu": 0.0}, {"nu": 1.5}, {"gamma": 0.0}, {"gamma": float("nan")}):
        with pytest.raises(SettingsError, match="nu lies"):
            fit_one_class_svm(stream(clouds(9)), seed=0, **settings)
