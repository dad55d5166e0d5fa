"""Pruning sets exactly as many weights to 0 as was published, the smallest of them, and training can leave them there."""

import copy
import math
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as reference

from antivenom.errors import SettingsError, WeightsError
from antivenom.models.architectures import architecture, make_network
from antivenom.models.parameters import count, weights_of
from antivenom.training.pruning import SHARES, frozen, hold, iterate, ladder, masks, prune, structured, sweep
from toys import small_network

# The zeros in convolutions after shares of 0.2, 0.4, 0.6 and 0.8 of what remained (torch's rounding), and the millions of
# parameters that Chen et al., Tables 1 to 5, print; of 4.10 they print 4.07, which no rounding gives.
PUBLISHED = [
    ("resnet18", 10, "all", (2_233_383, 5_806_795, 9_022_864, 10_738_103), ("11.18", "8.95", "5.37", "2.16", "0.44")),
    ("resnet34", 7, "weights", (4_253_531, 11_059_181, 17_184_258, 20_450_973), ("21.28", "17.03", "10.22", "4.10", "0.83")),
    ("resnet34+cbam", 7, None, (4_253_851, 11_059_997, 17_185_522, 20_452_477), ()),
]


def network(seed=0, bias=True):
    """Convolutions with a norm and without one, and a linear layer; no weight is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 6, 5, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3, padding=1, bias=bias)]
        made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2))
    for parameter in made.parameters():
        parameter.data += 0.01 * (parameter.data == 0)
    return made


def flat(made):
    return torch.cat([weight.detach().flatten() for weight in weights_of(made).values()])


def drawn(name, classes):
    """An architecture with weights drawn fast, none of them 0: a normal number is, once in 2^24."""
    with torch.device("meta"):
        made = make_network(architecture(name), classes, 3)
    made.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.uniform_(0.01, 1, generator=generator)
    return made


@pytest.mark.parametrize(("name", "classes", "kind", "zeros", "printed"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_zeros_and_printed_sizes_are_the_published_ones(name, classes, kind, zeros, printed):
    made = drawn(name, classes)
    dense = count(made)
    course = [prune(made, share) for share in SHARES]
    assert tuple(pruned.zeros for pruned in course) == zeros
    assert tuple(accumulate(pruned.fallen for pruned in course)) == zeros
    assert count(made) == replace(dense, zeros=zeros[-1])
    if kind is not None:
        assert tuple(replace(dense, zeros=each).printed(kind) for each in (0, *zeros)) == printed


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_the_same_weights_fall_as_by_torchs_own_pruning(scope):
    ours, theirs = network(), network()
    layers = [module for module in theirs if isinstance(module, nn.Conv2d)]
    for share in (0.2, 0.4, 0.6, 0.8):
        prune(ours, share, scope=scope)
        if scope == "network":
            pairs = [(layer, "weight") for layer in layers]
            reference.global_unstructured(pairs, pruning_method=reference.L1Unstructured, amount=share)
        else:
            for layer in layers:
                reference.l1_unstructured(layer, "weight", share)
        expected = torch.cat([layer.weight.detach().flatten() for layer in layers])
        assert torch.equal(flat(ours), expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_what_is_kept_is_no_smaller_than_what_falls_in_its_layer(share):
    made = network()
    before = {name: weight.detach().clone() for name, weight in weights_of(made).items()}
    prune(made, share)
    for name, weight in weights_of(made).items():
        kept = weight != 0
        assert torch.equal(weight[kept], before[name][kept])
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()


def test_over_the_network_the_smallest_of_all_fall_wherever_they_are():
    made = network()
    made[3].weight.data *= 100
    before = flat(made)
    pruned = prune(made, 0.3, scope="network")
    kept = flat(made) != 0
    assert before[kept].abs().min() >= before[~kept].abs().max()
    assert pruned.zeros == round(0.3 * (150 + 378))
    assert [row.share < 0.1 for row in pruned.layers] == [True, False]


def test_biases_norms_and_linear_layers_are_left_unless_asked_for():
    made, dense = network(), network()
    prune(made, 0.9)
    for (name, after), before in zip(made.named_parameters(), dense.parameters(), strict=True):
        assert torch.equal(after, before) == (name not in {"0.weight", "3.weight"})
    pruned = prune(made, 0.5, layers=(nn.Linear,))
    assert [(row.name, row.kept) for row in pruned.layers] == [("6.weight", 7)]


def test_of_equal_weights_the_first_fall():
    made = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False))
    made[0].weight.data = torch.tensor([3.0, -1.0, 1.0, 2.0, 1.0, -1.0, 1.0, 5.0]).reshape(2, 1, 2, 2)
    prune(made, 0.38)
    assert made[0].weight.flatten().tolist() == [3, 0, 0, 2, 0, -1, 1, 5]
    prune(made, 0.38)
    assert made[0].weight.flatten().tolist() == [3, 0, 0, 2, 0, 0, 0, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_in_other_formats_are_pruned_as_exactly(dtype):
    made = network().to(dtype)
    before = flat(made)
    assert prune(made, 0.3, scope="network").zeros == round(0.3 * 528)
    assert before[flat(made) != 0].abs().min() >= before[flat(made) == 0].abs().max()
    assert made[0].weight.dtype == dtype


def test_weights_laid_out_otherwise_in_memory_fall_alike():
    plain, laid_out = network(), network().to(memory_format=torch.channels_last)
    for made in (plain, laid_out):
        prune(made, 0.5)
    assert torch.equal(plain[3].weight, laid_out[3].weight)
    assert laid_out[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_negative_zero_is_a_zero_and_becomes_the_other():
    made = network()
    made[0].weight.data[0] = -0.0
    pruned = prune(made, 0.0)
    assert (pruned.fallen, pruned.zeros) == (0, 25)
    assert not torch.signbit(made[0].weight[0]).any()


def test_at_random_as_many_fall_and_others_by_seed_and_layer():
    world = torch.get_rng_state()
    first, again, other, smallest = (network() for _ in range(4))
    for made, seed in ((first, 0), (again, 0), (other, 1)):
        prune(made, 0.4, by="random", seed=seed)
    prune(smallest, 0.4)
    assert torch.equal(world, torch.get_rng_state())
    assert torch.equal(flat(first), flat(again))
    assert not torch.equal(flat(first), flat(other))
    assert count(first).zeros == count(other).zeros == count(smallest).zeros
    assert flat(first).abs().sum() < 0.9 * flat(smallest).abs().sum()


def test_at_random_several_prunings_take_what_one_of_their_joint_share_takes():
    steps, once = network(), network()
    prune(steps, 0.2, by="random", scope="network")
    prune(steps, 0.4, by="random", scope="network")
    prune(once, 0.52, by="random", scope="network")
    assert abs(count(steps).zeros - count(once).zeros) <= 1
    assert (masks(steps)["3.weight"] ^ masks(once)["3.weight"]).sum() <= 1


def test_every_step_of_the_ladder_prunes_further_and_one_shots_prune_less():
    made = network()
    dense = copy.deepcopy(made.state_dict())
    further = [(masks(one), pruned) for one, pruned in sweep(made)]
    single = [(masks(one), pruned) for one, pruned in sweep(made, cumulative=False)]
    assert all(torch.equal(tensor, dense[name]) for name, tensor in made.state_dict().items())
    for (_, pruned), density in zip(further, (0.8, 0.48, 0.192, 0.0384), strict=True):
        assert 1 - pruned.sparsity == pytest.approx(density, abs=2 / 528)
    for (_, pruned), share in zip(single, SHARES, strict=True):
        assert pruned.sparsity == pytest.approx(share, abs=2 / 528)
    assert torch.equal(further[0][0]["3.weight"], single[0][0]["3.weight"])
    for (less, _), (more, _) in pairwise(further):
        assert (more["3.weight"] | ~less["3.weight"]).all()
    assert ladder((0.5, 0.5)) == (0.5, 0.25)


def test_a_rung_starts_from_what_the_caller_made_of_the_one_before():
    for one, pruned in sweep(network(), (0.2, 0.4)):
        if pruned.share == 0.2:
            one[0].weight.data *= 1000
    assert one[0].weight.abs().max() > 10


@pytest.mark.parametrize("bias", [True, False])
def test_a_silenced_channel_answers_nothing_and_the_smallest_are_silenced(bias):
    made = network(bias=bias).eval()
    made[1].running_mean += 0.1
    sizes = made[0].weight.detach().abs().sum((1, 2, 3))
    pruned = structured(made, 0.5)
    silent = made[0].weight.detach().abs().sum((1, 2, 3)) == 0
    assert torch.equal(silent, sizes <= sizes.sort().values[2])
    shown = made[:2](torch.rand(4, 1, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.equal((shown == 0).flatten(2).all(2).all(0), silent)
    assert (pruned.scope, pruned.layers[0].kept) == ("channels", 75)
    assert pruned.layers[1].kept == 54 * (7 - 4)  # round(3.5) is 4
    assert len(made[3].weight) == 7


def test_channels_are_counted_of_those_that_remain_and_one_stays():
    made = network()
    structured(made, 0.5)
    assert structured(made, 0.5).layers[0].kept == 25  # round(1.5) is 2
    assert structured(made, 0.99).layers[0].kept == 25


def test_a_norm_that_does_not_follow_the_layer_is_left():
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(2))
    structured(made, 0.5)
    assert (made[2].weight == 1).all()
    assert (made[4].weight == 1).all()


def test_masks_say_where_every_pruned_layer_is_zero_and_frozen_only_where_one_is():
    made = network()
    assert not any(mask.any() for mask in masks(made).values())
    assert frozen(made) == {}
    made[3].weight.data[0, 0] = 0
    assert masks(made).keys() == {"0.weight", "3.weight"}
    assert frozen(made).keys() == {"3.weight"}
    assert torch.equal(frozen(made)["3.weight"], made[3].weight == 0)


def test_a_norm_that_starts_at_zero_is_free_to_learn_and_one_that_was_silenced_is_not():
    made = network()
    nn.init.zeros_(made[1].weight)
    nn.init.zeros_(made[1].bias)
    assert "1.weight" not in frozen(made)
    made = network()
    structured(made, 0.5)
    held = frozen(made)
    assert held.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    assert held["1.bias"].tolist() == (made[0].weight == 0).flatten(1).all(1).tolist()


def train(made, held, steps=8):
    optimiser = torch.optim.SGD(made.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(made(torch.rand(8, 1, 9, 9, generator=generator)), torch.arange(8) % 2)
        optimiser.zero_grad()
        loss.backward()
        hold(made, held)
        optimiser.step()


@pytest.mark.parametrize("way", [prune, structured])
def test_training_with_held_gradients_leaves_every_pruned_weight_at_exactly_zero(way):
    made = network()
    way(made, 0.5)
    held, before = frozen(made), copy.deepcopy(made.state_dict())
    train(made, held)
    after = dict(made.named_parameters())
    assert all((after[name][mask] == 0).all() for name, mask in held.items())
    assert all((after[name] != before[name])[~held[name]].any() for name in ("0.weight", "3.weight"))
    assert frozen(made).keys() == held.keys()
    train(made, {})
    assert sum(int(after[name][mask].count_nonzero()) for name, mask in held.items()) > 50  # and they would have moved


def test_a_gradient_that_is_not_finite_is_held_too_and_a_missing_one_is_no_matter():
    made = network()
    prune(made, 0.5)
    made[0].weight.grad = torch.full_like(made[0].weight, math.inf)
    held = frozen(made)
    hold(made, held)
    assert torch.equal(made[0].weight.grad == 0, held["0.weight"])
    assert made[3].weight.grad is None


def test_pruning_goes_on_while_the_score_holds_and_ends_with_the_network_that_held():
    made = network()
    tuned = []

    def finetune(one):
        train(one, frozen(one), steps=1)
        tuned.append(copy.deepcopy(one.state_dict()))

    def score(one):
        return 0.9 if count(one).zeros / 528 < 0.7 else 0.85

    history = iterate(made, finetune, score, fall=0.01, step=0.3)
    assert [round(each.sparsity, 2) for each in history] == [0, 0.3, 0.51, 0.66, 0.76]
    assert [each.share for each in history] == [0, 0.3, 0.3, 0.3, 0.3]
    assert [each.held for each in history] == [True, True, True, True, False]
    assert [each.score for each in history] == [0.9, 0.9, 0.9, 0.9, 0.85]
    assert all(torch.equal(tensor, tuned[2][name]) for name, tensor in made.state_dict().items())
    assert len(iterate(network(), lambda _: None, score, fall=0.1, rounds=2)) == 3


def test_a_fall_is_measured_from_the_start_and_a_score_that_is_none_does_not_hold():
    scores = iter([0.90, 0.89, 0.88, 0.87])
    history = iterate(network(), lambda _: None, lambda _: next(scores), fall=0.025)
    assert [each.held for each in history] == [True, True, True, False]
    scores = iter([0.90, math.nan])
    assert [each.held for each in iterate(network(), lambda _: None, lambda _: next(scores), fall=1)] == [True, False]


def test_finetuning_that_lets_weights_grow_back_is_refused_and_the_network_stays():
    made, dense = network(), network()
    with pytest.raises(SettingsError, match=r"moved \d+ pruned weight"):
        iterate(made, lambda one: train(one, {}, steps=1), lambda _: 1.0, fall=0.1)
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
def test_a_share_that_cannot_be_is_refused_with_its_value(share):
    for call in (prune, structured):
        with pytest.raises(SettingsError, match=f"below 1, got {share}"):
            call(network(), share)
    with pytest.raises(SettingsError, match=f"got {share}"):
        ladder((0.2, share))
    with pytest.raises(SettingsError, match=f"got {share}"):
        iterate(network(), train, count, fall=0.1, step=share)


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(SettingsError, match="by is l1 or random, got 'l2'"):
        prune(network(), 0.2, by="l2")
    with pytest.raises(SettingsError, match="scope is layer or network, got 'model'"):
        prune(network(), 0.2, scope="model")
    with pytest.raises(SettingsError, match="Linear has no weights of Conv2d"):
        prune(nn.Linear(2, 2), 0.2)
    broken = network()
    broken[3].weight.data[0] = math.nan
    for call in (prune, structured):
        with pytest.raises(WeightsError, match=r"3\.weight holds values that are not finite"):
            call(broken, 0.2)
    assert not (broken[0].weight == 0).any()
    for settings in ({"fall": -1}, {"fall": math.nan}, {"fall": 0.1, "step": 0}, {"fall": 0.1, "rounds": 0}):
        with pytest.raises(SettingsError, match="got"):
            iterate(network(), train, lambda _: 1.0, **settings)


def test_a_pruned_network_still_answers_in_evaluation():
    made = small_network()
    assert prune(made, 0.6).sparsity == pytest.approx(0.6, abs=0.01)
    with torch.inference_mode():
        assert made(torch.rand(2, 1, 12, 12)).isfinite().all()
