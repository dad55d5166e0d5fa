import os
import pickle
import struct

import pytest
import torch
from torch import nn

from antivenom.errors import WeightsError
from antivenom.models.tensor_files import load_weights_file, write_safetensors

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}


def same(loaded, expected=None):
    expected = TENSORS if expected is None else expected
    return loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_tensors_come_back_as_they_were(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", TENSORS, {})
    assert same(load_weights_file(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    "content",
    [TENSORS, {"state_dict": TENSORS}, {"epoch": 3, "model": {"state_dict": TENSORS}}],
    ids=["plain", "nested", "twice nested"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_checkpoint_of_tensors_is_read(tmp_path, content, suffix):
    torch.save(content, tmp_path / f"a{suffix}")
    assert same(load_weights_file(tmp_path / f"a{suffix}"))


def test_names_of_a_parallel_model_are_stripped(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "a.pth")
    assert same(load_weights_file(tmp_path / "a.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("dump", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))], ids=["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(tmp_path, dump, suffix):
    target, path = tmp_path / "ran", tmp_path / f"a{suffix}"
    dump({"layer.weight": Bomb(target)}, path)
    with pytest.raises(WeightsError, match=r"code|no safetensors file"):
        load_weights_file(path)
    assert not target.exists()
    with path.open("rb") as file:  # and it would have run
        torch.load(file, weights_only=False) if dump is torch.save else pickle.load(file)
    assert target.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"save model\.state_dict\(\)"):
        load_weights_file(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="without named tensors"):
        load_weights_file(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        write_safetensors(path, TENSORS, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"damaged|truncated"):
        load_weights_file(path)


@pytest.mark.parametrize("length", [2**63, 10**9, 0, 1])
def test_a_header_of_absurd_length_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + b"\0" * 64)
    with pytest.raises(WeightsError, match=f"header of {length} bytes"):
        load_weights_file(path)


@pytest.mark.parametrize("header", [b"[1, 2]  ", b"not json"])
def test_a_header_that_is_no_table_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match="header is no"):
        load_weights_file(path)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_weights_file(tmp_path / "absent.pth")
    (tmp_path / "a.onnx").write_bytes(b"1234")
    with pytest.raises(WeightsError, match=r"expected \.safetensors"):
        load_weights_file(tmp_path / "a.onnx")


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS, {})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="No space left on device; make room"):
        write_safetensors(path, {"layer.weight": torch.zeros(9)}, {})
    assert same(load_weights_file(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
