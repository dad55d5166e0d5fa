import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from antivenom.errors import RecordsError
from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Scan


def example(name="001/a"):
    return Example(
        name, "a", 1, "pgd", "{}", "untargeted", "linf", 0.1, "fooled", 0, True, 0.1, 0.5, 2.0, 9, 41, 40, ("odd",), ""
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def test_what_was_written_is_read_again(store):
    store.write_scans([Scan("a", "test", (1,), "p1", ""), Scan("b", "val", (0, 1), "p2", "site")])
    store.write_shard("one", [example()], [Answer("001/a", "m", (0.5, -1.0))])
    store.write_shard("two", [example("002/a")], [])
    store.write_document("flags", [{"name": "x"}])
    assert store.scans().to_pylist()[1] == {"image": "b", "split": "val", "target": [0, 1], "group": "p2", "source": "site"}
    assert store.examples()["example"].to_pylist() == ["001/a", "002/a"]
    assert store.examples()["flags"].to_pylist()[0] == ["odd"]
    assert store.answers().to_pylist() == [{"example": "001/a", "model": "m", "logits": [0.5, -1.0]}]
    assert store.document("flags") == [{"name": "x"}]
    assert store.shards() == ["one", "two"]


def test_records_are_plain_parquet_and_json(store):
    store.write_shard("one", [example()], [])
    store.write_document("protocol", {"seed": 0})
    assert pq.read_table(store.folder / "shards" / "one" / "examples.parquet").num_rows == 1
    assert json.loads((store.folder / "protocol.json").read_text()) == {"seed": 0}


def test_an_empty_run_has_empty_tables(store):
    assert store.examples().num_rows == store.answers().num_rows == 0
    assert store.shards() == []


def test_a_finished_shard_is_never_written_again(store):
    store.write_shard("one", [example()], [])
    with pytest.raises(RecordsError, match="never written again"):
        store.write_shard("one", [], [])
    assert store.examples().num_rows == 1


def test_what_a_killed_run_left_half_written_is_not_read_and_is_swept_away(store):
    store.write_shard("one", [example()], [])
    half = store.folder / "shards" / ".two.77"
    half.mkdir()
    (half / "examples.parquet").write_bytes(b"PAR1")
    (store.folder / ".protocol.json.77.draft").write_text("{")
    assert store.shards() == ["one"]
    store.sweep()
    assert not half.exists()
    assert not list(store.folder.glob(".*"))
    assert store.examples().num_rows == 1


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_disk_that_refuses_leaves_nothing_half_written(store, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    store.write_shard("one", [example()], [])
    monkeypatch.setattr(os, name, refuse)
    if name == "rename":
        monkeypatch.setattr("pathlib.Path.rename", refuse)
    with pytest.raises(RecordsError, match=r"No space left on device.*finished shards are safe"):
        store.write_shard("two", [example()], [])
    monkeypatch.undo()
    assert [p.name for p in (store.folder / "shards").iterdir()] == ["one"]
    store.write_shard("two", [example()], [])


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RecordsError, match="cannot write"):
        Store(tmp_path / "run").write_document("protocol", {})


def test_missing_and_damaged_records_are_said(store):
    with pytest.raises(RecordsError, match="not a run's folder"):
        store.document("protocol")
    with pytest.raises(RecordsError, match="missing"):
        store.scans()
    store.write_document("protocol", {})
    (store.folder / "protocol.json").write_text('{"seed"')
    with pytest.raises(RecordsError, match="damaged"):
        store.document("protocol")
    store.write_shard("one", [example()], [])
    (store.folder / "shards" / "one" / "examples.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(RecordsError, match="damaged"):
        store.examples()


def test_pixels_are_kept_once_and_checked(store):
    image = np.random.default_rng(0).random((1, 4, 4)).astype(np.float32)
    digest = store.keep_pixels(image)
    assert store.keep_pixels(image.copy()) == digest
    assert np.array_equal(store.pixels(digest), image)
    assert len(list(store.folder.rglob("*.npy"))) == 1
    path = next(store.folder.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(RecordsError, match="damaged"):
        store.pixels(digest)
    with pytest.raises(RecordsError, match="missing"):
        store.pixels("0" * 64)
    with pytest.raises(RecordsError, match="not a SHA-256"):
        store.pixels("../../etc/passwd")
