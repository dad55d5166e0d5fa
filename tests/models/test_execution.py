"""A faster twin answers like its model or is not used; the model itself is left as it was."""

import copy

import pytest
import torch
from torch import nn

from antivenom.errors import ModelError, SettingsError
from antivenom.models import execution
from antivenom.models.architectures import build
from antivenom.models.execution import AS_GIVEN, TWINS, Victim, accelerate, execute
from antivenom.models.kwta import KWinners
from antivenom.task import Task
from toys import small_network


@pytest.fixture
def like():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", TWINS)
def test_a_twin_answers_and_climbs_like_its_model(like, way):
    model = small_network(3)
    twin = execute(model, like, way).propose
    answer, gradient = execution._gradients(model, like)
    other, slope = execution._gradients(twin, like)
    loose = "bfloat16" in way
    torch.testing.assert_close(other, answer, rtol=0.02 if loose else 1e-4, atol=0.05 if loose else 1e-5)
    cosine = torch.nn.functional.cosine_similarity(slope.flatten(1), gradient.flatten(1))
    assert (cosine > (0.98 if loose else 0.99999)).all()


@pytest.mark.parametrize("part", ["cbam", "eca"])  # a norm behind a convolution of one map; a convolution along channels
def test_attention_has_a_twin_too(part):
    model = build(f"resnet18+{part}", Task(("normal", "ill")), channels=1, seed=0, size=(32, 32)).eval()
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    twin = execute(model, x, "bfloat16, folded, channels-last").propose
    assert execution._agrees(twin, x, execution._gradients(model, x))


@pytest.mark.parametrize("way", TWINS)
def test_a_twin_sees_perturbations_far_below_its_own_precision(like, way):
    """A change of 1/2550 at values near 1 is lost in bfloat16 (whose step there is 1/256): the first layer must not round."""
    model = small_network(3)
    bright = like * 0.1 + 0.85
    delta = (torch.rand(like.shape, generator=torch.Generator().manual_seed(1)) - 0.5).sign() / 2550
    first = execute(model, like, way).propose.get_submodule("0")
    assert (first(bright + delta).float() - first(bright).float()).abs().max() > 0


def test_folding_removes_every_batch_norm_that_follows_a_convolution(like):
    twin = execute(small_network(3), like, "float32, folded").propose
    assert not [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]


class Odd(nn.Module):
    """A convolution that is read a second time, past its batch-norm: folding it would change the answer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.norm.running_mean.fill_(3.0)

    def forward(self, x):
        h = self.conv(x)
        return self.head((torch.relu(self.norm(h)) + h).mean((2, 3)))


def test_a_twin_that_answers_otherwise_is_not_used(like, monkeypatch):
    torch.manual_seed(0)
    model = Odd().eval()
    monkeypatch.setattr(execution, "_seconds", lambda twin, _: 1.0 if twin is model else 0.1)
    assert accelerate(model, like, batch=4).execution == AS_GIVEN
    assert accelerate(small_network(3), like, batch=4).execution != "none"


def test_a_twin_that_is_slower_is_not_used(like, monkeypatch):
    model = small_network(3)
    monkeypatch.setattr(execution, "_seconds", lambda twin, _: 0.1 if twin is model else 1.0)
    victim = accelerate(model, like, batch=4)
    assert (victim.execution, victim.propose) == (AS_GIVEN, model)
    monkeypatch.setattr(execution, "_seconds", lambda twin, _: 1.0 if twin is model else 0.1)
    assert accelerate(model, like, batch=4).execution in TWINS


def test_a_model_that_cannot_be_copied_is_run_as_it_is(like):
    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    model = Stubborn(nn.Flatten(), nn.Linear(768, 2)).eval()
    assert accelerate(model, like, batch=4).execution == AS_GIVEN
    with pytest.raises(SettingsError, match="cannot be run"):
        execute(model, like, "float32, folded")


def test_the_model_is_left_exactly_as_it_was(like):
    model = small_network(3)
    before = copy.deepcopy(model.state_dict())
    for way in TWINS:
        execution._gradients(execute(model, like, way).propose, like)
    accelerate(model, like, batch=4)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad and p.grad is None and p.dtype is torch.float32 for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_training_mode_and_unknown_ways_are_refused(like):
    model = small_network(3)
    with pytest.raises(SettingsError, match="int4"):
        execute(model, like, "int4")
    model[1].train()  # one batch-norm is enough
    for use in (lambda: accelerate(model, like), lambda: execute(model, like, AS_GIVEN), lambda: Victim.of(model)):
        with pytest.raises(ModelError, match="1 is in training mode"):
            use()


def test_batch_norm_that_normalises_by_its_batch_is_not_folded(like):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(784, 2))
    model.eval()
    twin = execute(model, like, "float32, folded").propose
    torch.testing.assert_close(twin(like[:2]), model(like[:2]))


def test_a_gradient_that_jumps_comes_with_a_smooth_one():
    jumping = nn.Sequential(nn.Conv2d(1, 4, 3), KWinners(0.3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for victim in (Victim.of(jumping), accelerate(jumping, x, batch=4), execute(jumping, x, AS_GIVEN)):
        assert victim.smooth is not None
        torch.testing.assert_close(victim.smooth(x), jumping(x))
    assert Victim.of(nn.Flatten().eval()).smooth is None
