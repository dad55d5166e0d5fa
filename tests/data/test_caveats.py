import numpy as np

from antivenom.data.caveats import measured_caveats
from antivenom.data.imageset import Index
from antivenom.task import Task

TASK = Task(("no_dr", "dr"))


def index(targets, sources=None, splits="train", groups=None):
    keys = [str(k) for k in range(len(targets))]
    return Index.of(keys, np.asarray(targets), groups=groups or keys, splits=[splits] * len(keys), sources=sources)


def about(caveats, word):
    return [caveat for caveat in caveats if word in caveat]


def test_a_shortcut_by_source_is_reported_with_its_figures():
    targets = [0] * 75 + [1] * 25 + [0] * 40 + [1] * 60
    (said,) = about(measured_caveats(index(targets, ["eyepacs"] * 100 + ["srahim"] * 100), TASK), "source")
    assert "eyepacs n = 100, srahim n = 100" in said
    assert "dr eyepacs 25.0%, srahim 60.0%" in said
    assert "right for 67.5%, of all for 57.5%" in said


def test_equal_prevalence_is_no_shortcut():
    assert not about(measured_caveats(index([0, 1] * 100, ["a"] * 100 + ["b"] * 100), TASK), "source")


def test_a_difference_that_chance_explains_is_no_shortcut():
    assert not about(measured_caveats(index([0, 1, 1, 1, 0, 0, 1, 0], ["a"] * 4 + ["b"] * 4), TASK), "source")


def test_one_source_is_no_shortcut():
    assert not about(measured_caveats(index([0] * 50 + [1] * 50, ["a"] * 100), TASK), "source")


def test_of_many_classes_those_that_differ_most_are_named():
    targets = np.zeros((400, 5), int)
    for k, share in enumerate((150, 120, 100, 80, 0)):
        targets[:share, k] = 1
    task = Task(tuple("abcde"), multilabel=True)
    (said,) = about(measured_caveats(index(targets, ["x"] * 200 + ["y"] * 200), task), "source")
    assert said.index("a x 75.0%") < said.index("b x 60.0%") < said.index("c x 50.0%")
    assert "1 more classes differ" in said
    assert "constant" not in said


def test_classes_with_hardly_any_patient_are_named():
    caveats = measured_caveats(index([0] * 20 + [1] * 20, groups=[str(k) for k in range(20)] + ["one", "two"] * 10), TASK)
    assert about(caveats, "Few groups: dr has 2 in train.")
    assert not about(measured_caveats(index([0, 1] * 20), TASK), "Few")


def test_unknown_groups_are_named():
    keys = ["a", "b"]
    nobody = Index.of(keys, [0, 1])
    someone = Index.of(keys, [0, 1], groups=["p", ""])
    assert about(measured_caveats(nobody, TASK), "No ids of patients")
    assert about(measured_caveats(someone, TASK), "1 images have no")
    assert not about(measured_caveats(index([0, 1]), TASK), " id")


def test_an_empty_index_has_nothing_to_say():
    assert measured_caveats(Index.of([], np.zeros(0, int)), TASK) == ()
