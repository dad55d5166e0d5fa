"""JSMA: the best pair against all pairs, the two forms step by step, and what a limit of values means."""

import math
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from antivenom.attacks import SPENT
from antivenom.attacks.jsma import _Saliency, best_pair, jsma
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0
from toys import Plane, small_network

ANY = L0(math.inf)
MODULE = sys.modules["antivenom.attacks.jsma"]  # the name in the package is the function's


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(8))


@pytest.fixture
def network():
    model = small_network(3, classes=5)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1)


@pytest.fixture
def states(monkeypatch):
    """What has moved, and how often, after each look at a batch that stays whole."""
    seen, look = [], _Saliency.look

    def watched(self, problem, state, step):
        found = look(self, problem, state, step)
        seen.append(found.state[:2])
        return found

    monkeypatch.setattr(_Saliency, "look", watched)
    return seen


# -- the best pair -----------------------------------------------------------------------------------------------------


def by_trying_all(rise, fall, free):
    best = []
    for up, down, open_ in zip(rise.double(), fall.double(), free, strict=True):
        up, down = ((part[open_][:, None] + part[open_]) for part in (up, down))
        product = torch.where((up > 0) & (down > 0), up * down, 0).fill_diagonal_(0)
        best.append(product.max() if product.numel() else torch.zeros((), dtype=torch.float64))
    return torch.stack(best)


def normal(size, generator):
    return torch.randn(6, size, generator=generator)


def alike(size, generator, share):
    rise = normal(size, generator)
    return rise, share * rise + (1 - share**2) ** 0.5 * normal(size, generator)


CASES = {
    "unrelated": lambda n, g: alike(n, g, 0.0),
    "going together": lambda n, g: alike(n, g, 0.9),
    "going apart": lambda n, g: alike(n, g, -0.95),
    "the same": lambda n, g: alike(n, g, 1.0),
    "many equal": lambda n, g: tuple(normal(n, g).round() for _ in range(2)),
    "all of one kind": lambda n, g: (normal(n, g), torch.ones(6, n)),
    "few that qualify": lambda n, g: (normal(n, g) - 2, normal(n, g) - 1),
    "none that qualifies": lambda n, g: (normal(n, g).abs(), -normal(n, g).abs()),
    "mostly zero": lambda n, g: tuple(normal(n, g).where(normal(n, g) > 1, 0) for _ in range(2)),
    "one giant": lambda n, g: tuple(normal(n, g) ** 5 for _ in range(2)),
    "tiny": lambda n, g: (1e-20 * normal(n, g), 1e-25 * normal(n, g)),
    "along a curve": lambda n, g: (lambda part: (part, 1 - part))(torch.rand(6, n, generator=g)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sign", [1, -1], ids=["raising", "lowering"])
def test_the_best_pair_is_the_best_of_all(case, sign):
    generator = torch.Generator().manual_seed(len(case))
    for size in (1, 2, 3, 9, 80):
        for closed in (0.0, 0.5, 1.0):
            rise, fall = (sign * part for part in CASES[case](size, generator))
            free = torch.rand(6, size, generator=generator) >= closed
            product, pair = best_pair(rise, fall, free)
            assert torch.equal(product, by_trying_all(rise, fall, free))
            found = product > 0
            assert free.gather(1, pair)[found].all()
            assert (pair[found, 0] != pair[found, 1]).all()
            both = (part.double().gather(1, pair).sum(1) for part in (rise, fall))
            torch.testing.assert_close(math.prod(both)[found], product[found], rtol=0, atol=0)


def test_pairs_are_compared_a_part_at_a_time_with_the_same_result(monkeypatch):
    rise = torch.rand(6, 300, generator=torch.Generator().manual_seed(0))
    whole = best_pair(rise, 1 - rise, rise > 0)
    monkeypatch.setattr(MODULE, "COMPARED", 1000)
    parts = best_pair(rise, 1 - rise, rise > 0)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_of_an_image_of_150528_values_few_are_compared(monkeypatch):
    widths, compared = [], MODULE._compared
    monkeypatch.setattr(MODULE, "_compared", lambda *given: widths.append(given[2].shape[1]) or compared(*given))
    generator = torch.Generator().manual_seed(0)
    rise, fall = (torch.randn(1, 3 * 224 * 224, generator=generator) for _ in range(2))
    for other in (fall, rise, fall - rise, torch.ones_like(rise), torch.zeros_like(rise)):
        best_pair(rise, other, torch.ones_like(rise, dtype=torch.bool))
    assert max(widths) <= 100


def test_company_does_not_change_which_of_equal_pairs_is_taken():
    generator = torch.Generator().manual_seed(0)
    rise, fall, free = normal(60, generator).round(), normal(60, generator).round(), torch.ones(6, 60, dtype=torch.bool)
    _, together = best_pair(rise, fall, free)
    for row in range(6):
        assert torch.equal(best_pair(rise[row : row + 1], fall[row : row + 1], free[:1])[1], together[row : row + 1])


# -- single values: Foolbox 1 and AdvBox -------------------------------------------------------------------------------


def test_single_values_move_one_at_a_time_by_a_tenth_of_the_range_or_the_rest_of_it(network, states, draws):
    model, x, y = network
    result = jsma(model, x, Untargeted(y), L0(20), pairs=False, steps=60, until=SPENT, generator=draws)
    steps = torch.stack([moved for moved, _ in states]).diff(dim=0).flatten(2)
    assert ((steps != 0).sum(2) <= 1).all()
    assert (steps != 0).any()
    ends = (x == result.x_adv) | (result.x_adv == 0) | (result.x_adv == 1)
    tenths = (10 * (result.x_adv - x)).round() / 10
    assert (((result.x_adv - x - tenths).abs() < 1e-6) | ends).all()
    assert (steps.abs() <= 0.1 + 1e-6).all()


def test_no_value_moves_more_than_seven_times_and_no_more_values_than_steps(states, draws):
    def model(z):  # one value decides, and it does not suffice
        height = (z.flatten(1) * torch.tensor([100.0] + [1e-3] * 15)).sum(1)
        return torch.stack([torch.full_like(height, 1e4), height], 1)

    x = torch.full((8, 1, 4, 4), 0.05)
    result = jsma(model, x, Untargeted(torch.zeros(8).long()), ANY, pairs=False, steps=30, generator=draws)
    assert not result.success.any()
    assert (result.gradients == 30).all()
    delta = (result.x_adv - x).abs()
    last, changes = states[-1]
    assert (last[:, 0, 0, 0] - 0.7).abs().max() < 1e-6
    assert changes.max() == 7
    assert (changes.flatten(1).sum(1) == 30).all()
    assert delta.max() <= 0.7 + 1e-6
    assert (ANY.size(last) <= 30).all()


def test_the_fast_map_is_the_gradient_of_cross_entropy_towards_the_target(network, states, draws):
    model, x, y = network
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(z), model(x).argsort(1)[:, -2], reduction="sum"), z)
    jsma(model, x, Untargeted(y), ANY, pairs=False, steps=1, until=SPENT, generator=draws)
    moved, slope = states[0][0].flatten(1), slope.flatten(1)
    steepest = slope.abs().argmax(1, keepdim=True)
    assert torch.equal(moved.abs().argmax(1, keepdim=True), steepest)
    assert torch.equal(moved.gather(1, steepest).sign(), -slope.gather(1, steepest).sign())


@pytest.mark.parametrize(("moves", "sign"), [("up", 1), ("down", -1)])
@pytest.mark.parametrize("pairs", [True, False])
def test_values_go_one_way_where_that_is_asked(network, draws, pairs, moves, sign):
    model, x, y = network
    result = jsma(model, x, Untargeted(y), ANY, pairs=pairs, moves=moves, steps=20, generator=draws)
    assert (result.x_adv != x).any()
    assert (sign * (result.x_adv - x) >= 0).all()


# -- pairs: the paper --------------------------------------------------------------------------------------------------


def test_pairs_go_up_to_the_end_of_the_range(network, states, draws):
    model, x, y = network
    result = jsma(model, x, Untargeted(y), ANY, generator=draws)
    for before, after in zip([torch.zeros_like(x), *(m for m, _ in states)], (m for m, _ in states), strict=False):
        if len(before) == len(after) == len(x):
            assert ((before != after).flatten(1).sum(1) == 2).all()
    assert result.success.all()
    assert (result.x_adv[result.x_adv != x] == 1).all()
    assert (result.gradients == 2 * (result.queries - 1)).all()  # all but that for the image as it is


def test_the_first_pair_raises_the_target_and_lowers_the_others_most(network, states, draws):
    model, x, y = network
    target = (y + 2) % 5
    jsma(model, x, Targeted(target), ANY, steps=1, until=SPENT, generator=draws)
    z = x.clone().requires_grad_()
    answer = model(z)
    rise = torch.autograd.grad(answer.gather(1, target[:, None]).sum(), z, retain_graph=True)[0].flatten(1)
    others = torch.autograd.grad(answer.sum(), z)[0].flatten(1) - rise
    pairs = (states[0][0].flatten(1) != 0).nonzero()[:, 1].reshape(8, 2)
    product = rise.gather(1, pairs).sum(1) * -others.gather(1, pairs).sum(1)
    best = by_trying_all(rise, -others, x.flatten(1) < 1)
    torch.testing.assert_close(product.double(), best, rtol=1e-4, atol=0)


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plane():
    """Every value is as far from the plane as any other, and as far from the end of its range: greed is right."""
    model = Plane().eval()
    x = (0.5 + 0.25 * torch.linspace(0.2, 1, 8)[:, None] * model.w.detach().sign()).reshape(8, 3, 4, 4)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("pairs", [True, False])
def test_on_a_plane_as_few_values_change_as_can(plane, draws, pairs):
    model, x, y = plane
    fewest = model.distance(x, L0)
    assert fewest.max() > 3
    result = jsma(model, x, Untargeted(y), ANY, pairs=pairs, theta=1.0, moves="both", generator=draws)
    assert result.success.all()
    assert torch.equal(ANY.size(result.x_adv - x), 2 * (fewest / 2).ceil() if pairs else fewest)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("limit", [1, 4, 5])
def test_an_image_falls_if_its_limit_of_values_lets_it_and_else_keeps_to_it(plane, draws, pairs, limit):
    model, x, y = plane
    result = jsma(model, x, Untargeted(y), L0(limit), pairs=pairs, theta=1.0, moves="both", generator=draws)
    assert torch.equal(result.success, model.distance(x, L0) <= limit)
    assert (ANY.size(result.x_adv - x) <= limit).all()
    steps = -(-limit // 2) if pairs else limit
    assert (result.queries[~result.success] == 1 + steps + 1 + 1).all()  # as it is; from it; each step; the judge's


def test_limits_may_differ_and_an_image_at_its_own_costs_nothing_more(plane, draws):
    model, x, y = plane
    limit = torch.tensor([1.0] * 4 + [48.0] * 4)
    result = jsma(model, x, Untargeted(y), L0(limit), pairs=False, theta=1.0, generator=draws)
    assert (ANY.size(result.x_adv - x) <= limit).all()
    assert (result.queries[:4][~result.success[:4]] <= 5).all()


def test_a_tied_pixel_is_one_that_moves_all_its_channels(network, draws):
    model, x, _ = network
    x = x[:, :1].expand(-1, 3, -1, -1).clone()
    y = model(x).argmax(1)
    for pairs in (True, False):
        result = jsma(model, x, Untargeted(y), L0(13.0, Pixels(tied=True)), pairs=pairs, until=SPENT, generator=draws)
        delta = result.x_adv - x
        assert torch.equal(delta[:, 0], delta[:, 2])
        assert (ANY.size(delta) <= 12).all()
        assert (ANY.size(delta) > 3).any()


def test_steps_are_in_units_of_each_image_s_own_range(network, draws):
    model, x, y = network
    high = torch.tensor([1.0, 2000.0]).repeat(4)
    scale = high.reshape(-1, 1, 1, 1)

    def stretched(z):  # the door shows two images, the attack all: none leaves before the end
        return model(z / scale[: len(z)])

    common = {"pairs": False, "steps": 3, "until": SPENT, "generator": draws}
    wide = jsma(stretched, scale * x, Untargeted(y), L0(math.inf, Pixels(high=high)), **common)
    plain = jsma(model, x, Untargeted(y), ANY, **common)
    torch.testing.assert_close(wide.x_adv / scale, plain.x_adv, rtol=0, atol=1e-5)
    assert (plain.x_adv != x).any()


# -- goals -------------------------------------------------------------------------------------------------------------


def test_the_target_is_the_likeliest_other_class_unless_more_are_tried(draws):
    def model(z):  # class 1 comes near and never wins, class 2 would
        mean = z.flatten(1).mean(1)
        return torch.stack([torch.ones_like(mean), 0.9 + 0.05 * mean, 1.2 * mean], 1)

    x, goal = torch.full((8, 1, 4, 4), 0.2), Untargeted(torch.zeros(8).long())
    assert not jsma(model, x, goal, ANY, pairs=False, fast=False, generator=draws).success.any()
    found = jsma(model, x, goal, ANY, pairs=False, targets=2, generator=draws)
    assert found.success.all()
    assert (model(found.x_adv).argmax(1) == 2).all()


def test_findings_that_are_all_wanted_have_no_rest_and_cost_one_gradient_a_step(draws):
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))

    def model(z):
        return (z - 0.5).flatten(1) @ weights.T

    x = torch.full((8, 3, 4, 4), 0.5)
    goal = Findings(torch.tensor([[1, -1, 1]]).expand(8, 3), threshold=torch.tensor([1.0, -1.0, 0.5]))
    all_, some = (
        jsma(model, x, Findings(wanted, goal.threshold), ANY, moves="both", generator=draws)
        for wanted in (goal.wanted, goal.wanted * torch.tensor([1, 1, 0]))
    )
    assert all_.success.all()
    assert some.success.all()
    assert (all_.gradients == all_.queries - 1).all()
    assert (some.gradients == 2 * (some.queries - 1)).all()


def test_a_climb_that_is_content_costs_no_more_than_one_that_stops(network, states, draws):
    model, x, y = network
    first, spent = (jsma(model, x, Untargeted(y), ANY, generator=draws, **until) for until in ({}, {"until": SPENT}))
    assert first.success.all()
    assert torch.equal(first.x_adv, spent.x_adv)
    assert torch.equal(first.queries, spent.queries)
    assert torch.equal(first.gradients, spent.gradients)
    assert torch.equal(x + states[-1][0], spent.x_adv)  # it has not moved on


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"theta": 0.0}, "theta"), ({"theta": -1.0}, "moves"), ({"moves": "left"}, "'left'"), ({"most": 0}, "most")],
)
def test_settings_that_mean_nothing_are_refused(network, draws, setting, said):
    model, x, y = network
    with pytest.raises(SettingsError, match=said):
        jsma(model, x, Untargeted(y), ANY, generator=draws, **setting)
