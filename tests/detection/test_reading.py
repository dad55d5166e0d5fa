import pytest
import torch
from torch import nn

from antivenom.detection.reading import Reading, Sensor, batches, sample
from antivenom.errors import InputError, ModelError
from antivenom.models.classifier import Classifier
from antivenom.task import Task


def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )
    return Classifier(network, Task(("normal", "ill")), channels=1, mean=0.5, std=0.5).eval()


def stream(count, size):
    values = torch.arange(count, dtype=torch.float32)
    return batches(Reading(values[:, None], {"features": values[:, None] * 2}, {"half": values[:, None] * 3}), size)


def test_one_pass_gives_logits_and_layers():
    model, images = classifier(), torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = Sensor(model, ("0", "features"))(images)
    torch.testing.assert_close(seen.logits, model(images))
    torch.testing.assert_close(seen.layer("features"), model.features(images))
    torch.testing.assert_close(seen.layer("0"), model.backbone[0](model.prepare(images)).mean((2, 3)))


def test_what_a_later_layer_writes_into_is_read_before():
    seen = Sensor(classifier(), ("0",))(torch.rand(2, 1, 8, 8))
    assert bool((seen.layer("0") != 0).all())
    assert not bool((seen.layer("0") > 0).all())


def test_squeezed_images_are_answered_as_well():
    model, images = classifier(), torch.rand(3, 1, 8, 8)
    seen = Sensor(model, (), {"dark": lambda images: images / 2})(images)
    torch.testing.assert_close(seen.squeezed["dark"], model(images / 2))


def test_gradients_flow_to_the_pixels():
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    Sensor(classifier())(images).layer("features").sum().backward()
    assert images.grad is not None
    assert bool((images.grad != 0).any())


def test_reading_leaves_no_trace_in_the_model():
    model = classifier()
    sensor = Sensor(model, ("0", "features"))
    sensor(torch.rand(2, 1, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training
    assert not sensor.training


def test_many_images_are_read_in_parts():
    model, images = classifier(), torch.rand(130, 1, 8, 8)
    torch.testing.assert_close(Sensor(model).read(images).layer("features"), model.features(images).detach())


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ModelError, match="no layer 'layer9'"):
        Sensor(classifier(), ("layer9",))
    with pytest.raises(InputError, match="'layer3' was not read; there is features"):
        next(stream(2, 2)).layer("layer3")


def test_a_sample_of_a_short_stream_is_all_of_it():
    kept = sample(stream(7, 3), 10, generator=torch.Generator().manual_seed(0))
    assert kept.logits.flatten().tolist() == list(range(7))


@pytest.mark.parametrize("size", [1, 3, 50])
def test_every_image_is_as_likely_in_a_sample(size):
    counts = torch.zeros(20)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        kept = sample(stream(20, size), 5, generator=generator)
        assert len(kept.logits.unique()) == 5
        torch.testing.assert_close(kept.layers["features"], kept.logits * 2)
        torch.testing.assert_close(kept.squeezed["half"], kept.logits * 3)
        counts[kept.logits.flatten().long()] += 1
    assert (counts / 400 - 0.25).abs().max() < 0.08  # 3.7 standard deviations


def test_the_stream_is_not_written_into():
    readings = list(stream(20, 4))
    before = [reading.logits.clone() for reading in readings]
    sample(readings, 4, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(reading.logits, old) for reading, old in zip(readings, before, strict=True))


def test_nothing_read_is_refused():
    with pytest.raises(InputError, match="at least one"):
        sample([], 5, generator=torch.Generator())
