"""Patients, splits and streams follow from the position alone."""

from __future__ import annotations

import numpy as np
import pytest

from antivenom.data.phantoms.cohort import ROUND, Chance, cohort


def test_a_longer_cohort_begins_with_the_shorter_one():
    short, long = cohort(73), cohort(400)
    for column in ("patient", "split", "place"):
        assert (getattr(long, column)[:73] == getattr(short, column)).all()


def test_splits_are_70_10_20_percent_of_every_round():
    split = cohort(10 * ROUND).split
    assert [(split == name).mean() for name in ("train", "val", "test")] == pytest.approx([0.7, 0.1, 0.2])


def test_patients_stay_in_one_split_and_some_have_several_pictures_in_training_and_test():
    members = cohort(400)
    for patient in np.unique(members.patient):
        assert len(set(members.split[members.patient == patient])) == 1
    for name in ("train", "test"):
        _, pictures = np.unique(members.patient[members.split == name], return_counts=True)
        assert pictures.max() > 1
        assert pictures.min() == 1


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_that_take_turns_are_balanced_in_every_split(classes):
    members = cohort(classes * 10 * ROUND)
    for name in ("train", "val", "test"):
        share = np.bincount(members.place[members.split == name] % classes) / (members.split == name).sum()
        np.testing.assert_allclose(share, 1 / classes, atol=0.02)


def test_pictures_of_a_patient_share_the_body_and_nothing_else():
    first, second, stranger = (Chance.of("chest", 0, patient, position) for patient, position in ((4, 6), (4, 7), (5, 8)))
    assert first.body.random() == second.body.random() != stranger.body.random()
    assert first.pose.random() != second.pose.random()
    assert first.disease.random() != second.disease.random()
    assert first.film.random() != second.film.random()


def test_modalities_and_seeds_have_streams_of_their_own():
    drawn = {Chance.of(m, seed, 0, 0).body.random() for m in ("chest", "brain") for seed in (0, 1)}
    assert len(drawn) == 4
