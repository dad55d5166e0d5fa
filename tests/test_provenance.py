import hashlib

import pytest
import torch

from antivenom import provenance


def test_a_file_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    assert provenance.digest_file(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(FileNotFoundError):
        provenance.digest_file(tmp_path / "none")


def test_tensors_are_known_by_name_type_shape_and_bits():
    weight = torch.arange(6.0).reshape(2, 3)
    known = provenance.digest_tensors({"a": weight, "b": torch.ones(2)})
    assert known == provenance.digest_tensors({"b": torch.ones(2), "a": weight.clone()})
    changed = weight.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = {"c": weight}, {"a": weight.double()}, {"a": weight.reshape(3, 2)}, {"a": changed}
    first = provenance.digest_tensors({"a": weight})
    assert all(provenance.digest_tensors(other) != first for other in others)
    assert provenance.digest_tensors({"a": weight.bfloat16()}) != first


def test_a_digest_of_code_changes_only_with_the_code():
    assert provenance.digest_code() == provenance.digest_code()
    assert len(provenance.digest_code()) == 64


def test_versions_and_machine_name_no_person_or_place():
    assert {"python", "torch", "numpy"} <= set(provenance.versions())
    assert set(provenance.machine()) <= {"system", "processor", "cores", "threads", "accelerator"}
