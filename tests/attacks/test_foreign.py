"""Attacks of other libraries, some of which misbehave: what they claim, touch or break does not count."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from antivenom.attacks import FOOLED, SPENT
from antivenom.attacks.foreign import foreign, from_art, from_foolbox, from_torchattacks
from antivenom.attacks.problem import PROBED
from antivenom.errors import ImageError, SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import FREE, Counting, Plane, small_network

EPSILON = 0.2
BALL = Linf(EPSILON)


@pytest.fixture
def scan():
    """Images around mid-grey and the plane that parts them."""
    model = Plane().eval()
    x = 0.5 + 0.2 * (torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5)
    return model, x, model(x).argmax(1)


def step(model, x, y, *, size=EPSILON, sign=1):
    """One step along the gradient's sign, as any library writes it."""
    z = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(z), y).backward()
    return (x + sign * size * z.grad.sign()).clamp(0, 1)


def run(attack, model, x, goal, allowed=BALL, *, until=SPENT):
    return attack(model, x, goal, allowed, until=until, generator=Draws.of(0, torch.arange(len(x))))


def attack_of(function, **options):
    return foreign(function, title="theirs", **options)


def test_it_finds_what_it_finds(scan):
    model, x, y = scan
    result = run(attack_of(step), model, x, Untargeted(y))
    assert torch.equal(result.success, model.distance(x, Linf) < EPSILON)
    assert result.success.any()
    torch.testing.assert_close(result.x_adv, step(model, x, y))
    assert not any(flag.any() for flag in result.flags.values())
    with torch.no_grad():  # as an evaluation may call it
        torch.testing.assert_close(run(attack_of(step), model, x, Untargeted(y)).x_adv, result.x_adv)


@pytest.mark.parametrize("until", [FOOLED, SPENT])
def test_every_query_and_gradient_is_counted(scan, until):
    model, x, y = scan
    y = y.clone()
    y[:5] = 1 - y[:5]  # wrong as they stand
    counted = Counting(model).eval()

    def three(model, x, y):
        return step(model, step(model, step(model, x, y), y), y)

    result = run(attack_of(three), Victim(counted, counted, batch=5), x, Untargeted(y), until=until)
    assert result.queries.sum() == counted.images - 2 * PROBED  # what the door asks
    own = torch.arange(12) < 5
    handed = ~own if until is FOOLED else torch.ones_like(own)
    assert (result.gradients == 3 * handed).all()
    assert (result.queries == 4 * handed + (until is FOOLED)).all()


def test_images_shown_one_by_one_count_for_themselves(scan):
    model, x, y = scan

    def alone(model, x, _):
        steps = [[x[i : i + 1]] * (i + 1) for i in range(len(x))]
        with torch.no_grad():
            for shown in reversed(steps):
                for z in shown:
                    model(z + 0.01)
            model(torch.cat([x, x]))
            model(x[torch.tensor([7, 7, 7])])
        return x

    result = run(attack_of(alone), model, x, Untargeted(y))
    extra = torch.zeros(12, dtype=torch.int64)
    extra[7] = 3
    assert torch.equal(result.queries, torch.arange(1, 13) + 2 + extra + 1)
    assert (result.gradients == 0).all()


def test_images_of_another_size_count_too(scan):
    _, x, _ = scan

    def larger(model, x, _):
        with torch.no_grad():
            model(nn.functional.interpolate(x, (8, 8)))
        return x

    plain = small_network(3)
    assert (run(attack_of(larger), plain, x, Untargeted(plain(x).argmax(1))).queries == 2).all()


# -- what leaves the set -----------------------------------------------------------------------------------------------


def test_what_left_the_ball_is_brought_back_judged_and_flagged(scan):
    model, x, y = scan
    result = run(attack_of(lambda m, x, y: step(m, x, y, size=2 * EPSILON)), model, x, Untargeted(y))
    assert result.flags["left-the-set"].all()
    assert float((result.x_adv - x).abs().max()) <= EPSILON + 1e-6
    assert torch.equal(result.success, model.distance(x, Linf) < EPSILON)
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))


def test_what_rounding_leaves_is_no_leaving(scan):
    model, x, y = scan
    slightly, more = (
        run(attack_of(lambda m, x, y, part=part: step(m, x, y, size=EPSILON * (1 + part))), model, x, Untargeted(y))
        for part in (2e-5, 1e-3)
    )
    assert not slightly.flags["left-the-set"].any()
    assert more.flags["left-the-set"].all()


def region(x):
    mask = torch.zeros(len(x), 1, *x.shape[2:])
    mask[..., 0] = 1
    return Pixels(region=mask)


ASTRAY = {
    "below black": (Pixels(), lambda x: x - 0.5),
    "above white": (Pixels(), lambda x: x + 0.6),
    "not numbers": (Pixels(), lambda x: x * torch.nan),
    "outside the region": (region, lambda x: x + 0.1),
    "channels apart": (Pixels(tied=True), lambda x: x + 0.1 * torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1)),
}


@pytest.mark.parametrize("way", ASTRAY)
def test_other_ways_out_of_the_set_are_seen_too(scan, way):
    model, x, y = scan
    pixels, move = ASTRAY[way]
    pixels = pixels(x) if callable(pixels) else pixels

    def some(_model, x, _y):
        return torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) < 3, move(x), x)

    result = run(attack_of(some), model, x, Untargeted(y), Linf(2.0, pixels))
    assert result.flags["left-the-set"].tolist() == [True] * 3 + [False] * 9
    assert result.x_adv.isfinite().all()
    assert float(result.x_adv.min()) >= 0
    assert float(result.x_adv.max()) <= 1
    torch.testing.assert_close(pixels.free(result.x_adv - x), result.x_adv - x)


def test_the_judge_sees_the_image_on_the_grid(scan):
    model, x, y = scan
    x = (255 * x).round() / 255
    allowed = Linf(8 / 255, Pixels(grid=1 / 255))
    result = run(attack_of(lambda m, x, y: step(m, x, y, size=7.9 / 255)), model, x, Untargeted(y), allowed)
    torch.testing.assert_close(((result.x_adv - x) * 255).abs(), torch.full_like(x, 7.0))
    assert not result.flags["left-the-set"].any()


def test_success_is_not_asked_of_the_attack(scan):
    """A twin that always claims success convinces the library, and not the judge."""
    model, x, y = scan

    def boaster(z):
        return model(z) + 100 * nn.functional.one_hot(1 - y, 2)

    result = run(attack_of(lambda _m, x, _y: x), Victim(model, boaster), x, Untargeted(y))
    assert not result.success.any()


def test_a_smallest_perturbation_may_go_any_distance(scan):
    model, x, y = scan
    free = L2(math.inf, FREE)
    with pytest.raises(SettingsError, match="epsilon"):
        run(attack_of(step), model, x, Untargeted(y), free)
    result = run(attack_of(lambda m, x, y: step(m, x, y, size=3.0), nearest=True), model, x, Untargeted(y), free)
    assert result.success.any()
    assert not result.flags["left-the-set"].any()


# -- what must stay as it was ------------------------------------------------------------------------------------------


class Vandal:
    """Holds the caller's own model, and leaves nothing as it was."""

    def __init__(self, model, fails=False):
        self.model, self.fails = model, fails

    def __call__(self, given, x, y):
        for model in (given, self.model):
            model.train()
            for weight in model.parameters():
                weight.requires_grad_(False)
            model(x)
            for weight in model.parameters():
                weight.requires_grad_(True)
            z = x.clone().requires_grad_()
            model(z).sum().backward()
        x.zero_()
        y.zero_()
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        if self.fails:
            raise RuntimeError("theirs")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_it_was(fails):
    model = small_network()
    model[1].weight.requires_grad_(False)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    kept = [p.grad for p in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    required = [p.requires_grad for p in model.parameters()]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    before, labels = x.clone(), y.clone()
    luck = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    if fails:
        with pytest.raises(RuntimeError, match="theirs"):
            run(attack_of(Vandal(model, fails)), model, x, Untargeted(y))
    else:
        run(attack_of(Vandal(model)), model, x, Untargeted(y))

    assert not any(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == required
    assert all(p.grad is g for p, g in zip(model.parameters(), kept, strict=True))
    for found, wanted in zip(model.parameters(), gradients, strict=True):
        assert (found.grad is None) == (wanted is None)
        assert wanted is None or torch.equal(found.grad, wanted)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, before)
    assert torch.equal(y, labels)
    assert torch.equal(torch.get_rng_state(), luck[0])
    assert np.random.get_state()[1].tolist() == luck[1]
    assert random.getstate() == luck[2]


def test_an_image_that_is_changed_in_place_is_still_measured_from_where_it_was(scan):
    model, x, y = scan
    before = x.clone()
    result = run(attack_of(lambda _m, x, _y: x.add_(0.4)), model, x, Untargeted(y))
    assert torch.equal(x, before)
    torch.testing.assert_close(result.x_adv, x + EPSILON)
    assert result.flags["left-the-set"].all()


def test_gradients_by_weights_are_never_computed(scan):
    model, x, y = scan
    seen = []
    handle = model.w.register_hook(lambda gradient: seen.append(gradient))

    def prying(given, x, y):
        assert sum(p.numel() for p in given.parameters()) == 1  # what tells the device, and no weight
        return step(given, x, y)

    run(attack_of(prying), model, x, Untargeted(y))
    handle.remove()
    assert not seen
    assert model.w.grad is None


def test_second_derivatives_are_refused_rather_than_wrong(scan):
    model, x, y = scan

    def curious(model, x, _):
        z = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(model(z).square().sum(), z, create_graph=True)
        first.sum().backward()
        return x

    with pytest.raises(RuntimeError, match="twice"):
        run(attack_of(curious), model, x, Untargeted(y))


def test_one_answer_may_be_differentiated_several_times(scan):
    model, x, y = scan

    def jacobian(model, x, _):
        z = x.clone().requires_grad_()
        answer = model(z)
        slopes = [torch.autograd.grad(answer[:, k].sum(), z, retain_graph=True)[0] for k in range(2)]
        assert torch.allclose(slopes[0], -slopes[1])
        return x

    assert (run(attack_of(jacobian), model, x, Untargeted(y)).gradients == 2).all()


def test_luck_comes_from_the_draws_alone(scan):
    model, x, y = scan

    def lucky(_model, x, _y):
        noise = torch.rand_like(x) + float(np.random.rand()) + random.random()
        return (x + EPSILON * (noise - 1)).clamp(0, 1)

    attack = attack_of(lucky)
    first = run(attack, model, x, Untargeted(y))
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(run(attack, model, x, Untargeted(y)).x_adv, first.x_adv)
    other = attack(model, x, Untargeted(y), BALL, until=SPENT, generator=Draws.of(1, torch.arange(12)))
    assert not torch.equal(other.x_adv, first.x_adv)


# -- what masks gradients ----------------------------------------------------------------------------------------------


def test_gradients_that_are_zero_or_broken_are_flagged(scan):
    model, x, y = scan

    def detached(z):
        return model(z.detach())

    result = run(attack_of(step), detached, x, Untargeted(y))
    assert result.flags["zero-gradient"].all()

    def broken(z):
        return model(z) + (z.flatten(1)[:, :1] - x.flatten(1)[:1, :1]).abs().sqrt()  # no slope at the first image

    result = run(attack_of(lambda m, x, y: step(m, x, y).nan_to_num(0.5)), broken, x, Untargeted(y))
    assert result.flags["non-finite-gradient"].tolist() == [True] + [False] * 11


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG = {
    "integers": (lambda x: (255 * x).byte(), "uint8"),
    "another shape": (lambda x: x[:, :1], r"\(12, 1, 4, 4\)"),
    "fewer images": (lambda x: x[:3], r"\(3, 3, 4, 4\)"),
    "nothing": (lambda _: None, "NoneType"),
    "a list": (lambda x: [x], "list"),
    "an array of integers": (lambda x: (255 * x).byte().numpy(), "uint8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_image_is_refused(scan, wrong):
    model, x, y = scan
    change, said = WRONG[wrong]
    with pytest.raises(SettingsError, match=f"theirs returned .*{said}"):
        run(attack_of(lambda _m, x, _y: change(x)), model, x, Untargeted(y))


def test_an_array_of_doubles_is_taken(scan):
    model, x, y = scan
    result = run(attack_of(lambda m, x, y: step(m, x, y).double().numpy()), model, x, Untargeted(y))
    assert result.x_adv.dtype == x.dtype
    assert result.success.any()


def test_each_is_for_one_kind_of_goal(scan):
    model, x, y = scan
    towards = attack_of(lambda m, x, y: step(m, x, y, sign=-1), targeted=True)
    assert torch.equal(run(towards, model, x, Targeted(1 - y)).success, model.distance(x, Linf) < EPSILON)
    findings = Findings.against(nn.functional.one_hot(y, 2), torch.zeros(2))
    for attack, goal in ((towards, Untargeted(y)), (attack_of(step), Targeted(y)), (attack_of(step), findings)):
        with pytest.raises(SettingsError, match="was taken over for the goal"):
            run(attack, model, x, goal)


def test_it_meets_the_same_door_as_others(scan):
    model, x, y = scan
    with pytest.raises(ImageError, match="divide"):
        run(attack_of(step), model, 255 * x, Untargeted(y))
    counted = Counting(model).eval()
    run(attack_of(lambda _m, x, _y: x), counted, x, Untargeted(y))
    assert counted.images == len(x) + 2 * PROBED


def test_a_row_says_what_it_is():
    row = attack_of(step)
    assert row.title == "theirs"
    assert row.settings == frozenset()
    assert row.reference == ("", "")


# -- the libraries themselves, where they are installed ----------------------------------------------------------------


@pytest.fixture
def network():
    model = small_network()
    x = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1)


def theirs(library, **options):
    """PGD of each library."""
    if library == "torchattacks":
        torchattacks = pytest.importorskip("torchattacks")
        return from_torchattacks(lambda m, e: torchattacks.PGD(m, eps=e, alpha=e / 4, steps=10), title="PGD", **options)
    if library == "foolbox":
        foolbox = pytest.importorskip("foolbox")
        return from_foolbox(lambda _m, _e: foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.25), title="PGD", **options)
    evasion = pytest.importorskip("art.attacks.evasion")
    pgd = evasion.ProjectedGradientDescent
    return from_art(lambda m, e: pgd(m, eps=e, eps_step=e / 4, max_iter=10, verbose=False), title="PGD", **options)


LIBRARIES = pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])


@LIBRARIES
def test_a_library_attacks_as_it_does_at_home(network, library):
    model, x, y = network
    counted = Counting(model).eval()
    result = run(theirs(library), counted, x, Untargeted(y))
    assert result.success.all()
    assert not result.flags["left-the-set"].any()
    assert result.queries.sum() == counted.images - 2 * PROBED
    assert (result.gradients == 10).all()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert run(theirs(library, targeted=True), model, x, Targeted((y + 1) % 3)).success.any()


@LIBRARIES
def test_a_library_wants_one_epsilon_and_one_range(network, library):
    model, x, y = network
    with pytest.raises(SettingsError, match="one epsilon"):
        run(theirs(library), model, x, Untargeted(y), Linf(torch.full((6,), 0.1)))
    with pytest.raises(SettingsError, match="one range"):
        run(theirs(library), model, x, Untargeted(y), Linf(0.1, Pixels(high=torch.ones(6))))


def test_torchattacks_knows_one_range_only(network):
    model, x, y = network
    with pytest.raises(SettingsError, match=r"\[0, 1\] only"):
        run(theirs("torchattacks"), model, x, Untargeted(y), Linf(0.1, FREE))
