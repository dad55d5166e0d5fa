"""The mixture: scikit-learn's likelihood, as many components as held-out images bear out, and states of plain tensors."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from antivenom.detection import mixture
from antivenom.detection.gaussian import fit_gaussian
from antivenom.detection.mixture import Mixture, fit_mixture
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError

CENTRES = torch.tensor([[8.0, 0, 0, 0], [-8.0, 0, 0, 0], [0, 8.0, 0, 0], [0, -8.0, 0, 0]], dtype=torch.float64)


def draws(n, seed=0):
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return CENTRES[torch.arange(n) % 4] + noise


def reading(values, name="features"):
    return Reading(torch.zeros(len(values), 2), {name: values})


CLEAN, TUNE = [reading(part) for part in draws(600).split(100)], reading(draws(300, 1))


def test_is_scikit_learns_likelihood():
    state = fit_mixture(CLEAN, tune=None, components=4, seed=0, dtype=torch.float64)
    seen, fresh = draws(600), draws(50, 2)
    project = lambda values: ((values - state.mean) @ state.directions.T).numpy()  # noqa: E731
    ridge = 1e-3 * project(seen).var(0).mean()
    model = GaussianMixture(4, reg_covar=ridge, n_init=mixture.STARTS, random_state=0).fit(project(seen))
    np.testing.assert_allclose(state(reading(fresh)), -model.score_samples(project(fresh)), rtol=1e-8)


def test_held_out_images_choose_as_many_components_as_there_are_groups():
    state = fit_mixture(CLEAN, tune=TUNE, seed=0)
    assert len(state.heights) == 4
    one = reading(torch.randn(600, 4, generator=torch.Generator().manual_seed(0)))
    assert len(fit_mixture([one], tune=one.take(torch.arange(0, 600, 2)), components=(1,), seed=0).heights) == 1
    fresh = reading(torch.randn(300, 4, generator=torch.Generator().manual_seed(1)))
    assert len(fit_mixture([one], tune=fresh, seed=0).heights) == 1


def test_sees_what_lies_between_groups_where_one_gaussian_does_not():
    between, fresh = reading(torch.zeros(1, 4, dtype=torch.float64)), reading(draws(200, 2))
    assert fit_mixture(CLEAN, tune=TUNE, seed=0)(between) > fit_mixture(CLEAN, tune=TUNE, seed=0)(fresh).max()
    assert fit_gaussian(CLEAN, tune=TUNE)(between) < fit_gaussian(CLEAN, tune=TUNE)(fresh).median()


def test_works_in_the_directions_kept_and_says_so():
    state = fit_mixture(CLEAN, tune=TUNE, keep=2, seed=0)
    assert state.directions.shape == (2, 4)
    assert len(state.heights) == 4
    assert any("reduced to 2 of 4 directions" in note for note in state.notes)


def test_the_seed_alone_decides_and_the_global_generators_are_left_alone():
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again = (fit_mixture(CLEAN, tune=TUNE, most=200, seed=3) for _ in range(2))
    other = fit_mixture(CLEAN, tune=TUNE, most=200, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), again.buffers(), strict=True))
    assert not torch.equal(first.whitening, other.whitening)
    assert torch.equal(before, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()


def test_gradients_reach_the_reading():
    state = fit_mixture(CLEAN, tune=TUNE, seed=0, dtype=torch.float64)
    y = draws(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(reading(values)), (y,))


def test_is_built_again_to_the_bit():
    state = fit_mixture(CLEAN, tune=TUNE, keep=3, seed=0)
    again, fresh = Mixture(**state.settings(), **state.state_dict()), reading(draws(5, 2).float())
    assert torch.equal(again(fresh), state(fresh))
    assert state(fresh).dtype == torch.float32
    assert again.settings() == state.settings()


def test_float32_is_near_float64():
    quick, exact = (fit_mixture(CLEAN, tune=TUNE, seed=0, dtype=dtype) for dtype in (torch.float32, torch.float64))
    fresh = draws(50, 2)
    torch.testing.assert_close(quick(reading(fresh.float())).double(), exact(reading(fresh)), rtol=1e-4, atol=1e-4)


def test_few_images_leave_numbers_out_and_are_told():
    state = fit_mixture([reading(draws(22))], tune=TUNE, seed=0)
    assert len(state.heights) <= 4
    assert any("22 images are too few for 8, 16 components" in note for note in state.notes)
    with pytest.raises(InputError, match=r"22 images are too few for 8 component\(s\) in 4 directions, which need 40"):
        fit_mixture([reading(draws(22))], tune=None, components=8, seed=0)


def test_what_had_not_settled_is_told(monkeypatch):
    monkeypatch.setattr(mixture, "ROUNDS", 1)
    state = fit_mixture(CLEAN, tune=None, components=8, seed=0)
    assert any("not settled after 1 rounds" in note for note in state.notes)


def test_what_is_not_finite_is_as_suspicious_as_can_be_and_what_is_far_stays_a_number():
    state = fit_mixture(CLEAN, tune=TUNE, seed=0)
    odd = draws(4)
    odd[0, 1], odd[1, 2], odd[2, 3] = torch.nan, torch.inf, 1e6
    scores = state(reading(odd.float()))
    assert scores.isposinf().tolist() == [True, True, False, False]
    assert scores[2] > scores[3]


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(SettingsError, match="nothing chooses among"):
        fit_mixture(CLEAN, tune=None, seed=0)
    with pytest.raises(SettingsError, match="at least 1 component"):
        fit_mixture(CLEAN, tune=TUNE, components=0, seed=0)
    with pytest.raises(SettingsError, match="shrinkage above 0"):
        fit_mixture(CLEAN, tune=TUNE, shrinkage=0.0, seed=0)
    with pytest.raises(InputError, match="nothing to keep"):
        fit_mixture([reading(torch.ones(50, 4))], tune=TUNE, seed=0)
    with pytest.raises(InputError, match="not finite"):
        fit_mixture([reading(draws(50) * torch.nan)], tune=TUNE, seed=0)
    with pytest.raises(InputError, match=r"expected \(N, 4\)"):
        fit_mixture(CLEAN, tune=reading(draws(50)[:, :3]), seed=0)


def test_constants_are_left_out():
    still = torch.cat([draws(600), torch.full((600, 1), 0.1)], 1)
    state = fit_mixture([reading(still)], tune=None, components=4, keep=99, seed=0)
    assert state.directions.shape == (4, 5)
