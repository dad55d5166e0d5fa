"""Tensors with many zeros come back to the bit, take less room, and a file that lies about them is refused."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from antivenom.errors import WeightsError
from antivenom.models.architectures import build
from antivenom.models.sparse_files import MARK, pack, unpack
from antivenom.models.tensor_files import load_weights_file, read_safetensors, write_safetensors
from antivenom.models.weights import load, read_card, save
from antivenom.provenance import digest_tensors
from antivenom.task import Task
from antivenom.training.pruning import prune

ODD = (37, 3, 5, 3)  # 1665 values, no multiple of eight


def sparse(share, shape=ODD, dtype=torch.float32):
    """Normal numbers, of which the first part is +0.0."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values.view(-1)[: math.ceil(share * values.numel())] = 0.0
    return values


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def written(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    packed, marks = pack(tensors)
    write_safetensors(path, packed, marks)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
def test_a_packed_tensor_comes_back_to_the_bit(tmp_path, dtype, share):
    given = sparse(share, dtype=dtype)
    given.view(-1)[-4:] = torch.tensor([-0.0, math.nan, -math.inf, torch.finfo(dtype).smallest_normal / 2]).to(dtype)
    tensors = {"conv.weight": given, "steps": torch.tensor(7)}
    path = written(tmp_path, tensors)
    again, metadata = read_safetensors(path)
    assert again.keys() == tensors.keys()
    assert (again["conv.weight"].shape, again["conv.weight"].dtype) == (given.shape, dtype)
    assert torch.equal(bits(again["conv.weight"]), bits(given))
    assert metadata == {}
    assert torch.equal(bits(load_weights_file(path)["conv.weight"]), bits(given))


@pytest.mark.parametrize(
    "tensor",
    [sparse(0.09), -sparse(0.5).abs(), sparse(0.9, (20, 20)), torch.zeros(5000, dtype=torch.int64), torch.zeros(0, 3)],
    ids=["few zeros", "zeros that are negative", "small", "whole numbers", "empty"],
)
def test_what_does_not_pay_stays_as_it_is(tmp_path, tensor):
    packed, marks = pack({"a": tensor})
    assert list(packed) == ["a"]
    assert marks == {}
    assert torch.equal(read_safetensors(written(tmp_path, {"a": tensor}))[0]["a"], tensor)


def test_a_tensor_in_another_order_of_memory_comes_back_too(tmp_path):
    given = sparse(0.5, (16, 16, 3, 3)).contiguous(memory_format=torch.channels_last)
    assert torch.equal(read_safetensors(written(tmp_path, {"a": given}))[0]["a"], given)


def test_a_file_is_as_small_as_its_zeros_make_it(tmp_path):
    given = sparse(0.808, (256, 256))
    size = written(tmp_path, {"a": given}).stat().st_size
    assert size < given.nbytes * (1 / 32 + 0.192) + 400


def test_other_readers_see_a_mask_and_values(tmp_path):
    given = sparse(0.5)
    with safe_open(str(written(tmp_path, {"a": given})), framework="np") as file:
        mask, kept = file.get_tensor("a.sparse_mask"), file.get_tensor("a.sparse_kept")
    assert (mask.shape, mask.dtype.name, len(kept)) == ((209,), "uint8", int((given != 0).sum()))


def test_a_name_that_packing_would_take_is_left_to_its_owner(tmp_path):
    tensors = {"a": sparse(0.5), "a.sparse_mask": torch.ones(3)}
    again = read_safetensors(written(tmp_path, tensors))[0]
    assert again.keys() == tensors.keys()
    assert torch.equal(again["a"], tensors["a"])


def damaged(parts, shapes, **changes):
    """The parts of a packed tensor with some of them replaced, None: left out."""
    parts = {**parts, **{f"a.sparse_{name}": value for name, value in changes.items()}}
    return {name: value for name, value in parts.items() if value is not None}, {MARK: json.dumps(shapes)}


SHAPES = {"a": list(ODD)}
BEYOND = pack({"a": sparse(0.5)})[0]["a.sparse_mask"].clone()
BEYOND[-1] |= 1


@pytest.mark.parametrize(
    ("shapes", "changes"),
    [
        (SHAPES, {"mask": None}),
        (SHAPES, {"kept": None}),
        (SHAPES, {"mask": torch.zeros(209, dtype=torch.uint8)}),
        (SHAPES, {"mask": torch.zeros(208, dtype=torch.uint8)}),
        (SHAPES, {"mask": torch.zeros(209, 1, dtype=torch.uint8)}),
        (SHAPES, {"mask": torch.zeros(209)}),
        (SHAPES, {"mask": BEYOND}),
        (SHAPES, {"mask": BEYOND, "kept": torch.ones(833)}),
        (SHAPES, {"kept": torch.ones(3)}),
        (SHAPES, {"kept": torch.ones(832, 1)}),
        (SHAPES, {"kept": torch.ones(832, dtype=torch.int32)}),
        (SHAPES, {"kept": torch.ones(832, dtype=torch.complex64)}),
        ({"a": [1665, 2]}, {}),
        ({"a": [2**40, 2**40]}, {}),
        ({"a": [2**64 + 1665]}, {}),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, shapes, changes):
    parts, _ = pack({"a": sparse(0.5)})
    tensors, metadata = damaged(parts, shapes, **changes)
    write_safetensors(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=r"a\.safetensors is damaged: 'a'"):
        read_safetensors(tmp_path / "a.safetensors")


NO_SHAPES = [3, [], [-37, -45], [0, 5], [37.0, 45], [True], "37", None, [1] * 9]


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, "[1]", "7", *(json.dumps({"a": shape}) for shape in NO_SHAPES)],
    ids=lambda text: text[:20],
)
def test_a_mark_that_is_no_table_of_shapes_is_refused(tmp_path, text):
    write_safetensors(tmp_path / "a.safetensors", pack({"a": sparse(0.5)})[0], {MARK: text})
    with pytest.raises(WeightsError, match="no table of shapes"):
        load_weights_file(tmp_path / "a.safetensors")


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    packed, marks = pack({"a": sparse(0.5)})
    write_safetensors(tmp_path / "a.safetensors", {**packed, "a": torch.ones(3)}, marks)
    with pytest.raises(WeightsError, match="once"):
        read_safetensors(tmp_path / "a.safetensors")


def test_a_file_without_the_mark_is_read_as_it_is(tmp_path):
    packed, _ = pack({"a": sparse(0.5)})
    tensors, metadata = unpack(packed, {"card": "{}"}, tmp_path)
    assert (tensors.keys(), metadata) == (packed.keys(), {"card": "{}"})


def test_a_pruned_checkpoint_is_smaller_and_the_classifier_comes_back_as_it_was(tmp_path):
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0).eval()
    path, pruned = tmp_path / "pruned.safetensors", prune(model, 0.8)
    card = save(model, path, data_digest="d" * 64, seed=0, metrics={})
    assert path.stat().st_size < 0.24 * sum(tensor.nbytes for tensor in model.backbone.state_dict().values())
    again, images = load(path), torch.rand(2, 1, 32, 32)
    assert again.digest() == model.digest()
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert read_card(path) == card
    assert card["parameters"]["zeros"] == pruned.zeros
    assert card["weights"] == digest_tensors(model.backbone.state_dict())


def test_a_pruned_checkpoint_that_was_altered_is_refused(tmp_path):
    model = build("resnet18", Task(("normal", "pneumonia")), channels=1, seed=0).eval()
    prune(model, 0.9)
    path = tmp_path / "a.safetensors"
    save(model, path, data_digest="d" * 64, seed=0, metrics={})
    with safe_open(str(path), framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["layer4.0.conv1.weight.sparse_kept"][0] += 1
    write_safetensors(path, tensors, metadata)
    with pytest.raises(WeightsError, match="not those that its card was written for"):
        load(path)
