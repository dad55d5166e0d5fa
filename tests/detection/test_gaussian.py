"""The Gaussian: the textbook's likelihood to the last digits, and what cannot be fitted is refused or told."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from antivenom.detection.gaussian import Gaussian, fit_gaussian
from antivenom.detection.reading import Reading
from antivenom.detection.threshold import Threshold
from antivenom.errors import InputError, SettingsError


def reading(values, name="features"):
    return Reading(torch.zeros(len(values), 2), {name: values})


def draws(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def seed_0_case():
    rng = np.random.default_rng(0)
    fitting = torch.from_numpy(rng.normal(size=(200, 8)))
    return fitting, torch.from_numpy(rng.normal(size=8))[None]


def test_the_seed_0_case(seed_0_case):
    fitting, y = seed_0_case
    state = fit_gaussian([reading(fitting)], tune=None, shrinkage=1e-3, dtype=torch.float64)
    assert -state(reading(y)).item() == pytest.approx(-11.633774014927337, rel=1e-12)
    diagonal = 1 / state.whitening.diagonal()
    misprinted = state(reading(y)) - state.log_determinant / 2 + diagonal.sum()
    assert -misprinted.item() == pytest.approx(-19.644867288518462, rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_is_scipys_log_likelihood(dtype, tolerance):
    mixing = draws(12, 12, 5)
    fitting, fresh = draws(300, 12) @ mixing + 4, draws(50, 12, 1) @ mixing + 4
    state = fit_gaussian(map(reading, fitting.split(64)), tune=None, shrinkage=1e-3, dtype=dtype)
    covariance = np.cov(fitting.T, bias=True) + 1e-3 * np.eye(12)
    expected = -stats.multivariate_normal.logpdf(fresh, fitting.mean(0), covariance)
    np.testing.assert_allclose(state(reading(fresh)), expected, rtol=tolerance)
    assert state(reading(fresh)).dtype == torch.float64
    assert state(reading(fresh.float())).dtype == state(reading(fresh.bfloat16())).dtype == torch.float32


def test_float32_is_near_float64_where_variances_lie_far_apart():
    scales = torch.logspace(-3, 0, 256, dtype=torch.float64)
    fitting, fresh = draws(2000, 256) * scales, draws(200, 256, 1) * scales
    exact, quick = (fit_gaussian([reading(fitting)], tune=None, shrinkage=0.0, dtype=d) for d in (torch.float64, torch.float32))
    torch.testing.assert_close(quick(reading(fresh.float())).double(), exact(reading(fresh)), rtol=1e-5, atol=5e-3)


def test_the_expected_likelihood_of_a_thousand_values_and_its_threshold():
    d = 1024
    none, identity = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    state = Gaussian(
        layers=["features"], widths=[d], shrinkage=0.0, mean=none, whitening=identity, log_determinant=none[0]
    )  # fmt: skip
    at_the_mean = state(reading(none[None])).item()
    assert -(at_the_mean + d / 2) == pytest.approx(-1452.993, abs=5e-4)
    assert -(at_the_mean + stats.chi2.ppf(0.95, d) / 2) == pytest.approx(-1490.772, abs=5e-4)
    score = state(reading(draws(2000, d)))
    assert score.mean().item() == pytest.approx(1452.993, abs=4 * math.sqrt(d / 2 / 2000))
    assert (score > 1490.772).double().mean().item() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("n", [2, 10])
def test_a_threshold_from_held_out_images_keeps_its_rate_and_one_from_the_fitting_images_does_not(n):
    d = 64
    fitting, fresh = draws(n * d, d), reading(draws(20_000, d, 1))
    state = fit_gaussian([reading(fitting)], tune=None, shrinkage=1e-6, dtype=torch.float64)
    held_out = Threshold.from_held_out(state(reading(draws(4000, d, 2))), 0.05)
    assert held_out.flags(state(fresh)).double().mean().item() == pytest.approx(0.05, abs=0.015)
    own = Threshold.from_fitting(state(reading(fitting)), 0.05)
    rate = own.flags(state(fresh)).double().mean().item()
    assert rate > {2: 0.8, 10: 0.15}[n]


def test_the_eigen_route_gives_the_same():
    fitting, fresh = draws(300, 12) @ draws(12, 12, 5), draws(50, 12, 1)
    state = fit_gaussian([reading(fitting)], tune=None, shrinkage=1e-2, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.cov(fitting.T, bias=True)))
    z = (fresh - fitting.mean(0)) @ vectors
    variances = values + 1e-2
    expected = (z.square() / variances + variances.log() + math.log(2 * math.pi)).sum(1) / 2
    torch.testing.assert_close(state(reading(fresh)), expected, rtol=1e-6, atol=0)


def test_under_endless_shrinkage_only_the_distance_from_the_mean_counts():
    fitting, fresh = draws(300, 12) @ draws(12, 12, 5), draws(50, 12, 1)
    state = fit_gaussian([reading(fitting)], tune=None, shrinkage=1e9, dtype=torch.float64)
    distance = (fresh - fitting.mean(0)).norm(dim=1)
    assert torch.equal(state(reading(fresh)).argsort(), distance.argsort())
    close = fit_gaussian([reading(fitting)], tune=None, shrinkage=1e-3, dtype=torch.float64)
    assert not torch.equal(close(reading(fresh)).argsort(), distance.argsort())


def test_held_out_images_choose_a_shrinkage_under_which_they_are_likelier():
    mixing = draws(24, 24, 5)
    fitting, tune, fresh = (reading(draws(n, 24, seed) @ mixing) for n, seed in ((30, 0), (200, 1), (500, 2)))
    tuned = fit_gaussian([fitting], tune=tune)
    close = fit_gaussian([fitting], tune=tune, shrinkage=1e-8)
    assert tuned(fresh).mean() < close(fresh).mean()
    assert tuned.shrinkage > 1e-8 == close.shrinkage


def test_gradients_reach_the_reading():
    state = fit_gaussian([reading(draws(100, 5))], tune=None, dtype=torch.float64)
    y = draws(3, 5, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(reading(values)), (y,))


def test_is_built_again_to_the_bit():
    state = fit_gaussian([reading(draws(10, 20))], tune=None)
    again = Gaussian(**state.settings(), **state.state_dict())
    fresh = reading(draws(5, 20, 1).float())
    assert torch.equal(again(fresh), state(fresh))
    assert again.settings() == state.settings()
    assert again.notes


def test_fewer_images_than_values_and_constants_are_told():
    few = fit_gaussian([reading(draws(10, 20))], tune=None)
    assert any("10 images of 20 values" in note for note in few.notes)
    assert few(reading(draws(5, 20, 1))).isfinite().all()
    still = draws(100, 4)
    still[:, 1] = 0.1
    state = fit_gaussian([reading(still)], tune=reading(still[:50]))
    assert any("1 of 4 values were the same" in note for note in state.notes)
    moved = still[:5].clone()
    moved[:, 1] += 1
    assert (state(reading(moved)) > state(reading(still[:5]))).all()
    assert fit_gaussian([reading(draws(100, 4))], tune=reading(draws(50, 4, 1))).notes == ()


def test_what_is_not_finite_is_as_suspicious_as_can_be():
    state = fit_gaussian([reading(draws(100, 3))], tune=None)
    odd = torch.tensor([[0.0, torch.nan, 0.0], [torch.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert state(reading(odd)).isinf().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("clean", "settings", "says"),
    [
        (draws(1, 3), {}, "one image has no spread"),
        (torch.ones(5, 3), {}, "the same values"),
        (torch.ones(5, 3), {"shrinkage": 0.0}, "singular"),
        (draws(3, 8), {"shrinkage": 0.0}, "singular"),
        (torch.full((5, 3), torch.nan), {}, "not finite"),
        (draws(9, 3), {"layer": "layer3"}, "was not read"),
        (draws(9, 3), {"tune": reading(draws(9, 4))}, r"expected \(N, 3\)"),
        (draws(9, 3), {"tune": reading(torch.full((9, 3), torch.nan))}, "held-out images .* not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(clean, settings, says):
    with pytest.raises(InputError, match=says):
        fit_gaussian([reading(clean)], **{"tune": None, **settings})


def test_a_negative_shrinkage_and_a_spent_stream_are_refused():
    with pytest.raises(SettingsError, match="got -1"):
        fit_gaussian([reading(draws(9, 3))], tune=None, shrinkage=-1.0)
    with pytest.raises(InputError, match="no image was read"):
        fit_gaussian(iter([]), tune=None)


def test_another_model_is_refused():
    state = fit_gaussian([reading(draws(9, 3))], tune=None)
    with pytest.raises(InputError, match="another model"):
        state(reading(draws(9, 4)))
