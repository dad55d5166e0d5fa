import pytest
import torch
from torch.nn import functional as F

from antivenom.detection.neighbours import IntrinsicDimension, Neighbours, fit_intrinsic_dimension, fit_neighbours
from antivenom.detection.reading import Reading
from antivenom.errors import InputError
from readings import clouds, of, stream


@pytest.mark.parametrize("normalised", [True, False])
def test_the_score_is_the_distance_to_the_kth_neighbour(normalised):
    bank, seen = clouds(200).layer("features"), clouds(20, seed=1)
    state = fit_neighbours(stream(clouds(200)), k=7, normalised=normalised, seed=0)
    one, other = (F.normalize(v) if normalised else v for v in (seen.layer("features"), bank))
    expected = (one[:, None] - other).norm(dim=2).sort(1).values[:, 6]
    torch.testing.assert_close(state(seen), expected)


def test_the_length_of_the_activations_counts_only_where_they_are_not_normalised():
    seen = clouds(5, seed=1)
    longer = seen.map(lambda values: 50 * values)
    states = [fit_neighbours(stream(clouds(200)), k=7, normalised=kind, seed=0) for kind in (True, False)]
    torch.testing.assert_close(states[0](longer), states[0](seen))
    assert bool((states[1](longer) > 10 * states[1](seen)).all())


def test_an_image_of_the_bank_is_its_own_nearest_neighbour():
    state = fit_neighbours(stream(clouds(200)), k=1, normalised=False, seed=0)
    seen = clouds(200).map(lambda values: values[:3].clone().requires_grad_())
    assert bool((state(seen) < 1e-12).all())
    (gradient,) = torch.autograd.grad(state(seen).sum(), seen.layer("features"))
    assert torch.equal(gradient, torch.zeros(3, 6))


def test_a_bank_smaller_than_k_is_refused():
    with pytest.raises(InputError, match=r"30 different clean images and 50 are needed"):
        fit_neighbours(stream(clouds(30)), seed=0)
    with pytest.raises(InputError, match="0 are needed"):
        fit_neighbours(stream(clouds(30)), k=0, seed=0)


@pytest.mark.parametrize("dimension", [2, 5])
def test_points_that_fill_a_space_have_its_dimension(dimension):
    generator = torch.Generator().manual_seed(0)
    around = torch.linalg.qr(torch.randn(20, dimension, generator=generator)).Q.T  # a flat piece of a wider space
    state = fit_intrinsic_dimension(stream(of(torch.rand(4000, dimension, generator=generator) @ around)), k=50, seed=0)
    middle = (0.4 + 0.2 * torch.rand(200, dimension, generator=generator)) @ around
    assert state(of(middle)).mean().item() == pytest.approx(dimension, rel=0.1)
    beside = middle + torch.linalg.qr(torch.cat([around.T, torch.ones(20, 1)], 1)).Q[:, -1]
    assert state(of(beside)).min() > 2 * dimension


def test_the_estimate_is_the_formula_over_the_k_nearest():
    bank, seen = clouds(200).layer("features").double(), clouds(20, seed=1)
    far = (seen.layer("features").double()[:, None] - bank).norm(dim=2).sort(1).values[:, :9]
    expected = -1 / (far / far[:, -1:]).log().mean(1)
    torch.testing.assert_close(
        fit_intrinsic_dimension(stream(clouds(200)), k=9, seed=0)(seen).double(), expected, rtol=1e-4, atol=1e-4
    )


def test_layers_count_alike():
    def two(reading):
        return Reading(reading.logits, {"a": reading.layer("features")[:, :2], "b": reading.layer("features")[:, 2:]})

    clean, seen = two(clouds(200)), two(clouds(9, seed=1))
    both, a, b = (fit_intrinsic_dimension(stream(clean), layers=names, seed=0)(seen) for names in (["a", "b"], ["a"], ["b"]))
    torch.testing.assert_close(both, (a + b) / 2)


def test_an_image_of_the_bank_is_not_its_own_neighbour():
    clean = clouds(200)
    state = fit_intrinsic_dimension(stream(clean), k=9, seed=0)
    again = clean.map(lambda values: values[:1])
    rest = fit_intrinsic_dimension(stream(clean.map(lambda values: values[1:])), k=9, seed=0)
    torch.testing.assert_close(state(again), rest(again))
    rounded = again.map(lambda values: values * (1 + 1e-6))  # the same, read in another batch
    torch.testing.assert_close(state(rounded), rest(again), rtol=1e-3, atol=0)


def test_images_that_repeat_others_are_left_out():
    clean = clouds(100)
    twice = Reading.join([clean, clean])
    assert len(fit_intrinsic_dimension(stream(twice), seed=0).bank) == 100
    with pytest.raises(InputError, match=r"layer 'flat' gives 1 different clean images and 21 are needed"):
        fit_intrinsic_dimension(
            [Reading(clean.logits, {**clean.layers, "flat": torch.ones(100, 3)})], layers=["features", "flat"], seed=0
        )


def test_neighbours_at_one_distance_give_a_large_dimension_not_none():
    corners = torch.eye(30)
    score = fit_intrinsic_dimension([of(corners)], seed=0)(of(torch.zeros(1, 30)))
    assert 1e5 < score.item() < torch.inf


@pytest.mark.parametrize(
    "fit", [lambda clean: fit_neighbours(clean, k=5, seed=0), lambda clean: fit_intrinsic_dimension(clean, k=5, seed=0)]
)
def test_gradients_and_rebuilding(fit):
    state = fit(stream(clouds(100)))
    again = (Neighbours if isinstance(state, Neighbours) else IntrinsicDimension)(**state.settings(), **state.state_dict())
    assert torch.equal(again(clouds(20, seed=2)), state(clouds(20, seed=2)))
    features = clouds(3, seed=4, dtype=torch.float64).layer("features").requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(of(values)), (features,))
