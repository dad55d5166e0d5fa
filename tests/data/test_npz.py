import errno
import pickle
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest

from antivenom.data.npz import cache_folder, members, read_member, stored_array
from antivenom.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def rewritten(path, name, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def npy_bytes(array, **options):
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "<U5"])
def test_rows_are_those_of_the_array(tmp_path, save, dtype):
    array = IMAGES.astype(dtype)
    save(tmp_path / "x.npz", first=np.zeros(7), images=array)
    stored = stored_array(tmp_path / "x.npz", "images", cache=tmp_path / "cache")
    assert len(stored) == 2
    np.testing.assert_array_equal(stored[1], array[1])
    np.testing.assert_array_equal(stored.rows(0, 2), array)
    np.testing.assert_array_equal(read_member(tmp_path / "x.npz", "images"), array)
    assert members(tmp_path / "x.npz") == ["first", "images"]


def test_what_is_stored_plainly_is_read_in_place_and_what_is_packed_is_unpacked_once(tmp_path):
    np.savez(tmp_path / "plain.npz", images=IMAGES)
    np.savez_compressed(tmp_path / "packed.npz", images=IMAGES)
    cache = tmp_path / "cache"
    assert stored_array(tmp_path / "plain.npz", "images", cache=cache).path == tmp_path / "plain.npz"
    assert not cache.exists()
    unpacked = stored_array(tmp_path / "packed.npz", "images", cache=cache).path
    written = unpacked.stat().st_mtime_ns
    assert stored_array(tmp_path / "packed.npz", "images", cache=cache).path == unpacked
    assert list(cache.iterdir()) == [unpacked]
    assert unpacked.stat().st_mtime_ns == written


def test_another_file_of_the_same_name_is_not_taken_for_the_first(tmp_path):
    for images in (IMAGES, IMAGES[:, ::-1]):
        np.savez_compressed(tmp_path / "x.npz", images=images)
        np.testing.assert_array_equal(stored_array(tmp_path / "x.npz", "images", cache=tmp_path)[0], images[0])


def test_a_cached_file_that_was_cut_off_is_unpacked_again(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    stored = stored_array(tmp_path / "x.npz", "images", cache=tmp_path)
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated"):
        stored.rows(0, 2)
    np.testing.assert_array_equal(stored_array(tmp_path / "x.npz", "images", cache=tmp_path).rows(0, 2), IMAGES)


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTIVENOM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ANTIVENOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert cache_folder() == tmp_path / "users" / "antivenom"


def test_a_stored_array_can_be_handed_to_another_process_without_its_pixels(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((1000, 64, 64), np.uint8))
    assert len(pickle.dumps(stored_array(tmp_path / "x.npz", "images"))) < 1000


def test_rows_that_do_not_exist_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES)
    stored = stored_array(tmp_path / "x.npz", "images")
    for start, stop in ((-1, 0), (0, 3), (2, 1)):
        with pytest.raises(DataError, match="it has 2"):
            stored.rows(start, stop)


def test_python_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    np.savez(tmp_path / "x.npz", images=np.array([Trap()], dtype=object))
    for read in (read_member, stored_array):
        with pytest.raises(DataError, match="Python objects"):
            read(tmp_path / "x.npz", "images")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda _: b"junk" * 40, lambda b: b[:20]])
def test_a_header_must_agree_with_the_size(tmp_path, compression, change):
    path = rewritten(tmp_path / "x.npz", "images", change(npy_bytes(IMAGES)), compression)
    for read in (read_member, stored_array):
        with pytest.raises(DataError, match="images"):
            read(path, "images")


def test_a_promise_of_terabytes_is_refused_before_anything_is_unpacked(tmp_path):
    head = npy_bytes(IMAGES).replace(b"(2, 3, 4)", b"(9999999999, 3, 4)")
    with pytest.raises(DataError, match="promises 119,999,999,988 bytes"):
        stored_array(rewritten(tmp_path / "x.npz", "images", head), "images", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_members_too_large_to_read_whole_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", labels=np.arange(100))
    monkeypatch.setattr("antivenom.data.npz.MAX_WHOLE", 100)
    with pytest.raises(DataError, match="at most 100"):
        read_member(tmp_path / "x.npz", "labels")


def test_column_order_is_refused_row_by_row_and_read_whole(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.asfortranarray(IMAGES))
    with pytest.raises(DataError, match="Fortran"):
        stored_array(tmp_path / "x.npz", "images")
    np.testing.assert_array_equal(read_member(tmp_path / "x.npz", "images"), IMAGES)


def test_missing_foreign_and_damaged_files_are_refused(tmp_path, rng):
    with pytest.raises(DataError, match="no such file"):
        members(tmp_path / "gone.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="not an NPZ file"):
        members(tmp_path / "text.npz")
    np.savez_compressed(tmp_path / "x.npz", images=rng.integers(0, 256, (50, 28, 28), dtype=np.uint8))
    with pytest.raises(DataError, match=r"no array 'labels'; it holds images"):
        read_member(tmp_path / "x.npz", "labels")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[5000] ^= 255
    (tmp_path / "x.npz").write_bytes(content)
    for read in (read_member, lambda path, name: stored_array(path, name, cache=tmp_path / "cache")):
        with pytest.raises(DataError, match="damaged"):
            read(tmp_path / "x.npz", "images")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(DataError, match=r"No space left.*ANTIVENOM_CACHE"):
            stored_array(tmp_path / "x.npz", "images", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match="10 are free"):
        stored_array(tmp_path / "x.npz", "images", cache=tmp_path / "cache")
