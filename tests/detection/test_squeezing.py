import pytest
import torch
from torch import nn

from antivenom.detection.reading import Reading, Sensor
from antivenom.detection.squeezing import SQUEEZES, FeatureSqueezing, changes, fit_squeezing
from antivenom.errors import InputError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.task import Task


def reading(**versions):
    return Reading(torch.tensor([[2.0, 0.0, 0.0]]), {}, {name.replace("_", "-"): logits for name, logits in versions.items()})


SAME, TURNED, LITTLE = (torch.tensor([row]) for row in ([2.0, 0, 0], [0.0, 2, 0], [1.0, 0, 0]))


def test_the_version_that_moves_most_counts():
    seen = reading(bit_depth_5=LITTLE, median_2=TURNED)
    whole, moved = seen.logits.softmax(1), TURNED.softmax(1)
    torch.testing.assert_close(fit_squeezing([seen])(seen), (whole - moved).abs().sum(1))
    calm = reading(bit_depth_5=SAME, median_2=SAME)
    assert fit_squeezing([seen])(calm).item() == 0


def test_findings_are_compared_by_their_own_probabilities():
    seen = reading(median_3=TURNED)
    state = fit_squeezing([seen], squeezes=["median-3"], multilabel=True)
    torch.testing.assert_close(state(seen), (SAME.sigmoid() - TURNED.sigmoid()).abs().sum(1))


def test_a_sensor_is_built_from_the_names_of_a_state():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model = Classifier(network, Task(("a", "b", "c")), channels=1, mean=0, std=1).eval()
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = fit_squeezing(
        [Sensor(model, (), changes(["bit-depth-2", "median-3"]))(images)], squeezes=["bit-depth-2", "median-3"]
    )
    seen = Sensor(model, (), changes(state.squeezes))(images)
    torch.testing.assert_close(seen.squeezed["bit-depth-2"], model((images * 3).round() / 3))
    torch.testing.assert_close(seen.squeezed["median-3"], model(SQUEEZES["median-3"](images)))
    assert bool((state(seen) > 0).all())


def test_an_answer_that_rests_on_fine_detail_is_suspicious():
    halves = torch.zeros(2, 8, 8)
    halves[0, :, :4], halves[1, :, 4:] = 1, 1
    fine = (torch.arange(8)[:, None] + torch.arange(8)) % 2 - 0.5  # a chessboard, to which the classifier listens too much
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    network[1].weight.data = (halves / 4 + torch.stack([fine, -fine])).flatten(1)
    model = Classifier(network, Task(("a", "b")), channels=1, mean=0.5, std=0.5).eval()
    clean = 0.2 + 0.6 * halves[:, None]
    attacked = clean + 0.2 * torch.stack([-fine, fine])[:, None]
    assert (model(attacked).argmax(1) != model(clean).argmax(1)).all()
    sensor = Sensor(model, (), changes(["bit-depth-5", "median-2"]))
    state = fit_squeezing([sensor(clean)])
    assert bool((state(sensor(clean)) < 0.1).all() and (state(sensor(attacked)) > 1).all())


def test_it_is_rebuilt_and_has_gradients():
    state = fit_squeezing([reading(bit_depth_5=LITTLE, median_2=TURNED)])
    again = FeatureSqueezing(**state.settings(), **state.state_dict())
    assert torch.equal(again(reading(bit_depth_5=LITTLE, median_2=TURNED)), state(reading(bit_depth_5=LITTLE, median_2=TURNED)))
    whole, version = (values.double().requires_grad_() for values in (SAME, TURNED))

    def score(whole, version):
        return state(Reading(whole, {}, {"bit-depth-5": whole.detach(), "median-2": version}))

    assert torch.autograd.gradcheck(score, (whole, version))


def test_what_is_missing_or_unknown_is_refused():
    with pytest.raises(SettingsError, match="no squeeze 'blur'; there are bit-depth-1"):
        changes(["blur"])
    with pytest.raises(SettingsError, match="no squeeze was named"):
        fit_squeezing([reading(median_2=SAME)], squeezes=[])
    with pytest.raises(InputError, match="'bit-depth-5' was not read; there is median-2"):
        fit_squeezing([reading(median_2=SAME)])
    state = fit_squeezing([reading(median_2=SAME)], squeezes=["median-2"])
    with pytest.raises(InputError, match="'median-2' was not read"):
        state(reading(bit_depth_5=SAME))
    with pytest.raises(InputError, match="2 logits"):
        state(Reading(torch.zeros(1, 2), {}, {"median-2": torch.zeros(1, 2)}))
    with pytest.raises(InputError, match="not finite"):
        fit_squeezing([reading(median_2=SAME * torch.nan)], squeezes=["median-2"])


def test_a_version_that_is_not_finite_is_as_suspicious_as_can_be():
    state = fit_squeezing([reading(median_2=SAME)], squeezes=["median-2"])
    assert state(reading(median_2=SAME - torch.tensor([[torch.inf, 0, 0]]))).isposinf().all()
