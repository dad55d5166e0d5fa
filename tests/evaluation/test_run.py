"""A protocol becomes records: complete, confirmed, the same when run again, and nothing lost by a kill."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, ModelError, RecordsError, SplitError
from antivenom.evaluation import run as running
from antivenom.evaluation.batteries import plan
from antivenom.evaluation.protocol import Protocol, Row
from antivenom.evaluation.run import run
from antivenom.models.classifier import Classifier
from antivenom.records.audit import Audit
from antivenom.records.store import Store
from antivenom.task import Task
from toys import small_network

TASK = Task(("round", "flat", "long"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)


def images(task=TASK, count=40, channels=1, fail_at=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, channels, 12, 12, generator=generator)
    shape = (count, len(task.classes)) if task.multilabel else (count,)
    targets = torch.randint(0, 2 if task.multilabel else len(task.classes), shape, generator=generator).numpy()
    splits = ["val" if i % 4 == 0 else "test" for i in range(count)]
    groups = [f"{splits[i]}{i // 8}" for i in range(count)]
    index = Index.of([f"{i:03d}.png" for i in range(count)], targets, groups=groups, splits=splits)

    def load(row):
        if row == fail_at:
            raise OSError("the disk went away")
        return pixels[row]

    return ImageSet("toys", task, index, load, channels=channels)


def classifier(task=TASK, channels=1, seed=0):
    return Classifier(small_network(channels, len(task.classes), seed), task, channels=channels, mean=0.5, std=0.25).eval()


def short(**changes):
    plan = (
        Row(attack="none"),
        Row(attack="noise", epsilon=0.1),
        Row(attack="pgd", epsilon="8/255", settings={"steps": 5}),
        Row(attack="square", epsilon=0.1, settings={"queries": 10}),
        Row(attack="pgd", epsilon=0.5, threat="l2", settings={"steps": 5}),
    )
    return Protocol(**{"plan": plan, "shard": 8, "execution": "as given", "keep": 3, "examined": 0, **changes})


def rows(folder):
    store = Store(folder)
    columns = store.examples().sort_by([("example", "ascending")]), store.answers().sort_by([("example", "ascending")])
    return tuple(table.to_pylist() for table in columns)


def test_every_image_meets_every_row_and_is_measured(tmp_path):
    data, model = images(), classifier()
    run(model, data, short(), tmp_path)
    examples, answers = rows(tmp_path)
    assert len(examples) == 10 + 5 * 30
    for example, answer in zip(examples, answers, strict=True):
        limit = {"linf": example["linf"], "l2": example["l2"], "none": example["linf"]}[example["threat"].split(",")[0]]
        assert limit <= example["epsilon"] * (1 + 1e-4)
        target = data.index.targets[int(example["image"][:3])]
        assert example["reached"] == (np.argmax(answer["logits"]) != target)
    attacked = [e for e in examples if e["attack"] == "pgd"]
    assert any(e["reached"] for e in attacked)
    assert all(e["gradients"] for e in attacked if not e["reached"])


def test_kept_pixels_give_the_recorded_answer_again(tmp_path):
    model = classifier()
    run(model, images(), short(), tmp_path)
    store = Store(tmp_path)
    said = {answer["example"]: answer["logits"] for answer in store.answers().to_pylist()}
    kept = [example for example in store.examples().to_pylist() if example["pixels"]]
    assert len(kept) == 3 * 5
    for example in kept:
        pixels = torch.from_numpy(store.pixels(example["pixels"]))
        torch.testing.assert_close(model(pixels[None])[0], torch.tensor(said[example["example"]]))


def test_the_same_seed_gives_the_same_records_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(classifier(), images(), short(seed=seed), tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_run_that_was_interrupted_continues_where_it_stood(tmp_path, monkeypatch, stop):
    run(classifier(), images(), short(), tmp_path / "whole")
    written = []
    genuine = Store.write_shard

    def counted(self, name, *tables):
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(name)
        genuine(self, name, *tables)

    monkeypatch.setattr(Store, "write_shard", counted)
    with pytest.raises(KeyboardInterrupt):
        run(classifier(), images(), short(), tmp_path / "halves")
    assert len(Store(tmp_path / "halves").shards()) == stop
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "halves" / "shards").rglob("*.parquet")}
    stop = 10**6
    run(classifier(), images(), short(), tmp_path / "halves")
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())  # no finished shard was redone
    assert len(set(written)) == len(written)


def test_a_kill_at_any_moment_loses_no_finished_shard(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from test_run import classifier, images, run, short
        import time
        def tell(*_):
            print("shard", flush=True)
            time.sleep(0.02)
        run(classifier(), images(), short(), Path(sys.argv[1]), progress=tell)
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])}
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        for _ in range(7):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    finished = Store(tmp_path / "killed").shards()
    assert finished
    run(classifier(), images(), short(), tmp_path / "killed")
    run(classifier(), images(), short(), tmp_path / "whole")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "shards").glob(".*"))


def test_what_fails_on_the_way_leaves_what_is_finished(tmp_path):
    with pytest.raises(OSError, match="went away"):
        run(classifier(), images(fail_at=39), short(), tmp_path)
    done = len(Store(tmp_path).shards())
    assert done == 2 + 3  # validation and the clean shards before the one that failed
    run(classifier(), images(), short(), tmp_path)
    assert len(Store(tmp_path).shards()) == 2 + 5 * 4


def test_a_full_disk_is_said_in_a_sentence_and_nothing_is_lost(tmp_path, monkeypatch):
    genuine, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        genuine(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordsError, match="No space left on device; finished shards are safe"):
        run(classifier(), images(), short(), tmp_path)
    monkeypatch.undo()
    done = Store(tmp_path).shards()
    assert done
    run(classifier(), images(), short(), tmp_path)
    assert set(done) < set(Store(tmp_path).shards())


@pytest.mark.parametrize(
    ("model", "data", "protocol", "said"),
    [
        (classifier(seed=1), images(), short(), "model"),
        (classifier(), images(count=44), short(), "data"),
        (classifier(), images(), short(seed=5), "seed"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, model, data, protocol, said):
    run(classifier(), images(), short(), tmp_path)
    with pytest.raises(RecordsError, match=f"another run: its {said} differ"):
        run(model, data, protocol, tmp_path)


def test_a_model_that_does_not_fit_the_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="asks for"):
        run(classifier(FINDINGS), images(), short(), tmp_path)
    with pytest.raises(DataError, match="channel"):
        run(classifier(channels=3), images(), short(), tmp_path)
    with pytest.raises(ModelError, match="training mode"):
        run(classifier().train(), images(), short(), tmp_path)
    with pytest.raises(SplitError, match="val"):
        run(classifier(), images().resplit(["test"] * 40), short(), tmp_path)
    assert not (tmp_path / "protocol.json").exists()


def test_operating_points_come_from_validation_images_alone(tmp_path):
    data, model = images(FINDINGS), classifier(FINDINGS)
    plan = (Row(attack="none", goal="against every finding"),)
    run(model, data, short(plan=plan), tmp_path / "a")
    targets = data.index.targets.copy()
    targets[[i for i in range(40) if i % 4]] ^= 1  # the test images' labels, turned over
    other = ImageSet("toys", FINDINGS, Index.of(data.keys, targets, splits=data.index.splits.tolist()), data._load, channels=1)
    run(model, other, short(plan=plan), tmp_path / "b")
    assert Store(tmp_path / "a").document("operating") == Store(tmp_path / "b").document("operating")


def test_a_multi_label_model_is_attacked_in_every_finding(tmp_path):
    data, model = images(FINDINGS), classifier(FINDINGS)
    run(model, data, short(plan=plan("standard", FINDINGS, 144, steps=8, queries=10, levels=(4, 8))), tmp_path)
    examples, answers = rows(tmp_path)
    points = torch.tensor(Store(tmp_path).document("operating")["thresholds"])

    def wrong(attack, epsilon):
        chosen = [
            (torch.tensor(a["logits"]) > points) != torch.tensor(data.index.targets[int(e["image"][:3])]).bool()
            for e, a in zip(examples, answers, strict=True)
            if e["attack"] == attack and e["threat"] == "linf" and e["epsilon"] == epsilon
        ]
        return torch.stack(chosen).float().mean()

    assert wrong("pgd", 8 / 255) > wrong("pgd", 4 / 255) > wrong("noise", 4 / 255)
    assert wrong("pgd", 1.0) > 0.9


def test_a_goal_concerns_only_images_that_do_not_show_it_yet(tmp_path):
    data = images()
    goal = "targeted: flat"
    plan = (Row(attack="none", goal=goal), Row(attack="pgd", goal=goal, epsilon=0.5, settings={"steps": 5}))
    run(classifier(), data, short(plan=plan), tmp_path)
    assert Audit.read(tmp_path).accuracy().n == 30  # every image is looked at clean
    attacked = [e for e in rows(tmp_path)[0] if e["attack"] == "pgd"]
    assert attacked
    assert {int(data.index.targets[int(e["image"][:3])]) for e in attacked} == {0, 2}


def test_the_fastest_execution_is_chosen_once_and_kept(tmp_path, monkeypatch):
    run(classifier(), images(), short(execution="auto"), tmp_path)
    chosen = Store(tmp_path).document("execution")["execution"]
    (tmp_path / "shards" / "test-000000-002-pgd" / "examples.parquet").unlink()
    (tmp_path / "shards" / "test-000000-002-pgd" / "answers.parquet").unlink()
    (tmp_path / "shards" / "test-000000-002-pgd").rmdir()
    monkeypatch.setattr(running, "accelerate", lambda *_, **__: pytest.fail("measured again"))
    run(classifier(), images(), short(execution="auto"), tmp_path)
    assert Store(tmp_path).document("provenance")["precision"]["propose"] == chosen


def test_no_more_images_are_drawn_than_asked_and_the_kept_ones_show_every_class(tmp_path):
    run(classifier(), images(), short(images=12), tmp_path)
    scans = Store(tmp_path).scans().to_pylist()
    tests = {s["image"]: s["target"][0] for s in scans if s["split"] == "test"}
    assert len(tests) == 12
    kept = {e["image"] for e in Store(tmp_path).examples().to_pylist() if e["pixels"]}
    assert {tests[image] for image in kept} == {0, 1, 2}


def test_provenance_says_where_the_figures_come_from(tmp_path):
    model, data = classifier(), images()
    run(model, data, short(), tmp_path, command="antivenom audit", name="toy", card={"seed": 3})
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found["weights"] == model.digest() == Store(tmp_path).document("protocol")["model"]["digest"]
    assert found["data"] == data.digest
    assert found["command"] == "antivenom audit"
    assert found["seconds"] > 0
    assert found["card"]["seed"] == 3
    assert found["card"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_progress_runs_from_nothing_to_the_end(tmp_path):
    seen = []
    run(classifier(), images(), short(), tmp_path, progress=lambda done, total, _: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == 1


@pytest.mark.parametrize(("attack", "efforts"), [("pgd", 3), ("spearhead", 2)])
def test_the_main_attack_is_examined_image_by_image_and_only_once(tmp_path, monkeypatch, attack, efforts):
    data, model, told = images(), classifier(), []
    plan = (Row(attack="none"), Row(attack=attack, epsilon="8/255", settings={"steps": 40}))
    run(model, data, short(plan=plan, examined=6), tmp_path, progress=lambda *said: told.append(said[2]))
    found = Audit.read(tmp_path).diagnosis
    assert Audit.read(tmp_path).rows[found.row].attack == attack
    assert len(found.images) == 6
    assert len(found.convergence) == efforts
    assert all(len(fooled) == 6 for fooled in found.convergence.values())
    assert found.posed.all()
    assert found.found.mean() > 0.8
    assert any("examining" in text for text in told)
    right = dict(zip(Audit.read(tmp_path).splits["test"].images, Audit.read(tmp_path).right(0)[:, 0], strict=True))
    assert all(right[name] for name in found.images)
    monkeypatch.setattr(running, "diagnose", None)  # would fail if called
    run(model, data, short(plan=plan, examined=6), tmp_path)


@pytest.mark.parametrize("examined", [0, 6])
def test_without_an_attack_by_gradient_or_without_images_nothing_is_examined(tmp_path, examined):
    plan = (Row(attack="none"), Row(attack="noise", epsilon=0.1), Row(attack="pgd", epsilon=0.1, settings={"steps": 2}))
    run(classifier(), images(), short(plan=plan[: 2 if examined else 3], examined=examined), tmp_path)
    assert Audit.read(tmp_path).diagnosis is None
