"""C&W where the smallest perturbation is known, and where other implementations are known to fail."""

import math

import pytest
import torch
from torch import nn

from antivenom.attacks import FOOLED
from antivenom.attacks.carlini_wagner import carlini_wagner
from antivenom.attacks.ddn import ddn
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import L2
from toys import FREE, Affine, Plane, small_network

ANY = L2(math.inf)
BOXES = pytest.mark.parametrize("box", ["clipped", "tanh"])
QUICK = {"steps": 120, "searches": 6, "constant": 1.0, "learning_rate": 0.02}


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(8))


@BOXES
def test_the_affine_case(box):
    model, x = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)
    aim = {"box": box, "generator": Draws.of(0, torch.arange(1))}
    effort = {"steps": 400, "searches": 6, "constant": 0.1}
    found = carlini_wagner(model, x, Untargeted(torch.tensor([0])), L2(math.inf, FREE), **aim, **effort)
    assert 0.4737364 <= ANY.size(found.x_adv - x).item() <= 1.01 * 0.4737364557517151
    other = carlini_wagner(model, x, Targeted(torch.tensor([1])), L2(math.inf, FREE), **aim, **QUICK)
    assert model(other.x_adv).argmax(1).item() == 1


@BOXES
def test_ends_just_beyond_a_plane(box, draws):
    model = Plane().eval()
    x = 0.5 + 0.2 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = carlini_wagner(model, x, Untargeted(model(x).argmax(1)), ANY, box=box, generator=draws, **QUICK)
    truth, size = model.distance(x, L2), ANY.size(found.x_adv - x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4) - 1e-6).all()
    assert (size <= 1.02 * truth + 2e-3).all()


def test_black_and_white_pixels_move_at_once_unless_tanh_holds_them(draws):
    model = Plane().eval()
    x = (torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    goal = Untargeted(model(x).argmax(1))
    free, held = (carlini_wagner(model, x, goal, ANY, box=box, generator=draws, **QUICK) for box in ("clipped", "tanh"))
    assert free.success.all()
    assert ((free.x_adv - x).abs() > 1e-3).flatten(1).any(1).all()
    assert held.success.float().mean() < 0.5


def test_tanh_keeps_values_off_both_ends(draws):
    model = small_network(3, classes=5)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    found = carlini_wagner(model, x, Untargeted(model(x).argmax(1)), ANY, box="tanh", generator=draws, **QUICK)
    assert found.success.all()
    assert found.x_adv.min() > 0
    assert found.x_adv.max() < 1


def test_ten_steps_are_far_from_done_and_many_come_near_ddn(draws):
    model = small_network(3, classes=5)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    weak = carlini_wagner(model, x, goal, ANY, generator=draws, steps=10, searches=1)
    strong = carlini_wagner(model, x, goal, ANY, generator=draws, **QUICK)
    assert weak.success.float().mean() < strong.success.float().mean()
    assert (weak.gradients <= 10).all()
    walked = ddn(model, x, goal, ANY, generator=draws, steps=300)
    assert ANY.size(strong.x_adv - x).median() <= 1.02 * ANY.size(walked.x_adv - x).median()


def test_logits_of_any_scale_and_sign(draws):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal = Untargeted(model(x).argmax(1))
    sizes = []
    for scale, shift in ((1, 0), (1000, 0), (1, -500)):
        found = carlini_wagner(
            lambda z, a=scale, b=shift: a * model(z) + b, x, goal, ANY, generator=draws, **QUICK | {"steps": 200}
        )
        assert found.success.all()
        sizes.append(ANY.size(found.x_adv - x))
    torch.testing.assert_close(sizes[1], sizes[0], rtol=0.15, atol=2e-3)  # the search begins a thousand times too high
    torch.testing.assert_close(sizes[2], sizes[0], rtol=0.05, atol=2e-3)


def test_an_image_leaves_once_fooled_where_that_is_all_that_is_asked(draws):
    model = small_network(3, classes=5)
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))
    first, last = (carlini_wagner(model, x, goal, ANY, generator=draws, **QUICK, **u) for u in ({"until": FOOLED}, {}))
    assert first.success.all()
    assert (first.gradients < last.gradients).all()
    assert (last.gradients == 720).all()


def test_another_box_is_refused(draws):
    model, x = Plane().eval(), torch.full((8, 3, 4, 4), 0.5)
    with pytest.raises(SettingsError, match="'sphere'"):
        carlini_wagner(model, x, Untargeted(torch.zeros(8, dtype=torch.long)), ANY, box="sphere", generator=draws)
