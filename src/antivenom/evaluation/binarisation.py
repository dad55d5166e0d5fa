"""Can this attack find what is known to be there? A test of an attack on tasks whose answer was put in place beforehand.

For each image the model's features are given a new readout of two classes: all points well inside the ball on one side, one
point of its surface on the other. So an adversarial example exists by construction. An attack that does not find it cannot
be trusted to say that there is none; one that random draws find as well is no test.

Zimmermann, Brendel, Tramèr, Carlini, "Increasing Confidence in Adversarial Robustness Evaluations", NeurIPS 2022,
https://arxiv.org/abs/2206.13991
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.attacks import AttackResult
from antivenom.models.classifier import Classifier
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import PerturbationSet

INSIDE = 0.9  # of epsilon: how far the points of the first class lie at most
CLOSENESS = 0.9  # of the way from the last inner point to the planted one, where the new boundary is drawn
RIDGE = 1e-3  # of the features' mean variance, added so that the readout exists where they depend on each other
TOGETHER = 64  # images in one forward pass


@dataclass(frozen=True)
class Binarisation:
    """What became of each image's task.

    Attributes:
        posed: `(B,)` bool: the planted point can be told from the inner ones by the features at all.
        found: `(B,)` bool: the attack found an example of the second class.
        chance: `(B,)` share of random points of the surface that are of the second class.
    """

    posed: Tensor
    found: Tensor
    chance: Tensor


def binarisation(
    model: Classifier,
    x: Tensor,
    allowed: PerturbationSet,
    attack: Callable[..., AttackResult],
    *,
    inner: int = 499,
    random: int = 200,
    generator: Draws,
) -> Binarisation:
    """Plant one example for each image and send the attack after it.

    Args:
        model: its preprocessing and features are kept, its last layer is replaced.
        x: images `(B, C, H, W)`.
        allowed: the ball.
        attack: as a row of the table is called, its settings already given.
        inner: points of the first class, the image itself beside them.
        random: points of the surface that tell what chance finds.
        generator: draws, one stream an image.
    """
    posed, found, chance = [], [], []
    for place in range(len(x)):
        index = torch.tensor([place])
        image, ball, draws = x[index], allowed.take(index), generator.take(index)
        readout = _readout(model, image, ball, draws, inner)
        posed.append(readout is not None)
        if readout is None:
            found.append(False)
            chance.append(float("nan"))
            continue
        planted = readout
        goal = Untargeted(torch.zeros(1, dtype=torch.int64, device=x.device))
        result = attack(planted, image, goal, ball, generator=draws.at(3))
        found.append(bool(result.success))
        surface = _drawn(image, ball, draws.at(4), random, inside=None)
        chance.append(float(torch.cat([planted(part).argmax(1) for part in torch.split(surface, TOGETHER)]).float().mean()))
    return Binarisation(torch.tensor(posed), torch.tensor(found), torch.tensor(chance))


class _Planted(torch.nn.Module):
    """The model's features under a readout of two classes."""

    def __init__(self, model: Classifier, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model, self.weight, self.bias = model, weight, bias
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        side = self.model.features(images) @ self.weight - self.bias
        return torch.stack([-side, side], 1)


def _readout(model: Classifier, image: Tensor, ball: PerturbationSet, draws: Draws, inner: int) -> _Planted | None:
    """The readout that holds the planted point alone on its far side; None where the features cannot tell it apart."""
    near = torch.cat([image, _drawn(image, ball, draws.at(1), inner, inside=INSIDE)])
    planted = ball.realise(image + ball.extreme(image, draws.at(2)), image)
    with torch.no_grad():
        features = torch.cat([model.features(part).double() for part in torch.split(torch.cat([near, planted]), TOGETHER)])
    first, second = features[:-1], features[-1]
    centred = first - first.mean(0)
    spread = centred.T @ centred / len(first)
    spread.diagonal().add_(RIDGE * spread.diagonal().mean() + 1e-12)
    weight = torch.linalg.solve(spread, second - first.mean(0))
    weight = weight / weight.norm().clamp_min(1e-12)
    most, least = (first @ weight).max(), second @ weight
    if not least > most:
        return None
    return _Planted(model, weight.to(image), (most + CLOSENESS * (least - most)).to(image)).eval()


def _drawn(image: Tensor, ball: PerturbationSet, draws: Draws, count: int, *, inside: float | None) -> Tensor:
    """Random points of the ball shrunk to `inside`, or of its surface, as they would be stored."""
    many = image.expand(count, -1, -1, -1)
    luck = Draws(draws.key.expand(count)).at(torch.arange(count))
    if inside is None:
        return ball.realise(many + ball.extreme(many, luck), many)
    smaller = ball.within(torch.as_tensor(ball.epsilon) * inside)
    return smaller.project(many + smaller.sample(many, luck), many)
