"""What was saved is built again to the bit; what is not what was saved is refused."""

import json

import pytest
import torch

from antivenom.detection.density import fit_density
from antivenom.detection.detector import Detector
from antivenom.detection.ensemble import fit_ensemble
from antivenom.detection.gaussian import fit_gaussian
from antivenom.detection.isolation_forest import fit_isolation_forest
from antivenom.detection.logits import fit_energy, fit_maximum_probability
from antivenom.detection.mahalanobis import fit_mahalanobis
from antivenom.detection.mixture import fit_mixture
from antivenom.detection.neighbours import fit_intrinsic_dimension, fit_neighbours
from antivenom.detection.one_class_svm import fit_one_class_svm
from antivenom.detection.reading import Reading
from antivenom.detection.reduction import fit_reduced
from antivenom.detection.squeezing import fit_squeezing
from antivenom.detection.states import KINDS, build_detector, save_detector
from antivenom.detection.supervised import fit_supervised
from antivenom.errors import SettingsError, WeightsError
from readings import clouds, stream

CLEAN, TUNE = clouds(200), clouds(60, seed=7)
SQUEEZED = Reading(CLEAN.logits, {}, {"median-2": CLEAN.logits + 0.1})
FITS = {
    "gaussian": lambda: fit_gaussian(stream(CLEAN), tune=TUNE),
    "mahalanobis": lambda: fit_mahalanobis(stream(CLEAN), tune=TUNE),
    "mixture": lambda: fit_mixture(stream(CLEAN), tune=TUNE, components=(2,), seed=0),
    "reduced": lambda: fit_reduced(stream(CLEAN), lambda seen, held: fit_gaussian(seen, tune=held), tune=TUNE, keep=3),
    "isolation-forest": lambda: fit_isolation_forest(stream(CLEAN), trees=5, seed=0),
    "one-class-svm": lambda: fit_one_class_svm(stream(CLEAN), seed=0),
    "neighbours": lambda: fit_neighbours(stream(CLEAN), seed=0),
    "intrinsic-dimension": lambda: fit_intrinsic_dimension(stream(CLEAN), seed=0),
    "density": lambda: fit_density(stream(CLEAN), tune=TUNE, seed=0),
    "maximum-probability": lambda: fit_maximum_probability(stream(CLEAN)),
    "energy": lambda: fit_energy(stream(CLEAN)),
    "squeezing": lambda: fit_squeezing([SQUEEZED], squeezes=["median-2"]),
    "ensemble": lambda: fit_ensemble([FITS["reduced"](), FITS["isolation-forest"](), FITS["energy"]()], tune=TUNE),
    "supervised": lambda: fit_supervised(stream(CLEAN), stream(clouds(50, seed=1, shift=1)), hidden=3, seed=0),
}
EVERY = pytest.mark.parametrize("kind", FITS)
WITH_TENSORS = pytest.mark.parametrize("kind", [kind for kind in FITS if KINDS[kind].tensors])
SEEN = Reading(CLEAN.logits[:9], {"features": CLEAN.layer("features")[:9] + 0.1}, {"median-2": CLEAN.logits[:9] - 0.2})
_FITTED: dict[str, Detector] = {}


def fitted(kind):
    if kind not in _FITTED:
        _FITTED[kind] = FITS[kind]()
    return _FITTED[kind]


def saved(kind):
    tensors, settings = save_detector(fitted(kind))
    return tensors, json.loads(json.dumps(settings, allow_nan=False))


def test_every_kind_is_tried_here():
    assert set(FITS) == set(KINDS)


@EVERY
def test_it_is_built_again_to_the_bit_from_json_and_tensors(kind):
    state = fitted(kind)
    tensors, settings = saved(kind)
    again = build_detector(tensors, settings)
    assert type(again) is type(state)
    assert torch.equal(again(SEEN), state(SEEN))
    assert again.settings() == state.settings()
    assert (again.layers, again.widths, again.notes) == (state.layers, state.widths, state.notes)
    assert save_detector(again)[1] == settings


def test_what_is_saved_is_a_copy():
    tensors, _ = save_detector(fitted("neighbours"))
    tensors["bank"].zero_()
    assert bool(fitted("neighbours").bank.any())


def test_a_relative_distance_and_several_layers_are_built_again():
    seen = Reading(CLEAN.logits, {"a": CLEAN.layer("features")[:, :2], "b": CLEAN.layer("features")[:, 2:]})
    for state in (
        fit_mahalanobis([seen], tune=None, layers=["a", "b"], relative=True),
        fit_intrinsic_dimension([seen], layers=["a", "b"], seed=0),
    ):
        again = build_detector(*save_detector(state))
        assert torch.equal(again(seen.map(lambda values: values + 0.1)), state(seen.map(lambda values: values + 0.1)))


def test_an_ensemble_of_ensembles_is_built_again():
    whole = fit_ensemble([fitted("ensemble"), fitted("gaussian")], tune=TUNE, way="mean")
    tensors, settings = save_detector(whole)
    assert "detectors.0.detectors.0.inner.mean" in tensors
    assert torch.equal(build_detector(tensors, settings)(SEEN), whole(SEEN))


def test_a_detector_of_the_users_own_is_not_saved():
    class Own(Detector):
        def measure(self, reading):
            return reading.logits[:, 0]

    with pytest.raises(SettingsError, match="Own is a detector of your own"):
        save_detector(Own())
    with pytest.raises(SettingsError, match="Own"):
        save_detector(fit_ensemble([Own()], tune=TUNE))


@pytest.mark.parametrize("settings", [{}, {"kind": "oracle"}, {"kind": ["gaussian"]}, None, []])
def test_an_unknown_kind_is_refused(settings):
    with pytest.raises(WeightsError, match="there are gaussian"):
        build_detector({}, settings)


@WITH_TENSORS
def test_a_tensor_that_is_missing_or_too_many_is_refused(kind):
    for name in KINDS[kind].tensors:
        tensors, settings = saved(kind)
        del tensors[name]
        with pytest.raises(WeightsError, match=f"lacks the tensor '{name}'"):
            build_detector(tensors, settings)
    tensors, settings = saved(kind)
    with pytest.raises(WeightsError, match="no place for the tensor 'spy'"):
        build_detector({**tensors, "spy": torch.zeros(1)}, settings)


@WITH_TENSORS
def test_a_tensor_of_another_shape_or_type_or_not_finite_is_refused(kind):
    for name, axes in KINDS[kind].tensors.items():
        tensors, settings = saved(kind)
        with pytest.raises(WeightsError, match=f"'{name}' .* has shape"):
            build_detector({**tensors, name: tensors[name][None]}, settings)
        if axes and tensors[name].numel():
            longer = torch.cat([tensors[name], tensors[name][:1]])
            known = {"D", "S", "L", "P", "relative"}
            alone = (
                axes.split()[0] not in known and sum(axes.split()[0] in other for other in KINDS[kind].tensors.values()) == 1
            )
            if not alone and axes != "D D":
                with pytest.raises(WeightsError, match="has shape"):
                    build_detector({**tensors, name: longer}, settings)
        with pytest.raises(WeightsError, match=f"'{name}' .* expected"):
            build_detector({**tensors, name: tensors[name].half()}, settings)
        if tensors[name].is_floating_point() and tensors[name].numel():
            odd = tensors[name].clone()
            odd.view(-1)[-1] = torch.inf
            with pytest.raises(WeightsError, match=f"'{name}' .* not finite"):
                build_detector({**tensors, name: odd}, settings)


@EVERY
def test_a_setting_that_is_missing_or_too_many_or_of_another_type_is_refused(kind):
    tensors, settings = saved(kind)
    inner = settings["settings"]
    for name in inner:
        fewer = {key: value for key, value in inner.items() if key != name}
        with pytest.raises(WeightsError, match=f"the settings of detector '{kind}' are"):
            build_detector(tensors, {**settings, "settings": fewer})
        for value in (None, {"a": 1}, float("nan")):
            with pytest.raises(WeightsError, match=f"the setting '{name}'"):
                build_detector(tensors, {**settings, "settings": {**inner, name: value}})
    with pytest.raises(WeightsError, match=r"got .*spy"):
        build_detector(tensors, {**settings, "settings": {**inner, "spy": 1}})
    with pytest.raises(WeightsError, match="got None"):
        build_detector(tensors, {**settings, "settings": None})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gaussian", {"layers": [], "widths": []}),
        ("gaussian", {"layers": ["a", "b"], "widths": [3, 3]}),
        ("gaussian", {"widths": [0]}),
        ("reduced", {"layers": [], "widths": []}),
        ("gaussian", {"widths": [6, 6]}),
        ("energy", {"layers": ["features"], "widths": [6]}),
        ("mahalanobis", {"layers": [], "widths": []}),
    ],
)
def test_layers_that_cannot_be_are_refused(kind, change):
    tensors, settings = saved(kind)
    with pytest.raises(WeightsError, match="cannot read layers"):
        build_detector(tensors, {**settings, "settings": {**settings["settings"], **change}})


@pytest.mark.parametrize(
    ("kind", "change"), [("neighbours", {"k": 500}), ("density", {"bandwidth": -1.0}), ("squeezing", {"squeezes": ["blur"]})]
)
def test_settings_that_do_not_go_with_the_tensors_are_refused(kind, change):
    tensors, settings = saved(kind)
    with pytest.raises(WeightsError, match="do not go together"):
        build_detector(tensors, {**settings, "settings": {**settings["settings"], **change}})


def test_what_is_inside_is_checked_as_well():
    tensors, settings = saved("ensemble")
    fewer = {name: tensor for name, tensor in tensors.items() if name != "detectors.0.mean"}
    with pytest.raises(WeightsError, match=r"reduced detector lacks the tensor 'mean'"):
        build_detector(fewer, settings)
    two = {name: tensor for name, tensor in tensors.items() if not name.startswith("detectors.2")}
    with pytest.raises(WeightsError, match="'centre' of this ensemble"):
        build_detector(two, {**settings, "inside": settings["inside"][:2]})


@pytest.mark.parametrize("inside", [[], None, "x", [{"kind": "energy"}, {"kind": "energy"}]])
def test_as_many_are_inside_as_the_kind_takes(inside):
    tensors, settings = saved("reduced")
    with pytest.raises(WeightsError, match=r"has 1 inside|list those inside"):
        build_detector(tensors, {**settings, "inside": inside})
    with pytest.raises(WeightsError, match=r"at least 1 inside|list those inside|the settings of detector 'energy'"):
        build_detector(saved("ensemble")[0], {**saved("ensemble")[1], "inside": inside})
    tensors, settings = saved("gaussian")
    with pytest.raises(WeightsError, match="has 0 inside, got 1"):
        build_detector(tensors, {**settings, "inside": [settings]})


def test_what_is_inside_reads_as_many_values_as_it_is_given():
    tensors, settings = saved("reduced")
    narrow, card = save_detector(fit_gaussian(stream(clouds(100, width=5)), tune=None))
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("inner.")}
    exchanged = {**own, **{f"inner.{name}": tensor for name, tensor in narrow.items()}}
    with pytest.raises(WeightsError, match="'directions' of this reduced"):
        build_detector(exchanged, {**settings, "inside": [card]})
