import json

import pytest
import torch
from torch import nn

from antivenom.errors import WeightsError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.models.presentation import CentreCrop, Pipeline, Presented, Resize, Window
from antivenom.models.tensor_files import load_weights_file, read_safetensors, write_safetensors
from antivenom.models.weights import load, read_card, save
from antivenom.task import Task

TASK = Task(("effusion", "mass", "nodule"), multilabel=True)
FACTS = {"data_digest": "d" * 64, "seed": 3, "metrics": {"mean AUROC": 0.8, "validation images": 40}}


@pytest.fixture
def model():
    return build("resnet18", TASK, channels=1, size=(48, 48), seed=1).eval()


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "chest.safetensors", **FACTS, recipe={"epochs": 2})
    return tmp_path / "chest.safetensors"


def test_a_classifier_comes_back_as_it_was(model, path):
    again, images = load(path), torch.rand(3, 1, 60, 50)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.describe() == model.describe()
    assert again.digest() == model.digest()
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("copy_grey", [False, True])
def test_its_preprocessing_comes_back_with_it(tmp_path, copy_grey):
    inner = build("resnet18", TASK, channels=1, copy_grey=copy_grey, seed=1).eval()
    model = Presented(inner, [Window(0.1, 0.9), Resize((40, 40)), CentreCrop((32, 32))])
    save(model, tmp_path / "a.safetensors", **FACTS)
    again, images = load(tmp_path / "a.safetensors"), torch.rand(2, 1, 50, 60)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.digest() == model.digest()


def test_the_card_says_what_it_is_and_lies_beside_for_people(path):
    card = read_card(path)
    assert json.loads(path.with_suffix(".json").read_text()) == card
    assert (card["architecture"], card["channels"], card["size"], card["seed"]) == ("resnet18", 1, [48, 48], 3)
    assert card["task"] == TASK.to_dict()
    assert (card["mean"], card["std"]) == ([0.5], [0.25])
    assert (card["data"], card["metrics"]["mean AUROC"], card["recipe"]) == ("d" * 64, 0.8, {"epochs": 2})
    assert "torch" in card["versions"]


def test_weights_that_were_altered_are_refused(path):
    tensors, metadata = read_safetensors(path)
    tensors["fc.bias"] += 1e-3
    write_safetensors(path, tensors, metadata)
    with pytest.raises(WeightsError, match="not those that its card was written for"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "os.system"},
        {"architecture": "resnet34"},
        {"channels": 3},
        {"task": {"classes": ["one"], "multilabel": False}},
        {"size": 48},
        {"steps": [{"step": "Pipeline", "pipeline": "print"}]},
        {"steps": [{"step": "Window", "low": 2, "high": 1}]},
        {"std": [0.0]},
        {"mean": None},
    ],
)
def test_a_card_that_does_not_describe_its_weights_is_refused(path, change):
    tensors, metadata = read_safetensors(path)
    card = json.loads(metadata["card"]) | change
    write_safetensors(path, tensors, {"card": json.dumps(card)})
    with pytest.raises(WeightsError, match="does not describe these weights"):
        load(path)


def test_a_card_that_lacks_something_is_refused(path):
    tensors, metadata = read_safetensors(path)
    card = json.loads(metadata["card"])
    del card["mean"]
    write_safetensors(path, tensors, {"card": json.dumps(card)})
    with pytest.raises(WeightsError, match="does not describe"):
        load(path)


@pytest.mark.parametrize("card", ["{", "[]", json.dumps({"format": 99})])
def test_a_card_that_is_no_card_is_refused(path, card):
    write_safetensors(path, read_safetensors(path)[0], {"card": card})
    with pytest.raises(WeightsError, match="damaged or of another version"):
        load(path)


def test_tensors_without_a_card_are_no_checkpoint(path, tmp_path):
    write_safetensors(tmp_path / "bare.safetensors", load_weights_file(path), {})
    with pytest.raises(WeightsError, match="carries no card"):
        load(tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match=r"package\.module:factory"):
        load(tmp_path / "model.pth")


def test_what_could_not_be_loaded_again_is_not_saved(model, tmp_path):
    own = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), TASK, channels=1, mean=0.5, std=0.25)
    with pytest.raises(WeightsError, match="module of your own"):
        save(own, tmp_path / "a.safetensors", **FACTS)
    with pytest.raises(WeightsError, match="code of your own"):
        save(Presented(model, [Pipeline(lambda image: image)]), tmp_path / "a.safetensors", **FACTS)
    with pytest.raises(WeightsError, match=r"are \.safetensors files"):
        save(model, tmp_path / "a.pth", **FACTS)
    assert not list(tmp_path.iterdir())
