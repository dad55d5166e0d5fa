import pytest
import torch
from torch import nn

from antivenom.models.attention import Bam, Cbam, SelfAttention, SoftAttention


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def answers_of(module, run):
    """What a submodule answers while something runs: the way in which maps are read."""
    seen = []
    handle = module.register_forward_hook(lambda _, __, answer: seen.append(answer))
    run()
    handle.remove()
    return seen


@pytest.fixture
def maps():
    return torch.randn(3, 64, 7, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("channels", "published"), [(64, 680), (128, 2_284), (256, 8_564), (512, 33_412)])
def test_cbam_has_the_published_number_of_weights(channels, published):
    assert size(Cbam(channels)) == published


def test_the_other_layers_have_the_published_numbers_of_weights():
    assert sum(size(Bam(channels)) for channels in (64, 128, 256)) == 22_991
    assert sum(size(Bam(channels)) for channels in (256, 512, 1024)) == 358_067
    assert size(SelfAttention(512)) == 328_321
    soft = SoftAttention(2048)
    assert (size(soft.conv), size(soft) - size(soft.conv)) == (294_928, 1)


def test_the_spatial_gate_of_cbam_starts_at_exactly_one_half(maps):
    layer = Cbam(64)
    for training in (True, False):
        (gate,) = answers_of(layer.train(training).spatial, lambda: layer(maps))
        assert gate.shape == (3, 1, 7, 5)
        assert (gate == 0.5).all()
    assert torch.equal(layer(maps), maps * layer.channel(maps) * 0.5)


def test_the_spatial_gate_sees_places_once_its_norm_has_weight(maps):
    layer = Cbam(64).eval()
    layer.spatial.norm.weight.data.fill_(1)
    assert layer.spatial(maps).std() > 0.01


def test_the_channel_gate_is_the_papers_formula(maps):
    gate = Cbam(64).channel
    first, last = gate.mlp[0], gate.mlp[2]
    logits = 0
    for pooled in (maps.flatten(2).mean(2), maps.flatten(2).max(2).values):
        logits = logits + (pooled @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(gate(maps)[:, :, 0, 0], 1 / (1 + (-logits).exp()))


def test_the_spatial_gate_is_the_papers_formula_with_the_norm_of_the_code(maps):
    gate = Cbam(64).eval().spatial
    gate.norm.weight.data.fill_(2)
    both = torch.stack([maps.max(1).values, maps.mean(1)], 1)
    logits = 2 * nn.functional.conv2d(both, gate.conv.weight, padding=3) / (1 + gate.norm.eps) ** 0.5
    torch.testing.assert_close(gate(maps), logits.sigmoid())


def test_bam_adds_the_share_that_the_product_of_its_logits_gives(maps):
    layer = Bam(64).eval()
    (gate,) = answers_of(layer.gate, lambda: layer(maps))
    product = layer.channel(maps.mean((2, 3)))[:, :, None, None] * layer.spatial(maps)
    torch.testing.assert_close(gate, product.sigmoid())
    torch.testing.assert_close(layer(maps), maps + maps * product.sigmoid())
    assert gate.shape == maps.shape


def test_self_attention_starts_as_the_identity_and_then_reads_other_places(maps):
    layer = SelfAttention(64)
    assert torch.equal(layer(maps), maps)
    layer.gamma.data.fill_(0.5)
    (rows,) = answers_of(layer.attention, lambda: layer(maps))
    assert rows.shape == (3, 35, 35)
    torch.testing.assert_close(rows.sum(-1), torch.ones(3, 35))
    value = layer.value(maps).flatten(2)
    one = maps.flatten(2)[:, :, 4] + 0.5 * (rows[:, 4, None, :] * value).sum(-1)
    torch.testing.assert_close(layer(maps).flatten(2)[:, :, 4], one)


def test_every_head_of_soft_attention_shares_out_one_and_all_of_them_sixteen(maps):
    layer = SoftAttention(64)
    (heads,) = answers_of(layer.heads, lambda: layer(maps))
    assert heads.shape == (3, 16, 35)
    torch.testing.assert_close(heads.sum(-1), torch.ones(3, 16))
    torch.testing.assert_close(heads.sum((1, 2)), torch.full((3,), 16.0))
    layer.gamma.data.fill_(3)
    torch.testing.assert_close(layer(maps), 3 * maps * heads.sum(1).reshape(3, 1, 7, 5))


@pytest.mark.parametrize("make", [Cbam, Bam, SelfAttention, SoftAttention])
def test_every_weight_is_learnt_in_time(make, maps):
    """Weights behind a zero learn once it is not one."""
    layer = make(64)
    for name, parameter in layer.named_parameters():
        if name.endswith(("norm.weight", "gamma")):
            parameter.data.fill_(0.5)
    x = maps.clone().requires_grad_()
    (layer(x) ** 2).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())
    still = [name for name, parameter in layer.named_parameters() if not parameter.grad.any()]
    # A softmax does not change when the same is added to all its logits; nor does a norm when it is added to its input.
    unmoved = {"key.bias", "conv.bias", "channel.0.bias", "spatial.0.bias", "spatial.3.bias", "spatial.6.bias"}
    assert set(still) <= unmoved


@pytest.mark.parametrize("make", [Cbam, Bam, SelfAttention, SoftAttention])
def test_an_image_is_weighed_alike_in_any_company(make, maps):
    layer = make(64).eval()
    torch.testing.assert_close(layer(maps[:1]), layer(maps)[:1])
    assert layer(maps[:, :, :1, :1]).shape == (3, 64, 1, 1)


@pytest.mark.parametrize("make", [Cbam, Bam, SelfAttention, SoftAttention])
def test_the_layers_work_in_bfloat16_and_stay_in_it(make, maps):
    layer = make(64).eval()
    truth = layer(maps)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.to(torch.bfloat16)
    answer = layer(maps.bfloat16())
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), truth, rtol=0.05, atol=0.05)
