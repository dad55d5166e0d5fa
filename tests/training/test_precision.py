import pytest
import torch
from torch import nn

from antivenom.models.classifier import Classifier
from antivenom.task import Task
from antivenom.training import precision
from antivenom.training.losses import StandardLoss
from antivenom.training.precision import Precision, measure

IMAGES, TARGETS = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])


@pytest.fixture
def model():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Classifier(network, Task(("normal", "pneumonia")), channels=1, mean=0.5, std=0.25)


def chosen(model, wanted="auto"):
    return measure(model, IMAGES, TARGETS, StandardLoss(False), wanted)


@pytest.mark.parametrize(("seconds", "name"), [((1.0, 0.5), "bfloat16"), ((1.0, 0.95), "float32"), ((1.0, 2.0), "float32")])
def test_bfloat16_is_taken_only_where_it_is_clearly_faster(model, monkeypatch, seconds, name):
    clock = iter([0.0, seconds[0], 10.0, 10.0 + seconds[1]])
    monkeypatch.setattr(precision, "_now", lambda _: next(clock))
    found = chosen(model)
    assert found.name == name
    assert found.float32_rate == pytest.approx(12 / seconds[0])
    assert found.bfloat16_rate == pytest.approx(12 / seconds[1])


def test_measuring_leaves_the_model_as_it_was(model):
    before = model.digest()
    found = chosen(model)
    assert found.float32_rate > 0
    assert model.digest() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_was_named_is_taken_unmeasured(model):
    assert chosen(model, "bfloat16") == Precision("bfloat16", 0.0, 0.0)


def test_a_machine_without_bfloat16_trains_in_float32(model, monkeypatch):
    def refused(*_):
        raise RuntimeError("bfloat16 is not supported")

    autocast = Precision.autocast
    monkeypatch.setattr(
        Precision, "autocast", lambda self, device: refused() if self.name == "bfloat16" else autocast(self, device)
    )
    found = chosen(model)
    assert (found.name, found.bfloat16_rate) == ("float32", 0.0)


def test_the_answer_is_computed_in_what_was_chosen(model):
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Precision(name).autocast(torch.device("cpu")):
            assert model(IMAGES).dtype == dtype
