"""A classifier smoothed by Gaussian noise: its answer is what most noisy copies of an image are taken for, and holds provably
within an L2 ball.

Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
https://arxiv.org/abs/1902.02918: PREDICT and CERTIFY. Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck, "Provably Robust
Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019, https://arxiv.org/abs/1906.04584: the mean of
probabilities over noise as what an adversary climbs.

The noise is added to the stored image, in units of its [0, 1] range and before all preprocessing, and is never clipped: the
proof is about the Gaussian itself, for any function of the noisy image. `Classifier` takes values outside [0, 1]; a step that
clips them is part of that function. The proof counts in exact numbers; what float32 rounds is left aside.

Beyond the paper: findings that do not exclude each other are each a vote of their own between present and absent, and share
alpha evenly (Bonferroni), so that all that is certified of one image holds together with probability 1 - alpha. A copy that
is answered with NaN votes for nothing. There is no early exit: each image costs all of its copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.errors import ImageError, SettingsError
from antivenom.metrics.certificates import ABSTAINED, certified_radius, tie_probability
from antivenom.models.classifier import AT_ONCE, Classifier, check_ready
from antivenom.models.execution import Forward, Victim
from antivenom.randomness import Draws

# Places in the work, so that no two uses of one image's stream meet the same noise.
CHOOSING, PROVING, PREDICTING, PROPOSING, JUDGING = range(5)


@dataclass(frozen=True, eq=False)
class Certificates:
    """What is certified of some images; findings have a column each, K of them.

    Attributes:
        classes: `(B,)` int64 class, or `(B, K)` 1 present and 0 absent; -1 where it abstains.
        radius: `(B,)` or `(B, K)` float64, L2 over all values in units of the [0, 1] range; 0 where it abstains.
        votes: `(B,)` or `(B, K)` int64, of the copies that prove, for the class that was chosen, abstained or not.
    """

    classes: Tensor
    radius: Tensor
    votes: Tensor


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A classifier whose answer is the majority's over Gaussian noise on the image.

    Attributes:
        classifier: what answers each copy, in evaluation mode.
        sigma: standard deviation of the noise on every value, in units of the [0, 1] range.
        thresholds: `(A,)` logits above which a finding counts as present; None: 0. Only multi-label tasks use them.
        batch: copies answered at once; moves nothing but memory and speed.

    Raises:
        SettingsError: sigma not above 0, a batch below 1, or thresholds that are not one per finding.

    >>> from torch import nn
    >>> from antivenom.task import Task
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> model = Classifier(network, Task(("normal", "pneumonia")), channels=1, mean=0.0, std=1.0).eval()
    >>> draws = Draws.of(seed=0, images=torch.arange(3))
    >>> found = Smoothed(model, sigma=0.25).certify(torch.rand(3, 1, 2, 2), 10, 200, 0.001, draws)
    >>> tuple(found.classes.shape), bool((found.radius >= 0).all())
    ((3,), True)
    """

    classifier: Classifier
    sigma: float
    thresholds: Tensor | None = None
    batch: int = AT_ONCE

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise SettingsError(f"sigma must be above 0 and finite, got {self.sigma}; 0.25 is a quarter of the range")
        if self.batch < 1:
            raise SettingsError(f"a batch holds at least one copy, got {self.batch}")
        findings = len(self.classifier.task.classes)
        if self.thresholds is not None and tuple(self.thresholds.shape) != (findings,):
            raise SettingsError(f"thresholds must be one per finding, got {tuple(self.thresholds.shape)} for {findings}")

    def predict(self, images: Tensor, n: int, alpha: float, draws: Draws) -> Tensor:
        """Answer images by the vote of `n` noisy copies each, or abstain.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            n: copies.
            alpha: chance that an answer is not the smoothed classifier's, at most; an image with a close vote gets none.
            draws: one stream per image.

        Returns:
            `(B,)` int64 class, or `(B, K)` 1 present and 0 absent; -1 where it abstains.

        Raises:
            ModelError, ImageError, SettingsError: as `certify`.
        """
        self._check(images, (n,), alpha, draws)
        votes = self._votes(images, n, draws.at(PREDICTING))
        second, first = np.moveaxis(np.sort(votes, -1)[..., -2:], -1, 0)
        sure = tie_probability(first, second) <= alpha / votes.shape[1]
        return self._shaped(np.where(sure, votes.argmax(-1), ABSTAINED))

    def certify(self, images: Tensor, n0: int, n: int, alpha: float, draws: Draws) -> Certificates:
        """Find for each image the class that the smoothed classifier answers, and how far no change of it alters that.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            n0: copies that choose the class.
            n: other copies that prove it.
            alpha: chance that an image's certificate is wrong, at most; findings share it.
            draws: one stream per image.

        Raises:
            ModelError: some part is in training mode.
            ImageError: not finite floating-point images `(B, C, H, W)`.
            SettingsError: fewer than one copy, alpha outside (0, 1), or not one stream per image.
        """
        self._check(images, (n0, n), alpha, draws)
        chosen = self._votes(images, n0, draws.at(CHOOSING)).argmax(-1)
        votes = np.take_along_axis(self._votes(images, n, draws.at(PROVING)), chosen[..., None], -1)[..., 0]
        radius = certified_radius(votes, n, self.sigma, alpha / votes.shape[1])
        classes = np.where(radius > 0, chosen, ABSTAINED)
        return Certificates(self._shaped(classes), self._shaped(radius), self._shaped(votes))

    def victim(self, images: Tensor, draws: Draws, *, copies: int = 16, judged: int = 256) -> Victim:
        """The smoothed classifier as an adversary meets it who knows all of it but the noise of the day.

        All images meet the same fixed noise, so the answer depends on the image alone.

        Args:
            images: `(B, C, H, W)`; only their shape and device are looked at.
            draws: one stream, as `Draws.of(seed, torch.zeros(1, dtype=torch.int64))`.
            copies: whose mean probability is climbed (expectation over transformation).
            judged: copies whose votes decide whether it is fooled; what withstands is to be asked again by `predict`.

        Returns:
            A victim that proposes by log mean probabilities `(B, A)` and is judged by log shares of votes; of findings by
            log-odds of either, 0 being the boundary whatever the thresholds are.

        Raises:
            ModelError: some part is in training mode.
            SettingsError: fewer than one copy, or several streams.
        """
        check_ready(self.classifier)
        if min(copies, judged) < 1 or len(draws) != 1:
            raise SettingsError(
                f"an adversary needs at least one copy and one stream of noise, got {copies}, {judged} and {len(draws)}"
            )
        shape, device = images.shape[1:], images.device
        noise = [part.to(device) for part in self._fixed(shape, draws.at(PROPOSING), copies)]

        def judge(points: Tensor) -> Tensor:
            with torch.no_grad():
                fresh = (part.to(device) for part in self._fixed(shape, draws.at(JUDGING), judged))
                votes = sum((self._ballots(self.classifier(points + part)) for part in fresh), points.new_zeros(()))
            # Half a vote more for each option: the logarithm of none would be infinite.
            return self._answer(torch.log((votes + 0.5) / (judged + 1)))

        return Victim(judge, self._softened(noise), max(1, self.batch // copies), f"EOT over {copies} draws of noise")

    def _softened(self, noise: list[Tensor]) -> Forward:
        def propose(points: Tensor) -> Tensor:
            stated = torch.stack([self._log_probabilities(self.classifier(points + part)) for part in noise])
            return self._answer(stated.logsumexp(0) - math.log(len(noise)))

        return propose

    def _fixed(self, shape: torch.Size, draws: Draws, copies: int) -> Iterator[Tensor]:
        for copy in range(copies):
            yield self.sigma * draws.at(copy).normal(*shape)

    @torch.no_grad()
    def _votes(self, images: Tensor, n: int, draws: Draws) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Votes `(B, D, O)` of `n` copies each, D decisions among O options; each copy has its own place in the stream."""
        device, total = self.classifier.device, len(images) * n
        images, votes = images.to(device), None
        for start in range(0, total, self.batch):
            place = torch.arange(start, min(start + self.batch, total))
            whose, copy = place // n, place % n
            noise = draws.take(whose).at(copy).normal(*images.shape[1:]).to(device)
            cast = self._ballots(self.classifier(images[whose.to(device)] + self.sigma * noise)).cpu()
            if votes is None:
                votes = torch.zeros(len(images), *cast.shape[1:], dtype=torch.int64)
            votes.index_add_(0, whose, cast)
        assert votes is not None
        return votes.numpy()

    def _ballots(self, logits: Tensor) -> Tensor:
        """Logits `(B, A)` to one vote in each decision, `(B, D, O)` int64; none where a logit is NaN."""
        if self.classifier.task.multilabel:
            present = (logits > self._thresholds(logits)).long()
            cast, valid = torch.stack([1 - present, present], 2), ~logits.isnan()
        else:
            cast, valid = F.one_hot(logits.argmax(1), logits.shape[1])[:, None], ~logits.isnan().any(1, keepdim=True)
        return cast * valid[..., None]

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """Logits `(B, A)` to log-probabilities of each option, `(B, D, O)`."""
        if not self.classifier.task.multilabel:
            return F.log_softmax(logits, 1)[:, None]
        over = logits - self._thresholds(logits)
        return torch.stack([F.logsigmoid(-over), F.logsigmoid(over)], 2)

    def _answer(self, stated: Tensor) -> Tensor:
        """Log-probabilities `(B, D, O)` as an answer `(B, A)`."""
        return stated[..., 1] - stated[..., 0] if self.classifier.task.multilabel else stated[:, 0]

    def _thresholds(self, like: Tensor) -> Tensor:
        return like.new_zeros(()) if self.thresholds is None else self.thresholds.to(like)

    def _shaped(self, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        """Decisions `(B, D)` as a tensor shaped as the targets."""
        return torch.from_numpy(values if self.classifier.task.multilabel else values[:, 0])

    def _check(self, images: Tensor, copies: tuple[int, ...], alpha: float, draws: Draws) -> None:
        check_ready(self.classifier)
        if images.ndim != 4 or not images.is_floating_point() or not len(images):
            raise ImageError(f"images must be floating point of shape (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if not bool(images.isfinite().all()):
            raise ImageError("images must be finite; a NaN or an infinity has no distance from anything")
        if min(copies) < 1:
            raise SettingsError(f"a vote needs at least one copy, got {min(copies)}")
        if not 0 < alpha < 1:
            raise SettingsError(f"alpha is a chance between 0 and 1, got {alpha}; 0.001 is usual")
        if len(draws) != len(images):
            raise SettingsError(f"{len(draws)} streams of random numbers for {len(images)} images; give one per image")
