"""Moments of a stream: those of the whole, however it is cut, and honest about what does not vary."""

import numpy as np
import pytest
import torch

from antivenom.detection import moments
from antivenom.detection.moments import Moments, RunningMoments
from antivenom.errors import InputError


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1000, 6, generator=generator, dtype=torch.float64) @ torch.randn(6, 6, generator=generator).double() + 3


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
@pytest.mark.parametrize("rows", [50, 4096])
def test_are_those_of_the_whole_however_the_stream_is_cut(values, batch, rows, monkeypatch):
    monkeypatch.setattr(moments, "ROWS", rows)
    found = Moments.of(values.split(batch))
    assert found.n == 1000
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(values.T.numpy(), bias=True), rtol=1e-12, atol=1e-13)
    assert torch.equal(found.low, values.amin(0))
    assert torch.equal(found.high, values.amax(0))


def test_keep_their_digits_far_from_zero(values):
    far = values + 1e8
    found = Moments.of(far.split(64))
    np.testing.assert_allclose(found.covariance, np.cov((far - 1e8).T.numpy(), bias=True), rtol=1e-7)
    lost = far.T @ far / 1000 - torch.outer(far.mean(0), far.mean(0))
    assert (lost - found.covariance).abs().max() > 1e-2 > 100 * (found.covariance - Moments.of([values]).covariance).abs().max()


def test_sums_are_float64_whatever_the_features_are(values):
    found = Moments.of(values.half().split(64))
    exact = values.half().double()
    assert found.mean.dtype == found.scatter.dtype == torch.float64
    np.testing.assert_allclose(found.covariance, np.cov(exact.T.numpy(), bias=True), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_has_no_variance_at_all(values, dtype, monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 77)
    values = values.to(dtype)
    values[:, 2] = 0.1
    found = Moments.of(values.split(10))
    assert found.constant.tolist() == [False, False, True, False, False, False]
    assert (found.scatter[2] == 0).all()
    assert (found.scatter[:, 2] == 0).all()
    assert any("1 of 6 values were the same in all 1000" in note for note in found.caveats("features"))
    values[-1, 2] = 0.2
    assert not Moments.of(values.split(10)).constant.any()


def test_fewer_images_than_values_are_told(values):
    assert any(
        "6 images of 6 values" in note and "1 directions" in note for note in Moments.of([values[:6]]).caveats("features")
    )
    assert Moments.of([values[:7]]).caveats("features") == []


def test_hold_no_more_than_a_block(values, monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 64)
    running = RunningMoments()
    for part in values.split(10):
        running.add(part)
        assert sum(map(len, running._waiting)) <= 64
    assert running.found().n == 1000
    assert running.found().n == 1000


def test_keep_no_graph(values):
    assert not Moments.of([values.requires_grad_()]).scatter.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(values, bad):
    values[70, 3] = bad
    with pytest.raises(InputError, match=r"layer 'x': 1 of 64 images \(the first: 6\)"):
        Moments.of(values.split(64), what="layer 'x'")


def test_nothing_and_another_width_are_refused(values):
    with pytest.raises(InputError, match="no image was read"):
        Moments.of([])
    with pytest.raises(InputError, match=r"expected \(B, 6\), got \(1000, 5\)"):
        Moments.of([values, values[:, :5]])
    with pytest.raises(InputError, match=r"expected \(B, D\), got \(6,\)"):
        Moments.of([values[0]])
