import pytest
import torch
from sklearn.linear_model import LogisticRegression

from antivenom.detection.supervised import Supervised, fit_supervised
from antivenom.errors import InputError, SettingsError
from readings import clouds, of, stream

BOTH = pytest.mark.parametrize("hidden", [0, 8])


def ring(count, radius, seed):
    around = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return of(radius * around / around.norm(dim=1, keepdim=True))


@BOTH
def test_it_tells_attacked_images_that_it_was_shown_from_clean_ones(hidden):
    state = fit_supervised(stream(clouds(200)), stream(clouds(200, seed=1, shift=2)), hidden=hidden, seed=0)
    right = (state(clouds(200, seed=2)) < 0).float().mean() + (state(clouds(200, seed=3, shift=2)) > 0).float().mean()
    assert right > 1.8


def test_without_a_layer_between_it_is_logistic_regression():
    clean, attacked = clouds(200), clouds(200, seed=1, shift=1)
    state = fit_supervised(stream(clean), stream(attacked), seed=0)
    points = torch.cat([clean.layer("features"), attacked.layer("features")])
    points = ((points - state.centre) / state.scale).double().numpy()
    truth = torch.arange(400).ge(200).numpy()
    # scikit-learn adds losses up, and spares the offset; ours takes their mean.
    reference = LogisticRegression(C=1 / (400 * 1e-3), tol=1e-8, max_iter=1000).fit(points, truth)
    torch.testing.assert_close(state.linear.double(), torch.from_numpy(reference.coef_[0]), rtol=1e-2, atol=1e-2)


def test_a_layer_between_learns_what_no_plane_parts():
    inside, outside = ring(150, 1.0, 0), ring(150, 2.0, 1)
    flat, bent = (fit_supervised([inside], [outside], hidden=hidden, seed=0) for hidden in (0, 8))
    found = [
        (state(ring(150, 2.0, 2)) > 0).float().mean() + (state(ring(150, 1.0, 3)) < 0).float().mean() for state in (flat, bent)
    ]
    assert found[0] < 1.3
    assert found[1] > 1.9


def test_both_kinds_count_alike():
    few = fit_supervised(stream(clouds(600)), stream(clouds(30, seed=1, shift=1)), seed=0)
    missed = (few(clouds(200, seed=3, shift=1)) < 0).float().mean()
    assert missed < 0.3


@BOTH
def test_the_seed_decides_and_nothing_else(hidden):
    first, again, other = (
        fit_supervised(stream(clouds(100)), stream(clouds(100, seed=1, shift=1)), hidden=hidden, most=60, seed=seed)
        for seed in (0, 0, 1)
    )
    seen = clouds(20, seed=5)
    assert torch.equal(first(seen), again(seen))
    assert not torch.equal(first(seen), other(seen))


@BOTH
def test_it_is_rebuilt_and_has_gradients(hidden):
    with torch.no_grad():
        state = fit_supervised(stream(clouds(100)), stream(clouds(100, seed=1, shift=1)), hidden=hidden, seed=0)
    again = Supervised(**state.settings(), **state.state_dict())
    assert torch.equal(again(clouds(20, seed=5)), state(clouds(20, seed=5)))
    features = clouds(3, seed=4, dtype=torch.float64).layer("features").requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(of(values)), (features,))
    assert not any(buffer.requires_grad for buffer in state.buffers())
    assert "trained on 100 attacked images" in state.notes[0]


def test_what_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="-1"):
        fit_supervised(stream(clouds(9)), stream(clouds(9)), hidden=-1, seed=0)
    with pytest.raises(InputError, match="6 values and attacked ones 7"):
        fit_supervised(stream(clouds(9)), stream(clouds(9, width=7)), seed=0)
    with pytest.raises(InputError, match="no image"):
        fit_supervised(stream(clouds(9)), [], seed=0)
    odd = clouds(9)
    odd.layer("features")[4] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        fit_supervised(stream(clouds(9)), [odd], seed=0)


def test_constant_values_and_odd_ones():
    clean, attacked = clouds(50), clouds(50, seed=1, shift=1)
    for seen in (clean, attacked):
        seen.layer("features")[:, 0] = 3
    state = fit_supervised([clean], [attacked], seed=0)
    odd = clouds(2)
    odd.layer("features")[1, 1] = torch.inf
    assert state(odd).isposinf().tolist() == [False, True]
