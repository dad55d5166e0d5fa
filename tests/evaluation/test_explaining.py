"""An explanation beside an audit's records: whole, the same when run again, nothing lost by a kill, figures that are known."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, ModelError, NotMeasuredError, RecordsError
from antivenom.evaluation import explaining, looking
from antivenom.evaluation.explaining import Order, explain
from antivenom.evaluation.looking import late_layer, lesions
from antivenom.evaluation.protocol import Protocol, Row
from antivenom.evaluation.run import run
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.records.audit import Audit
from antivenom.records.explanation import PARTS
from antivenom.records.store import Store
from antivenom.task import Task
from toys import small_network

TASK = Task(("round", "flat", "long"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)
FEW = Order(images=6, keep=2)
CLIMB = Row(attack="pgd", epsilon=0.1, settings={"steps": 2})


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    """Few steps: what is tested is not how near they come."""
    monkeypatch.setattr(looking, "STEPS", 4)
    monkeypatch.setattr(looking, "SURFACES", 2)
    monkeypatch.setattr(looking, "SIDE", 3)
    monkeypatch.setattr(looking, "SEVERITIES", (5,))


def images(task=TASK, count=30, side=16, mask=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 1, side, side, generator=generator)
    shape = (count, len(task.classes)) if task.multilabel else (count,)
    targets = torch.randint(0, 2 if task.multilabel else len(task.classes), shape, generator=generator).numpy()
    splits = ["val" if i % 3 == 0 else "test" for i in range(count)]
    index = Index.of(
        [f"{i:03d}.png" for i in range(count)], targets, groups=[f"{splits[i]}{i // 6}" for i in range(count)], splits=splits
    )
    return ImageSet("toys", task, index, lambda row: pixels[row], channels=1, mask=mask)


def classifier(task=TASK, seed=0, network=None):
    return Classifier(network or small_network(1, len(task.classes), seed), task, channels=1, mean=0.5, std=0.25).eval()


def audited(folder, task=TASK, data=None, model=None, rows=(CLIMB,)):
    plan = (Row(attack="none"), *rows)
    return run(model or classifier(task), data or images(task), Protocol(plan=plan, execution="as given", examined=0), folder)


def half(row):
    """A lesion in the left quarter of the images of even rows; the others have none."""
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, :4] = row % 2 == 0
    return mask


def documents(folder):
    return {name: json.loads((folder / "explanation" / f"{name}.json").read_text()) for name in ("asked", *PARTS)}


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_every_part_is_measured_and_read_back_with_its_sample(tmp_path):
    told = []
    explain(classifier(), images(), audited(tmp_path), FEW, command="typed", progress=lambda *said: told.append(said))
    found = Audit.read(tmp_path).explanation
    assert found.finished
    assert found.impossible == {}
    assert (found.row.attack, found.row.number, found.row.epsilon) == ("pgd", 1, 0.1)
    assert len(found.places) == 6
    area = found.area()
    assert (area.n, area.groups) == (6, len(set(found.groups.tolist())))
    assert 0 < area.low <= area.value <= area.high <= 1
    assert found.areas == ("focus",)
    assert not found.has_lesions
    assert len(found.pictures) == 2
    assert [drawn.title for drawn in found.drawn()] == ["Orthopaedic pin", "Dust on the plate"]
    assert [blocks for blocks, _ in found.shuffled()] == [2, 3, 4]
    assert found.plane().rise.n == 2
    done, total, last = told[-1]
    assert done == total > 0
    assert last == "done"
    assert all(before[0] <= after[0] for before, after in pairwise(told))
    assert json.loads((tmp_path / "explanation" / "provenance.json").read_text())["command"] == "typed"


def test_the_model_and_the_audit_are_left_as_they_were(tmp_path):
    model = classifier()
    audited(tmp_path, model=model)
    before, digest = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, model.digest()
    explain(model, images(), tmp_path, FEW)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert model.digest() == digest
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_again_does_nothing_and_another_folder_holds_the_same(tmp_path):
    for name in "ab":
        explain(classifier(), images(), audited(tmp_path / name), FEW)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    explain(classifier(), images(), tmp_path / "a", FEW)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert documents(tmp_path / "a") == documents(tmp_path / "b")


@pytest.mark.parametrize("stop", ["regions", "shuffled"])
def test_work_that_was_killed_goes_on_without_a_part_done_twice(tmp_path, monkeypatch, stop):
    explain(classifier(), images(), audited(tmp_path / "whole"), FEW)
    audited(tmp_path / "halves")
    genuine, written, wall = Store.write_document, [], [f"explanation/{stop}"]

    def counted(self, name, value):
        if name in wall:
            raise KeyboardInterrupt
        written.append(name)
        genuine(self, name, value)

    monkeypatch.setattr(Store, "write_document", counted)
    with pytest.raises(KeyboardInterrupt):
        explain(classifier(), images(), tmp_path / "halves", FEW)
    found = Audit.read(tmp_path / "halves").explanation
    assert stop in found.missing
    assert not found.finished
    with pytest.raises(NotMeasuredError, match=f"{stop} is not measured; run the same command again"):
        found.part(stop)
    (tmp_path / "halves" / "explanation" / ".focus.json.1.draft").touch()
    wall.clear()
    explain(classifier(), images(), tmp_path / "halves", FEW)
    assert documents(tmp_path / "halves") == documents(tmp_path / "whole")
    assert len(written) == len(set(written))
    assert not list((tmp_path / "halves" / "explanation").glob(".*"))


# -- which images, which attack ----------------------------------------------------------------------------------------


def test_images_that_the_model_has_right_come_first_after_those_of_the_pictures(tmp_path):
    explain(classifier(), images(), audited(tmp_path), Order(images=8, keep=3))
    audit = Audit.read(tmp_path)
    right = audit.right(0)[audit.explanation.places, 0]
    assert right.tolist() == audit.explanation.right[:, 0].tolist()
    rest = right[3:]
    assert rest.sum() == min(len(rest), audit.right(0)[:, 0].sum() - right[:3].sum())
    assert rest.tolist() == sorted(rest.tolist(), reverse=True)
    shown = audit.targets[[one.place for one in audit.explanation.pictures]]
    assert len(set(shown.tolist())) == 3  # classes take turns


def test_models_audited_on_the_same_images_have_pictures_of_the_same(tmp_path):
    for seed in (0, 1):
        model = classifier(seed=seed)
        explain(model, images(), audited(tmp_path / str(seed), model=model), FEW)
    one, other = ([p.place for p in Audit.read(tmp_path / name).explanation.pictures] for name in "01")
    assert one == other


def test_an_audit_without_a_climb_is_explained_by_pgd_at_the_middle_level(tmp_path):
    explain(classifier(), images(), audited(tmp_path, rows=(Row(attack="fgsm", epsilon=0.1),)), FEW)
    row = Audit.read(tmp_path).explanation.row
    assert (row.attack, row.number, row.threat, row.epsilon) == ("pgd", -1, "linf", 2 / 255)


def test_a_target_leaves_out_images_that_are_of_it(tmp_path):
    rows = (Row(attack="pgd", epsilon=0.2, settings={"steps": 2}, goal="targeted: long"),)
    explain(classifier(), images(), audited(tmp_path, rows=rows), Order(images=20, keep=1))
    found = Audit.read(tmp_path).explanation
    assert (found.targets != 2).all()


# -- parts -------------------------------------------------------------------------------------------------------------


def test_lesions_are_looked_for_where_they_are_known(tmp_path):
    data = images(mask=half)
    explain(classifier(), data, audited(tmp_path, data=data), FEW)
    found = Audit.read(tmp_path).explanation
    assert found.has_lesions
    assert found.areas == ("focus", "lesion")
    odd = np.array([int(name[:3]) % 2 == 1 for name in found.names])
    assert np.isnan(found.drift("clean_mass"))[odd].all()
    assert found.mass().n == found.lesion_area.n == (~odd).sum() > 0
    assert found.lesion_area.value == pytest.approx(0.25)
    assert found.fooled_in("lesion", "inside").n == found.fooled_whole("lesion").n <= (~odd).sum()
    assert [bool(one.mask) for one in found.pictures] == [int(found.names[i][:3]) % 2 == 0 for i in range(2)]


def test_a_part_of_the_image_fools_no_more_than_all_of_it(tmp_path):
    explain(classifier(), images(), audited(tmp_path), Order(images=12, keep=0))
    found = Audit.read(tmp_path).explanation
    whole = found.fooled_whole("focus").value
    for part in ("inside", "outside", "elsewhere"):
        assert found.fooled_in("focus", part).value <= whole
    assert found.pictures == ()


class LeftHalf(nn.Module):
    """Two classes by the brightness of the left half: the rest does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.keep.weight)

    def forward(self, x):
        z = self.keep(x)[:, :, :, :8].mean((1, 2, 3))
        return 20 * torch.stack([-z, z], 1)


def test_known_figures_of_a_model_that_looks_at_the_left_half_alone(tmp_path):
    task, data = Task(("dark", "bright")), images(Task(("dark", "bright")), mask=lambda _: half(0).roll(12, 1))
    model = classifier(task, network=LeftHalf())
    rows = (Row(attack="pgd", epsilon=0.2, settings={"steps": 10, "step_size": 0.3}),)
    explain(model, data, audited(tmp_path, task, data, model, rows), Order(images=12, keep=0))
    found = Audit.read(tmp_path).explanation
    lead = np.array(  # the mean of the left half is turned by moving every value of it as far
        [abs(float((data.split("test")[int(place)].image[:, :, :8].mean() - 0.5) / 0.25)) for place in found.places]
    )
    near = found.distances("linf")
    known = ~np.isnan(near)
    assert known.any()
    assert (near[known] >= 0.25 * lead[known] * 0.99).all()  # in units of the range: no smaller change can be found
    assert found.fooled_in("lesion", "inside").value == 0  # the lesion lies to the right
    assert found.fooled_in("lesion", "outside").value == found.fooled_whole("lesion").value


def test_findings_are_explained_at_their_operating_points(tmp_path):
    rows = (Row(attack="pgd", epsilon=0.3, settings={"steps": 2, "objective": "log_likelihood"}, goal="against every finding"),)
    explain(classifier(FINDINGS), images(FINDINGS), audited(tmp_path, FINDINGS, rows=rows), FEW)
    found = Audit.read(tmp_path).explanation
    assert found.finished
    assert found.right.shape == (6, 3)
    assert found.drawn()[0].kept.n == found.right.sum()
    assert not np.isnan(found.distances("linf")).any()
    assert found.fooled.n == 6


def test_small_images_have_nothing_drawn_on_them_and_say_so(tmp_path):
    data = images(side=12)
    explain(classifier(), data, audited(tmp_path, data=data), FEW)
    found = Audit.read(tmp_path).explanation
    assert found.finished
    assert list(found.impossible) == ["artefacts"]
    with pytest.raises(NotMeasuredError, match="fewer than 16 pixels"):
        found.drawn()


def test_a_model_without_maps_is_explained_by_its_answers_alone(tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    model = classifier(network=flat)
    explain(model, images(), audited(tmp_path, model=model), FEW)
    found = Audit.read(tmp_path).explanation
    assert found.layer == ""
    assert list(found.impossible) == ["focus"]
    assert found.areas == ()
    assert found.distance("linf").measured
    assert not found.drawn()[0].mass.measured
    assert found.pictures == ()


# -- the layer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "side", "layer", "size"),
    [("resnet18", 64, "layer3", (4, 4)), ("resnet18", 28, "layer2", (4, 4)), ("resnet50", 64, "layer3", (4, 4))],
)
def test_the_last_layer_of_four_pixels_a_side_is_chosen(architecture, side, layer, size):
    model = build(architecture, TASK, channels=1, seed=0).eval()
    assert late_layer(model, torch.rand(1, 1, side, side)) == (layer, size)


def test_where_no_map_is_fine_enough_the_last_one_is_taken():
    model = classifier(network=nn.Sequential(nn.Conv2d(1, 4, 8, stride=8), nn.Flatten(), nn.Linear(16, 3)).eval())
    assert late_layer(model, torch.rand(1, 1, 16, 16)) == ("0", (2, 2))


def test_masks_that_are_all_empty_are_none():
    empty = torch.zeros(2, 2, dtype=torch.bool)
    assert lesions([None, None]) is None
    assert lesions([empty, None]) is None
    assert lesions([~empty, None]).sum((1, 2)).tolist() == [4, 0]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "order", "error", "said"),
    [
        (classifier(seed=1), images(), FEW, RecordsError, "its model differ"),
        (classifier(), images(count=33), FEW, RecordsError, "its images differ"),
        (classifier(), images(), Order(images=5, keep=2), RecordsError, "another explanation: its images differ"),
        (classifier().train(), images(), FEW, ModelError, "training mode"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, model, data, order, error, said):
    explain(classifier(), images(), audited(tmp_path), FEW)
    with pytest.raises(error, match=said):
        explain(model, data, tmp_path, order)


def test_a_folder_without_an_audit_and_a_goal_without_images_are_refused(tmp_path):
    with pytest.raises(RecordsError, match="not a run's folder"):
        explain(classifier(), images(), tmp_path, FEW)
    data = images(Task(("round", "flat")), count=6)
    data.index.targets[:] = 1
    model = classifier(data.task)
    rows = (Row(attack="pgd", epsilon=0.1, settings={"steps": 1}, goal="targeted: flat"),)
    audited(tmp_path / "b", data=data, model=model, rows=rows)
    audit = Audit.read(tmp_path / "b")
    with pytest.raises(DataError, match="none of the 4 test images is concerned"):
        explaining._chosen(audit, audit.rows[1], FEW)


def test_a_distance_that_was_not_found_is_infinite(tmp_path):
    explain(classifier(), images(), audited(tmp_path), FEW)
    path = tmp_path / "explanation" / "distances.json"
    found = json.loads(path.read_text())
    found["linf"] = [None] * 6
    path.write_text(json.dumps(found))
    assert Audit.read(tmp_path).explanation.distance("linf").value == math.inf
