import pytest
import torch

from antivenom.detection.gaussian import fit_gaussian
from antivenom.detection.reading import Sensor
from antivenom.detection.watched import Watched
from antivenom.models.classifier import Classifier
from antivenom.models.execution import accelerate
from antivenom.task import Task
from toys import small_network


@pytest.fixture(scope="module")
def parts():
    model = Classifier(small_network(1, 3), Task(("a", "b", "c")), channels=1, mean=0.5, std=0.25).eval()
    sensor, images = Sensor(model), torch.rand(64, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    detector = fit_gaussian([sensor.read(images)], tune=None)
    return model, sensor, detector, images[:5]


def test_scores_stand_as_their_distance_from_the_threshold(parts):
    model, sensor, detector, images = parts
    answer = Watched(sensor, [detector], [3.0], [2.0])(images)
    torch.testing.assert_close(answer[:, :3], model(images))
    torch.testing.assert_close(answer[:, 3], (detector(sensor(images)) - 3) / 2)


def test_features_come_last_where_they_are_wanted(parts):
    model, sensor, detector, images = parts
    answer = Watched(sensor, [detector, detector], [3.0, 4.0], [2.0, 1.0], layer="features")(images)
    torch.testing.assert_close(answer[:, 5:], model.features(images))


def test_it_is_as_ready_as_its_parts_and_can_be_run_faster(parts):
    _, sensor, detector, images = parts
    watched = Watched(sensor, [detector], [3.0], [2.0])
    assert not any(module.training for module in watched.modules())
    victim = accelerate(watched, images, batch=4)
    z = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(victim.propose(z)[:, 3].sum(), z)
    assert bool((slope != 0).any())
    torch.testing.assert_close(victim.judge(images), watched(images))
