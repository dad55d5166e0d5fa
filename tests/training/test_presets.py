import pytest
import torch
from pydantic import ValidationError

from antivenom.errors import SettingsError
from antivenom.models.tensor_files import write_safetensors
from antivenom.task import Task
from antivenom.training.presets import PRESETS, Recipe, preset

TASK = Task(("normal", "pneumonia"))


def recipe(**settings):
    return Recipe.model_validate({"name": "x", "epochs": 10, "batch": 8, "learning_rate": 0.1} | settings)


def rates(made, steps=4):
    return [made.rate(step, steps) for step in range(made.epochs * steps)]


def test_a_constant_rate_is_constant():
    assert set(rates(recipe())) == {0.1}


def test_a_cosine_falls_from_the_top_to_nothing():
    values = rates(recipe(schedule="cosine"))
    assert values[0] == 0.1
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.001
    assert values[20] == pytest.approx(0.05)


def test_one_cycle_climbs_for_three_tenths_and_falls_to_nothing():
    values = rates(recipe(schedule="one-cycle"))
    top = values.index(max(values))
    assert (top, values[top]) == (12, 0.1)
    assert values[0] == pytest.approx(0.004)
    assert values[:top] == sorted(values[:top])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert values[-1] < 0.001


def test_a_step_falls_every_so_many_epochs():
    made = recipe(schedule="step", step_epochs=4, step_factor=0.1)
    assert [made.rate(step, 4) for step in (0, 15, 16, 31, 32)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch": 1}, {"momentum": 1}, {"schedule": "linear"}, {"lr": 0.1}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValidationError):
        recipe(**settings)


def test_a_recipe_survives_json():
    for made in PRESETS.values():
        assert Recipe.model_validate_json(made.model_dump_json()) == made


def test_presets_carry_the_papers_own_settings():
    paper, repository = PRESETS["chen2021-paper"], PRESETS["chen2021-repo"]
    assert (paper.learning_rate, paper.momentum, paper.epochs, paper.architecture) == (1e-4, 0.9, 300, "resnet34")
    assert (repository.learning_rate, repository.weight_decay, repository.batch, repository.epochs) == (0.01, 1e-4, 128, 250)
    assert (repository.schedule, repository.step_epochs, repository.sampling) == ("step", 100, "balanced")
    assert [PRESETS[name].architecture for name in ("wasserman2022", "li2020", "sahu2024")] == [
        "resnet50",
        "densenet121",
        "efficientnet_b0",
    ]
    assert all(made.notes for made in PRESETS.values())


def test_an_unknown_preset_is_refused_with_those_that_are_known():
    assert preset("small") is PRESETS["small"]
    with pytest.raises(SettingsError, match=r"'tiny'; there are small, chen2021-paper"):
        preset("tiny")


def test_the_centre_crop_is_part_of_the_classifier(tmp_path):
    made = recipe(side=32, centre_crop=0.875, pretrained=True)
    donor = recipe(side=32).classifier(TASK, channels=1, seed=1)
    write_safetensors(tmp_path / "a.safetensors", donor.backbone.state_dict(), {})
    model = made.classifier(TASK, channels=1, seed=0, pretrained=tmp_path / "a.safetensors", tell=lambda _: None).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        cropped = images[..., 2:30, 2:30]
        assert torch.equal(model(images), model(cropped))
        assert torch.equal(model.prepare(images), (cropped - model.mean) / model.std)
    assert recipe(side=32).classifier(TASK, channels=1, seed=0).own_steps == ()
