"""A detector behind a projection: the same where nothing is left out, blind to what is, and told so."""

import pytest
import torch

from antivenom.detection.detector import Detector
from antivenom.detection.gaussian import Gaussian, fit_gaussian
from antivenom.detection.moments import Moments
from antivenom.detection.reading import Reading
from antivenom.detection.reduction import Projection, Reduced, ReducedStream, fit_reduced
from antivenom.errors import InputError, SettingsError

SCALES = torch.tensor([9.0, 4, 1, 0.5, 0.1], dtype=torch.float64)


def draws(n, seed=0):
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)).Q
    return (torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * SCALES) @ turned.T + 3


def reading(values, name="features"):
    return Reading(torch.zeros(len(values), 2), {name: values})


def gaussian(seen, tune):
    return fit_gaussian(seen, tune=tune, shrinkage=0.0, dtype=torch.float64)


CLEAN = [reading(part) for part in draws(400).split(100)]


class Steps(Detector):
    """Counts the values above 0; without a gradient."""

    differentiable = False

    def measure(self, reading):
        return (reading.layer("features") > 0).float().sum(1)


@pytest.mark.parametrize("whiten", [False, True])
def test_nothing_left_out_changes_nothing_but_a_constant(whiten):
    state = fit_reduced(CLEAN, gaussian, tune=None, keep=5, whiten=whiten, dtype=torch.float64)
    fresh = reading(draws(50, 1))
    apart = state(fresh) - gaussian(CLEAN, None)(fresh)
    torch.testing.assert_close(apart, apart[:1].expand(50), rtol=1e-8, atol=1e-8)
    assert (apart[0].abs() < 1e-8) == (not whiten)
    assert state.notes == ()


@pytest.mark.parametrize(("keep", "kept"), [(2, 2), (0.95, 2), (0.999999, 5), (0.5, 1), (99, 5)])
def test_as_many_directions_are_kept_as_were_asked_for(keep, kept):
    projection = Projection.of(Moments.of([draws(400)]), "features", keep)
    assert projection.directions.shape == (kept, 5)
    values, vectors = torch.linalg.eigh(torch.cov(draws(400).T, correction=0))
    torch.testing.assert_close((projection.directions @ vectors.flip(1))[:, :kept].abs(), torch.eye(kept).double())
    assert projection.share == pytest.approx((values.flip(0)[:kept].sum() / values.sum()).item())


def test_whitened_directions_have_variance_one():
    projection = Projection.of(Moments.of([draws(400)]), "features", 3, whiten=True)
    reduced = projection.reduced(reading(draws(400))).layer("features")
    torch.testing.assert_close(torch.cov(reduced.T, correction=0), torch.eye(3, dtype=torch.float64))


def test_what_is_left_out_is_not_seen_and_that_is_told():
    state = fit_reduced(CLEAN, gaussian, tune=None, keep=2, dtype=torch.float64)
    assert any("reduced to 2 of 5 directions" in note and "not seen" in note for note in state.notes)
    unseen = torch.linalg.svd(state.directions).Vh[4]
    torch.testing.assert_close(state(reading(draws(3) + 100 * unseen)), state(reading(draws(3))), rtol=1e-8, atol=1e-8)
    assert (gaussian(CLEAN, None)(reading(draws(3) + 100 * unseen)) > 1000).all()


def test_what_never_varies_is_not_kept():
    few = draws(3)
    projection = Projection.of(Moments.of([few]), "features", 5, whiten=True)
    assert projection.directions.shape == (2, 5)
    assert projection.directions.isfinite().all()


def test_the_stream_and_the_held_out_images_reach_the_detector_reduced_and_may_be_read_again():
    seen = []

    def fit(clean, tune):
        seen.extend([sum(len(part) for part in clean), sum(len(part) for part in clean), tune.layer("features").shape[1]])
        return gaussian(clean, tune)

    fit_reduced(CLEAN, fit, tune=CLEAN[0], keep=2)
    assert seen == [400, 400, 2]


def test_is_differentiable_as_the_detector_inside():
    state = fit_reduced(CLEAN, gaussian, tune=None, keep=2, dtype=torch.float64)
    assert state.differentiable
    y = draws(3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(reading(values)), (y,))
    steps = fit_reduced(CLEAN, lambda *_: Steps(layers=["features"], widths=[2]), tune=None, keep=2)
    assert not steps.differentiable
    assert set(steps(reading(draws(20))).tolist()) <= {0.0, 1.0, 2.0}


def test_is_built_again_to_the_bit_around_the_detector_inside():
    state = fit_reduced(CLEAN, gaussian, tune=None, keep=2)
    own = {name: values for name, values in state.state_dict().items() if not name.startswith("inner.")}
    inner = Gaussian(**state.inner.settings(), **state.inner.state_dict())
    again = Reduced(**state.settings(), **own, inner=inner)
    fresh = reading(draws(5, 1).float())
    assert torch.equal(again(fresh), state(fresh))
    assert again.state_dict().keys() == state.state_dict().keys()


def test_scores_are_float32_unless_the_reading_is_float64():
    state = fit_reduced(CLEAN, lambda seen, tune: fit_gaussian(seen, tune=tune), tune=None, keep=2)
    assert state(reading(draws(5).float())).dtype == torch.float32
    assert state(reading(draws(5))).dtype == torch.float64


def test_what_is_not_finite_is_as_suspicious_as_can_be():
    state = fit_reduced(CLEAN, gaussian, tune=None, keep=2)
    odd = draws(3)
    odd[0, 1], odd[1, 2] = torch.nan, torch.inf
    assert state(reading(odd)).isinf().tolist() == [True, True, False]


def test_what_cannot_be_reduced_is_refused():
    for keep in (0, -1, 1.5, 0.0):
        with pytest.raises(SettingsError, match="keep is a number of components"):
            fit_reduced(CLEAN, gaussian, tune=None, keep=keep)
    with pytest.raises(InputError, match="one image"):
        fit_reduced([reading(draws(1))], gaussian, tune=None)
    with pytest.raises(InputError, match="nothing to keep"):
        fit_reduced([reading(torch.full((5, 5), 0.1))], gaussian, tune=None)
    with pytest.raises(SettingsError, match="read no other layer"):
        fit_reduced(CLEAN, lambda *_: Steps(layers=["layer3"], widths=[2]), tune=None)
    with pytest.raises(InputError, match="another model"):
        fit_reduced(CLEAN, gaussian, tune=None)(reading(draws(3)[:, :4]))


def test_a_reduced_stream_is_read_anew_each_time():
    reduced = ReducedStream(CLEAN, Projection.of(Moments.of([draws(400)]), "features", 2))
    assert [len(part) for part in reduced] == [len(part) for part in reduced] == [100] * 4
