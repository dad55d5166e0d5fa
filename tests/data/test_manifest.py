import hashlib

import pytest

from antivenom.data.manifest import FileRow, manifest, manifest_digest, read_manifest, verify_manifest, write_manifest
from antivenom.errors import DataError


@pytest.fixture
def root(tmp_path):
    for name in ("b.txt", "a/c, d.txt", ".hidden"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "set"


def test_every_file_is_listed_with_length_and_hash(root):
    assert manifest(root) == [
        FileRow("b.txt", 5, hashlib.sha256(b"b.txt").hexdigest()),
        FileRow("a/c, d.txt", 10, hashlib.sha256(b"a/c, d.txt").hexdigest()),
    ]
    assert manifest(root / "b.txt")[0].path == "b.txt"


def test_a_manifest_comes_back_and_agrees_with_an_unchanged_root(root, tmp_path):
    rows = manifest(root)
    write_manifest(tmp_path / "m.csv", rows)
    assert read_manifest(tmp_path / "m.csv") == rows
    assert verify_manifest(root, rows) == []


def test_what_is_missing_changed_or_new_is_told(root):
    rows = manifest(root)
    (root / "b.txt").write_text("B.txt")
    (root / "a" / "c, d.txt").unlink()
    (root / "e.txt").touch()
    assert verify_manifest(root, rows) == [
        "a/c, d.txt is missing",
        "b.txt has changed",
        "e.txt is not in the manifest",
    ]
    assert manifest_digest(manifest(root)) != manifest_digest(rows)


def test_what_is_no_manifest_is_refused(tmp_path, root):
    for content in ("", "path,bytes\n", "path,bytes,sha256\na,b\n", "path,bytes,sha256\na,b,c\n"):
        (tmp_path / "m.csv").write_text(content)
        with pytest.raises(DataError, match=r"m\.csv: no manifest"):
            read_manifest(tmp_path / "m.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="cannot be written"):
        write_manifest(tmp_path / "none" / "m.csv", manifest(root))
    with pytest.raises(DataError, match="no such folder"):
        manifest(tmp_path / "gone")
