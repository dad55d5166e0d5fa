import pytest
import torch

from antivenom.detection.logits import Energy, MaximumProbability, fit_energy, fit_maximum_probability
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError

CLEAN = [Reading(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))]
FITS = pytest.mark.parametrize("fit", [fit_maximum_probability, fit_energy])
BOTH = pytest.mark.parametrize("multilabel", [False, True])


def test_the_maximum_softmax_in_logarithms():
    state = fit_maximum_probability(CLEAN)
    torch.testing.assert_close(state(CLEAN[0]), -CLEAN[0].logits.softmax(1).amax(1).log())


def test_it_tells_answers_apart_that_are_sure_to_the_last_digit():
    sure = torch.tensor([[40.0, 0.0, 0.0, 0.0], [60.0, 0.0, 0.0, 0.0]])
    assert sure.softmax(1).amax(1).tolist() == [1.0, 1.0]
    first, second = fit_maximum_probability(CLEAN)(Reading(sure)).tolist()
    assert 0 < second < first < 1e-15


def test_a_tie_is_counted_once():
    assert fit_maximum_probability(CLEAN)(Reading(torch.zeros(1, 4))).item() == pytest.approx(torch.tensor(4.0).log().item())


def test_findings_are_answers_of_their_own():
    present = CLEAN[0].logits.sigmoid()
    expected = -torch.maximum(present, 1 - present).log().mean(1)
    torch.testing.assert_close(fit_maximum_probability(CLEAN, multilabel=True)(CLEAN[0]), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_energy(temperature):
    expected = -temperature * (CLEAN[0].logits / temperature).exp().sum(1).log()
    torch.testing.assert_close(fit_energy(CLEAN, temperature=temperature)(CLEAN[0]), expected)


def test_the_joint_energy_is_the_sum_of_each_findings():
    expected = -(1 + CLEAN[0].logits.exp()).log().sum(1)
    torch.testing.assert_close(fit_energy(CLEAN, multilabel=True)(CLEAN[0]), expected)


def test_a_temperature_that_cannot_be_is_refused():
    for settings in ({"temperature": 0.0}, {"temperature": 2.0, "multilabel": True}):
        with pytest.raises(SettingsError, match="temperature"):
            fit_energy(CLEAN, **settings)


@FITS
@BOTH
def test_logits_that_are_not_finite_are_as_suspicious_as_can_be(fit, multilabel):
    odd = Reading(torch.tensor([[1.0, 2, 3, 4], [torch.inf, 0, 0, 0], [-torch.inf, 0, 0, 0], [torch.nan, 0, 0, 0]]))
    assert fit(CLEAN, multilabel=multilabel)(odd).isposinf().tolist() == [False, True, True, True]


@FITS
@BOTH
def test_it_is_rebuilt_and_has_gradients(fit, multilabel):
    state = fit(CLEAN, multilabel=multilabel)
    again = {fit_energy: Energy, fit_maximum_probability: MaximumProbability}[fit](**state.settings(), **state.state_dict())
    assert torch.equal(again(CLEAN[0]), state(CLEAN[0]))
    logits = CLEAN[0].logits[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: state(Reading(values)), (logits,))
    assert state(Reading(logits)).dtype == torch.float64


@FITS
def test_another_model_is_refused(fit):
    with pytest.raises(InputError, match="gives 5 logits and the detector was fitted on 4"):
        fit(CLEAN)(Reading(torch.zeros(2, 5)))
    with pytest.raises(InputError, match=r"\[4, 5\]"):
        fit([*CLEAN, Reading(torch.zeros(2, 5))])
    with pytest.raises(InputError, match="no"):
        fit([])
    with pytest.raises(InputError, match="not finite"):
        fit([*CLEAN, Reading(torch.full((2, 4), torch.nan))])
