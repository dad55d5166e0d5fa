import numpy as np
import pytest
import torch
from pydantic import ValidationError

from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, RecordsError, SettingsError
from antivenom.evaluation.detection import Examination, examine
from antivenom.evaluation.guarding import fit_on, halves
from antivenom.evaluation.trials import MATCHING, ORTHOGONAL, Trial, adaptive, naive
from antivenom.guard.policy import Policy
from antivenom.models.classifier import Classifier
from antivenom.records.store import Store
from antivenom.task import Task
from toys import small_network

TASK = Task(("round", "flat", "long"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)


def images(task=TASK, count=160, size=16, name="toys"):
    generator = torch.Generator().manual_seed(0)
    pixels = 0.3 + 0.4 * torch.rand(count, 1, size, size, generator=generator)
    shape = (count, len(task.classes)) if task.multilabel else (count,)
    targets = torch.randint(0, 2 if task.multilabel else len(task.classes), shape, generator=generator).numpy()
    splits = ["train", "val", "val", "test"] * (count // 4)
    index = Index.of(
        [f"{name}{i:03d}.png" for i in range(count)], targets, groups=[f"p{i}" for i in range(count)], splits=splits
    )
    return ImageSet(name, task, index, lambda row: pixels[row], channels=1)


def classifier(task=TASK, seed=0):
    return Classifier(small_network(1, len(task.classes), seed), task, channels=1, mean=0.5, std=0.25).eval()


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    names = ("gaussian", "isolation-forest")
    return fit_on(classifier(), images(), tmp_path_factory.mktemp("r"), detectors=names, policy=Policy(0.1, ("gaussian",)))


def order(*trials, **changes):
    return Examination(trials=trials, **{"shard": 16, "images": 24, "execution": "as given", **changes})


def pgd(**changes):
    return Trial(**{"attack": "pgd", "settings": {"steps": 5}, "epsilon": 0.1, **changes})


def rows(folder):
    store = Store(folder)
    tables = (store.examples(), store.answers(), store.scores())
    return [sorted(table.to_pylist(), key=lambda row: (row["example"], row.get("detector", ""))) for table in tables]


def test_clean_images_come_from_both_halves_and_no_test_image_is_held_out(guard, tmp_path):
    examine(guard, images(), order(), tmp_path)
    scans = Store(tmp_path / "detection").scans().to_pylist()
    held = {scan["image"] for scan in scans if scan["split"] == "val"}
    tune, out = halves(images().split("val"), 0)
    assert held == set(out.keys)
    assert not held & set(tune.keys)
    assert len({scan["image"] for scan in scans if scan["split"] == "test"}) == 24
    examples, answers, scores = rows(tmp_path / "detection")
    assert len(examples) == len(answers) == len(held) + 24
    assert len(scores) == 2 * len(examples)


def test_every_trial_meets_every_image_and_says_what_it_did(guard, tmp_path):
    examine(guard, images(), order(pgd(), Trial(kind="corruption", attack="gaussian_blur", settings={"severity": 3})), tmp_path)
    examples, answers, _ = rows(tmp_path / "detection")
    attacked = [e for e in examples if e["row"] == 1]
    before = {e["image"]: a["logits"] for e, a in zip(examples, answers, strict=True) if e["row"] == 0}
    assert len(attacked) == 24
    after = {e["image"]: a["logits"] for e, a in zip(examples, answers, strict=True) if e["row"] == 1}
    for example in attacked:
        name = example["image"]
        assert example["linf"] <= 0.1 * (1 + 1e-4)
        assert example["reached"] == (np.argmax(before[name]) != np.argmax(after[name]))
    blurred = [e for e in examples if e["row"] == 2]
    assert len(blurred) == 24
    assert not any(e["reached"] or e["gradients"] for e in blurred)
    assert all(e["linf"] > 0 for e in blurred)


@pytest.mark.parametrize("attack", ["pgd", ORTHOGONAL, MATCHING, "square"])
@pytest.mark.parametrize("detector", ["gaussian", "isolation-forest"])
def test_whoever_passes_a_detector_is_below_its_threshold(guard, tmp_path, attack, detector):
    settings = {"queries": 300} if attack == "square" else {"steps": 10}
    if attack == "pgd":
        settings["objective"] = "selective"
    epsilon = 0.1 if attack == "square" else 0.3  # squares of full size are noticed
    trial = Trial(attack=attack, settings=settings, epsilon=epsilon, until="fooled", evading=(detector,))
    examine(guard, images(), order(trial, images=12), tmp_path)
    examples, _, scores = rows(tmp_path / "detection")
    threshold = next(watch.threshold.value for watch in guard.watches if watch.name == detector)
    score = {row["example"]: row["score"] for row in scores if row["detector"] == detector}
    passed = [e for e in examples if e["row"] == 1 and e["reached"]]
    assert passed
    assert all(score[e["example"]] <= threshold for e in passed)
    assert all("unnoticed by " + detector in e["goal"] for e in passed)


def test_an_attack_on_a_surrogate_is_judged_by_the_guarded_model(guard, tmp_path):
    trial = pgd(made_on="surrogate", epsilon=0.2)
    examine(guard, images(), order(trial), tmp_path, surrogate=classifier(seed=1))
    other = rows(tmp_path / "detection")
    assert not any(e["flags"] for e in other[0])  # to fool the surrogate alone is no unconfirmed success
    assert any(e["row"] == 1 and not e["reached"] for e in other[0])
    examine(guard, images(), order(pgd(epsilon=0.2)), tmp_path / "white")
    white = rows(tmp_path / "white" / "detection")
    rate = [np.mean([e["reached"] for e in found[0] if e["row"] == 1]) for found in (other, white)]
    assert rate[0] < rate[1]


def test_findings_that_are_not_present_are_not_overturned(tmp_path):
    model, data = classifier(FINDINGS), images(FINDINGS)
    guard = fit_on(model, data, tmp_path / "r", detectors=("gaussian",), policy=Policy(0.1))
    examine(guard, data, order(pgd()), tmp_path)
    examples, answers, _ = rows(tmp_path / "detection")
    thresholds = np.array(Store(tmp_path / "detection").document("operating")["thresholds"])
    clean = {e["image"]: np.array(a["logits"]) for e, a in zip(examples, answers, strict=True) if e["row"] == 0}
    tested = {e["image"] for e in examples if e["row"] == 1}
    assert 0 < len(tested) < 24
    for name in tested:
        assert clean[name].max() > thresholds[clean[name].argmax()]


def test_images_of_another_set_are_scored(guard, tmp_path):
    other = images(name="others", size=20).split("test")
    examine(guard, images(), order(), tmp_path, others={"others": other})
    scans = Store(tmp_path / "detection").scans().to_pylist()
    assert sum(scan["split"] == "others" for scan in scans) == 24


def test_it_goes_on_where_it_was_stopped(guard, tmp_path, monkeypatch):
    trials = order(pgd(), pgd(until="fooled", evading=("gaussian",), settings={"steps": 5, "objective": "log_odds"}))
    examine(guard, images(), trials, tmp_path / "whole")
    written, genuine = [], Store.write_shard

    def counted(self, name, *tables):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(name)
        genuine(self, name, *tables)

    monkeypatch.setattr(Store, "write_shard", counted)
    with pytest.raises(KeyboardInterrupt):
        examine(guard, images(), trials, tmp_path / "halves")
    monkeypatch.setattr(Store, "write_shard", genuine)
    examine(guard, images(), trials, tmp_path / "halves")
    whole, again = (rows(tmp_path / name / "detection") for name in ("whole", "halves"))
    assert [e["image"] for e in whole[0]] == [e["image"] for e in again[0]]
    np.testing.assert_allclose([s["score"] for s in whole[2]], [s["score"] for s in again[2]], rtol=1e-4, atol=1e-3)


def test_a_folder_of_another_examination_is_refused(guard, tmp_path):
    examine(guard, images(), order(), tmp_path)
    with pytest.raises(RecordsError, match="its trials differ"):
        examine(guard, images(), order(pgd()), tmp_path)


def test_what_cannot_be_is_refused_before_any_work(guard, tmp_path):
    with pytest.raises(SettingsError, match="no detector 'energy'"):
        examine(guard, images(), order(pgd(evading=("energy",))), tmp_path)
    with pytest.raises(SettingsError, match="to be made on a surrogate"):
        examine(guard, images(), order(pgd(made_on="surrogate")), tmp_path)
    with pytest.raises(SettingsError, match="answers another question"):
        examine(guard, images(), order(), tmp_path, surrogate=classifier(FINDINGS))
    with pytest.raises(DataError, match="asks for"):
        examine(guard, images(FINDINGS), order(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_guard_is_fitted_again_from_what_was_read(tmp_path):
    model, data = classifier(), images()
    first = fit_on(model, data, tmp_path, policy=Policy(0.1))
    read = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = fit_on(model, data, tmp_path, policy=Policy(0.1))
    assert first.digest() == again.digest()
    assert all(path.stat().st_mtime_ns == before for path, before in read.items())
    with pytest.raises(RecordsError, match="readings of another model"):
        fit_on(classifier(seed=1), data, tmp_path, policy=Policy(0.1))


def test_trials_say_what_they_are():
    trials = list(naive(steps=4))
    assert [(t.attack, t.until) for t in trials] == [
        ("fgsm", "spent"), *((name, until) for name in ("bim", "pgd", "mim") for until in ("spent", "fooled"))
    ]  # fmt: skip
    kinds = [t.attack for t in adaptive({"gaussian": True})], [t.attack for t in adaptive({"forest": False})]
    assert "square" in kinds[1]
    assert "square" not in kinds[0]
    assert Trial(attack="pgd", epsilon="2/255", evading=("gaussian",)).told == "pgd past gaussian on the model, linf 2/255"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attack": "nonsense"}, "no attack 'nonsense'"),
        ({"attack": ORTHOGONAL}, "name them in `evading`"),
        ({"kind": "corruption", "attack": "rain"}, "no corruption 'rain'"),
        ({"kind": "clean", "evading": ("gaussian",)}, "evade nothing"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Trial(**fields)
