"""Certificates beside an audit's records: complete, the same when run again, nothing lost by a kill, contradictions refused."""

import json

import numpy as np
import pytest
import torch

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, ModelError, NotMeasuredError, RecordsError, SettingsError
from antivenom.evaluation import certification
from antivenom.evaluation.certification import Order, certify
from antivenom.evaluation.protocol import Protocol, Row
from antivenom.evaluation.run import run
from antivenom.models.classifier import Classifier
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.task import Task
from toys import small_network

TASK = Task(("round", "flat", "long"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)
HOME = "certificates/sigma-0.1"


def images(task=TASK, count=24, channels=1):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, channels, 12, 12, generator=generator)
    shape = (count, len(task.classes)) if task.multilabel else (count,)
    targets = torch.randint(0, 2 if task.multilabel else len(task.classes), shape, generator=generator).numpy()
    splits = ["val" if i % 3 == 0 else "test" for i in range(count)]
    index = Index.of(
        [f"{i:03d}.png" for i in range(count)], targets, groups=[f"{splits[i]}{i // 6}" for i in range(count)], splits=splits
    )
    return ImageSet("toys", task, index, lambda row: pixels[row], channels=channels)


def classifier(task=TASK, channels=1, seed=0):
    return Classifier(small_network(channels, len(task.classes), seed), task, channels=channels, mean=0.5, std=0.25).eval()


def order(**changes):
    return Order(**{"sigma": 0.1, "n0": 10, "n": 100, "images": 10, **changes})


def attacked(folder, **changes):
    rows = (Row(attack="none"), Row(attack="pgd", epsilon=0.5, threat="l2", settings={"steps": 3}))
    return run(classifier(), images(), Protocol(plan=rows, execution="as given", examined=0, **changes), folder)


def documents(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / HOME).glob("0*.json"))}


def test_every_image_gets_its_certificate_and_the_figures_follow(tmp_path):
    data, model = images(), classifier()
    certify(model, data, order(), tmp_path, command="typed")
    (found,) = Audit.read(tmp_path).certifications
    assert (found.sigma, found.n0, found.n, found.alpha, found.wanted) == (0.1, 10, 100, 0.001, 10)
    assert found.finished
    assert found.radius.shape == (10, 1)
    assert (found.radius[found.abstained] == 0).all()
    assert (found.radius[~found.abstained] > 0).all()
    assert found.radius.max() <= found.reach + 1e-9
    assert found.accuracy(0.0).n == 10
    assert found.accuracy(0.0).groups == len(set(found.groups.tolist())) < 10
    shares = [estimate.value for _, estimate in found.curve()]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(float((found.right & (found.radius > 0)).mean()))
    assert found.accuracy(found.reach).value == 0
    assert found.balanced_accuracy(0.0).measured
    assert json.loads((tmp_path / HOME / "provenance.json").read_text())["command"] == "typed"
    assert Audit.read(tmp_path).finished  # an audit of the clean images alone


def test_certificates_join_an_audit_and_take_their_images_from_it(tmp_path):
    attacked(tmp_path, images=8)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    certify(classifier(), images(), order(images=5), tmp_path)
    certify(classifier(), images(), order(sigma=0.3, images=50), tmp_path)
    assert all(path.read_bytes() == content for path, content in before.items())
    few, all_of_them = Audit.read(tmp_path).certifications
    assert (few.sigma, len(few.places), all_of_them.sigma, len(all_of_them.places)) == (0.1, 5, 0.3, 8)
    assert all_of_them.places.tolist() == list(range(8))
    assert few.groups.tolist() == Audit.read(tmp_path).groups[few.places].tolist()


def test_the_same_again_does_nothing_and_another_seed_draws_other_noise(tmp_path):
    certify(classifier(), images(), order(), tmp_path / "a")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    certify(classifier(), images(), order(), tmp_path / "a")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    certify(classifier(), images(), order(), tmp_path / "b")
    certify(classifier(), images(), order(seed=1), tmp_path / "c")
    assert documents(tmp_path / "a") == documents(tmp_path / "b") != documents(tmp_path / "c")


@pytest.mark.parametrize("stop", [1, 3])
def test_work_that_was_killed_goes_on_without_an_image_done_twice(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(certification, "AT_STAKE", 330)  # three images a shard
    certify(classifier(), images(), order(), tmp_path / "whole")
    genuine, written = Store.write_document, []

    def counted(self, name, value):
        if "/0" in name:
            if len(written) == stop:
                raise KeyboardInterrupt
            written.append(name)
        genuine(self, name, value)

    monkeypatch.setattr(Store, "write_document", counted)
    with pytest.raises(KeyboardInterrupt):
        certify(classifier(), images(), order(), tmp_path / "halves")
    (found,) = Audit.read(tmp_path / "halves").certifications
    assert (found.finished, len(found.places)) == (False, 3 * stop)
    with pytest.raises(NotMeasuredError, match="of 10 images are certified"):
        found.accuracy()
    (tmp_path / "halves" / HOME / ".000000.json.1.draft").touch()
    left, stop, told = 10 - 3 * stop, 99, []
    certify(classifier(), images(), order(), tmp_path / "halves", progress=lambda *said: told.append(said))
    assert documents(tmp_path / "halves") == documents(tmp_path / "whole")
    assert len(written) == len(set(written)) == 4
    assert told[0][:2] == (0, left)
    assert told[-1][:2] == (left, left)
    assert not list((tmp_path / "halves" / HOME).glob(".*"))


def test_a_kill_among_the_clean_images_goes_on_too(tmp_path, monkeypatch):
    genuine = Store.write_shard
    monkeypatch.setattr(Store, "write_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        certify(classifier(), images(), order(), tmp_path)
    monkeypatch.setattr(Store, "write_shard", genuine)
    certify(classifier(), images(), order(), tmp_path)
    audit = Audit.read(tmp_path)
    assert audit.finished
    assert audit.certifications[0].finished


def test_findings_are_certified_at_their_operating_points(tmp_path):
    model, data = classifier(FINDINGS), images(FINDINGS)
    certify(model, data, order(), tmp_path)
    audit = Audit.read(tmp_path)
    (found,) = audit.certifications
    assert found.radius.shape == (10, 3)
    sure = ~found.abstained
    assert sure.any()
    # Far from the boundary, what is certain of the smoothed model is what the model says at its operating points.
    far = found.radius == found.radius.max()
    clean = audit.right(0)[found.places]
    assert (found.right[far] == clean[far]).mean() > 0.8


@pytest.mark.parametrize(
    ("model", "data", "asked", "error", "said"),
    [
        (classifier(seed=1), images(), order(), RecordsError, "its model differ"),
        (classifier(), images(count=30), order(), RecordsError, "its images differ"),
        (classifier(), images(), order(n=200), RecordsError, "another certification: its n, shard differ"),
        (classifier(), images(), order(images=4), RecordsError, "its images"),
        (classifier(FINDINGS), images(), order(), DataError, "asks for"),
        (classifier(channels=3), images(), order(), DataError, "channel"),
        (classifier().train(), images(), order(), ModelError, "training mode"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, model, data, asked, error, said):
    certify(classifier(), images(), order(), tmp_path)
    with pytest.raises(error, match=said):
        certify(model, data, asked, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"sigma": 0}, {"sigma": "nan"}, {"n": 0}, {"n0": 0}, {"alpha": 1}, {"alpha": 0}, {"images": 0}, {"seed": -1}]
)
def test_an_order_that_cannot_be_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(SettingsError, match=f"^{name}: "):
        Order.of(**wrong)
    assert Order.of(sigma=0.5).sigma == 0.5


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("radius", 0.9, "does not follow from its votes"),
        ("votes", 101, "101 votes of 100"),
        ("class", 7, "does not follow"),
        ("image", "other.png", "no test images of this run, such as other.png"),
    ],
)
def test_records_that_contradict_themselves_are_refused(tmp_path, column, value, said):
    certify(classifier(), images(), order(), tmp_path)
    path = tmp_path / HOME / "000000.json"
    found = json.loads(path.read_text())
    found[column][0] = value
    path.write_text(json.dumps(found))
    with pytest.raises(RecordsError, match=said):
        Audit.read(tmp_path)


def test_an_abstention_is_never_right(tmp_path):
    certify(classifier(), images(), order(sigma=5.0), tmp_path)
    (found,) = Audit.read(tmp_path).certifications
    assert found.abstained.any()
    assert not found.right[found.abstained].any()
    assert found.abstention.value == pytest.approx(float(np.mean(found.abstained)))
