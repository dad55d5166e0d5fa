"""Reasons beside an examination: the attacks that were recorded, stages by name, figures that are known, no work twice."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.evaluation.test_detection import FINDINGS, TASK, classifier, images, order, pgd
from torch import nn

from antivenom.errors import NotMeasuredError, RecordsError, SettingsError
from antivenom.evaluation import reasons as evaluation
from antivenom.evaluation.detection import examine
from antivenom.evaluation.guarding import fit_on
from antivenom.evaluation.reasons import Order, give_reasons, stages
from antivenom.evaluation.trials import Trial
from antivenom.guard.policy import Policy
from antivenom.models.architectures import build
from antivenom.records import reasons as records
from antivenom.records.detection import Detection
from antivenom.records.reasons import BLACK, SINGLE, STRANGER, WHITE, noise_like, read_reasons
from antivenom.records.store import Store

BOTH = (pgd(until="fooled"), pgd(), Trial(attack="fgsm", epsilon=0.1), pgd(made_on="surrogate", epsilon=0.2))
FEW = Order(images=8)


def examined(folder, task=TASK, trials=BOTH, **changes):
    model, data = classifier(task), images(task)
    guard = fit_on(model, data, folder / "r", detectors=("gaussian",), policy=Policy(0.1))
    other = classifier(task, seed=1) if any(trial.made_on == "surrogate" for trial in trials) else None
    examine(guard, data, order(*trials, **changes), folder, surrogate=other)
    return model, data, other


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with reasons, whose model and set they are of, and what was told of the work."""
    folder, told = tmp_path_factory.mktemp("run"), []
    model, data, other = examined(folder)
    give_reasons(model, data, folder, FEW, surrogate=other, command="typed", progress=lambda *said: told.append(said))
    return folder, model, data, other, told


def documents(folder):
    home = folder / "detection" / "reasons"
    return {path.stem: json.loads(path.read_text()) for path in home.iterdir() if path.stem != "provenance"}


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_every_part_is_measured_and_read_back_with_its_sample(given):
    folder, _, _, _, told = given
    found = read_reasons(Detection.read(folder))
    assert tuple(evaluation.PARTS) == records.PARTS
    assert found.missing == ()
    assert found.impossible == {}
    assert (found.rows[WHITE].attack, found.rows[WHITE].until) == ("pgd", "spent")
    assert found.rows[SINGLE[WHITE]].attack == "fgsm"
    assert found.rows[BLACK].made_on == "surrogate"
    assert SINGLE[BLACK] not in found.rows
    assert found.kinds == (WHITE, BLACK, SINGLE[WHITE], noise_like(WHITE), noise_like(BLACK), STRANGER)
    assert found.change(WHITE, "logits").n == 8
    assert {kind: len(places) for kind, places in found.points.items()} == {"held-out": 16, "clean": 8, WHITE: 8, BLACK: 8}
    assert len(found.pictures) == 2
    assert found.normality().whole.n >= 20
    assert json.loads((folder / "detection" / "reasons" / "provenance.json").read_text())["command"] == "typed"
    assert told[-1][0] == told[-1][1]
    assert told[-1][2] == "done"
    assert all(before[0] <= after[0] for before, after in pairwise(told))


def test_the_attack_is_the_one_that_was_recorded(given):
    folder, model, _, _, _ = given
    found = Detection.read(folder)
    reasons = read_reasons(found)
    where = {name: place for place, name in enumerate(found.splits["test"].images.tolist())}
    clean, attacked = (found.trial(number).logits for number in (0, reasons.rows[WHITE].number))
    for place, name in enumerate(reasons.names):
        before, after = clean[where[name]], attacked[where[name]]
        expected = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert reasons.changes(WHITE, "logits")[place] == pytest.approx(expected, rel=0.02)
    for picture in reasons.pictures:
        image = torch.as_tensor(Store(folder / "detection").pixels(picture.images[1]))[None]
        assert model.answers(image)[0].numpy() == pytest.approx(attacked[where[picture.name]], rel=0.05, abs=0.05)


def test_the_same_again_does_nothing_and_another_folder_holds_the_same(given, tmp_path):
    folder, model, data, other, _ = given
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    give_reasons(model, data, folder, FEW, surrogate=other)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    give_reasons(*examined(tmp_path)[:2], tmp_path, FEW, surrogate=other)
    assert documents(tmp_path) == documents(folder)


def test_work_that_was_killed_goes_on_without_a_part_done_twice(given, tmp_path, monkeypatch):
    model, data, other = examined(tmp_path)
    genuine, written, wall = Store.write_document, [], ["reasons/maps"]

    def counted(self, name, value):
        if name in wall:
            raise KeyboardInterrupt
        written.append(name)
        genuine(self, name, value)

    monkeypatch.setattr(Store, "write_document", counted)
    with pytest.raises(KeyboardInterrupt):
        give_reasons(model, data, tmp_path, FEW, surrogate=other)
    found = read_reasons(Detection.read(tmp_path))
    assert found.missing == ("maps", "normality")
    with pytest.raises(NotMeasuredError, match="run the same command again"):
        found.normality()
    wall.clear()
    (tmp_path / "detection" / "reasons" / ".maps.json.1.draft").touch()
    give_reasons(model, data, tmp_path, FEW, surrogate=other)
    assert len(written) == len(set(written))
    assert documents(tmp_path) == documents(given[0])


def test_the_model_and_the_examination_are_left_as_they_were(tmp_path):
    model, data, other = examined(tmp_path)
    before, digest = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, model.digest()
    state = torch.get_rng_state()
    give_reasons(model, data, tmp_path, FEW, surrogate=other)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert model.digest() == digest
    assert torch.equal(torch.get_rng_state(), state)


def test_another_model_set_surrogate_or_order_is_refused(given):
    folder, model, data, other, _ = given
    for wrong in ((other, data, other), (model, data, None), (model, images(name="others"), other)):
        with pytest.raises(RecordsError, match="differ"):
            give_reasons(*wrong[:2], folder, FEW, surrogate=wrong[2])
    with pytest.raises(RecordsError, match="its images differ"):
        give_reasons(model, data, folder, Order(images=9), surrogate=other)


def test_an_examination_without_such_an_attack_has_no_reasons(tmp_path):
    model, data, _ = examined(tmp_path, trials=(Trial(kind="corruption", attack="gaussian_blur", settings={"severity": 3}),))
    with pytest.raises(SettingsError, match="add one, such as PGD"):
        give_reasons(model, data, tmp_path, FEW)


def test_findings_are_looked_at_where_the_attack_concerns_them(tmp_path):
    model, data, _ = examined(tmp_path, task=FINDINGS, trials=(pgd(),))
    give_reasons(model, data, tmp_path, Order(images=64))
    found = Detection.read(tmp_path)
    reasons = read_reasons(found)
    assert len(reasons.names) == found.trial(1).concerned.sum() < len(found.groups)
    assert reasons.normality_of_answers() == ()
    assert BLACK not in reasons.points


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("maxpool", "layer1", "layer2", "layer3", "layer4")),
        ("resnet18+cbam", ("maxpool", "layer1", "layer2", "layer3", "layer4")),
        ("densenet121", ("features.pool0", *(f"features.denseblock{n}" for n in range(1, 5)))),
        ("efficientnet_b0", ("bn1", *(f"blocks.{n}" for n in range(7)))),
    ],
)
def test_stages_are_the_stem_and_the_stages_of_the_backbone(name, expected):
    model = build(name, TASK, channels=1, seed=0, size=(64, 64)).eval()
    assert stages(model, torch.rand(1, 1, 64, 64)) == expected


def test_of_a_plain_chain_the_last_layer_at_each_size_counts():
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    model = classifier()
    model.backbone = nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    assert stages(model, torch.rand(1, 1, 16, 16)) == ("0.1", "0.4")
    model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    assert stages(model, torch.rand(1, 1, 16, 16)) == ()


# -- parts -------------------------------------------------------------------------------------------------------------


def test_noise_goes_as_far_as_the_attack_even_where_the_range_ends():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[1, :, :4] = 0  # dark, as the surround of a scan
    x_adv = (x + torch.tensor([0.02, 0.05, 0.0]).reshape(3, 1, 1, 1)).clamp(0, 1)
    noisy = evaluation._noise(x, x_adv, evaluation.Draws.of(0, torch.arange(3)))
    size, wanted = ((images - x).flatten(1).norm(dim=1) for images in (noisy, x_adv))
    assert size == pytest.approx(wanted, rel=0.01)
    assert torch.equal(noisy[2], x[2])
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert ((noisy - x)[0] > 0).float().mean().item() == pytest.approx(0.5, abs=0.2)


def test_the_changes_are_those_of_the_activations(given):
    folder, model, data, _, _ = given
    reasons = read_reasons(Detection.read(folder))
    where = {key: place for place, key in enumerate(data.keys)}
    x = torch.stack([data[where[name]].image for name in reasons.names])
    with torch.no_grad():
        features = model.features(x)
    expected = (features.roll(1, 0) - features).norm(dim=1) / features.norm(dim=1)
    assert reasons.changes(STRANGER, "features") == pytest.approx(expected.numpy(), rel=1e-3)
    pixels = (x.roll(1, 0) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert reasons.changes(STRANGER, "pixels") == pytest.approx(pixels.numpy(), rel=1e-4)
    assert reasons.changes(noise_like(WHITE), "pixels") == pytest.approx(reasons.changes(WHITE, "pixels"), rel=0.01)


def test_an_attacked_image_is_beside_others_and_not_beside_itself():
    clean = np.array([[0.0], [10.0], [20.0]])
    assert evaluation._beside(clean, np.array([[11.0], [21.0], [1.0]])) == [False, False, False]
    assert evaluation._beside(clean, np.array([[50.0], [51.0], [52.0]])) == [True, True, True]
    assert evaluation._beside(clean, np.array([[9.0], [50.0], [52.0]])) == [False, True, True]


def test_a_part_that_cannot_be_measured_says_why(tmp_path, monkeypatch):
    model, data, other = examined(tmp_path)
    monkeypatch.setattr(evaluation, "room", lambda _: 0)
    give_reasons(model, data, tmp_path, FEW, surrogate=other)
    found = read_reasons(Detection.read(tmp_path))
    assert "too few to test even one direction" in found.impossible["normality"]
    with pytest.raises(NotMeasuredError, match="too few"):
        found.normality()


def test_without_training_images_everything_else_is_measured(tmp_path):
    model, data, other = examined(tmp_path)
    data = data.take([row for row, split in enumerate(data.index.splits) if split != "train"])
    path = tmp_path / "detection" / "asked.json"
    asked = json.loads(path.read_text())
    asked["data"]["digest"] = data.digest
    path.write_text(json.dumps(asked))
    give_reasons(model, data, tmp_path, FEW, surrogate=other)
    found = read_reasons(Detection.read(tmp_path))
    assert list(found.impossible) == ["normality"]
    assert "no split 'train'" in found.impossible["normality"]


def test_an_attack_that_concerns_no_two_images_has_no_reasons(tmp_path):
    model, data, _ = examined(tmp_path, trials=(pgd(),), images=1)
    with pytest.raises(NotMeasuredError, match=r"concern 1 image\(s\)"):
        give_reasons(model, data, tmp_path, FEW)
