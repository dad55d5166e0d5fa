"""Whitening: the covariance becomes the identity; the shrinkage is that under which held-out images are most likely."""

import numpy as np
import pytest
import torch
from scipy import stats

from antivenom.detection.whitening import GRID, UNTUNED, choose_shrinkage, held_out_likelihood, whiten
from antivenom.errors import InputError, SettingsError


def draws(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing


def covariance(values):
    return torch.from_numpy(np.cov(values.T.numpy(), bias=True))


def test_the_covariance_becomes_the_identity():
    found = covariance(draws(100, 5))
    matrix, log_determinant = whiten(found, 0.5)
    shrunk = found + 0.5 * torch.eye(5)
    torch.testing.assert_close(matrix @ shrunk @ matrix.T, torch.eye(5, dtype=torch.float64))
    assert log_determinant.item() == pytest.approx(torch.logdet(shrunk).item(), rel=1e-12)
    assert (matrix.triu(1) == 0).all()


@pytest.mark.parametrize("n", [3, 5])
def test_a_singular_covariance_is_refused_and_a_shrunk_one_is_not(n):
    found = covariance(draws(n, 5))
    with pytest.raises(InputError, match="with shrinkage 0 the covariance is singular"):
        whiten(found, 0.0)
    with pytest.raises(InputError, match="with shrinkage 1e-20"):
        whiten(found, 1e-20)
    assert whiten(found, 1e-6)[0].isfinite().all()


@pytest.mark.parametrize("shrinkage", [-1.0, float("nan"), float("inf")])
def test_a_shrinkage_that_cannot_be_is_refused(shrinkage):
    with pytest.raises(SettingsError, match="shrinkage must be at least 0"):
        whiten(torch.eye(2, dtype=torch.float64), shrinkage)


def test_the_likelihood_is_scipys_but_for_a_constant():
    fitting, fresh = draws(40, 5), draws(30, 5, seed=1)
    found, tried = covariance(fitting), torch.tensor([1e-3, 1.0, 10.0], dtype=torch.float64)
    expected = [
        stats.multivariate_normal.logpdf(fresh, fitting.mean(0), found + value * torch.eye(5)).mean()
        for value in tried.tolist()
    ]
    given = held_out_likelihood(found, fresh - fitting.mean(0), tried) - 2.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(given, expected, rtol=1e-10)


@pytest.mark.parametrize(("n", "sign"), [(20, 1), (20_000, -1)])
def test_few_images_want_more_shrinkage_than_many(n, sign):
    fitting, fresh = draws(n, 16), draws(500, 16, seed=1)
    found = covariance(fitting)
    chosen, notes = choose_shrinkage(found, fresh - fitting.mean(0), None)
    relative = chosen / found.diagonal().mean().item()
    assert sign * (relative - 1e-3) > 0
    assert not notes
    assert min(abs(relative / value - 1) for value in GRID) < 1e-9


def test_what_was_asked_for_is_taken():
    assert choose_shrinkage(torch.eye(3), torch.zeros(1, 3), 0.25) == (0.25, [])


def test_without_held_out_images_it_says_so():
    found = torch.diag(torch.tensor([3.0, 5.0, 0.0], dtype=torch.float64))
    chosen, notes = choose_shrinkage(found, None, None)
    assert chosen == pytest.approx(4 * UNTUNED)  # of the values that vary
    assert "not chosen" in notes[0]


def test_a_covariance_that_does_not_fit_is_told():
    found = covariance(draws(200, 4))
    _, notes = choose_shrinkage(found, draws(50, 4) * 100, None)
    assert "largest shrinkage tried" in notes[0]


def test_images_all_alike_are_refused():
    with pytest.raises(InputError, match="same values"):
        choose_shrinkage(torch.zeros(3, 3), None, None)
