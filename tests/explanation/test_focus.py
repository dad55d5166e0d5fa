"""Figures of maps that are drawn by hand."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from antivenom.errors import InputError, SettingsError
from antivenom.explanation.focus import (
    Drift,
    active,
    active_area,
    centroid,
    centroid_shift,
    change_on,
    change_outside,
    effective_area,
    hits,
    mass_on,
    overlap,
    rank_correlation,
)


def spot(*places, side=8):
    """A map that is 1 at these places."""
    drawn = np.zeros((1, side, side))
    for row, column in places:
        drawn[0, row, column] = 1
    return drawn


BLANK = np.zeros((1, 8, 8))


@pytest.fixture
def maps():
    return np.random.default_rng(0).random((3, 8, 8))


def test_identical_maps_do_not_drift(maps):
    drift = Drift.between(maps, maps)
    assert drift.overlap.tolist() == [1, 1, 1]
    assert drift.shift.tolist() == drift.shift_share.tolist() == [0, 0, 0]
    np.testing.assert_allclose(drift.correlation, 1)
    np.testing.assert_array_equal(drift.clean_area, drift.attacked_area)


def test_disjoint_maps_do_not_overlap():
    drift = Drift.between(spot((0, 0)), spot((3, 4)))
    assert drift.overlap.tolist() == [0]
    assert drift.shift.tolist() == [5]
    assert drift.shift_share[0] == pytest.approx(5 / math.hypot(8, 8))
    assert drift.correlation[0] == pytest.approx(-1 / 63)
    assert drift.clean_area.tolist() == drift.clean_effective_area.tolist() == [1 / 64]


def test_a_map_of_zeros_has_no_figure():
    everywhere = np.ones((1, 8, 8), dtype=bool)
    drift = Drift.between(BLANK, spot((1, 1)), mask=everywhere, delta=np.ones((1, 1, 8, 8)))
    asked = {"attacked_area", "attacked_effective_area", "attacked_mass", "attacked_hit", "mask_area"}
    for field in fields(Drift):
        figure = getattr(drift, field.name)
        assert figure.shape == (1,)
        assert math.isnan(figure[0]) == (field.name not in asked), field.name
    assert np.isnan(centroid(BLANK)).all()
    assert not active(BLANK).any()


def test_a_constant_map_has_no_ranks_and_covers_everything():
    even = np.full((1, 8, 8), 0.3)
    assert np.isnan(rank_correlation(even, spot((0, 0)))).all()
    assert active_area(even).tolist() == [1]
    assert effective_area(even)[0] == pytest.approx(1)


def test_active_is_above_the_level_and_no_scale_changes_a_figure(maps):
    drawn = np.array([[[1.0, 0.5, 0.51, 0.0]]])
    assert active(drawn).tolist() == [[[True, False, True, False]]]
    assert active_area(drawn, level=0.0).tolist() == [0.75]
    other, delta = maps[:, ::-1], maps[:, None] - 0.5
    one, scaled = Drift.between(maps, other, delta=delta), Drift.between(1e-30 * maps, 7 * other, delta=1e-3 * delta)
    for field in fields(Drift):
        np.testing.assert_allclose(getattr(scaled, field.name), getattr(one, field.name), rtol=1e-9)


def test_the_overlap_is_intersection_over_union():
    assert overlap(spot((0, 0), (0, 1)), spot((0, 1), (0, 2))).tolist() == [1 / 3]


def test_the_shift_goes_between_centres_of_mass():
    heavy = spot((0, 0), (0, 4))
    heavy[0, 0, 4] = 3
    assert centroid(heavy).tolist() == [[0, 3]]
    assert centroid_shift(heavy, spot((4, 0))).tolist() == [5]


def test_the_correlation_is_spearmans(maps):
    rounded, other = maps.round(1), maps[:, :, ::-1].round(1)  # with ties
    expected = [spearmanr(one.ravel(), two.ravel()).statistic for one, two in zip(rounded, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(rounded, other), expected, atol=1e-12)
    np.testing.assert_allclose(rank_correlation(maps, maps**3), 1)


def test_mass_and_hits_on_a_lesion():
    drawn, lesion = spot((0, 0), (5, 5)), np.zeros((1, 8, 8), dtype=bool)
    lesion[0, :2, :2] = True
    assert mass_on(drawn, lesion).tolist() == [0.5]
    assert hits(drawn, lesion).tolist() == [0.5]  # of two equal maxima one lies on it
    drawn[0, 0, 0] = 2
    assert mass_on(drawn, lesion)[0] == pytest.approx(2 / 3)
    assert hits(drawn, lesion).tolist() == [1]
    drawn[0, 7, 7] = 3
    assert hits(drawn, lesion).tolist() == [0]
    drift = Drift.between(drawn, spot((1, 1)), mask=lesion)
    assert (drift.clean_hit[0], drift.attacked_hit[0], drift.attacked_mass[0], drift.mask_area[0]) == (0, 1, 1, 1 / 16)


def test_a_healthy_image_has_no_lesion_to_hit():
    none = np.zeros((1, 8, 8), dtype=bool)
    assert np.isnan([mass_on(spot((0, 0)), none), hits(spot((0, 0)), none)]).all()


def test_the_change_is_counted_inside_and_outside():
    delta = np.zeros((2, 3, 8, 8))
    delta[0, :, 0, 0] = [-0.1, 0.2, 0.0]
    delta[0, 0, 5, 5] = 0.1
    maps = np.concatenate([spot((0, 0)), spot((0, 0))])
    np.testing.assert_allclose(change_outside(delta, maps), [0.25, math.nan])  # the second was not changed
    np.testing.assert_allclose(change_on(delta, active(maps)), [0.75, math.nan])
    assert change_on(delta[:1], np.zeros((1, 8, 8), dtype=bool)).tolist() == [0]


def test_tensors_serve_as_arrays_do(maps):
    tensors = torch.from_numpy(maps)
    drift = Drift.between(tensors, tensors.flip(1), mask=tensors > 0.5, delta=tensors[:, None])
    expected = Drift.between(maps, maps[:, ::-1], mask=maps > 0.5, delta=maps[:, None])
    for field in fields(Drift):
        np.testing.assert_array_equal(getattr(drift, field.name), getattr(expected, field.name))


def test_what_is_no_map_is_refused(maps):
    with pytest.raises(InputError, match="finite and not negative"):
        active_area(maps - 1)
    with pytest.raises(InputError, match="finite and not negative"):
        active_area(maps * np.nan)
    with pytest.raises(InputError, match=r"map\[None\]"):
        active_area(maps[0])
    with pytest.raises(InputError, match="one shape"):
        overlap(maps, maps[:, :4])
    with pytest.raises(InputError, match="a mask is bool"):
        mass_on(maps, maps)
    with pytest.raises(InputError, match=r"\(B, C, H, W\)"):
        change_on(maps, maps > 0.5)
    with pytest.raises(SettingsError, match="level"):
        active(maps, 1.0)
