import copy
import json
from dataclasses import replace

import pytest
import torch

from antivenom.detection.reading import Reading
from antivenom.errors import WeightsError
from antivenom.guard.files import load_guard, read_guard_card, save_guard
from antivenom.guard.fitting import fit_guard
from antivenom.guard.guard import Guard
from antivenom.models.architectures import build
from antivenom.models.presentation import Presented, Window
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.models.weights import load, read_card, save
from antivenom.provenance import digest_json, digest_tensors
from antivenom.task import Task

TASK = Task(("normal", "bacterial", "viral"))
FACTS = {"data_digest": "d" * 64, "seed": 3}
UNSEALED = {"seal", "format", "versions", "code", "weights"}


@pytest.fixture(scope="module")
def guard():
    model = Presented(build("resnet18", TASK, channels=1, size=(32, 32), seed=1).eval(), [Window(0.0, 0.9)])
    generator = torch.Generator().manual_seed(0)

    def read(count):
        features = torch.randn(count, 512, generator=generator)
        logits = 4 * features[:, :3]
        return Reading(logits, {"features": features}, dict.fromkeys(("bit-depth-5", "median-2"), logits + 0.1))

    held = read(300)
    targets = torch.multinomial((held.logits / 2).softmax(1), 1, generator=generator)[:, 0]
    detectors = ("gaussian", "neighbours", "squeezing")
    return fit_guard(model, [read(200)], tune=read(100), held_out=held, targets=targets, detectors=detectors, seed=0)


@pytest.fixture(scope="module")
def written(guard, tmp_path_factory):
    path = tmp_path_factory.mktemp("guards") / "chest.safetensors"
    save_guard(guard, path, **FACTS, metrics={"coverage": 0.9})
    return path


def altered(written, path, change, *, sealed=True, add=None, drop=()):
    """The file with another card, or other tensors, and digests that go with them."""
    tensors, metadata = read_safetensors(written)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in drop} | (add or {})
    card = json.loads(metadata["card"])
    change(card)
    card["weights"] = digest_tensors(tensors)
    if sealed:
        card["seal"] = digest_json({name: value for name, value in card.items() if name not in UNSEALED})
    write_safetensors(path, tensors, {"card": json.dumps(card)})
    return path


def test_a_guard_comes_back_to_the_bit(guard, written):
    again, images = load_guard(written), torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in zip(again(images), guard(images), strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
    assert again.check(images) == guard.check(images)
    assert (again.digest(), again.notes, again.describe()) == (guard.digest(), guard.notes, guard.describe())
    assert not any(module.training for module in again.modules())


def test_gradients_are_the_same_too(guard, written):
    images = torch.rand(1, 1, 40, 40)
    slopes = []
    for each in (guard, load_guard(written)):
        pixels = images.clone().requires_grad_()
        each(pixels).scores[:, :2].sum().backward()
        slopes.append(pixels.grad)
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-6)


def test_the_card_lies_beside_for_people(guard, written):
    card = json.loads(written.with_suffix(".json").read_text())
    assert card == read_guard_card(written)
    assert card["classifier"]["architecture"] == "resnet18"
    assert [watch["name"] for watch in card["watches"]] == ["gaussian", "neighbours", "squeezing"]
    assert card["policy"]["in words"].startswith("rejects what gaussian, neighbours or squeezing flags")
    assert card["all notes"] == list(guard.notes)
    assert card["metrics"] == {"coverage": 0.9}
    assert card["data"] == "d" * 64


def test_a_guard_and_a_classifier_are_told_apart(guard, written, tmp_path):
    save(guard.model, tmp_path / "plain.safetensors", **FACTS, metrics={})
    with pytest.raises(WeightsError, match="holds a classifier, and a guard was asked for"):
        load_guard(tmp_path / "plain.safetensors")
    for reader in (load, read_card):
        with pytest.raises(WeightsError, match="holds a guard, and a classifier was asked for"):
            reader(written)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: card["watches"][0]["detector"].update(kind="pickle"), "no detector is of kind 'pickle'"),
        (lambda card: card["watches"][0].update(model="f" * 64), "gaussian was fitted on another classifier"),
        (lambda card: card["watches"][0].update(scale=-1.0), "scale positive"),
        (lambda card: card["watches"][0]["threshold"].update(value="nan"), "threshold is finite"),
        (lambda card: card["watches"].pop(0), "neighbours detector lacks the tensor 'bank'"),
        (lambda card: card["watches"].append(dict(card["watches"][0])), "lacks the tensor"),
        (lambda card: card.pop("policy"), "'policy'"),
        (lambda card: card["policy"].update(rate=2), "false-alarm rate"),
        (lambda card: card["temperature"].update(values=[0.0]), "positive and finite"),
        (lambda card: card["sets"].update(present=[0.5]), "another task"),
        (lambda card: card["classifier"].update(architecture="os.system"), "does not describe these weights"),
        (lambda card: card["classifier"].update(mean=[0.1]), "fitted on another classifier"),
        (lambda card: card.update(watches=7), "not describe a guard"),
    ],
)
def test_a_card_that_does_not_describe_a_guard_is_refused(written, tmp_path, change, told):
    with pytest.raises(WeightsError, match=told):
        load_guard(altered(written, tmp_path / "a.safetensors", change))


def test_a_card_that_was_altered_is_refused(written, tmp_path):
    path = altered(written, tmp_path / "a.safetensors", lambda card: card["sets"].update(coverage=0.99), sealed=False)
    with pytest.raises(WeightsError, match="card was altered since it was written"):
        load_guard(path)
    with pytest.raises(WeightsError, match="card was altered"):
        read_guard_card(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"add": {"extra": torch.zeros(1)}}, "no place for the tensor 'extra'"),
        ({"add": {"classifier.extra": torch.zeros(1)}}, "does not describe these weights"),
        ({"add": {"detectors.7.mean": torch.zeros(1)}}, "tensors of detector 7, and its card names 3"),
        ({"add": {"detectors.0.extra": torch.zeros(1)}}, "no place for the tensor 'extra'"),
        ({"drop": ("detectors.0.mean",)}, "lacks the tensor 'mean'"),
        ({"drop": ("classifier.fc.bias",)}, "does not describe these weights"),
    ],
)
def test_tensors_that_are_missing_or_too_many_are_refused(written, tmp_path, change, told):
    with pytest.raises(WeightsError, match=told):
        load_guard(altered(written, tmp_path / "a.safetensors", dict.copy, **change))


def test_weights_of_another_classifier_are_refused(written, tmp_path):
    bias = read_safetensors(written)[0]["classifier.fc.bias"] + 1e-3
    path = altered(written, tmp_path / "a.safetensors", dict.copy, add={"classifier.fc.bias": bias})
    with pytest.raises(WeightsError, match="fitted on another classifier"):
        load_guard(path)


def test_damaged_files_are_refused(written, tmp_path):
    tensors, metadata = read_safetensors(written)
    tensors["detectors.0.mean"] = tensors["detectors.0.mean"] + 1
    write_safetensors(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match="not those that its card was written for"):
        load_guard(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(written.read_bytes()[:5000])
    for path in (tmp_path / "b.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(WeightsError):
            load_guard(path)


def test_what_could_not_be_loaded_again_is_not_saved(guard, scans, tmp_path):
    strange = copy.deepcopy(guard.watches[0].detector)
    strange.__class__ = type("Own", (type(strange),), {})
    with pytest.raises(WeightsError, match="gaussian: Own is a detector of your own"):
        save_guard(Guard(guard.model, [replace(guard.watches[0], detector=strange)]), tmp_path / "a.safetensors", **FACTS)
    with pytest.raises(WeightsError, match="module of your own"):
        save_guard(scans.fitted(), tmp_path / "a.safetensors", **FACTS)
    with pytest.raises(WeightsError, match=r"are \.safetensors files"):
        save_guard(guard, tmp_path / "a.pth", **FACTS)
    assert not list(tmp_path.iterdir())


def test_a_file_that_could_not_be_written_leaves_the_old_one(guard, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_guard(guard, path, **FACTS)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match="No space left"):
        save_guard(guard, path, data_digest="e" * 64, seed=4)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_pruned_weights_come_back_to_the_bit(guard, tmp_path):
    model = copy.deepcopy(guard.model)
    with torch.no_grad():
        for weight in (model.backbone.conv1.weight, model.backbone.fc.weight):
            weight[weight.abs() < weight.abs().median()] = 0
    sparse = Guard(model, [replace(watch, model="") for watch in guard.watches], sets=guard.sets)
    save_guard(sparse, tmp_path / "a.safetensors", **FACTS)
    assert load_guard(tmp_path / "a.safetensors").digest() == sparse.digest()
