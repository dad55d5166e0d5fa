"""A small world: scans of known brightness, a classifier of it, and guards fitted on clean ones."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from antivenom.detection.reading import batches
from antivenom.guard.fitting import fit_guard, sensor_to_fit
from antivenom.models.classifier import Classifier
from antivenom.task import Task


@dataclass(frozen=True)
class World:
    model: Classifier

    def scans(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images that are clean, and what is true of them: the brighter, the likelier the later class, or each finding."""
        generator = torch.Generator().manual_seed(seed)
        level = torch.rand(count, generator=generator)
        images = (0.2 + 0.5 * level[:, None, None, None] + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)).clamp(0, 1)
        classes = len(self.model.task.classes)
        if self.model.task.multilabel:
            return images, (level[:, None] + 0.3 * torch.randn(count, classes, generator=generator) > 0.5).long()
        noisy = (level + 0.1 * torch.randn(count, generator=generator)).clamp(0, 0.999)
        return images, (noisy * classes).long()

    def fitted(self, detectors=("gaussian",), seed=0, **settings):
        sensor = sensor_to_fit(self.model, detectors)
        (clean, _), (tune, _), (held, targets) = (self.scans(count, seed + n) for n, count in enumerate((300, 200, 400)))
        stream = list(batches(sensor.read(clean), 64))
        arguments = {"tune": sensor.read(tune), "held_out": sensor.read(held), "targets": targets, "seed": 0, **settings}
        return fit_guard(self.model, stream, detectors=detectors, **arguments)


def world(task: Task) -> World:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, len(task.classes))
        )
    model = Classifier(network, task, channels=1, mean=0.5, std=0.25).eval()
    # The last layer is solved for: logits that follow the brightness, as far as they can.
    bare = World(model)
    images, targets = bare.scans(400, 1000)
    truth = targets.float() if task.multilabel else torch.nn.functional.one_hot(targets, len(task.classes)).float()
    features = model.features(images).detach()
    solved = torch.linalg.lstsq(torch.cat([features, torch.ones(400, 1)], 1), 6 * (truth - 0.5)).solution
    with torch.no_grad():
        network[-1].weight.copy_(solved[:-1].T)
        network[-1].bias.copy_(solved[-1])
    return bare


@pytest.fixture(scope="session")
def scans() -> World:
    return world(Task(("normal", "bacterial", "viral")))


@pytest.fixture(scope="session")
def findings() -> World:
    return world(Task(("effusion", "mass"), multilabel=True))
