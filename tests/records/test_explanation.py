"""An explanation read back: every figure with its sample, what is missing refused, what contradicts itself too."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.runs import CHEST, FINDINGS, Run, write_run

from antivenom.errors import NotMeasuredError, RecordsError
from antivenom.records.audit import Audit
from antivenom.records.explanation import PARTS
from antivenom.records.parts import WHY_NOT
from antivenom.records.store import Store

SIDE = 32
CHESTS = Run(
    CHEST, n_test=24, n_val=12, images_per_group=2, size=SIDE, keep=0, epsilons=(1, 2), attacks=("noise", "pgd"), flags=()
)
DRIFT = {
    "clean_area": 0.2,
    "attacked_area": 0.4,
    "clean_effective_area": 0.5,
    "attacked_effective_area": 0.6,
    "overlap": 0.3,
    "shift": 4.0,
    "shift_share": 0.1,
    "correlation": -0.25,
    "clean_mass": None,
    "attacked_mass": None,
    "clean_hit": None,
    "attacked_hit": None,
    "mask_area": None,
    "change_outside": 0.8,
}
LESION = {"clean_mass": 0.6, "attacked_mass": 0.3, "clean_hit": 1.0, "attacked_hit": 0.0, "mask_area": 0.25}


def write_explanation(folder, *, n=8, kept=2, parts=PARTS, lesions=False, attention=False, number=4, area=0.2, **changes):
    """Write an explanation of the first test images of a made-up run, with figures that are known; gives the audit."""
    audit, store = Audit.read(folder), Store(folder)
    names, width = audit.splits["test"].images[:n].tolist(), audit.task.decisions
    row = audit.rows[number]
    drift = {name: [value] * n for name, value in {**DRIFT, **(LESION if lesions else {}), "clean_area": area}.items()}
    documents = {
        "focus": {
            "drift": drift,
            "noise": {"overlap": [0.9] * n, "shift_share": [0.01] * n, "correlation": [0.95] * n},
            "strangers": {"overlap": [0.15] * n, "shift_share": [0.2] * n, "correlation": [0.05] * n},
            "loss": {"whole": [2.0] * (n - 1) + [-1.0], "inside": [0.5] * n, "outside": [1.2] * n},
            "fooled": [i % 2 == 0 for i in range(n)],
            "pictures": [_picture(store, name, len(audit.task.classes), lesions, attention) for name in names[:kept]],
        },
        "regions": {
            "whole": [i % 2 == 0 for i in range(n)],
            "focus": {
                "area": [0.2] * n,
                "inside": [False] * n,
                "outside": [i % 4 == 0 for i in range(n)],
                "elsewhere": [False] * n,
            },
            **(
                {"lesion": {"area": [0.25] * 4 + [None] * (n - 4), **{p: [True] * 4 + [None] * (n - 4) for p in _PARTS}}}
                if lesions
                else {}
            ),
        },
        "distances": {"steps": 40, "linf": [(i + 1) / 255 for i in range(n - 1)] + [None], "l2": [0.5 + i for i in range(n)]},
        "artefacts": {
            "lines": [
                {
                    "name": "pin",
                    "title": "Orthopaedic pin",
                    "severity": severity,
                    "strength": severity / 10,
                    "unit": "length, share of the shorter side",
                    "right": [[i >= severity] * width for i in range(n)],
                    "area": [0.01 * severity] * n,
                    "mass": [0.03 * severity] * n,
                    "before": [0.02 * severity] * n,
                    "hit": [0.0] * n,
                }
                for severity in (1, 3)
            ]
        },
        "shuffled": {"lines": [{"blocks": 3, "right": [[i < 2] * width for i in range(n)]}]},
        "surface": {
            "image": names[:3],
            "distances": [-2.0, -1.0, 0.0, 1.0, 2.0],
            "epsilon": 2 / 255,
            "norm": "linf",
            "values": [[float(down)] * 5 for down in range(-2, 3)],
            "rise": [1.0, 1.0, 4.0],
            "bend": [0.0, 0.1, 0.2],
        },
    }
    asked = {
        "order": {"images": n, "seed": 0, "keep": kept},
        "row": {name: getattr(row, name) for name in ("number", "attack", "label", "settings", "goal", "threat", "epsilon")},
        "images": names,
        "right": [[True] * width] * n,
        "kept": names[:kept],
        "layer": "layer3",
        "map": [4, 4],
    }
    for name in parts:
        store.write_document(f"explanation/{name}", changes.pop(name, documents[name]))
    store.write_document("explanation/asked", {**asked, **changes})
    return Audit.read(folder)


_PARTS = ("inside", "outside", "elsewhere")


def _picture(store, name, classes, lesions, attention):
    luck = np.random.default_rng(len(name))
    image, heat = luck.random((1, SIDE, SIDE)), np.linspace(0, 1, SIDE**2).reshape(1, SIDE, SIDE)
    keep = store.keep_pixels
    layer = {"stage": "layer3", "kind": "Cbam", "layer": "layer3.1.cbam"}
    layer |= {f"{when}_places": keep(heat * 0.5) for when in ("clean", "attacked")}
    layer |= {f"{when}_channels": keep(np.linspace(0, 1, 8)) for when in ("clean", "attacked")}
    return {
        "image": name,
        "answers": [np.eye(classes)[0].tolist(), np.eye(classes)[1].tolist()],
        "clean": keep(image),
        "attacked": keep(image),
        "clean_map": keep(heat),
        "attacked_map": keep(heat[:, ::-1]),
        "mask": keep((heat > 0.7).astype(np.float32)) if lesions else "",
        "attention": [layer] if attention else [],
    }


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", CHESTS)


def test_a_run_without_one_has_none(folder):
    assert Audit.read(folder).explanation is None


def test_figures_follow_from_the_documents_with_images_and_patients(folder):
    found = write_explanation(folder).explanation
    assert found.finished
    assert found.row.attack == "pgd"
    figures = [found.area(), found.area("attacked"), found.area(effective=True), found.moved("overlap"), found.change_outside()]
    assert [e.value for e in figures] == pytest.approx([0.2, 0.4, 0.5, 0.3, 0.8])
    assert {(e.n, e.groups) for e in figures} == {(8, 4)}
    assert found.moved("correlation").value == -0.25
    assert (found.moved("overlap", "noise").value, found.moved("overlap", "strangers").value) == pytest.approx((0.9, 0.15))
    assert found.chance_outside().value == pytest.approx(0.8)
    assert (found.loss_part("outside").value, found.loss_part("outside").n) == (0.6, 7)
    assert found.fooled.value == 0.5
    assert math.isfinite(found.fooled.low)


def test_a_map_that_points_nowhere_does_not_count(folder):
    write_explanation(folder)
    store = Store(folder)
    document = store.document("explanation/focus")
    document["drift"]["clean_area"][0] = None
    store.write_document("explanation/focus", document)
    assert Audit.read(folder).explanation.area().n == 7


def test_lesions_count_where_they_are_known(folder):
    found = write_explanation(folder, lesions=True).explanation
    assert found.has_lesions
    assert [e.value for e in (found.mass(), found.mass("attacked"), found.hit(), found.lesion_area)] == pytest.approx(
        [0.6, 0.3, 1, 0.25]
    )
    assert found.areas == ("focus", "lesion")
    assert (found.fooled_in("lesion", "inside").value, found.fooled_in("lesion", "inside").n) == (1.0, 4)
    assert (found.fooled_whole("lesion").value, found.fooled_whole("lesion").n) == (0.5, 4)
    assert not write_explanation(folder).explanation.has_lesions


def test_only_what_was_right_can_be_turned(folder):
    found = write_explanation(folder, right=[[True]] * 4 + [[False]] * 4).explanation
    assert found.fooled.n == found.fooled_in("focus", "outside").n == 4
    assert found.distance("linf").n == 4
    assert found.drawn()[0].kept.n == found.shuffled()[0][1].n == 4
    assert found.area().n == 8


def test_distances_have_a_median_and_quartiles_and_may_be_infinite(folder):
    found = write_explanation(folder).explanation
    assert found.distance("linf").value * 255 == pytest.approx(4)
    assert [found.distance("l2", q).value for q in (0.25, 0.75)] == [1.5, 5.5]
    assert found.distances("linf")[-1] == math.inf
    assert found.distance("linf", 1.0).value == math.inf


def test_things_drawn_blocks_and_the_loss(folder):
    found = write_explanation(folder).explanation
    one, three = found.drawn()
    assert (one.kept.value, three.kept.value) == (7 / 8, 5 / 8)
    assert (three.mass.value, three.before.value, three.area.value) == pytest.approx((0.09, 0.06, 0.03))
    ((blocks, kept),) = found.shuffled()
    assert (blocks, kept.value) == (3, 0.25)
    share = np.bincount(found.targets).max() / 8
    assert found.constant.value == share
    plane = found.plane()
    assert (plane.rise.value, plane.rise.n, plane.norm) == (2.0, 3, "linf")
    assert plane.values.shape == (5, 5)


def test_pictures_name_what_is_kept(folder):
    found = write_explanation(folder, attention=True, lesions=True).explanation
    one, other = found.pictures
    assert (one.place, other.place) == (0, 1)
    assert one.answers.shape == (2, 2)
    store = Store(folder)
    assert store.pixels(one.maps[0]).shape == (1, SIDE, SIDE)
    (layer,) = one.attention
    assert (layer.stage, layer.kind) == ("layer3", "Cbam")
    assert store.pixels(layer.channels[0]).shape == (8,)


def test_findings_are_counted_by_decision(tmp_path):
    folder = write_run(tmp_path, replace(CHESTS, task=FINDINGS, until="spent"))
    found = write_explanation(folder).explanation
    assert found.drawn()[0].kept.n == 8 * 14
    assert found.fooled.n == found.distance("l2").n == 8
    assert 0.5 < found.constant.value <= 1


def test_what_is_missing_is_not_measured_and_what_cannot_be_says_why(folder):
    parts = tuple(part for part in PARTS if part != "surface")
    found = write_explanation(folder, parts=parts, artefacts={WHY_NOT: "too small"}).explanation
    assert found.missing == ("surface",)
    assert not found.finished
    assert found.impossible == {"artefacts": "too small"}
    with pytest.raises(NotMeasuredError, match="surface is not measured; run the same command again"):
        found.plane()
    with pytest.raises(NotMeasuredError, match="artefacts cannot be measured: too small"):
        found.drawn()
    nothing = write_explanation(folder, focus={WHY_NOT: "no maps"}).explanation
    assert nothing.pictures == ()
    with pytest.raises(NotMeasuredError, match="no maps"):
        nothing.area()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"images": ["elsewhere.png", *(f"test/{i:04d}.png" for i in range(1, 8))]},
            "no test images of this run, such as elsewhere",
        ),
        ({"right": [[True]] * 7}, "damaged"),
        ({"distances": {"linf": [0.1], "l2": [0.1] * 8}}, "distances linf: 1 values of 8 images"),
        ({"shuffled": {"lines": [{"blocks": 2, "right": [[True]]}]}}, "shuffled: 1 values of 8 images"),
        ({"asked_without": "layer"}, "another version of antivenom"),
    ],
)
def test_records_that_contradict_themselves_are_refused(folder, changes, said):
    if "asked_without" in changes:
        write_explanation(folder)
        store = Store(folder)
        asked = store.document("explanation/asked")
        store.write_document(
            "explanation/asked", {name: value for name, value in asked.items() if name != changes["asked_without"]}
        )
        with pytest.raises(RecordsError, match=said):
            Audit.read(folder)
        return
    with pytest.raises(RecordsError, match=said):
        write_explanation(folder, **changes)
