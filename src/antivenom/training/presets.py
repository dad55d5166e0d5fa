"""How a classifier is trained: every setting that moves the result, and the papers' own choices of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from antivenom.errors import SettingsError
from antivenom.models.architectures import build
from antivenom.models.classifier import Classifier
from antivenom.models.presentation import CentreCrop, Presented
from antivenom.task import Task
from antivenom.training.adversary import Adversary
from antivenom.training.augmentation import Augmentation


class Recipe(BaseModel):
    """Settings of one training.

    `classifier` makes the model that a recipe is for; `train` follows the rest. Another value goes in through
    `Recipe.model_validate(PRESETS["small"].model_dump() | {"epochs": 5})`, which checks it.

    Attributes:
        name: as a card and a report call it.
        architecture: the backbone and what is built into it, as `architectures.architecture` reads it.
        pretrained: whether it starts from timm's ImageNet weights.
        side: pixels a side at which images are loaded.
        centre_crop: share of the side that the classifier keeps, in training and in use.
        epochs, batch: how long, and how many images a step.
        learning_rate, momentum, nesterov, weight_decay: of SGD.
        schedule: of the learning rate. `one-cycle` climbs over the first 30 % of the steps and falls to nothing; `cosine`
            falls all the way; `step` is multiplied by `step_factor` every `step_epochs`.
        sampling: `natural` shows each image once an epoch; `balanced` draws classes equally often, with replacement.
        class_weighting: whether the loss weighs rare classes up.
        label_smoothing: share of the target spread over all classes.
        average: decay per step of a running average of the weights, which is then what is validated and kept. None: no average.
        precision: `auto` measures float32 against bfloat16 once, on the machine at hand.
        adversary: who disturbs each training image before it is learnt from, and the validation images that choose the epoch.
        temperature: what logits are divided by in the loss; above 1 with a teacher for defensive distillation.
        gradient_penalty: weight of the squared length of the loss's gradient by the pixels (Ross and Doshi-Velez 2018).
        keep_zeros: whether weights of convolutions that are exactly 0 at the start, as pruning leaves them, stay so.
        kwta_start: share of winners that k-winners layers begin with; it falls to what the architecture's name says over the
            first half of the training, and only later epochs can be chosen.
        patience: epochs without a better one after which the training ends; None: it runs to its end.
        notes: what a reader must be told, such as which settings its paper does not state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str = "resnet18"
    pretrained: bool = False
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
    adversary: Adversary | None = None
    temperature: float = Field(default=1.0, gt=0)
    gradient_penalty: float = Field(default=0.0, ge=0)
    keep_zeros: bool = False
    kwta_start: float | None = Field(default=None, gt=0, le=1)
    patience: int | None = Field(default=None, ge=1)
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

    def classifier(
        self,
        task: Task,
        *,
        channels: int,
        seed: int,
        pretrained: bool | Path | None = None,
        tell: Callable[[str], None] = print,
    ) -> Classifier:
        """The classifier that this recipe trains: its backbone at its side, the centre crop, where there is one, inside.

        Args:
            pretrained: another start than the recipe's own, such as a local file of weights.

        Raises:
            SettingsError, WeightsError: as `architectures.build`.
        """
        side = round(self.centre_crop * self.side)
        start = self.pretrained if pretrained is None else pretrained
        model = build(self.architecture, task, channels=channels, seed=seed, pretrained=start, size=(side, side), tell=tell)
        return model if self.centre_crop == 1 else Presented(model, [CentreCrop((side, side))])


def _half_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2


_UNSTATED = "Not stated in the paper, so our choice: "

PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="small",
            side=64,
            epochs=20,
            batch=32,
            learning_rate=0.05,
            weight_decay=5e-4,
            schedule="one-cycle",
            average=0.99,
            augmentation=Augmentation(rotation=10, shift=0.05, zoom=0.1, mirror=True),
            notes=("From scratch on a few thousand images of 64 to 128 px, in minutes on two cores.",),
        ),
        Recipe(
            name="chen2021-paper",
            architecture="resnet34",
            pretrained=True,
            side=256,
            centre_crop=0.875,
            epochs=300,
            batch=128,
            learning_rate=1e-4,
            augmentation=Augmentation(rotation=10, shift=0.1, mirror=True),
            notes=(
                f"{_UNSTATED}batch 128 (as in its repository), rotation of 10 degrees, shift of 10 %, the side of 256 px "
                "before the crop, no weight decay, a constant learning rate, and 300 of its '300-500' epochs.",
            ),
        ),
        Recipe(
            name="chen2021-repo",
            architecture="resnet34",
            pretrained=True,
            side=256,
            centre_crop=0.875,
            epochs=250,
            batch=128,
            learning_rate=0.01,
            weight_decay=1e-4,
            schedule="step",
            sampling="balanced",
            augmentation=Augmentation(crop=0.875, mirror=True, upend=True),
            notes=("The repository also mirrors and crops at random in validation; here validation sees the centre crop.",),
        ),
        Recipe(
            name="wasserman2022",
            architecture="resnet50",
            pretrained=True,
            side=224,
            epochs=60,
            batch=32,
            learning_rate=0.01,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=Augmentation(rotation=10, shift=0.05, mirror=True),
            notes=(f"{_UNSTATED}everything but the ResNet-50.",),
        ),
        Recipe(
            name="li2020",
            architecture="densenet121",
            pretrained=True,
            side=224,
            epochs=30,
            batch=32,
            learning_rate=0.001,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=Augmentation(mirror=True),
            notes=(f"{_UNSTATED}everything but the DenseNet-121 with 14 sigmoid outputs.",),
        ),
        Recipe(
            name="sahu2024",
            architecture="efficientnet_b0",
            pretrained=True,
            side=224,
            epochs=40,
            batch=32,
            learning_rate=0.01,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=Augmentation(rotation=10, shift=0.05, mirror=True),
            notes=(f"{_UNSTATED}everything but the EfficientNet-B0.",),
        ),
    )
}


def preset(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        SettingsError: there is none.
    """
    if name not in PRESETS:
        raise SettingsError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
