"""The forest against scikit-learn's own."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest as Reference

from antivenom.detection.isolation_forest import IsolationForest, expected_path, fit_isolation_forest
from antivenom.errors import InputError, WeightsError
from readings import clouds, of, stream


@pytest.fixture(scope="module")
def state():
    return fit_isolation_forest(stream(clouds(400)), seed=3)


def test_the_expected_path_of_256_images():
    assert expected_path(256, exact=True) == pytest.approx(10.2487, abs=5e-5)
    assert expected_path(256) == pytest.approx(10.2448, abs=5e-5)
    assert [expected_path(n) for n in (0, 1, 2)] == [0, 0, 1]
    assert expected_path(2, exact=True) == 1  # 2 * H(1) - 2 / 2


def test_it_scores_as_scikit_learn_does(state):
    bank, far = clouds(400).layer("features"), torch.cat([clouds(300, seed=1).layer("features"), 9 * torch.randn(50, 6)])
    reference = Reference(random_state=3, max_samples=256).fit(bank.numpy())
    expected = torch.from_numpy(-reference.score_samples(far.numpy())).float()
    torch.testing.assert_close(state(of(far)), expected, rtol=0, atol=1e-6)


def test_a_value_exactly_on_a_threshold_goes_as_in_scikit_learn():
    values = torch.arange(64, dtype=torch.float32)[:, None] / 7
    reference = Reference(random_state=0, max_samples=64).fit(values.numpy())
    state = fit_isolation_forest(stream(of(values)), seed=0)
    cuts = np.concatenate([tree.tree_.threshold[tree.tree_.children_left >= 0] for tree in reference.estimators_])
    at = torch.from_numpy(cuts).float()
    beside = torch.cat([at, at.nextafter(torch.tensor(torch.inf)), at.nextafter(torch.tensor(-torch.inf))])[:, None]
    torch.testing.assert_close(
        state(of(beside)), torch.from_numpy(-reference.score_samples(beside.numpy())).float(), rtol=0, atol=1e-6
    )


def test_one_image_alone_scores_as_in_company(state):
    seen = clouds(20, seed=5)
    alone = torch.cat([state(seen.take(torch.tensor([i]))) for i in range(20)])
    assert torch.equal(alone, state(seen))
    assert state(seen.map(torch.Tensor.double)).dtype == torch.float64


def test_it_is_rebuilt_to_the_bit(state):
    again = IsolationForest(**state.settings(), **state.state_dict())
    assert torch.equal(again(clouds(50, seed=2)), state(clouds(50, seed=2)))
    assert not again.differentiable


def test_the_seed_decides(state):
    seen = clouds(50, seed=2)
    assert torch.equal(fit_isolation_forest(stream(clouds(400)), seed=3)(seen), state(seen))
    assert not torch.equal(fit_isolation_forest(stream(clouds(400)), seed=4)(seen), state(seen))


def test_what_cannot_be_set_apart_is_refused_and_few_images_are_told():
    for features in (torch.ones(9, 4), torch.rand(1, 4)):
        with pytest.raises(InputError, match="nothing can be set apart"):
            fit_isolation_forest([of(features)], seed=0)
    (note,) = fit_isolation_forest(stream(clouds(60)), seed=0).notes
    assert "grown on 60 images, not 256" in note


def test_tables_that_lead_nowhere_are_refused(state):
    for name, place in (("feature", 6), ("left", -1), ("right", state.feature.shape[1])):
        tensors = {key: tensor.clone() for key, tensor in state.state_dict().items()}
        tensors[name][0, 0] = place
        with pytest.raises(WeightsError, match=name):
            IsolationForest(**state.settings(), **tensors)


def test_what_is_not_finite_is_as_suspicious_as_can_be(state):
    seen = clouds(3)
    seen.layer("features")[1, 2] = -torch.inf
    seen.layer("features")[2, 0] = torch.nan
    assert state(seen).isinf().tolist() == [False, True, True]
