import numpy as np
import pytest
import torch

from antivenom.detection.reading import Reading, batches
from antivenom.errors import InputError, ModelError, SettingsError
from antivenom.guard.fitting import fit_guard, scores_of, sensor_to_fit, spread
from antivenom.guard.policy import Policy, Verdict
from antivenom.guard.prediction_sets import measured


def test_a_fitted_guard_keeps_its_rate_and_its_coverage_on_fresh_images(scans):
    rates, covered = [], []
    images, targets = scans.scans(500, 77)
    for seed in range(0, 40, 10):
        guard = scans.fitted(("gaussian", "energy"), seed=seed, policy=Policy(rate=0.1))
        with torch.no_grad():
            answer = guard(images)
        rates.append(float((answer.verdict == Verdict.REJECT).float().mean()))
        covered.append(measured(answer.members, targets, scans.model.task)["all"].value)
    assert np.mean(rates) < 0.14
    assert np.mean(covered) > 0.88
    assert all(watch.threshold.rate == pytest.approx(0.05) for watch in guard.watches)


def test_the_threshold_comes_from_held_out_images_alone(scans):
    sensor = sensor_to_fit(scans.model)
    clean, tune = (sensor.read(scans.scans(200, seed)[0]) for seed in (0, 1))
    images, targets = scans.scans(199, 2)
    held = sensor.read(images)
    guard = fit_guard(scans.model, [clean], tune=tune, held_out=held, targets=targets, seed=0)
    scores = scores_of(guard.watches[0].detector, held)
    assert guard.watches[0].threshold.value == pytest.approx(float(scores.sort().values[189]), rel=1e-6)
    assert guard.watches[0].scale == spread(scores)[0]
    assert guard.watches[0].model == scans.model.digest()


def test_held_out_images_that_fitted_are_refused_and_a_few_are_told(scans):
    sensor = sensor_to_fit(scans.model)
    clean, tune = (sensor.read(scans.scans(200, seed)[0]) for seed in (0, 1))
    targets = scans.scans(200, 0)[1]
    for held in (clean, tune):
        with pytest.raises(InputError, match="200 of 200 held-out images also fitted or tuned"):
            fit_guard(scans.model, list(batches(clean, 64)), tune=tune, held_out=held, targets=targets, seed=0)
    fresh, truth = scans.scans(200, 2)
    mixed = Reading.join([sensor.read(fresh).take(torch.arange(190)), clean.take(torch.arange(10))])
    guard = fit_guard(scans.model, [clean], tune=tune, held_out=mixed, targets=truth, seed=0)
    assert "10 of 200 held-out images are like ones that fitted or tuned the detectors" in guard.notes


def test_too_few_held_out_images_are_refused(scans):
    sensor = sensor_to_fit(scans.model)
    clean, tune = (sensor.read(scans.scans(200, seed)[0]) for seed in (0, 1))
    images, targets = scans.scans(18, 2)
    with pytest.raises(InputError, match="at least 19"):
        fit_guard(scans.model, [clean], tune=tune, held_out=sensor.read(images), targets=targets, seed=0)


def test_the_temperature_may_come_from_images_of_its_own(scans):
    shared = scans.fitted()
    own = scans.fitted(tune_targets=scans.scans(200, 1)[1])
    assert (shared.temperature.n, own.temperature.n) == (400, 200)
    told = "temperature and prediction sets were fitted on the same images: the coverage is kept only nearly"
    assert told in shared.notes
    assert told not in own.notes


def test_patients_are_counted(scans):
    guard = scans.fitted(groups=np.arange(400) // 4)
    assert guard.watches[0].threshold.groups == guard.sets.groups == 100


def test_detectors_that_are_not_there_or_not_for_this_task_are_refused(scans, findings):
    with pytest.raises(SettingsError, match="no detector 'gausian'"):
        sensor_to_fit(scans.model, ("gausian",))
    with pytest.raises(SettingsError, match="joint-energy is for findings"):
        sensor_to_fit(scans.model, ("joint-energy",))
    with pytest.raises(SettingsError, match="energy is for classes that exclude each other"):
        sensor_to_fit(findings.model, ("energy",))
    with pytest.raises(SettingsError, match="named once each"):
        sensor_to_fit(scans.model, ("gaussian", "gaussian"))
    with pytest.raises(SettingsError, match="named once each"):
        sensor_to_fit(scans.model, ())
    with pytest.raises(SettingsError, match="policy names detector 'energy'"):
        scans.fitted(("gaussian",), policy=Policy(detectors=("energy",)))
    with pytest.raises(ModelError, match="no layer 'layer9'"):
        sensor_to_fit(scans.model, {"gaussian": ("layer9",)})


def test_a_detector_may_read_another_layer(scans):
    guard = scans.fitted({"gaussian": ("0",), "max-softmax": ()})
    assert guard.sensor.layers == ("0",)
    with torch.no_grad():
        assert guard(scans.scans(3, 5)[0]).scores.isfinite().all()


def test_findings_are_fitted_too(findings):
    guard = findings.fitted(("gaussian", "joint-energy", "squeezing-findings"))
    assert len(guard.temperature.values) == 2
    assert len(guard.sets.absent) == 2
    assert sum(watch.threshold.rate for watch in guard.watches) == pytest.approx(0.05)


def test_a_score_that_hardly_varies_is_told():
    assert spread(torch.arange(101.0)) == (pytest.approx(50 / 1.349), "")
    assert spread(torch.tensor([0.0] * 9 + [10.0]))[0] == pytest.approx(3.0)
    assert spread(torch.zeros(5)) == (1.0, spread(torch.tensor([0.0] * 9 + [10.0]))[1])
