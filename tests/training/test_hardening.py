"""Hardening puts defences together as their rows say, refuses what does not go together, and continues."""

from pathlib import Path

import pytest
import torch
from torch import nn

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import SettingsError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.models.parameters import count
from antivenom.models.weights import load, read_card
from antivenom.provenance import digest_tensors
from antivenom.task import Task
from antivenom.training.hardening import DEFENCES, combined, defence, harden, tuned
from antivenom.training.presets import Recipe

TASK = Task(("dark", "bright"))
RECIPE = Recipe(name="test", side=32, epochs=1, batch=8, learning_rate=0.01, precision="float32")


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = 0.3 * torch.rand(30, 1, 32, 32, generator=generator)
    targets = (torch.arange(30) % 3 == 0).long()
    pixels[targets == 1, :, 8:24, 8:24] += 0.6
    splits = ["val" if i % 5 == 4 else "train" for i in range(30)]
    index = Index.of([f"square-{i}" for i in range(30)], targets.numpy(), splits=splits)
    return ImageSet("squares", TASK, index, pixels.__getitem__, channels=1)


def own_module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    return Classifier(layers, TASK, channels=1, mean=0.5, std=0.25).eval()


def of(*names, epsilon=0.1):
    return combined(RECIPE, [defence(name) for name in names], epsilon)


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_every_defence_of_the_table_makes_a_recipe(name):
    recipe, row = of(name), defence(name)
    assert recipe.architecture == ("resnet18" if not row.part else f"resnet18+{row.part}")
    assert (recipe.adversary is None) == (row.adversary is None)
    if recipe.adversary is not None:
        assert recipe.adversary.epsilon == 0.1
    assert "https://" in row.reference or name == "plain" or "Med. Phys." in row.reference


def test_every_defence_has_its_line_in_the_documents():
    page = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
    assert not [name for name in DEFENCES if f"| `{name}` |" not in page]


def test_defences_add_up_and_those_that_cannot_are_refused():
    both = of("cbam", "adversarial", "block-shuffle")
    assert (both.architecture, both.adversary.steps, both.augmentation.blocks) == ("resnet18+cbam", 3, 3)
    with pytest.raises(SettingsError, match="TRADES and another defence both set adversary"):
        of("adversarial", "trades")
    with pytest.raises(SettingsError, match="no defence 'hope'; there are plain, cbam"):
        of("hope")


def test_a_number_after_the_name_sets_the_share():
    assert defence("prune:0.4").share == 0.4
    assert defence("prune").share == 0.2
    assert of("kwta:0.3").architecture == "resnet18+kwta:0.3"
    for name, match in (("prune:1", "below 1"), ("prune:x", "'x'"), ("kwta:-0.1", "above 0"), ("cbam:0.5", "takes no number")):
        with pytest.raises(SettingsError, match=match):
            defence(name)


def test_fine_tuning_is_shorter_gentler_and_keeps_zeros():
    recipe = Recipe.model_validate(of("adversarial").model_dump() | {"epochs": 20})
    after = tuned(recipe)
    assert (after.epochs, after.learning_rate, after.keep_zeros) == (5, pytest.approx(0.001), True)
    assert after.adversary.warm_up == 0
    assert recipe.adversary.warm_up > 0


def test_attention_pruning_and_a_denoiser_come_together_and_load_again(images, tmp_path):
    found = harden(images, ["cbam", "prune", "denoiser"], RECIPE, tmp_path, seed=0, tell=len)
    assert found.checkpoint == tmp_path / "model.safetensors"
    again = load(found.checkpoint)
    x = torch.stack([images[i].image for i in range(4)])
    assert torch.equal(again(x), found.classifier(x))
    convolutions = [layer for layer in again.backbone.modules() if isinstance(layer, nn.Conv2d)]
    zeros = sum(int((layer.weight == 0).sum()) for layer in convolutions)
    assert zeros == pytest.approx(0.2 * sum(layer.weight.numel() for layer in convolutions), rel=1e-3)
    assert count(again.backbone).zeros >= zeros
    assert again.architecture == "resnet18+cbam"
    assert [type(step).__name__ for step in again.own_steps] == ["Denoiser"]
    assert read_card(found.checkpoint)["metrics"]["defences"] == ["cbam", "prune", "denoiser"]


def test_a_finished_hardening_is_not_done_again(images, tmp_path):
    told, names = [], ["adversarial", "prune", "median"]

    def hear(stage):
        return lambda done, total, text: told.append((stage, done, total, text))

    first = harden(images, names, RECIPE, tmp_path, seed=0, start=own_module(), tell=len, told=hear)
    assert {stage for stage, *_ in told} == {"training", "pruning"}
    told.clear()
    again = harden(images, names, RECIPE, tmp_path, seed=0, start=own_module(), tell=len, told=hear)
    assert not told
    assert digest_tensors(again.classifier.state_dict()) == digest_tensors(first.classifier.state_dict())
    assert [type(step).__name__ for step in again.classifier.own_steps] == ["Median"]


def test_a_given_checkpoint_is_begun_from_and_left_as_it_is(images, tmp_path):
    start = build("resnet18", TASK, channels=1, seed=3, size=(32, 32)).eval()
    before, said = digest_tensors(start.state_dict()), []
    found = harden(images, ["self"], RECIPE, tmp_path, seed=0, start=start, tell=said.append)
    assert digest_tensors(start.state_dict()) == before
    assert "122 of" in said[0]
    assert found.classifier.architecture == "resnet18+self"
    assert any("the given model" in note for note in found.classifier.notes)


def test_a_module_of_one_s_own_is_hardened_as_it_is(images, tmp_path):
    found = harden(images, ["adversarial"], RECIPE, tmp_path / "a", seed=0, epsilon=0.1, start=own_module(), tell=len)
    assert found.checkpoint == tmp_path / "a" / "training" / "model.safetensors"
    assert found.training.score_name == "robust balanced accuracy"
    with pytest.raises(SettingsError, match="a module of your own"):
        harden(images, ["cbam"], RECIPE, tmp_path / "b", seed=0, start=own_module(), tell=len)


def test_a_distilled_pupil_learns_from_a_teacher_at_the_same_temperature(images, tmp_path):
    found = harden(images, ["distillation"], RECIPE, tmp_path, seed=0, start=own_module(), tell=len)
    assert (tmp_path / "teacher" / "state.safetensors").is_file()
    assert found.classifier(images[0].image[None]).isfinite().all()
