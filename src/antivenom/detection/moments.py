"""Mean and second central moment of a stream of features, in bounded memory.

Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and recommendations", The American Statistician
37 (1983), https://doi.org/10.1080/00031305.1983.10483115: each block is centred by its own mean, and two parts are joined by
the difference of their means, so that nothing large is subtracted from anything large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.detection.detector import finite
from antivenom.errors import InputError

ROWS = 4096  # features in one matrix product: fewer leave the processor idle, more take memory and gain nothing


@dataclass(frozen=True, eq=False)
class Moments:
    """What a Gaussian needs to know of n features of D values each; tensors are float64.

    Attributes:
        n: features seen.
        mean: `(D,)`.
        scatter: `(D, D)`, the sum of outer products of the deviations from the mean.
        low, high: `(D,)`, the smallest and the largest value of each dimension.

    >>> found = Moments.of([torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0], [4.0, 1.0]])])
    >>> found.n, found.mean.tolist(), found.covariance[0, 0].item(), found.constant.tolist()
    (3, [2.0, 1.0], 2.6666666666666665, [False, True])
    """

    n: int
    mean: Tensor
    scatter: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(stream: Iterable[Tensor], *, what: str = "features") -> Moments:
        """Read batches of features `(B, D)` once.

        Args:
            stream: batches of any size and floating-point type.
            what: the features are called in an error.

        Raises:
            InputError: as `RunningMoments`.
        """
        running = RunningMoments(what)
        for values in stream:
            running.add(values)
        return running.found()

    @property
    def covariance(self) -> Tensor:
        """Biased covariance `(D, D)`: the scatter divided by n."""
        return self.scatter / self.n

    @property
    def constant(self) -> Tensor:
        """Which dimensions `(D,)` had one and the same value in all features."""
        return self.low == self.high

    def merged(self, other: Moments) -> Moments:
        """The moments of both together."""
        n, apart = self.n + other.n, other.mean - self.mean
        return Moments(
            n,
            self.mean + apart * (other.n / n),
            torch.addr(self.scatter + other.scatter, apart, apart, alpha=self.n * other.n / n),
            self.low.minimum(other.low),
            self.high.maximum(other.high),
        )

    def caveats(self, layer: str) -> list[str]:
        """What must be said of a covariance made of these: fewer images than dimensions, dimensions that never vary."""
        width, still, told = len(self.mean), int(self.constant.sum()), []
        if self.n <= width:
            told.append(
                f"{layer}: fitted on {self.n} images of {width} values each; in at least {width - self.n + 1} directions "
                "the images say nothing and shrinkage alone decides"
            )
        if still:
            told.append(
                f"{layer}: {still} of {width} values were the same in all {self.n} clean images; how much a change of them "
                "counts rests on shrinkage alone"
            )
        return told


class RunningMoments:
    """Moments on the way: features are added batch by batch, small batches gathered into blocks.

    Args:
        what: the features are called in an error.

    Raises:
        InputError: from `add`, where features are not finite or not `(B, D)` of one width; from `found`, where there was none.
    """

    def __init__(self, what: str = "features") -> None:
        self.what = what
        self._waiting: list[Tensor] = []
        self._total: Moments | None = None

    def add(self, values: Tensor) -> None:
        """Count features `(B, D)` in."""
        seen = self._waiting[0].shape[1] if self._waiting else len(self._total.mean) if self._total else None
        if values.ndim != 2 or values.shape[1] != (seen or values.shape[1]):
            raise InputError(f"{self.what}: expected (B, {seen or 'D'}), got {tuple(values.shape)}; they must be of one model")
        for part in torch.split(finite(values.detach(), self.what), ROWS):
            if sum(map(len, self._waiting)) + len(part) > ROWS:
                self._settle()
            self._waiting.append(part)

    def found(self) -> Moments:
        """The moments of all that was added."""
        self._settle()
        if self._total is None:
            raise InputError(f"{self.what}: no image was read; give at least one, in a stream that can be read again")
        return self._total

    def _settle(self) -> None:
        block, self._waiting = [part for part in self._waiting if len(part)], []
        if block:
            moments = _moments(torch.cat(block).double())
            self._total = moments if self._total is None else self._total.merged(moments)


def _moments(values: Tensor) -> Moments:
    low, high = values.amin(0), values.amax(0)
    # A mean lies between the ends; rounding may put it beside a constant, which would then seem to vary.
    mean = values.mean(0).clamp(low, high)
    apart = values - mean
    return Moments(len(values), mean, apart.T @ apart, low, high)
