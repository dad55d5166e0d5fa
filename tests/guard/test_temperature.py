import numpy as np
import pytest
import torch

from antivenom.errors import InputError, LabelError, SettingsError
from antivenom.guard.temperature import HIGHEST, LOWEST, Temperature, fit_temperature
from antivenom.metrics.calibration import expected_calibration_error
from antivenom.task import Task

TASK = Task(("normal", "bacterial", "viral"))
FINDINGS = Task(("effusion", "mass"), multilabel=True)


def drawn(true_temperature, images=4000, seed=0):
    """Logits that state too much by a known factor, and classes drawn as they should have been stated."""
    generator = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(images, 3, generator=generator)
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return honest * true_temperature, targets


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_logits_is_found(true):
    logits, targets = drawn(true)
    found = fit_temperature(logits, targets, TASK)
    assert found.values[0] == pytest.approx(true, rel=0.06)
    assert found.likelihood[1] <= found.likelihood[0]
    assert not found.notes
    assert found.n == 4000


def test_no_other_temperature_is_likelier():
    from scipy.optimize import minimize_scalar

    logits, targets = drawn(2.5, 500)
    nll = torch.nn.functional.cross_entropy
    best = minimize_scalar(
        lambda t: float(nll(logits.double() / t, targets)), bounds=(LOWEST, HIGHEST), options={"xatol": 1e-9}
    )
    assert fit_temperature(logits, targets, TASK).values[0] == pytest.approx(best.x, rel=1e-5)


def test_probabilities_come_true_more_often_on_other_images():
    logits, targets = drawn(4.0)
    fresh, truth = drawn(4.0, seed=1)
    found = fit_temperature(logits, targets, TASK)
    before = expected_calibration_error(fresh.numpy(), truth.numpy(), multilabel=False)
    after = expected_calibration_error((fresh / found.values[0]).numpy(), truth.numpy(), multilabel=False)
    assert before > 0.15
    assert after < 0.03
    assert torch.equal(found.probabilities(fresh).argmax(1), fresh.argmax(1))


def test_each_finding_has_a_temperature_of_its_own():
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(4000, 2, generator=generator)
    truth = torch.bernoulli(honest.sigmoid(), generator=generator).long()
    found = fit_temperature(honest * torch.tensor([0.5, 3.0]), truth, FINDINGS)
    assert found.values == pytest.approx((0.5, 3.0), rel=0.1)
    torch.testing.assert_close(found.probabilities(honest)[:, 1], (honest[:, 1] / found.values[1]).sigmoid(), atol=1e-6, rtol=0)


def test_a_finding_without_positives_keeps_its_temperature_with_a_note():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 2, generator=generator)
    truth = torch.stack([torch.bernoulli((logits[:, 0] / 2).sigmoid(), generator=generator).long(), torch.zeros(200).long()], 1)
    found = fit_temperature(logits, truth, FINDINGS)
    assert found.values[1] == 1
    assert found.values[0] != 1
    assert len(found.notes) == 1
    assert found.notes[0].startswith("mass: the held-out images are all absent")


@pytest.mark.parametrize(
    ("logits", "targets", "value", "told"),
    [
        ([[9.0, 0, 0], [0, 9, 0]], [0, 1], 1.0, "none of the 2 held-out images is on the wrong side"),
        ([[9.0, 0, 0], [0, 9, 0]], [2, 2], 1.0, "all of one class"),
        ([[1.0, 1, 1], [2, 2, 2]], [0, 1], 1.0, "alike"),
        ([[9.0, 0, 0], [0, 9, 0]], [1, 0], HIGHEST, "say next to nothing"),
        ([[1e-4, 0, 0]] * 99 + [[0, 1e-4, 0]], [0] * 98 + [1, 0], LOWEST, "far too small"),
    ],
)
def test_where_the_images_do_not_tell_it_is_said(logits, targets, value, told):
    found = fit_temperature(torch.tensor(logits), targets, TASK)
    assert found.values == (value,)
    assert told in found.notes[0]


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="1 of 2 held-out images have logits that are not finite"):
        fit_temperature(torch.tensor([[0.0, 1, 2], [0, torch.nan, 0]]), [0, 1], TASK)
    with pytest.raises(InputError, match="at least 1 image"):
        fit_temperature(torch.empty(0, 3), [], TASK)
    with pytest.raises(InputError, match="2 images need as many targets, got 1"):
        fit_temperature(torch.zeros(2, 3), [1], TASK)
    with pytest.raises(LabelError):
        fit_temperature(torch.zeros(2, 3), [1, 7], TASK)
    with pytest.raises(SettingsError, match="positive and finite"):
        Temperature((0.0,))
    with pytest.raises(SettingsError, match="one temperature"):
        Temperature((1.0, 2.0))


def test_it_is_written_down_and_read_again():
    for found in (fit_temperature(*drawn(3.0, 100), TASK), Temperature.none(FINDINGS)):
        assert Temperature.from_dict(found.to_dict()) == found
    assert "not calibrated" in Temperature.none(TASK).notes[0]


def test_what_is_not_finite_gives_no_probability():
    assert np.isnan(Temperature().probabilities(torch.tensor([[torch.nan, 0.0]])).numpy()).all()
