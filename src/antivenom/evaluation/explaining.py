"""Explain an audited model: where it looks on some test images, in figures and a few maps, in documents beside the records.

Each part is a document that is written whole, and running the same again continues where they end. What is measured is said in
`looking`. A part that cannot be measured on this model, such as maps where no layer puts out any, is written with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from antivenom.data.imageset import ImageSet, gather
from antivenom.errors import DataError, ModelError, NotMeasuredError, RecordsError
from antivenom.evaluation.batteries import LEVELS
from antivenom.evaluation.diagnosis import main_row
from antivenom.evaluation.looking import PARTS, Scene, late_layer, lesions
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import Frozen, Row, default_goal
from antivenom.evaluation.run import Progress
from antivenom.metrics.classification import one_hot
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import Victim, execute
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records.audit import Audit
from antivenom.records.explanation import ASKED, HOME, ORIGIN, OUTSIDE_PLAN
from antivenom.records.parts import WHY_NOT
from antivenom.records.plan import PlanRow, open_to
from antivenom.records.store import Store
from antivenom.task import Task
from antivenom.threat.card import goal_for

# Shares of the work, as ResNet-18 at 64 px on one thread has them.
WORK = {"focus": 8.0, "regions": 23.0, "distances": 24.0, "artefacts": 3.0, "shuffled": 0.5, "surface": 4.0}


class Order(Frozen):
    """What is to be explained.

    Attributes:
        images: at most so many test images of the audit: those of which maps are kept, then what the model has right, in an
            order drawn by the seed.
        seed: of the images and of all draws.
        keep: images of which maps are kept, right or not, so that they are the same for every model audited on these images;
            classes take turns.
    """

    images: Annotated[int, Field(gt=0)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    keep: Annotated[int, Field(ge=0)] = 4


def explain(
    model: Classifier,
    data: ImageSet,
    folder: str | Path,
    order: Order,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> Path:
    """Measure where an audited model looks, and store it in the audit's folder.

    The attack is the audit's main one (`diagnosis.main_row`), run until its budget is spent; where the audit has none, PGD at
    the middle level of the batteries.

    Args:
        model: the audited one, in evaluation mode; left exactly as it is.
        data: the set of the audit.
        folder: of the audit, whose clean images are measured. Where it holds the same explanation half done, that goes on.
        order: what is to be explained.
        command: what the user typed.
        progress: told of the work done.

    Returns:
        The folder.

    Raises:
        ModelError: training mode.
        DataError, ImageError: bad images, or none that the attack concerns.
        NotMeasuredError: the audit's clean images are not measured.
        RecordsError: the folder holds no audit, or one of another model or other images, or another explanation.
    """
    check_ready(model)
    store = Store(folder)
    _check_same(store, model, data)
    asked = _begin(store, model, data, order, command)
    missing = [name for name in PARTS if not store.has_document(f"{HOME}/{name}")]
    if not missing:
        return store.folder
    work = _Work(sum(WORK[name] for name in missing), progress or (lambda *_: None))
    scene = _scene(store, model, data, asked, work.tell)
    for name in missing:
        store.write_document(f"{HOME}/{name}", _measured(name, scene))
        work.done += WORK[name]
    work.tell("done")
    return store.folder


@dataclass
class _Work:
    """How far the work has come."""

    total: float
    told: Progress
    done: float = 0.0

    def tell(self, text: str) -> None:
        """Say what is being done."""
        self.told(self.done, self.total, text)


def _measured(name: str, scene: Scene) -> dict[str, Any]:
    try:
        return PARTS[name](scene)
    except (NotMeasuredError, ModelError) as reason:
        return {WHY_NOT: str(reason)}


# -- what is asked -----------------------------------------------------------------------------------------------------


def _check_same(store: Store, model: Classifier, data: ImageSet) -> None:
    """Refuse a folder whose audit is of another model or of other images."""
    found = store.document("protocol")
    pairs = {"model": (model.digest(), found["model"]["digest"]), "images": (data.digest, found["data"]["digest"])}
    if differing := [name for name, (own, held) in pairs.items() if own != held]:
        raise RecordsError(
            f"{store.folder} holds an audit of another kind: its {' and '.join(differing)} differ; give the audit of this model"
        )


def _begin(store: Store, model: Classifier, data: ImageSet, order: Order, command: str) -> dict[str, Any]:
    """What was asked for when the explanation began, or, where it begins now, what is asked for."""
    for draft in store.folder.glob(f"{HOME}/.*.draft"):
        draft.unlink()
    if store.has_document(f"{HOME}/{ASKED}"):
        asked: dict[str, Any] = store.document(f"{HOME}/{ASKED}")
        if differing := sorted(name for name, value in order.model_dump().items() if asked["order"].get(name) != value):
            raise RecordsError(
                f"{store.folder / HOME} holds another explanation: its {', '.join(differing)} differ; "
                "choose another folder, or remove it"
            )
        return asked
    audit = Audit.read(store.folder)
    row = main_row(audit) or _middle(audit.task)
    chosen, kept = _chosen(audit, row, order)
    tests = data.split("test")
    layer, size = late_layer(model, tests[0].image[None].to(model.device))
    images = audit.splits["test"].images
    asked = {
        "order": order.model_dump(),
        "row": {name: getattr(row, name) for name in ("number", "attack", "label", "settings", "goal", "threat", "epsilon")},
        "images": [str(images[place]) for place in chosen],
        "right": [audit.right(0)[place].tolist() for place in chosen],
        "kept": [str(images[place]) for place in kept],
        "layer": layer,
        "map": list(size),
    }
    began = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    store.write_document(f"{HOME}/{ORIGIN}", {**began, "code": digest_code(), "versions": versions(), "machine": machine()})
    store.write_document(f"{HOME}/{ASKED}", asked)
    return asked


def _middle(task: Task) -> PlanRow:
    """PGD at the middle level, for an audit without a climb of its own."""
    settings: dict[str, Any] = {"objective": "log_likelihood"} if task.multilabel else {}
    row = Row(attack="pgd", settings=settings, goal=default_goal(task), epsilon=sorted(LEVELS)[len(LEVELS) // 2] / 255)
    return PlanRow(OUTSIDE_PLAN, row.attack, row.attack, row.settings, row.goal, row.threat, row.epsilon, "spent")


def _chosen(audit: Audit, row: PlanRow, order: Order) -> tuple[list[int], list[int]]:
    """Places of the images among the test images: all of them, and those of which maps are kept, which come first.

    Raises:
        DataError: the attack concerns none.
    """
    concerned = np.asarray(open_to(row.goal, audit.task, audit.targets).any(1))
    places = np.random.default_rng(order.seed).permutation(len(audit.targets))
    places = places[concerned[places]]
    if not len(places):
        raise DataError(f"none of the {len(audit.targets)} test images is concerned by the goal '{row.goal}'")
    kept = _in_turns(audit, places)[: min(order.keep, order.images)]
    rest = [place for place in places.tolist() if place not in kept]
    # Of findings few images have all right: they are taken as they come.
    wrong = np.zeros(len(audit.targets), dtype=bool) if audit.task.multilabel else ~np.asarray(audit.right(0).all(1))
    rest.sort(key=lambda place: bool(wrong[place]))  # stable: the order drawn stays among those right, and among the others
    return [*kept, *rest][: order.images], kept


def _in_turns(audit: Audit, places: np.ndarray[Any, Any]) -> list[int]:
    """The same places, classes taking turns; of findings, images with each and images with none."""
    shown = one_hot(audit.targets, len(audit.task.classes), multilabel=audit.task.multilabel).astype(bool)[places]
    queues = [places[column].tolist() for column in shown.T] + [places[~shown.any(1)].tolist()]
    turns = range(max(map(len, queues)))
    return list(dict.fromkeys(queue[turn] for turn in turns for queue in queues if turn < len(queue)))


# -- what is looked at -------------------------------------------------------------------------------------------------


def _scene(store: Store, model: Classifier, data: ImageSet, asked: dict[str, Any], tell: Callable[[str], None]) -> Scene:
    tests = data.split("test")
    where = {key: place for place, key in enumerate(tests.keys)}
    places = [where[name] for name in asked["images"]]
    batch = gather([tests[place] for place in places])
    thresholds = operating_thresholds(store, model, data.split("val"))
    row = PlanRow(**asked["row"], until="spent")
    goal, _ = goal_for(row.goal, model.task, batch.targets, thresholds)  # all are concerned: only such were chosen
    x = batch.images.to(model.device)
    return Scene(
        model=model,
        victim=_victim(store, model, x),
        row=row,
        x=x,
        targets=batch.targets,
        masks=lesions(_masks(tests, places)),
        goal=goal.to(x.device),
        thresholds=thresholds,
        draws=Draws.of(asked["order"]["seed"], image_keys(batch.keys)),
        layer=asked["layer"],
        kept=tuple(asked["images"].index(name) for name in asked["kept"]),
        names=batch.keys,
        store=store,
        tell=tell,
    )


def _victim(store: Store, model: Classifier, x: torch.Tensor) -> Victim:
    """The model as the audit attacked it."""
    if not store.has_document("execution"):
        return Victim.of(model)
    chosen = store.document("execution")
    return execute(model, x[:8], chosen["execution"], batch=chosen["batch"])


def _masks(tests: ImageSet, places: Sequence[int]) -> list[torch.Tensor | None]:
    """The lesion of each image; None where the set knows none."""
    if not tests.has_masks:
        return [None for _ in places]
    found: list[torch.Tensor | None] = []
    for place in places:
        try:
            found.append(tests.mask(place))
        except DataError:  # of this image there is no mask
            found.append(None)
    return found
