"""The loop that attacks share: who asks the judge when, and what becomes of a point that it refuses."""

import pytest
import torch

from antivenom.attacks.bim import bim
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from toys import Plane


@pytest.fixture
def scene():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(32))


def test_the_judge_looks_at_several_images_at_once(scene, draws):
    model, x, y = scene
    sizes = []

    def judge(z):
        sizes.append(len(z))
        return model(z)

    ball = Linf(model.distance(x, Linf).max().item() * 1.01)
    result = bim(Victim(judge, lambda z: model(z), batch=8), x, Untargeted(y), ball, steps=40, generator=draws)
    assert result.success.all()
    looked = sizes[2 + 4 :]  # after the door and the clean images
    assert sum(looked) == 32
    assert all(size >= 2 for size in looked[:-1])


def test_a_point_that_the_judge_refuses_stands_in_nobody_s_way(scene, draws):
    model, x, y = scene
    x, y, draws = x[y == 1], y[y == 1], draws.take((y == 1).nonzero()[:, 0])
    nearer = model.distance(x, Linf).median() * model.w.abs().sum().detach() / 2

    def hasty(z):  # the boundary is further on
        answer = model(z)
        return answer + torch.stack([nearer, -nearer])

    asked = []

    def judge(z):
        asked.append(z)
        return model(z)

    ball = Linf(model.distance(x, Linf).max().item() * 1.2)
    result = bim(Victim(judge, hasty, batch=8), x, Untargeted(y), ball, steps=60, generator=draws)
    assert (model(torch.cat(asked[2:])).argmax(1) == 1).sum() > len(x)  # more than the clean images: some were refused
    assert result.success.all()
    assert (model(result.x_adv).argmax(1) == 0).all()
