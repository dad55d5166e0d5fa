"""What every detector of the table promises, fitted on what a small classifier makes of small images."""

import functools
import json

import pytest
import torch
from torch import nn

from antivenom.detection.reading import FEATURES, Reading, Sensor, batches
from antivenom.detection.squeezing import SQUEEZES, changes
from antivenom.detection.states import KINDS, build_detector, save_detector
from antivenom.detection.table import DETECTORS, row
from antivenom.errors import InputError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.task import Task

EVERY = pytest.mark.parametrize("name", DETECTORS)
OF_LAYERS = pytest.mark.parametrize("name", [name for name, row in DETECTORS.items() if row.layers])
LOGITS_ALONE = pytest.mark.parametrize("name", [name for name, row in DETECTORS.items() if not row.layers])
LAYERS = ("1", FEATURES)  # before and after the rectifier


def shapes():
    halves = torch.zeros(3, 1, 8, 8)
    halves[0, ..., :4], halves[1, ..., 4:], halves[2, :, 2:6] = 1, 1, 1
    return halves


def scans(count, seed):
    """Three shapes in grey, with a little noise, as 8 bits hold them."""
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ((0.2 + 0.6 * shapes()[torch.arange(count) % 3] + 0.03 * noise).clamp(0, 1) * 255).round() / 255


def strange(count):
    """Two shapes laid over each other under coarse noise."""
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    place = torch.arange(count)
    return (0.3 + 0.2 * (shapes()[place % 3] + shapes()[(place + 1) % 3]) + 0.25 * noise).clamp(0, 1)


@functools.cache
def classifier():
    """It knows the shapes, and looks at eight more things, which tell no shape from another."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 11), nn.ReLU(), nn.Linear(11, 3))
    generator = torch.Generator().manual_seed(0)
    centred = shapes().flatten(1) - shapes().flatten(1).mean(1, keepdim=True)
    own = torch.linalg.qr(torch.cat([centred[[0, 2]], torch.ones(1, 64), torch.randn(8, 64, generator=generator)]).T).Q.T
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([centred / 4, 20 * own[3:]]))
        network[1].bias.copy_(torch.cat([torch.zeros(3), torch.full((8,), 20.0)]))
        network[3].weight.copy_(torch.cat([2 * torch.eye(3), 0.01 * torch.randn(3, 8, generator=generator)], 1))
        network[3].bias.fill_(-4.0)
    return Classifier(network, Task(("left", "right", "middle")), channels=1, mean=0.5, std=0.5).eval()


@functools.cache
def read(kind, count, seed=0):
    images = strange(count) if kind == "strange" else scans(count, seed)
    return Sensor(classifier(), LAYERS, changes([*SQUEEZES])).read(images)


CLEAN, TUNE, FRESH, STRANGE = (
    functools.partial(read, *args) for args in (("c", 300, 1), ("c", 100, 2), ("c", 60, 3), ("strange", 60))
)


def layers_of(name):
    return LAYERS if DETECTORS[name].several else DETECTORS[name].layers


@functools.cache
def fitted(name, seed=0):
    return DETECTORS[name].fit(list(batches(CLEAN(), 64)), TUNE(), layers_of(name), seed)


@EVERY
def test_a_strange_image_is_more_suspicious_than_a_clean_one(name):
    clean, odd = fitted(name)(FRESH()), fitted(name)(STRANGE())
    assert clean.shape == odd.shape == (60,)
    assert clean.dtype == torch.float32
    assert bool(clean.isfinite().all() and odd.isfinite().all())
    assert odd.mean() > clean.mean() + clean.std()
    assert (odd > clean.median()).float().mean() > 0.8
    assert not clean.requires_grad


@EVERY
def test_the_row_says_what_it_is(name):
    found, told = fitted(name), DETECTORS[name]
    assert type(found) is told.state
    assert told.state in {kind.state for kind in KINDS.values()}
    assert found.differentiable == told.differentiable
    assert found.layers == tuple(layers_of(name))
    assert told.squeezes == tuple(getattr(found, "squeezes", ()))
    assert told.title
    assert told.summary[-1] not in ".!"
    paper, address = told.reference
    assert paper
    assert address.startswith("https://")
    assert row(name) is told


@EVERY
def test_the_layers_and_squeezes_of_a_row_are_all_it_reads(name):
    told = DETECTORS[name]
    sensor = Sensor(classifier(), told.layers, changes(told.squeezes) if told.squeezes else None)
    clean, tune = (sensor.read(scans(count, seed)) for count, seed in ((300, 1), (100, 2)))
    state = told.fit([clean], tune, told.layers, 0)
    assert state.layers == told.layers
    assert bool(state(sensor(scans(2, 3))).isfinite().all())


@EVERY
def test_it_survives_being_saved_and_built_to_the_bit(name):
    tensors, settings = save_detector(fitted(name))
    again = build_detector(tensors, json.loads(json.dumps(settings, allow_nan=False)))
    for seen in (FRESH(), STRANGE(), FRESH().take(torch.tensor([7]))):
        assert torch.equal(again(seen), fitted(name)(seen))
    assert again.notes == fitted(name).notes


@EVERY
def test_what_is_not_finite_is_as_suspicious_as_can_be(name):
    for value in (torch.nan, torch.inf, -torch.inf):
        seen = FRESH().take(torch.arange(4)).map(torch.clone)
        for values in [*seen.layers.values(), seen.logits, *seen.squeezed.values()]:
            values[2, 1] = value
        score = fitted(name)(seen)
        assert score.isposinf().tolist() == [False, False, True, False]


@OF_LAYERS
def test_a_layer_of_another_width_or_that_was_not_read_is_refused(name):
    seen = FRESH()
    wider = Reading(
        seen.logits, {layer: torch.cat([values, values], 1) for layer, values in seen.layers.items()}, seen.squeezed
    )
    with pytest.raises(InputError, match="belongs to another model"):
        fitted(name)(wider)
    with pytest.raises(InputError, match="was not read"):
        fitted(name)(Reading(seen.logits, {}, seen.squeezed))


@LOGITS_ALONE
def test_other_logits_are_refused(name):
    wider = FRESH().map(lambda values: torch.cat([values, values], 1))
    with pytest.raises(InputError, match="belongs to another model"):
        fitted(name)(wider)


@EVERY
def test_it_has_gradients_by_the_image_where_it_says_so(name):
    images = scans(4, 3).requires_grad_()
    reading = Sensor(classifier(), LAYERS, changes([*SQUEEZES]))(images)
    score = fitted(name)(reading).sum()
    if not DETECTORS[name].differentiable:
        assert not score.requires_grad
        return
    (gradient,) = torch.autograd.grad(score, images)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).flatten(1).any(1).all())


@EVERY
def test_its_gradient_is_that_of_its_score(name):
    if not DETECTORS[name].differentiable:
        return
    seen = STRANGE().take(torch.arange(2)).map(torch.Tensor.double)
    parts = [seen.logits, *seen.layers.values(), *seen.squeezed.values()]
    names = [*seen.layers], [*seen.squeezed]

    def score(logits, *rest):
        layers, squeezed = rest[: len(names[0])], rest[len(names[0]) :]
        return fitted(name)(
            Reading(logits, dict(zip(names[0], layers, strict=True)), dict(zip(names[1], squeezed, strict=True)))
        )

    assert score(*parts).dtype == torch.float64
    assert torch.autograd.gradcheck(score, tuple(values.clone().requires_grad_() for values in parts), atol=1e-4, rtol=1e-3)


@EVERY
def test_it_is_not_fitted_on_what_is_not_finite(name):
    for at in (0, 150, 299):
        odd = CLEAN().map(torch.clone)
        for values in [*odd.layers.values(), odd.logits, *odd.squeezed.values()]:
            values[at, 0] = torch.nan
        with pytest.raises(InputError, match="not finite"):
            DETECTORS[name].fit(list(batches(odd, 64)), TUNE(), layers_of(name), 0)


@EVERY
def test_it_is_not_fitted_on_nothing(name):
    with pytest.raises(InputError):
        DETECTORS[name].fit([], TUNE(), layers_of(name), 0)


@EVERY
def test_the_same_seed_gives_the_same_state_and_no_global_number_is_drawn(name):
    before = torch.get_rng_state()
    again = DETECTORS[name].fit(list(batches(CLEAN(), 64)), TUNE(), layers_of(name), 0)
    assert torch.equal(torch.get_rng_state(), before)
    tensors, settings = save_detector(fitted(name))
    others, same = save_detector(again)
    assert settings == same
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


@EVERY
def test_an_image_alone_scores_as_in_company(name):
    together = fitted(name)(STRANGE())
    alone = torch.cat([fitted(name)(STRANGE().take(torch.tensor([place]))) for place in range(10)])
    torch.testing.assert_close(alone, together[:10], rtol=1e-4, atol=1e-4)


@EVERY
def test_scoring_changes_nothing(name):
    state, seen = fitted(name), FRESH()
    tensors, before = save_detector(state)[0], [values.clone() for values in (seen.logits, *seen.layers.values())]
    assert torch.equal(state(seen), state(seen))
    assert all(torch.equal(tensor, state.state_dict()[key]) for key, tensor in tensors.items())
    assert all(torch.equal(one, other) for one, other in zip(before, (seen.logits, *seen.layers.values()), strict=True))
    assert not any(True for _ in state.parameters())


@EVERY
def test_another_number_of_layers_is_refused(name):
    told = DETECTORS[name]
    wrong = [LAYERS] if not told.several else []
    wrong += [()] if told.layers else [(FEATURES,)]
    for layers in wrong:
        with pytest.raises(SettingsError, match=f"{told.title} reads"):
            told.fit([CLEAN()], TUNE(), layers, 0)


def test_a_detector_of_another_name_is_refused():
    with pytest.raises(SettingsError, match="no detector 'oracle'; there are gaussian"):
        row("oracle")


def test_what_knows_attacks_is_not_in_the_table():
    assert "supervised" in KINDS
    assert not any(told.state is KINDS["supervised"].state for told in DETECTORS.values())
