"""On a plane and a sphere the strongest attack is known: no gradient attack may fall short of it, and none can exceed it."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.apgd import apgd
from antivenom.attacks.bim import bim
from antivenom.attacks.fgsm import fgsm
from antivenom.attacks.mim import mim
from antivenom.attacks.noise import noise
from antivenom.attacks.pgd import pgd
from antivenom.models.execution import TWINS, Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from toys import Plane, Sphere


@pytest.fixture
def scene():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(32))


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("attack", [fgsm, bim, mim, pgd, apgd])
def test_succeeds_exactly_where_the_ball_reaches_the_boundary(scene, draws, attack, kind):
    model, x, y = scene
    radius = model.distance(x, kind)
    epsilon = radius.median().item() * 1.0001
    steps = {} if attack is fgsm else {"steps": 60}
    result = attack(model, x, Untargeted(y), kind(epsilon), generator=draws, **steps)
    assert torch.equal(result.success, radius < epsilon)


@pytest.mark.parametrize("kind", [Linf, L2])
def test_one_step_changes_the_answer_by_the_dual_norm(scene, draws, kind):
    model, x, y = scene
    result = fgsm(model, x, Untargeted(y), kind(0.01), until=SPENT, generator=draws)
    fall = (model(x) - model(result.x_adv)).gather(1, y[:, None])[:, 0]
    dual = model.w.abs().sum() if kind is Linf else model.w.norm()
    torch.testing.assert_close(fall, (0.01 * dual).expand_as(fall), rtol=1e-4, atol=1e-7)


def test_one_step_is_taken_along_the_model_s_own_gradient_and_no_twin_s(scene, draws):
    model, x, y = scene
    twin = Victim(model, lambda z: -model(z), execution=next(iter(TWINS)))
    stand_in = Victim(model, lambda z: -model(z), execution="BPDA")
    ball = Linf(model.distance(x, Linf).max().item() * 1.01)
    assert fgsm(twin, x, Untargeted(y), ball, generator=draws).success.all()
    assert not fgsm(stand_in, x, Untargeted(y), ball, generator=draws).success.any()  # what stands in has no other


def test_a_step_costs_one_gradient_and_one_look_more(scene, draws):
    model, x, y = scene
    result = fgsm(model, x, Untargeted(y), Linf(1e-4), generator=draws)
    assert result.queries.tolist() == [2] * 32
    wrong = fgsm(model, x, Untargeted(1 - y), Linf(1e-4), generator=draws)
    assert wrong.success.all()
    assert torch.equal(wrong.x_adv, x)  # what is wrong as it stands is left alone


@pytest.mark.parametrize("kind", [Linf, L2])
def test_one_pgd_step_of_full_size_is_fgsm(scene, draws, kind):
    model, x, y = scene
    ball = kind(model.distance(x, kind).median().item())
    one = pgd(model, x, Untargeted(y), ball, steps=1, step_size=1.0, random_start=False, until=SPENT, generator=draws)
    assert torch.equal(one.x_adv, fgsm(model, x, Untargeted(y), ball, until=SPENT, generator=draws).x_adv)


@pytest.mark.parametrize("kind", [Linf, L2])
def test_a_spent_budget_ends_at_the_far_side_of_the_ball(scene, draws, kind):
    model, x, y = scene
    ball = kind(2 * model.distance(x, kind).median().item())
    first = pgd(model, x, Untargeted(y), ball, generator=draws)
    spent = pgd(model, x, Untargeted(y), ball, steps=60, until=SPENT, generator=draws)
    fall = model(x).amax(1) + Untargeted(y).margin(model(spent.x_adv)) / 2
    steepest = ball.epsilon * (model.w.abs().sum() if kind is Linf else model.w.norm())
    torch.testing.assert_close(fall, steepest.expand_as(fall), rtol=1e-3, atol=1e-6)
    assert torch.equal(first.success, spent.success)
    assert (ball.size(first.x_adv - x) < ball.size(spent.x_adv - x)).any()


def test_reaches_the_sphere_and_no_further():
    model = Sphere().eval()
    x = 0.5 + 0.1 * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    distance = model.distance(x)
    ball = L2(distance.median().item() * 1.001)
    draws = Draws.of(0, torch.arange(64))
    result = pgd(model, x, Untargeted(model(x).argmax(1)), ball, steps=80, generator=draws)
    assert torch.equal(result.success, distance < ball.epsilon)


def test_a_model_sure_of_itself_is_no_safer(scene, draws):
    model, x, y = scene
    ball = Linf(1.01 * model.distance(x, Linf).max().item())
    loud = pgd(lambda z: 1e6 * model(z), x, Untargeted(y), ball, steps=60, generator=draws)
    assert loud.success.all()
    assert not loud.flags["zero-gradient"].any()


def test_two_classes_targeted_is_untargeted(scene, draws):
    model, x, y = scene
    ball = Linf(model.distance(x, Linf).median().item())
    a = pgd(model, x, Untargeted(y), ball, generator=draws)
    b = pgd(model, x, Targeted(1 - y), ball, generator=draws)
    assert torch.equal(a.success, b.success)
    assert a.success.any()
    assert not a.success.all()


def test_another_restart_begins_elsewhere_and_never_hurts(draws):
    """A narrow well that few starts see: more restarts find it for more images, and lose none."""

    def well(z):
        bump = torch.exp(-200 * (z.flatten(1)[:, 0] - 0.8).square())
        return torch.stack([0.5 - 0 * bump, bump], 1)

    x = torch.full((32, 1, 1, 2), 0.5)
    goal = Untargeted(torch.zeros(32, dtype=torch.long))
    found = [pgd(well, x, goal, Linf(0.35), steps=3, step_size=0.02, restarts=n, generator=draws).success for n in (1, 4)]
    assert 0 < found[0].sum() < found[1].sum()
    assert (found[1] >= found[0]).all()


def test_momentum_carries_an_attack_over_a_ripple(draws):
    """A slope with ripples stops plain small steps; momentum goes on."""

    def rippled(z):
        v = z.flatten(1)[:, 0] - 0.5
        rise = v + 0.012 * torch.sin(150 * v)
        return torch.stack([torch.full_like(rise, 0.19), rise], 1)

    x = torch.full((8, 1, 1, 1), 0.5)
    goal = Untargeted(torch.zeros(8, dtype=torch.long))
    some = draws.take(torch.arange(8))
    plain = bim(rippled, x, goal, Linf(0.3), steps=40, step_size=0.02, generator=some)
    carried = mim(rippled, x, goal, Linf(0.3), steps=40, step_size=0.02, generator=some)
    assert not plain.success.any()
    assert carried.success.all()


def test_more_noise_is_no_attack(scene, draws):
    """At the size where every image can be fooled, one draw of noise fools hardly any: the dual norm is not met by chance."""
    model, x, y = scene
    ball = Linf(1.05 * model.distance(x, Linf).max().item())
    assert pgd(model, x, Untargeted(y), ball, steps=60, generator=draws).success.all()
    assert noise(model, x, Untargeted(y), ball, generator=draws).success.float().mean() < 0.5
