"""Class-conditional distances: by hand, over layers, and relative; small classes are pooled and told."""

import pytest
import torch

from antivenom.detection.mahalanobis import Mahalanobis, fit_mahalanobis
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError

CENTRES = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 5.0, 0]], dtype=torch.float64)


def draws(n, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reading(values, answered, **others):
    return Reading(torch.eye(5, dtype=torch.float64)[answered], {"features": values, **others})


@pytest.fixture
def clean():
    answered = torch.arange(300) % 3
    scales = torch.tensor([0.5, 1, 1, 2], dtype=torch.float64)
    return reading(CENTRES[answered] + draws(300) * scales, answered)


def stream(clean, size=64):
    return [clean.take(index) for index in torch.arange(len(clean)).split(size)]


def by_hand(clean, values, shrinkage, *, relative=False):
    y, answered = clean.layer("features"), clean.logits.argmax(1)
    means = torch.stack([y[answered == c].mean(0) for c in range(3)])

    def squares(apart, of):
        shrunk = of.T @ of / len(of) + shrinkage * torch.eye(y.shape[1], dtype=torch.float64)
        return (apart @ torch.linalg.inv(shrunk) * apart).sum(-1)

    nearest = squares(values[:, None] - means, y - means[answered]).amin(1)
    return nearest - squares(values - y.mean(0), y - y.mean(0)) if relative else nearest


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_is_the_distance_from_the_nearest_mean(clean, relative, dtype, tolerance):
    state = fit_mahalanobis(stream(clean), tune=None, shrinkage=0.1, relative=relative, dtype=dtype)
    values = draws(50, seed=1) * 3
    expected = by_hand(clean, values, 0.1, relative=relative)
    torch.testing.assert_close(
        state.by_layer(reading(values, torch.zeros(50).long()))[:, 0], expected, rtol=tolerance, atol=tolerance
    )
    own = by_hand(clean, clean.layer("features"), 0.1, relative=relative)
    standardised = (expected - own.mean()) / own.std(correction=0)
    score = state(reading(values, torch.zeros(50).long()))
    torch.testing.assert_close(score, standardised, rtol=10 * tolerance, atol=10 * tolerance)


def test_between_the_classes_is_farther_than_in_them_where_one_gaussian_sees_its_middle(clean):
    state = fit_mahalanobis(stream(clean), tune=None)
    middle = reading(CENTRES.mean(0)[None], torch.tensor([0]))
    assert state(middle) > state(clean).quantile(0.99)


def test_several_layers_count_alike(clean):
    other = draws(300, 7, seed=3) * 1000
    both = reading(clean.layer("features"), clean.logits.argmax(1), wide=other)
    state = fit_mahalanobis(stream(both), tune=both, layers=("features", "wide"))
    assert state.widths == (4, 7)
    parts = (state.by_layer(both) - state.offset) / state.scale
    torch.testing.assert_close(parts.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(state(both), parts.sum(1))
    alone = fit_mahalanobis(stream(both), tune=both, layers=("wide",))
    torch.testing.assert_close(parts[:, 1], alone(both), rtol=1e-4, atol=1e-4)


def test_the_stream_is_read_once_with_held_out_images_and_twice_without(clean):
    class Counted:
        times = 0

        def __iter__(self):
            self.times += 1
            return iter(stream(clean))

    for tune, times in ((clean, 1), (None, 2)):
        counted = Counted()
        fit_mahalanobis(counted, tune=tune)
        assert counted.times == times


def test_small_classes_belong_to_the_mean_of_all_and_are_told(clean):
    answered = clean.logits.argmax(1).clone()
    answered[:4] = 3
    few = reading(clean.layer("features"), answered)
    state = fit_mahalanobis(stream(few), tune=None, shrinkage=0.1, dtype=torch.float64)
    assert state.centres.shape == (4, 4)
    assert any("class (images) 3 (4)" in note for note in state.notes)
    assert any("no clean image" in note and note.endswith(": 4") for note in state.notes)
    at_the_mean = reading(few.layer("features").mean(0)[None], torch.tensor([0]))
    torch.testing.assert_close(state.by_layer(at_the_mean).item(), 0.0, atol=1e-9, rtol=0)
    assert fit_mahalanobis(stream(few), tune=None, fewest=4).centres.shape == (4, 4)
    alone = fit_mahalanobis(stream(clean), tune=None, fewest=1000)
    assert alone.centres.shape == (1, 4)


def test_held_out_images_choose_the_shrinkage_within_classes():
    answered = torch.arange(34) % 2
    wide = [reading(draws(34, 30, seed) + 50 * answered[:, None], answered) for seed in (0, 1)]
    tuned = fit_mahalanobis(stream(wide[0]), tune=wide[1])
    close = fit_mahalanobis(stream(wide[0]), tune=wide[1], shrinkage=1e-6)
    # A close fit stretches what the fitting images happen not to fill.
    assert tuned.by_layer(wide[1]).mean() / tuned.by_layer(wide[0]).mean() < 3
    assert close.by_layer(wide[1]).mean() / close.by_layer(wide[0]).mean() > 10


@pytest.mark.parametrize("relative", [False, True])
def test_gradients_reach_the_reading(clean, relative):
    state = fit_mahalanobis(stream(clean), tune=None, relative=relative, dtype=torch.float64)
    y, none = draws(3, seed=1).requires_grad_(), torch.zeros(3).long()
    assert torch.autograd.gradcheck(lambda values: state(reading(values, none)), (y,))


@pytest.mark.parametrize("relative", [False, True])
def test_is_built_again_to_the_bit(clean, relative):
    both = reading(clean.layer("features"), clean.logits.argmax(1), wide=draws(300, 7, seed=3))
    state = fit_mahalanobis(stream(both), tune=None, layers=("wide", "features"), relative=relative)
    again = Mahalanobis(**state.settings(), **state.state_dict())
    assert torch.equal(again(both), state(both))
    assert again.settings() == state.settings()


def test_notes_say_what_was_not_held_out(clean):
    both = reading(clean.layer("features"), clean.logits.argmax(1), wide=draws(300, 7, seed=3))
    state = fit_mahalanobis(stream(both), tune=None, layers=("wide", "features"))
    assert any("standardised on the fitting" in note for note in state.notes)
    assert any("not chosen" in note for note in state.notes)
    assert len(set(state.notes)) == len(state.notes)
    tuned = fit_mahalanobis(stream(both), tune=both, layers=("wide", "features"))
    assert not any("standardised" in note or "not chosen" in note for note in tuned.notes)


def test_fewer_images_than_values_and_constants_are_told(clean):
    values = clean.layer("features").clone()
    values[:, 3] = 0.1
    still = reading(values, clean.logits.argmax(1))
    state = fit_mahalanobis(stream(still), tune=None)
    assert any("1 of 4 values were the same" in note for note in state.notes)
    wide = reading(draws(30, 40), torch.arange(30) % 2)
    few = fit_mahalanobis([wide], tune=None)
    assert any("30 images of 40 values" in note for note in few.notes)
    assert few(wide).isfinite().all()


def test_what_cannot_be_fitted_is_refused(clean):
    with pytest.raises(SettingsError, match="named, each once"):
        fit_mahalanobis(stream(clean), tune=None, layers=())
    with pytest.raises(SettingsError, match="fewest"):
        fit_mahalanobis(stream(clean), tune=None, fewest=0)
    with pytest.raises(InputError, match="no image was read"):
        fit_mahalanobis([], tune=None)
    with pytest.raises(InputError, match="one image"):
        fit_mahalanobis([clean.take(torch.tensor([0]))], tune=None)
    with pytest.raises(InputError, match="singular"):
        fit_mahalanobis([clean.take(torch.arange(4))], tune=None, shrinkage=0.0)
    odd = Reading(clean.logits * torch.nan, clean.layers)
    with pytest.raises(InputError, match="logits: 300 of 300"):
        fit_mahalanobis([odd], tune=None)
    with pytest.raises(InputError, match="logits of held-out images"):
        fit_mahalanobis(stream(clean), tune=odd)


@pytest.mark.parametrize("relative", [False, True])
def test_what_is_not_finite_is_as_suspicious_as_can_be(clean, relative):
    state = fit_mahalanobis(stream(clean), tune=None, relative=relative)
    odd = torch.tensor([[0, torch.nan, 0, 0], [torch.inf, 0, 0, 0], [0, 0, 0, 0]])
    assert state(reading(odd, torch.zeros(3).long())).isposinf().tolist() == [True, True, False]
