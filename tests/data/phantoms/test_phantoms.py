"""Every modality keeps the promises of `phantoms`: the same picture however it is reached, a true mask, no easy way out."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from antivenom.data.phantoms import album as album_module
from antivenom.data.phantoms import phantoms
from antivenom.data.phantoms.album import MODALITIES, Album
from antivenom.errors import SettingsError

MODALITY = pytest.mark.parametrize("modality", MODALITIES)
EVERY_TASK = pytest.mark.parametrize(("modality", "task"), [(m, t) for m, kind in MODALITIES.items() for t in kind.tasks])


def album_of(modality: str, size: int, target: int, count: int = 6) -> Album:
    return Album(modality, next(iter(MODALITIES[modality].tasks)), size, 0, np.arange(count), np.full(count, target))


@EVERY_TASK
def test_pictures_are_what_the_set_says(modality, task):
    images = phantoms(modality, n=24, size=32, task=task)
    assert images.task == MODALITIES[modality].tasks[task]
    assert images.has_masks
    for position in range(12):
        sample = images[position]
        assert sample.image.shape == (MODALITIES[modality].channels, 32, 32)
        assert sample.image.std() > 0.05
        steps = sample.image * 255
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert images.mask(position).shape == (32, 32)


@MODALITY
@pytest.mark.parametrize("size", [28, 97, 256])
def test_any_size_can_be_drawn(modality, size):
    sample = phantoms(modality, n=20, size=size)[7]
    assert sample.image.shape[1:] == (size, size)
    assert 0.02 < sample.image.mean() < 0.98


@MODALITY
def test_a_picture_depends_on_seed_and_position_only(modality):
    few, many = phantoms(modality, n=24, size=48), phantoms(modality, n=600, size=48)
    for position in (17, 3):  # whatever was drawn before
        assert torch.equal(few[position].image, many[position].image)
        assert torch.equal(few.mask(position), many.mask(position))
        assert few[position].key == many[position].key
    assert not torch.equal(few[3].image, phantoms(modality, n=24, size=48, seed=1)[3].image)
    assert not torch.equal(few[3].image, few[17].image)


@MODALITY
def test_a_picture_is_the_same_scene_at_every_size(modality):
    small, large = phantoms(modality, n=20, size=48), phantoms(modality, n=20, size=144)
    for position in (1, 6, 8):
        pooled = torch.nn.functional.avg_pool2d(large[position].image, 3).flatten()
        assert torch.corrcoef(torch.stack([pooled, small[position].image.flatten()]))[0, 1] > 0.96
    overlaps = []
    for position in range(20):
        shrunk = torch.nn.functional.avg_pool2d(large.mask(position)[None].float(), 3)[0] > 0.5
        mask = small.mask(position)
        if mask.sum() > 20:
            overlaps.append(float((mask & shrunk).sum() / (mask | shrunk).sum()))
    assert np.median(overlaps) > 0.7


@pytest.mark.parametrize("modality", ["chest", "fundus", "brain"])
def test_the_mask_is_empty_in_health_and_covers_what_disease_changed(modality):
    healthy, sick = album_of(modality, 64, 0), album_of(modality, 64, 1)
    inside, outside = [], []
    for position in range(6):
        before, after = healthy.draw(position), sick.draw(position)
        assert not before.mask.any()
        assert 3 <= after.mask.sum() < 0.35 * after.mask.size
        change = np.abs(after.image - before.image).mean(0)
        inside.append(change[after.mask].mean())
        outside.append(change[~after.mask].mean())
    assert np.mean(inside) > 0.05
    assert np.mean(inside) > 5 * np.mean(outside)


def test_on_skin_the_mask_outlines_benign_lesions_as_well():
    for target in (0, 1):
        pictures = album_of("skin", 64, target)
        for position in range(6):
            scan = pictures.draw(position)
            assert 0.03 < scan.mask.mean() < 0.7
            around, inside = (scan.image[:, m].mean(1) for m in (~scan.mask, scan.mask))
            assert np.abs(around - inside).max() > 0.02


def test_grades_of_retinopathy_bring_more_and_more_lesions():
    images = phantoms("fundus", n=200, size=64, task="grades")
    area = [np.mean([float(images.mask(i).sum()) for i in np.flatnonzero(images.targets == grade)[:20]]) for grade in range(5)]
    assert area[0] == 0
    assert area[0] < area[1] < area[2] < area[4]


def test_findings_are_present_and_absent_one_by_one():
    images = phantoms("chest", n=400, task="findings")
    assert images.targets.shape == (400, 3)
    share = images.targets.float().mean(0)
    assert ((share > 0.25) & (share < 0.42)).all()
    together = {tuple(row) for row in images.targets.tolist()}
    assert len(together) == 8
    for position in range(12):
        assert images.mask(position).any() == bool(images.targets[position].any())


@MODALITY
def test_a_linear_model_on_pixels_does_not_solve_it(modality):
    images = phantoms(modality, n=360, size=32, seed=11)
    pixels = torch.stack([sample.image for sample in images]).flatten(1).numpy()
    targets, test = images.targets.numpy(), images.index.splits == "test"
    pixels = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-3)
    model = RidgeClassifier(alpha=3e3).fit(pixels[~test], targets[~test])
    right = model.predict(pixels[test]) == targets[test]
    balanced = np.mean([right[targets[test] == label].mean() for label in (0, 1)])
    assert balanced < 0.75  # 72 pictures: a chance answer has a standard deviation of 0.06


@MODALITY
def test_brightness_does_not_give_the_class_away(modality):
    images = phantoms(modality, n=300, size=32, seed=12)
    mean = np.array([float(sample.image.mean()) for sample in images])
    sick = images.targets.numpy() == 1
    above = (mean[sick][:, None] > mean[~sick]).mean()
    assert 0.35 < above < 0.65


def test_a_set_travels_to_another_process_without_its_pictures():
    images = phantoms("chest", n=40)
    image = images[5].image
    sent = pickle.dumps(images)
    assert len(sent) < 60_000
    assert torch.equal(pickle.loads(sent)[5].image, image)


def test_changing_a_picture_does_not_change_the_set():
    images = phantoms("brain", n=20)
    before = images[0].image.clone()
    images[0].image.zero_()
    images.mask(0).fill_(True)
    assert torch.equal(images[0].image, before)
    assert not images.mask(0).all()


def test_kept_pictures_take_no_more_than_the_memory_given(monkeypatch):
    monkeypatch.setattr(album_module, "_MEMORY", 5 * 2 * 28 * 28)
    pictures = album_of("chest", 28, 0, count=10)
    first = [pictures.image(position) for position in range(10)]
    assert len(pictures.__dict__["_kept"]) == 5
    for position in range(10):
        assert torch.equal(pictures.image(position), first[position])


def test_the_digest_names_size_and_seed_and_task():
    digests = {
        phantoms("chest", n=20, size=28).digest,
        phantoms("chest", n=20, size=32).digest,
        phantoms("chest", n=20, size=28, seed=1).digest,
        phantoms("fundus", n=20, size=28).digest,
        phantoms("fundus", n=20, size=28, task="grades").digest,
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("modality", "settings", "message"),
    [
        ("knee", {}, "knee"),
        ("chest", {"task": "tumour"}, "pneumonia"),
        ("chest", {"n": 19}, "n must lie between 20"),
        ("chest", {"size": 27}, "size must lie between 28"),
        ("chest", {"size": 64.5}, "whole number"),
        ("chest", {"seed": -1}, "seed must lie between 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(modality, settings, message):
    with pytest.raises(SettingsError, match=message):
        phantoms(modality, **settings)


def test_naming_the_function_costs_no_heavy_import():
    code = "import sys, antivenom.data.phantoms; print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sick_picture_is_the_healthy_one_with_the_disease_added():
    healthy = album_of("chest", 64, 0)
    sick = replace(healthy, targets=np.ones(6, np.int64))
    before, after = healthy.draw(2), sick.draw(2)
    away = ~after.mask & (np.abs(after.image - before.image)[0] < 1e-6)
    assert away.mean() > 0.3
