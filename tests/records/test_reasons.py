"""Reasons read back: figures that can be foretold, and documents that contradict each other."""

import json

import numpy as np
import pytest
from tests.examinations import Examined, trial, write_examination

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.records.detection import HOME, Detection
from antivenom.records.parts import WHY_NOT
from antivenom.records.reasons import BLACK, PARTS, SINGLE, STRANGER, WHITE, noise_like, read_reasons
from antivenom.records.store import Store

TRIALS = (
    trial("pgd"),
    trial("fgsm"),
    trial("pgd", epsilon=0.05, made_on="surrogate"),
    trial("fgsm", epsilon=0.05, made_on="surrogate"),
)
STAGES = ("pixels", "stem", "layer1", "layer2", "features", "logits")
PATHS = {  # relative change by stage, in the median
    WHITE: (0.04, 0.06, 0.09, 0.3, 0.6, 1.2),
    BLACK: (0.1, 0.12, 0.11, 0.09, 0.08, 0.1),
    SINGLE[WHITE]: (0.04, 0.06, 0.08, 0.2, 0.3, 0.5),
    SINGLE[BLACK]: (0.1, 0.12, 0.13, 0.12, 0.16, 0.2),
    noise_like(WHITE): (0.04, 0.05, 0.03, 0.02, 0.02, 0.01),
    noise_like(BLACK): (0.1, 0.11, 0.08, 0.04, 0.03, 0.02),
    STRANGER: (0.5, 0.6, 0.6, 0.7, 0.7, 0.9),
}


def write_reasons(folder, *, kinds=tuple(PATHS), parted=True, leave_out=(), images=20):
    """Made-up reasons beside a made-up examination; features of clean images in two groups, or in one."""
    store, luck = Store(folder / HOME), np.random.default_rng(0)
    found = Detection.read(folder)
    names = found.splits["test"].images[:images].tolist()
    numbers = dict(zip((WHITE, SINGLE[WHITE], BLACK, SINGLE[BLACK]), (1, 2, 3, 4), strict=True))
    asked = {
        "order": {"images": images, "seed": 0, "shown": 1},
        "trials": {kind: number for kind, number in numbers.items() if kind in kinds},
        "images": names,
        "stages": list(STAGES),
    }
    store.write_document("reasons/asked", asked)
    rank = np.linspace(-0.5, 0.5, images)  # images differ, by stage and by kind, around the medians
    changes = {
        kind: {
            stage: (value * np.exp(0.05 * (1 + number) * (1 + place) * rank)).tolist()
            for place, (stage, value) in enumerate(zip(STAGES, PATHS[kind], strict=True))
        }
        for number, kind in enumerate(kinds)
    }
    sets = ["held-out", "clean", *(kind for kind in (WHITE, BLACK) if kind in kinds)]
    nearest = {kind: [place < share * images for place in range(images)] for kind, share in ((WHITE, 0.9), (BLACK, 0.5))}
    pixels = [store.keep_pixels(luck.random((1, 16, 16))) for _ in range(2)]
    maps = [store.keep_pixels(luck.random((6, 8, 8))) for _ in range(2)]
    coordinates = luck.normal(size=(160, 3)) * [3, 2, 1] + 30.0 * parted * (np.arange(160) % 2)[:, None] * [1, 0, 0]
    documents = {
        "growth": {"changes": changes},
        "neighbours": {
            "perplexity": 26.0,
            "kinds": [kind for kind in sets for _ in names],
            "points": luck.normal(size=(len(sets) * images, 2)).round(3).tolist(),
            "nearest": {kind: column for kind, column in nearest.items() if kind in kinds},
        },
        "maps": {
            "layer": "layer1",
            "numbers": list(range(6)),
            "pictures": [{"image": names[0], "clean": pixels[0], "attacked": pixels[1], "maps": maps}],
        },
        "normality": {
            "wanted": 0.95,
            "width": 512,
            "share": 0.97,
            "training images": 500,
            "fitted": store.keep_pixels(coordinates[:80][None]),
            "fresh": store.keep_pixels(coordinates[80:][None]),
            "fitted answers": (np.arange(80) % 2).tolist(),
            "fresh answers": (np.arange(80) % 2).tolist(),
        },
    }
    for part in PARTS:
        if part not in leave_out:
            store.write_document(f"reasons/{part}", documents[part])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_examination(tmp_path_factory.mktemp("run"), Examined(trials=TRIALS, n_test=40))
    return write_reasons(made)


@pytest.fixture(scope="module")
def found(folder):
    return read_reasons(Detection.read(folder))


def test_an_examination_without_reasons_has_none(tmp_path):
    assert read_reasons(Detection.read(write_examination(tmp_path, Examined(trials=TRIALS)))) is None


def test_the_median_change_has_an_interval_by_patient(found):
    change = found.change(WHITE, "features")
    assert change.value == pytest.approx(0.6, rel=0.01)
    assert change.low < change.value < change.high
    assert (change.n, change.groups) == (20, 10)
    assert found.rows[WHITE].attack == "pgd"
    assert found.rows[SINGLE[BLACK]].made_on == "surrogate"


def test_growth_is_told_step_by_step_and_over_all(found):
    assert found.climb == ("pixels", "stem", "layer1", "layer2", "features")
    assert [step.value for step in found.steps(WHITE)] == pytest.approx([1.5, 1.5, 10 / 3, 2], rel=0.01)
    assert found.growth(WHITE).value == pytest.approx(15, rel=0.01)
    assert found.growth(BLACK).value == pytest.approx(0.8, rel=0.01)
    assert found.rising(WHITE).value == 1
    assert found.rising(BLACK).value == 0
    assert found.times(WHITE, SINGLE[WHITE], "features").value == pytest.approx(2, rel=0.01)
    assert found.times(BLACK, SINGLE[BLACK], "features").value == pytest.approx(0.5, rel=0.01)
    with pytest.raises(NotMeasuredError, match="no change of layer9"):
        found.change(WHITE, "layer9")


def test_who_stands_beside_attacked_images_is_a_share_by_patient(found):
    share = found.beside_attacked(WHITE)
    assert (share.value, share.n, share.groups) == (pytest.approx(0.9), 20, 10)
    assert list(found.points) == ["held-out", "clean", WHITE, BLACK]
    assert all(places.shape == (20, 2) for places in found.points.values())


def test_two_classes_are_not_one_normal_distribution_though_each_may_be(found, tmp_path):
    whole = found.normality()
    assert whole.p < 0.01
    assert whole.departing == 1
    assert (whole.directions, whole.width, whole.distances.fitted, whole.whole.n) == (3, 512, 80, 80)
    answers = found.normality_of_answers()
    assert [one.answer for one in answers] == list(found.classes[:2])
    assert all(one.p > 0.05 for one in answers)
    other = write_reasons(write_examination(tmp_path, Examined(trials=TRIALS, n_test=40)), parted=False)
    assert read_reasons(Detection.read(other)).normality().p > 0.05


def test_parts_that_are_not_there_are_refused(tmp_path):
    made = write_reasons(write_examination(tmp_path, Examined(trials=TRIALS, n_test=40)), leave_out=("neighbours",))
    Store(made / HOME).write_document("reasons/maps", {WHY_NOT: "no layer of the model puts out maps"})
    found = read_reasons(Detection.read(made))
    assert found.missing == ("neighbours",)
    assert found.impossible == {"maps": "no layer of the model puts out maps"}
    with pytest.raises(NotMeasuredError, match="no layer of the model"):
        found.part("maps")
    with pytest.raises(NotMeasuredError, match="goes on where it stopped"):
        found.beside_attacked(WHITE)


@pytest.mark.parametrize(
    ("document", "change", "said"),
    [
        ("asked", lambda d: d["images"].append("nobody.png"), "nobody.png is no test image"),
        ("asked", lambda d: d["trials"].update(white=99), "another version"),
        ("growth", lambda d: d["changes"][WHITE]["stem"].pop(), "19 values of 20 images"),
        ("neighbours", lambda d: d["points"].pop(), "names without a point"),
        ("neighbours", lambda d: d.pop("kinds"), "another version"),
    ],
)
def test_documents_that_contradict_each_other_are_refused(tmp_path, document, change, said):
    made = write_reasons(write_examination(tmp_path, Examined(trials=TRIALS, n_test=40)))
    path = made / HOME / "reasons" / f"{document}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordsError, match=said):
        read_reasons(Detection.read(made))
