"""The harm of a perturbation and of its parts, where the loss is linear, and where parts work together."""

import numpy as np
import pytest
import torch

from antivenom.errors import ImageError, ModelError
from antivenom.explanation.loss_change import loss_change
from antivenom.models.classifier import AT_ONCE
from toys import Plane, Sphere, small_network


def test_under_a_linear_loss_the_parts_add_up_to_the_whole():
    model, draw = Plane().eval(), torch.Generator().manual_seed(0)
    x, where = torch.rand(AT_ONCE + 2, 3, 4, 4, generator=draw), torch.rand(AT_ONCE + 2, 4, 4, generator=draw) > 0.6
    x_adv = x + 0.1 * torch.rand(x.shape, generator=draw) - 0.05
    change = loss_change(model, x, x_adv, where, lambda answer: answer[:, 1])
    expected = ((x_adv - x) * where[:, None]).flatten(1) @ model.w
    np.testing.assert_allclose(change.inside, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(change.inside + change.outside, change.whole, atol=1e-6)
    raised = change.whole > 0
    assert raised.any()
    assert np.array_equal(np.isnan(change.share_inside), ~raised)
    np.testing.assert_allclose(change.share_outside[raised], change.outside[raised] / change.whole[raised])


def test_parts_that_work_together_add_up_to_less():
    x, x_adv = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.6)
    where = torch.zeros(1, 4, 4, dtype=torch.bool)
    where[:, :2] = True
    change = loss_change(Sphere((1, 4, 4)).eval(), x, x_adv, where, lambda answer: answer[:, 0].relu() + answer[:, 0] ** 2)
    assert change.inside == pytest.approx(change.outside)
    assert change.inside + change.outside < change.whole


def test_what_does_not_belong_together_is_refused():
    network, x = small_network(), torch.zeros(2, 1, 12, 12)
    with pytest.raises(ImageError, match="before and after"):
        loss_change(network, x, x[:1], torch.zeros(2, 12, 12, dtype=torch.bool), lambda answer: answer[:, 0])
    with pytest.raises(ImageError, match="bool"):
        loss_change(network, x, x, torch.zeros(2, 12, 12), lambda answer: answer[:, 0])
    with pytest.raises(ModelError, match="training mode"):
        loss_change(network.train(), x, x, torch.zeros(2, 12, 12, dtype=torch.bool), lambda answer: answer[:, 0])
