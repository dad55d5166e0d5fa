import pytest
import torch

from antivenom.detection.reading import Reading
from antivenom.detection.stored import StoredReadings
from antivenom.errors import RecordsError, WeightsError


def reading(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(4, 3, generator=generator)
    return Reading(values, {"layer3.0": values + 1, "features": values * 2}, {"median-2": values - 1})


def test_what_was_written_comes_back_to_the_bit_as_often_as_wanted(tmp_path):
    kept = StoredReadings(tmp_path, {"model": "a"})
    for shard in (1, 0):
        kept.write(shard, reading(shard))
    for _ in range(2):
        found = list(StoredReadings(tmp_path, {"model": "a"}))
        assert [part.logits.tolist() for part in found] == [reading(i).logits.tolist() for i in (0, 1)]
        assert found[0].layers.keys() == {"layer3.0", "features"}
        assert torch.equal(found[1].squeezed["median-2"], reading(1).squeezed["median-2"])


def test_it_knows_what_is_finished(tmp_path):
    kept = StoredReadings(tmp_path, {})
    kept.write(3, reading(0))
    assert kept.has(3)
    assert not kept.has(0)


def test_readings_of_another_origin_are_refused(tmp_path):
    StoredReadings(tmp_path, {"model": "a"}).write(0, reading(0))
    with pytest.raises(RecordsError, match="another model or other images"):
        StoredReadings(tmp_path, {"model": "b"})


def test_a_damaged_shard_is_named(tmp_path):
    kept = StoredReadings(tmp_path, {})
    kept.write(0, reading(0))
    path = tmp_path / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="000000"):
        list(kept)
