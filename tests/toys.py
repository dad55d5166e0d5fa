"""Models whose strongest attack is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from antivenom.threat.perturbations import L2, Linf, PerturbationSet
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1

FREE = Pixels(low=-10.0, high=10.0)  # values that may go far, as closed forms do


class Plane(nn.Module):
    """Two classes on two sides of a plane through mid-grey: the margin falls by epsilon times the dual norm, no more."""

    def __init__(self, values: int = 48, seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(values, generator=torch.Generator().manual_seed(seed)) / values)

    def forward(self, x: Tensor) -> Tensor:
        z = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-z, z], 1)

    def distance(self, x: Tensor, kind: type[PerturbationSet]) -> Tensor:
        """Size of the smallest perturbation that changes the answer, range left aside (but in L0); `(B,)`."""
        margin = ((x - 0.5).flatten(1) @ self.w).detach()
        if kind is L0:  # the values that bring most, each to the end of its range
            pull = -self.w.detach() * margin.sign()[:, None]
            gain = (pull * torch.where(pull > 0, 1 - x.flatten(1), -x.flatten(1))).sort(1, descending=True).values
            return 1.0 + (gain.cumsum(1) < margin.abs()[:, None]).sum(1)
        dual = {Linf: self.w.abs().sum(), L2: self.w.norm(), L1: self.w.abs().amax()}[kind]
        return margin.abs() / dual.detach()


class Sphere(nn.Module):
    """One class inside a sphere, one outside: curved, and still known."""

    def __init__(self, shape: tuple[int, ...] = (1, 4, 4), radius: float = 0.3) -> None:
        super().__init__()
        self.centre, self.radius = torch.full(shape, 0.5), radius

    def forward(self, x: Tensor) -> Tensor:
        z = self.radius**2 - (x - self.centre).flatten(1).square().sum(1)
        return torch.stack([-z, z], 1)

    def distance(self, x: Tensor) -> Tensor:
        """Euclidean distance to the surface; `(B,)`."""
        return ((x - self.centre).flatten(1).norm(dim=1) - self.radius).abs()


class Affine(nn.Module):
    """Three classes of three values: the distances to both boundaries are known (DeepFool's own formula, by hand)."""

    W = torch.tensor([[1.0, 2.0, -1.0], [0.0, -1.0, 1.0], [-1.0, 0.5, 2.0]])

    def forward(self, x):
        return x.flatten(1) @ self.W.T + torch.tensor([0.2, -0.1, 0.0])


class Counting(nn.Module):
    """A model that counts the images it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


def small_network(channels: int = 1, classes: int = 3, seed: int = 0) -> nn.Sequential:
    """A convolutional network with batch-norm whose statistics are not the neutral ones, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, classes),
        )
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        with torch.no_grad():
            network[-1].weight.mul_(8)
    return network.eval()
