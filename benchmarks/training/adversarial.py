"""What a step of adversarial training costs, beside the gradients it cannot do without and beside the loops of other libraries.

    python benchmarks/training/adversarial.py --data kermany --root ROOT

One turn is the floor, our loop, torchattacks' PGD in a plain loop and ART's AdversarialTrainer, one after the other on the same
images, batch, recipe (PGD of three steps, then one step of SGD) and threads; ratios are taken within a turn. The floor is three
input gradients in evaluation mode and one training step, in the precision that our loop chose, on tensors that lie ready. Our
seconds are those of whole steps of `train` as users run it, decoding, augmentation and saving included and validation not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.data.datasets import load as load_data
from antivenom.data.imageset import ImageSet, gather
from antivenom.models.classifier import Classifier
from antivenom.provenance import machine, versions
from antivenom.training.adversary import Adversary
from antivenom.training.loop import train
from antivenom.training.precision import Precision
from antivenom.training.presets import PRESETS, Recipe

RESULTS = Path(__file__).resolve().parent.parent / "results"
EPSILON, STEPS, STEP_SIZE = 4 / 255, 3, 2 / 255
SKIPPED = 3  # steps that load, compile and fill caches
ASKED_OF_FLOOR, ASKED_OF_PEERS = 1.15, 1.5


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    images = load_data(options.data, options.root, size=options.side)
    recipe = recipe_of(options)
    some = images.split("train").take(range(options.batch * options.steps))
    batch = gather([some[i] for i in range(options.batch)])
    turns: list[dict[str, float]] = []
    precision = Precision("float32")
    for turn in range(options.repeats):
        seconds: dict[str, float] = {}
        seconds["antivenom"], precision = ours(recipe, images, some)
        seconds["floor"] = per_step(floor_step(model_of(recipe, images), batch.images, batch.targets, precision))
        for name, make in PEERS.items():
            try:
                seconds[name] = per_step(make(model_of(recipe, images), batch.images, batch.targets))
            except ImportError as error:
                print(f"{name} is left out: {error}", flush=True)
        turns.append(seconds)
        print(f"turn {turn + 1}: " + ", ".join(f"{name} {value:.3f} s a step" for name, value in seconds.items()), flush=True)
    ratios = {
        name: spread([turn[name] / turn["antivenom"] for turn in turns])
        for name in turns[0]
        if name not in ("antivenom", "floor")
    }
    above = spread([turn["antivenom"] / turn["floor"] for turn in turns])
    print(f"{above[1]:.2f} times the floor ({above[0]:.2f} to {above[2]:.2f}), at most {ASKED_OF_FLOOR} is asked")
    for name, (low, middle, high) in ratios.items():
        print(f"{middle:.2f} times as fast as {name} ({low:.2f} to {high:.2f}), at least {ASKED_OF_PEERS} is asked")
    facts = {
        "data": images.name, "recipe": recipe.model_dump(mode="json"), "images": len(some), "threads": options.threads,
        "precision": precision.name, "turns": turns, "times the floor": above, "times as fast": ratios,
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    output = (
        options.output or RESULTS / f"adversarial-training-{options.architecture}-{options.side}-threads-{options.threads}.json"
    )
    output.write_text(json.dumps(facts, indent=1) + "\n")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Three steps of PGD at full size from the beginning; nothing that the peers' loops have not."""
    adversary = Adversary(epsilon=EPSILON, steps=STEPS, step_size=STEP_SIZE / EPSILON, warm_up=0, trial_steps=1)
    changes = {"architecture": options.architecture, "side": options.side, "batch": options.batch, "epochs": 1}
    return Recipe.model_validate(PRESETS["small"].model_dump() | changes | {"adversary": adversary.model_dump()})


def model_of(recipe: Recipe, images: ImageSet) -> Classifier:
    """A network at the same random start."""
    return recipe.classifier(images.task, channels=images.channels, seed=0, tell=len)


def ours(recipe: Recipe, images: ImageSet, some: ImageSet) -> tuple[float, Precision]:
    """Seconds of a step of `train`, by the median, and the precision that it chose."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        few = images.split("val").take(range(recipe.batch))
        model = model_of(recipe, images)

        def told(*said: object) -> None:  # noqa: ARG001 - the time alone
            ends.append(time.perf_counter())

        result = train(model, some, few, recipe, seed=0, folder=Path(folder), progress=told)
    steps = [after - before for before, after in itertools.pairwise(ends)]
    return statistics.fmean(steps[SKIPPED:-1]), result.precision  # the last step ends with validation


def per_step(step: Callable[[], None], times: int = 6) -> float:
    """Seconds of a step, by the mean of several after some that warm up."""
    for _ in range(2):
        step()
    began = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - began) / times


def sgd(model: Classifier) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=True)


def floor_step(model: Classifier, x: Tensor, y: Tensor, precision: Precision) -> Callable[[], None]:
    """The gradients alone: three of the images, one of the weights."""
    precision.lay_out(model)
    optimiser = sgd(model)

    def step() -> None:
        model.eval()
        for _ in range(STEPS):
            z = precision.laid_out(x.clone()).requires_grad_()
            with precision.autocast(x.device):
                loss = F.cross_entropy(model(z).float(), y)
            torch.autograd.grad(loss, z)
        model.train()
        with precision.autocast(x.device):
            loss = F.cross_entropy(model(precision.laid_out(x)).float(), y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def with_torchattacks(model: Classifier, x: Tensor, y: Tensor) -> Callable[[], None]:
    """torchattacks' PGD in a plain loop, which is how its users train."""
    from torchattacks import PGD

    attack, optimiser = PGD(model, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=True), sgd(model)

    def step() -> None:
        harmed = attack(x, y)
        model.train()
        loss = F.cross_entropy(model(harmed), y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def with_art(model: Classifier, x: Tensor, y: Tensor) -> Callable[[], None]:
    """ART's trainer, one batch a call."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), len(model.task.classes),
        optimizer=sgd(model), clip_values=(0, 1), device_type="cpu",
    )  # fmt: skip
    trainer = AdversarialTrainerMadryPGD(
        wrapped, nb_epochs=1, batch_size=len(x), eps=EPSILON, eps_step=STEP_SIZE, max_iter=STEPS, num_random_init=1
    )
    assert isinstance(trainer.attack, ProjectedGradientDescent)
    trainer.attack.set_params(verbose=False)
    pixels, labels = x.numpy(), y.numpy()

    def step() -> None:
        trainer.fit(pixels, labels)

    return step


PEERS: dict[str, Callable[[Classifier, Tensor, Tensor], Callable[[], None]]] = {
    "torchattacks": with_torchattacks,
    "ART": with_art,
}


def spread(ratios: list[float]) -> list[float]:
    """Least, median and largest."""
    return [min(ratios), statistics.median(ratios), max(ratios)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="of our loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
