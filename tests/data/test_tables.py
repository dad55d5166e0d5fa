import numpy as np
import pytest

from antivenom.data.tables import class_targets, finding_targets, ordered_classes, read_table
from antivenom.errors import DataError, LabelError


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "labels.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_columns_are_read_by_name(table):
    read = read_table(table('filename,label\na.png,x\n\n"b, c.png",y\n'))
    assert len(read) == 2
    assert read["filename"].tolist() == ["a.png", "b, c.png"]
    assert read.take(np.array([False, True]))["label"].tolist() == ["y"]


def test_tabs_a_byte_order_mark_and_a_trailing_comma_are_understood(table):
    assert read_table(table("a\tb\n1\t2\n"))["b"].tolist() == ["2"]
    assert list(read_table(table("\ufeffa,b\n1,2\n")).columns) == ["a", "b"]
    assert list(read_table(table("a,b,\n1,2,\n3,4,\n")).columns) == ["a", "b"]


def test_a_missing_column_names_those_present(table):
    read = read_table(table("filename,label\na,b\n"))
    with pytest.raises(DataError, match="no column 'dx'; it has filename, label"):
        read["dx"]
    with pytest.raises(DataError, match="no column 'dx'"):
        read.find("dx", ["label"])
    assert read.find(None, ["dx", "label"]).tolist() == ["b"]
    assert read.find(None, ["dx"]) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("a,b\n", r"no rows below its head \(a, b\)"),
        ("a,b\n1,2\n3\n", "row 3 has 1 values, the head names 2"),
        ("a,a\n1,2\n", "occurs twice"),
        ("a,b\n1,\x00" + "x" * 200_000, "not a CSV file"),
    ],
)
def test_malformed_tables_are_refused(table, text, says):
    with pytest.raises(DataError, match=says):
        read_table(table(text))


def test_missing_tables_and_other_encodings_are_refused(table, tmp_path):
    with pytest.raises(DataError, match="right root"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(table("a,b\nä,2\n", "latin-1"))


def test_labels_become_places_among_the_classes():
    task, targets = class_targets(np.array(["b", "c", "a"]), ["c", "a", "b"], ["x"] * 3)
    assert task.classes == ("c", "a", "b")
    assert targets.tolist() == [2, 0, 1]


@pytest.mark.parametrize("label", ["", "d", "A"])
def test_labels_outside_the_classes_are_refused(label):
    with pytest.raises(LabelError, match=f"2.png: label '{label}' is none of a, b"):
        class_targets(np.array(["a", label]), ["a", "b"], ["1.png", "2.png"])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["pneumonia", "normal"], ("normal", "pneumonia")),
        (["dr", "no_dr"], ("no_dr", "dr")),
        (["demented", "non_demented"], ("non_demented", "demented")),
        (["Benign", "Actinic"], ("Benign", "Actinic")),
        (["1", "0"], ("0", "1")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["b", "a", "normal"], ("a", "b", "normal")),
        (["normality", "illness"], ("illness", "normality")),
    ],
)
def test_of_two_classes_the_one_that_sounds_healthy_comes_first(labels, classes):
    assert ordered_classes(np.array(labels)) == classes


@pytest.mark.parametrize(("labels", "says"), [(["a", "a"], "only one class: 'a'"), (["a", ""], "blank")])
def test_one_class_is_no_task(labels, says):
    with pytest.raises(LabelError, match=says):
        ordered_classes(np.array(labels))


def test_columns_of_0_and_1_become_findings(table):
    read = read_table(table("f,Mass,Hernia\na,1,0\nb,1.0,1\n"))
    task, targets = finding_targets(read, ["Hernia", "Mass"], ["a", "b"])
    assert task.multilabel
    assert targets.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(LabelError, match="a: f must be 0 or 1, got 'a'"):
        finding_targets(read, ["f"], ["a", "b"])
