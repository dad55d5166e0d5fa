"""How a classifier is trained: every setting that moves the result, and the papers' own choices of them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from antivenom.models.classifier import Classifier
from antivenom.models.presentation import CentreCrop, Presented
from antivenom.training.augmentation import Augmentation


class Recipe(BaseModel):
    """Settings of one training.

    Attributes:
        name: as a card and a report call it.
        architecture: the backbone that it was made for, as in `ARCHITECTURES`.
        side: pixels a side at which images are loaded.
        centre_crop: share of the side that the classifier keeps; see `present`.
        epochs, batch: how long, and how many images a step.
        learning_rate, momentum, nesterov, weight_decay: of SGD.
        schedule: of the learning rate. `one-cycle` climbs over the first 30 % of the steps and falls to nothing; `cosine`
            falls all the way; `step` is multiplied by `step_factor` every `step_epochs`.
        sampling: `natural` shows each image once an epoch; `balanced` draws classes equally often, with replacement.
        class_weighting: whether the loss weighs rare classes up.
        label_smoothing: share of the target spread over all classes.
        average: decay per step of a running average of the weights, which is then what is validated and kept. None: no average.
        precision: `auto` measures float32 against bfloat16 once, on the machine at hand.
        notes: what a reader must be told, such as which settings its paper does not state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str = "resnet18"
    side: int = Field(default=64, ge=8)
    centre_crop: float = Field(default=1.0, gt=0, le=1)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine", "one-cycle", "step"] = "constant"
    step_epochs: int = Field(default=100, ge=1)
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    sampling: Literal["natural", "balanced"] = "natural"
    class_weighting: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    average: float | None = Field(default=None, gt=0, lt=1)
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    notes: tuple[str, ...] = ()

    def rate(self, step: int, steps_an_epoch: int) -> float:
        """The learning rate at a step, counted from 0 over the whole training.

        >>> recipe = Recipe(name="x", epochs=10, batch=8, learning_rate=0.1, schedule="cosine")
        >>> recipe.rate(0, 5), round(recipe.rate(25, 5), 3)
        (0.1, 0.05)
        """
        done = step / (self.epochs * steps_an_epoch)
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            return self.learning_rate * self.step_factor ** (step // steps_an_epoch // self.step_epochs)
        if self.schedule == "cosine":
            return self.learning_rate * _half_cosine(done)
        climb = 0.3
        if done < climb:
            return self.learning_rate * (0.04 + 0.96 * (1 - _half_cosine(done / climb)))
        return self.learning_rate * _half_cosine((done - climb) / (1 - climb))

    def present(self, classifier: Classifier) -> Classifier:
        """The classifier as this recipe trains and uses it: with the centre crop, where there is one, inside."""
        if self.centre_crop == 1:
            return classifier
        side = round(self.centre_crop * self.side)
        return Presented(classifier, [CentreCrop((side, side))])


def _half_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2
