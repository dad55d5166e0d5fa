import pytest
import torch
from torch import nn

from antivenom.errors import SettingsError
from antivenom.models.kwta import KWinners, ratios, set_ratio, smoothed


def some(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("shape", "winners"), [((64, 56, 56), 40_140), ((128, 28, 28), 20_070), ((256, 14, 14), 10_035), ((512, 7, 7), 5_017)]
)
def test_exactly_the_published_number_of_values_wins_at_224_px(shape, winners):
    x = some(2, *shape).clone().requires_grad_()
    kept = KWinners()(x)
    assert (kept != 0).flatten(1).sum(1).tolist() == [winners, winners]
    won = kept != 0
    assert torch.equal(kept[won], x[won])
    for image, mask in zip(x.detach(), won, strict=True):
        assert image[mask].min() > image[~mask].max()


def test_the_gradient_passes_where_a_value_won_and_nowhere_else():
    x = some(3, 8, 5, 5).clone().requires_grad_()
    weight = some(3, 8, 5, 5).abs() + 1
    kept = KWinners(0.3)(x)
    (kept * weight).sum().backward()
    assert torch.equal(x.grad, torch.where(kept != 0, weight, 0.0))


def test_ties_are_kept():
    x = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.5]])
    assert KWinners(0.4)(x).tolist() == [[3.0, 1.0, 1.0, 1.0, 0.0]]
    assert torch.equal(KWinners()(torch.ones(1, 4, 3, 3)), torch.ones(1, 4, 3, 3))


def test_negative_values_win_where_there_is_nothing_larger_and_one_always_does():
    assert KWinners(0.5)(torch.tensor([[-1.0, -2.0, -3.0, -4.0]])).tolist() == [[-1.0, -2.0, 0.0, 0.0]]
    assert KWinners(0.2)(torch.tensor([[2.0, 1.0]])).tolist() == [[2.0, 0.0]]


def test_images_do_not_compete_with_each_other():
    x = some(4, 6, 4, 4) * torch.tensor([1.0, 10, 100, 1000]).reshape(4, 1, 1, 1)
    together = KWinners()(x)
    assert torch.equal(together, torch.cat([KWinners()(image[None]) for image in x]))


def test_nothing_is_cut_at_one():
    x = some(2, 3, 4, 4)
    assert torch.equal(KWinners(1)(x), x)


def test_a_value_that_is_no_number_is_not_hidden():
    x = some(1, 2, 3, 3)
    x[0, 0, 0, 0] = torch.nan
    assert KWinners()(x).isnan().any()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_it_works_in_bfloat16_and_in_any_order(order):
    x = some(2, 16, 8, 8).bfloat16().to(memory_format=order).requires_grad_()
    kept = KWinners()(x)
    kept.sum().backward()
    assert kept.dtype == x.grad.dtype == torch.bfloat16
    won = (kept != 0).flatten(1).sum(1)
    assert (won >= int(0.2 * 1024)).all()
    assert (won <= int(0.2 * 1024) + 20).all()  # ties of rounded values
    assert torch.equal(x.grad, (kept != 0).bfloat16())


def test_the_ratio_of_all_layers_is_read_and_set():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), KWinners(), nn.Sequential(KWinners(0.5)))
    assert ratios(network) == {"1": 0.2, "2.0": 0.5}
    set_ratio(network, 1)
    assert ratios(network) == {"1": 1, "2.0": 1}
    assert ratios(nn.Linear(2, 2)) == {}


def test_the_ratio_goes_with_the_weights():
    one, other = KWinners(0.3), KWinners()
    other.load_state_dict(one.state_dict())
    assert other.ratio == 0.3
    assert "ratio=0.3" in str(other)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.1, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(SettingsError, match="above 0 and at most 1"):
        KWinners(ratio)
    with pytest.raises(SettingsError, match="above 0 and at most 1"):
        set_ratio(nn.Sequential(KWinners()), ratio)


def test_a_network_without_such_layers_cannot_be_set():
    with pytest.raises(SettingsError, match="no k-winners layers"):
        set_ratio(nn.Sequential(nn.ReLU()), 0.5)


def test_smoothed_winners_answer_alike_and_let_near_losers_speak():
    network, x = nn.Sequential(nn.Flatten(), KWinners(0.5)).eval(), torch.tensor([[3.0, 1.0, 0.9, -5.0]])
    twin = smoothed(network)
    assert torch.equal(twin(x), network(x))
    z = x.clone().requires_grad_()
    twin(z).sum().backward()
    first, second, near, far = z.grad[0].tolist()
    assert second == 0.5  # at the border
    assert first > second > near > far > 0
    assert near == pytest.approx(0.5, abs=0.05)
    own = x.clone().requires_grad_()
    network(own).sum().backward()
    assert own.grad.tolist() == [[1, 1, 0, 0]]  # the network itself is as it was
    assert smoothed(nn.Sequential(nn.Linear(4, 2))) is None
