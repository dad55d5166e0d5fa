"""The escalating form: sizes in turn, each from the image, until one fools."""

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.escalating_fgsm import escalating_fgsm
from antivenom.attacks.fgsm import fgsm
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from toys import FREE, Plane, small_network

ANY = float("inf")


@pytest.fixture
def plane():
    model = Plane().eval()
    x = 0.5 + 0.05 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(16))


def test_each_image_stops_at_the_first_size_that_fools(plane):
    model, x, y, draws = plane
    result = escalating_fgsm(
        model, x, Untargeted(y), Linf(ANY, FREE), sizes=100, smallest=0.001, largest=0.1, steps=1, generator=draws
    )
    needed = (model.distance(x, Linf) / 0.001).floor() + 1
    assert result.success.all()
    torch.testing.assert_close(Linf(1).size(result.x_adv - x), needed * 0.001, rtol=0, atol=2e-6)
    assert torch.equal(result.gradients, needed.long() + 1)


def test_steps_of_one_size_add_up(plane):
    model, x, y, draws = plane
    far = model.distance(x, Linf).max().item()
    once, thrice = (
        escalating_fgsm(
            model,
            x,
            Untargeted(y),
            Linf(ANY, FREE),
            sizes=1,
            smallest=far / 2.5,
            largest=far / 2.5,
            steps=steps,
            generator=draws,
        )
        for steps in (1, 3)
    )
    assert not once.success.all()
    assert thrice.success.all()


def test_its_first_step_is_that_of_fgsm():
    model = small_network(3)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal, draws = Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(8))
    ladder = escalating_fgsm(
        model, x, goal, Linf(ANY), sizes=1, smallest=0.05, largest=0.05, steps=1, until=SPENT, generator=draws
    )
    plain = fgsm(model, x, goal, Linf(0.05), generator=draws)
    assert plain.success.any()
    assert torch.equal(ladder.success, plain.success)
    assert torch.equal(ladder.x_adv[plain.success], plain.x_adv[plain.success])


def test_a_limit_of_the_set_is_kept(plane):
    model, x, y, draws = plane
    limit = model.distance(x, Linf).median().item()
    result = escalating_fgsm(
        model, x, Untargeted(y), Linf(limit, Pixels()), smallest=0.001, sizes=20, largest=0.5, generator=draws
    )
    assert (Linf(1).size(result.x_adv - x) <= limit * (1 + 1e-5)).all()
    assert 0 < result.success.sum() < 16


def test_sizes_out_of_order_are_refused(plane):
    model, x, y, draws = plane
    with pytest.raises(SettingsError, match="smallest"):
        escalating_fgsm(model, x, Untargeted(y), Linf(1), smallest=0.5, largest=0.1, generator=draws)
