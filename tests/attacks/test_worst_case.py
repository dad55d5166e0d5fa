"""The union of attacks: never less than any of them, and nothing is paid for an image that is fooled already."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from antivenom.attacks import FOOLED, SPENT
from antivenom.attacks.apgd import apgd
from antivenom.attacks.fab import fab
from antivenom.attacks.fgsm import fgsm
from antivenom.attacks.noise import noise
from antivenom.attacks.pgd import pgd
from antivenom.attacks.problem import PROBED
from antivenom.attacks.square import square
from antivenom.attacks.worst_case import autoattack, spearhead, worst_case
from antivenom.errors import SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Untargeted
from antivenom.threat.objectives import dlr
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.sparse import L1
from toys import Counting, small_network

SHORT = {"steps": 10, "queries": 60}


@pytest.fixture
def network():
    model = small_network(3, classes=5)
    x = torch.rand(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(32))


@pytest.mark.parametrize("until", [FOOLED, SPENT])
def test_the_union_fools_whatever_one_of_its_parts_does(network, until):
    model, x, y, draws = network
    parts = [partial(fgsm), partial(noise, tries=5), partial(pgd, steps=20)]
    ball = Linf(0.06)
    together = worst_case(model, x, Untargeted(y), ball, parts, until=until, generator=draws)
    alone = [
        part(model, x, Untargeted(y), ball, until=until, generator=draws.at(place)).success for place, part in enumerate(parts)
    ]
    assert torch.equal(together.success, torch.stack(alone).any(0))
    assert 0 < alone[0].sum() < together.success.sum() < 32
    assert torch.equal(together.success, Untargeted(y).reached(model(together.x_adv)))
    torch.testing.assert_close(together.margin, Untargeted(y).margin(model(together.x_adv)))
    more = worst_case(model, x, Untargeted(y), ball, [*parts, partial(apgd, steps=20)], until=until, generator=draws)
    assert (more.success | ~together.success).all()


def test_an_image_that_is_fooled_meets_no_later_attack(network):
    model, x, y, draws = network
    counted = Counting(model).eval()
    first = fgsm(model, x, Untargeted(y), Linf(0.06), generator=draws.at(0))
    later = []

    def watched(*args, **settings):
        later.append(args[1])
        return pgd(*args, steps=3, **settings)

    result = worst_case(counted, x, Untargeted(y), Linf(0.06), [partial(fgsm), watched], generator=draws)
    assert torch.equal(later[0], x[~first.success])
    assert result.queries.sum() == counted.images - 2 * PROBED  # one door for all


def test_flags_of_any_part_are_kept(network):
    model, x, y, draws = network

    def masked(z):
        return model((z * 255).round() / 255)

    result = worst_case(masked, x, Untargeted(y), Linf(2 / 255), [partial(noise), partial(pgd, steps=3)], generator=draws)
    assert result.flags["zero-gradient"][~result.success].all()


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
@pytest.mark.parametrize("allowed", [Linf(0.008), L2(0.1), L1(1.0)])
def test_autoattack_runs_for_any_number_of_classes_and_beats_its_parts(classes, allowed):
    model = small_network(3, classes=classes)
    x = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    y, draws = model(x).argmax(1), Draws.of(0, torch.arange(12))
    whole = autoattack(model, x, Untargeted(y), allowed, **SHORT, generator=draws)
    parts = [
        partial(apgd, steps=10),
        partial(apgd, steps=10, targets=9, objective=dlr),
        partial(fab, steps=10, targets=9),
        *([] if isinstance(allowed, L1) else [partial(square, queries=60, share=0.8)]),
    ]
    for place, part in enumerate(parts):
        found = part(model, x, Untargeted(y), allowed, until=FOOLED, generator=draws.at(place))
        assert (whole.success | ~found.success).all()
    assert (allowed.size(whole.x_adv - x) <= allowed.epsilon * (1 + 1e-5)).all()
    quick = spearhead(model, x, Untargeted(y), allowed, steps=10, generator=draws)
    assert quick.gradients.sum() < whole.gradients.sum() or whole.success.all()


def test_autoattack_takes_findings(network):
    model, x, _, draws = network
    present = (model(x) > 0).long()
    found = autoattack(model, x, Findings.against(present, torch.zeros(5), every=False), Linf(0.03), **SHORT, generator=draws)
    assert found.success.any()


def test_no_room_no_success_and_any_room_all(network):
    model, x, y, draws = network
    for attack in (autoattack, spearhead):
        settings = SHORT if attack is autoattack else {"steps": 10}
        wrong = (y + (torch.arange(32) % 4 == 0)) % 5
        nothing = attack(model, x, Untargeted(wrong), Linf(0.0), **settings, generator=draws)
        assert torch.equal(nothing.success, model(x).argmax(1) != wrong)  # clean accuracy
        assert attack(model, x, Untargeted(y), Linf(1.0), **settings, generator=draws).success.all()


def test_the_worst_of_nothing_is_refused(network):
    model, x, y, draws = network
    with pytest.raises(SettingsError, match="at least one"):
        worst_case(model, x, Untargeted(y), Linf(0.1), [], generator=draws)


def test_a_smooth_gradient_is_climbed_where_the_models_own_jumps(network):
    model, x, y, draws = network
    jumping = Victim(model, lambda z: model(z.detach()) + 0 * z.sum())  # its gradient says nothing
    blind = spearhead(jumping, x, Untargeted(y), Linf(0.06), steps=10, generator=draws)
    led = spearhead(replace(jumping, smooth=model), x, Untargeted(y), Linf(0.06), steps=10, generator=draws)
    seeing = apgd(model, x, Untargeted(y), Linf(0.06), steps=10, generator=draws)
    assert blind.success.sum() < seeing.success.sum()
    assert led.success.sum() >= seeing.success.sum() - 1
    assert (led.success | ~blind.success).all()
