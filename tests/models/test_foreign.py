import pytest
import torch
from torch import nn

from antivenom.errors import ModelError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.models.foreign import from_import
from antivenom.task import Task

BINARY, FINDINGS, THREE = Task(("normal", "pneumonia")), Task(("effusion", "mass"), multilabel=True), Task(("a", "b", "c"))


class Scores(nn.Module):
    """A linear answer with something at its end."""

    def __init__(self, width, ending=lambda z: z):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(16, width)
        self.layer.weight.data = torch.randn(width, 16, generator=generator)
        self.layer.bias.data = torch.randn(width, generator=generator)
        self.ending = ending

    def scores(self, images):
        return self.layer(images.flatten(1))

    def forward(self, images):
        return self.ending(self.scores(images))


def wrapped(module, task):
    return Classifier.wrap(module, task, channels=1, size=(4, 4)).eval()


@pytest.fixture
def images():
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ending", [lambda z: z, lambda z: z[:, 0]], ids=["column", "vector"])
def test_one_number_becomes_two_logits(images, ending):
    module = Scores(1, ending)
    logits = wrapped(module, BINARY)(images)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], module.scores(images).sigmoid())
    assert (logits[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("task", "width", "ending"),
    [
        (THREE, 3, lambda z: z.softmax(1)),
        (BINARY, 1, torch.sigmoid),
        (BINARY, 1, lambda z: torch.sigmoid(z)[:, 0]),
        (FINDINGS, 2, torch.sigmoid),
    ],
    ids=["softmax", "sigmoid", "sigmoid-vector", "findings"],
)
def test_probabilities_become_logits_and_the_reader_is_told(images, task, width, ending):
    module = Scores(width, ending)
    model = wrapped(module, task)
    scores = module.scores(images)
    expected = scores.log_softmax(1) if task is THREE else scores
    expected = torch.cat([torch.zeros_like(scores), scores], 1) if task is BINARY else expected
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)
    assert "hides gradients" in model.notes[0]


@pytest.mark.parametrize(("task", "width"), [(THREE, 3), (BINARY, 2), (BINARY, 1), (FINDINGS, 2)])
def test_logits_stay_as_they_are_and_nothing_is_said(images, task, width):
    module = Scores(width)
    model = wrapped(module, task)
    torch.testing.assert_close(model(images)[:, -width:], module.scores(images))
    assert model.notes == ()


def test_log_probabilities_are_logits(images):
    module = Scores(3, lambda z: z.log_softmax(1))
    model = wrapped(module, THREE)
    assert torch.equal(model(images), module(images))
    assert model.notes == ()


def test_saturated_probabilities_give_finite_logits():
    model = wrapped(Scores(3, lambda z: (1e4 * z).softmax(1)), THREE)
    assert model(torch.rand(4, 1, 4, 4)).isfinite().all()


def test_logits_that_happen_to_lie_in_the_unit_interval_are_kept_with_a_note(images):
    module = Scores(2, lambda z: 0.5 + 0.001 * z)
    model = wrapped(module, FINDINGS)
    torch.testing.assert_close(model(images), module(images))
    assert "read as logits" in model.notes[0]


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Scores(4), r"shape \(8, 4\)"),
        (Scores(1), r"shape \(8, 1\)"),
        (Scores(3, lambda z: (z, z)), "tuple"),
        (Scores(3, lambda z: z[:1]), r"shape \(1, 3\)"),
        (nn.Linear(5, 3), "cannot be run"),
    ],
    ids=["width", "single", "tuple", "batch", "input"],
)
def test_an_answer_that_does_not_fit_is_refused(module, match):
    with pytest.raises(ModelError, match=match):
        wrapped(module, THREE)


def test_a_model_without_a_gradient_says_so():
    model = wrapped(Scores(3, lambda z: z.detach().round()), THREE)
    assert "No gradient" in model.notes[0]
    assert not model.differentiable


def test_wrapping_changes_neither_mode_nor_generator():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))
    module[1].eval()
    world = torch.get_rng_state()
    model = Classifier.wrap(module, THREE, channels=1, size=(4, 4))
    assert [m.training for m in module] == [True, False, True]
    assert model.training
    assert torch.equal(world, torch.get_rng_state())


def test_features_of_a_wrapped_model_are_found(images):
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 1), nn.Sigmoid()).eval()
    model = wrapped(module, BINARY)
    torch.testing.assert_close(model.features(images), module[:3](images))


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "hospital_models.py").write_text(
        "from torch import nn\n"
        "def plain():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))\n"
        "def for_task(task):\n    classes = len(task.classes)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, classes))\n"
        "def made(task):\n    from antivenom.models.classifier import Classifier\n"
        "    return Classifier(for_task(task), task, channels=1, mean=0.5, std=0.25)\n"
        "def many(a, b):\n    return None\n"
        "def words():\n    return 'resnet'\n"
        "weights = 3\n"
    )
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize("name", ["plain", "for_task", "made"])
def test_a_factory_of_the_users_own_gives_a_ready_classifier(name):
    model = from_import(f"hospital_models:{name}", BINARY, 1)
    with torch.no_grad():
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 2)


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("hospital_models", "package.module:factory"),
        ("no_such_module:plain", "cannot import 'no_such_module'"),
        ("hospital_models:absent", "has no 'absent'"),
        ("hospital_models:weights", "not a function"),
        ("hospital_models:many", "takes 2 arguments"),
        ("hospital_models:words", "returned str"),
    ],
)
def test_what_is_no_factory_is_refused(spec, match):
    with pytest.raises(SettingsError, match=match):
        from_import(spec, BINARY, 1)


@pytest.mark.usefixtures("own_code")
def test_a_factory_for_other_data_is_refused():
    with pytest.raises(ModelError, match="takes 1 channel"):
        from_import("hospital_models:made", BINARY, 3)
    with pytest.raises(ModelError, match=r"shape \(8, 2\)"):
        from_import("hospital_models:plain", THREE, 1)
