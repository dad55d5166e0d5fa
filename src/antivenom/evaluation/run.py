"""Run a protocol on a model and a set of images, to records that survive a kill at any moment.

The images are walked in shards. Each shard is loaded once and meets every row of the plan; what each row found is stored
before the next begins. Running the same again continues where the records end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.attacks import ATTACKS, AttackResult, Until, attack
from antivenom.data.imageset import Batch, ImageSet, gather
from antivenom.errors import DataError, RecordsError
from antivenom.evaluation.diagnosis import diagnose, main_row
from antivenom.evaluation.examples import measures
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import CLEAN, Protocol, Row
from antivenom.evaluation.suspicion import suspicions
from antivenom.metrics.classification import one_hot
from antivenom.models.classifier import AT_ONCE, Classifier, check_ready
from antivenom.models.execution import Victim, accelerate, execute
from antivenom.models.parameters import count
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records.audit import Audit
from antivenom.records.plan import size
from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Scan
from antivenom.threat.card import goal_for, perturbation_set

Progress = Callable[[float, float, str], None]  # work done, work in all, what is being done


def run(
    model: Classifier,
    data: ImageSet,
    protocol: Protocol,
    folder: str | Path,
    *,
    name: str = "",
    command: str = "",
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Audit a model on the test images of a set; operating points come from its validation images.

    Args:
        model: in evaluation mode; left exactly as it is.
        data: with the splits `val` and `test`, and the task of the model.
        protocol: what to run.
        folder: of the records; where it holds the same run half done, the run continues.
        name: of the model in reports.
        command: what the user typed, for the report.
        card: what else is known of the model, such as how it was trained; goes into the provenance.
        progress: told of the work done, after every shard.

    Returns:
        The folder.

    Raises:
        ModelError: training mode.
        DataError, ImageError: no validation or test images, another task or other channels than the model's, bad images.
        RecordsError: the folder belongs to another run, or cannot be written.
    """
    check_ready(model)
    check_fit(model, data)
    protocol = protocol.for_task(model.task)
    tests, vals = drawn(data.split("test"), protocol.images, protocol.seed), data.split("val")
    store = Store(folder)
    digest = model.digest()
    _begin(store, data, tests, vals, protocol, {"name": name or model.architecture, "digest": digest})
    store.sweep()
    thresholds = operating_thresholds(store, model, vals)
    victim = _victim(store, model, tests, protocol)
    if not store.has_document("provenance"):
        store.write_document("provenance", _provenance(model, data, victim, digest, command, card or {}))
    _walk(_Bench(store, model, digest, victim, protocol, thresholds, _kept(tests, protocol)), vals, tests, progress)
    _examine(store, model, victim, tests, protocol, thresholds, progress)
    provenance = store.document("provenance")
    finished, begun = datetime.now(UTC), datetime.fromisoformat(provenance["started"])
    done = {"finished": finished.isoformat(timespec="seconds"), "seconds": (finished - begun).total_seconds()}
    store.write_document("provenance", {**provenance, **done})
    store.write_document("flags", [asdict(flag) for flag in suspicions(Audit.read(store.folder))])
    return store.folder


@dataclass(frozen=True)
class _Bench:
    """What every shard is worked on with."""

    store: Store
    model: Classifier
    digest: str  # of the model
    victim: Victim
    protocol: Protocol
    thresholds: Tensor  # (A,) logits
    kept: frozenset[str]
    clean: list[tuple[float, int]] = field(default_factory=list)  # seconds and images of each shard of clean images


# -- before the first shard --------------------------------------------------------------------------------------------


def check_fit(model: Classifier, data: ImageSet) -> None:
    """Refuse a set that asks another question than the model answers, or of other channels.

    Raises:
        DataError: naming both.
    """
    if data.task != model.task:
        raise DataError(
            f"{data.name} asks for {', '.join(data.task.classes)}{' (multi-label)' if data.task.multilabel else ''}, "
            f"but the model answers {', '.join(model.task.classes)}{' (multi-label)' if model.task.multilabel else ''}"
        )
    if data.channels != model.channels:
        raise DataError(f"{data.name} has {data.channels} channel(s), but the model takes {model.channels}")


def drawn(tests: ImageSet, images: int | None, seed: int) -> ImageSet:
    """At most so many images, drawn by the seed, in their order; None: all."""
    if images is None or images >= len(tests):
        return tests
    chosen = np.random.default_rng(seed).choice(len(tests), images, replace=False)
    return tests.take(np.sort(chosen))


def _kept(tests: ImageSet, protocol: Protocol) -> frozenset[str]:
    """Names of the images whose pixels are kept: as many of each class (or with each finding) as there are of the next."""
    targets = tests.targets.numpy()
    columns = one_hot(targets, len(tests.task.classes), multilabel=tests.task.multilabel).astype(bool)
    queues = [list(np.flatnonzero(column)) for column in columns.T] + [list(np.flatnonzero(~columns.any(1)))]
    order = [queue[i] for i in range(protocol.keep) for queue in queues if i < len(queue)]
    return frozenset(tests.keys[i] for i in list(dict.fromkeys(order))[: protocol.keep])


def _begin(store: Store, data: ImageSet, tests: ImageSet, vals: ImageSet, protocol: Protocol, model: dict[str, str]) -> None:
    """Write down what is to be run, or make sure that it is what the folder holds already."""
    wanted = {
        **json.loads(protocol.model_dump_json()),
        "data": {
            "name": data.name,
            "title": data.name,
            "digest": data.digest,
            "size": list(tests[0].image.shape[-2:]),
            "channels": data.channels,
            "unit": data.index.unit,
            "val": len(vals),
            "test": len(tests),
            "caveats": list(data.caveats),
        },
        "model": model,
    }
    if store.has_document("protocol"):
        found = store.document("protocol")
        differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        if differing:
            raise RecordsError(
                f"{store.folder} holds another run: its {', '.join(differing)} differ; choose another folder, or remove it"
            )
        return
    store.write_document("attacks", {name: _facts(name) for name in {row.attack for row in protocol.plan} - {CLEAN}})
    store.write_scans([*scans_of(vals, "val"), *scans_of(tests, "test")])
    store.write_document("protocol", wanted)  # last: from now on the folder holds a run


def _facts(name: str) -> dict[str, str]:
    row, (paper, url) = ATTACKS[name], ATTACKS[name].reference
    return {"title": row.title, "sees": row.sees.value, "summary": row.summary, "paper": paper, "url": url}


def scans_of(images: ImageSet, split: str) -> Iterator[Scan]:
    """What the set says of each image."""
    columns = zip(images.keys, images.targets, images.groups, images.sources, strict=True)
    for key, target, group, source in columns:
        yield Scan(key, split, tuple(target.reshape(-1).tolist()), group, source)


def _victim(store: Store, model: Classifier, tests: ImageSet, protocol: Protocol) -> Victim:
    """The model as it is attacked; the way of running it is measured once and then kept for the whole run."""
    like = gather([tests[i] for i in range(min(8, len(tests)))]).images.to(model.device)
    if not store.has_document("execution"):
        fastest = accelerate(model, like, batch=protocol.batch) if protocol.execution == "auto" else Victim.of(model)
        threads = torch.get_num_threads()
        store.write_document("execution", {"execution": fastest.execution, "batch": protocol.batch, "threads": threads})
    chosen = store.document("execution")
    return execute(model, like, chosen["execution"], batch=chosen["batch"])


def _provenance(
    model: Classifier, data: ImageSet, victim: Victim, digest: str, command: str, card: Mapping[str, Any]
) -> dict[str, Any]:
    counted = count(model)
    return {
        "weights": digest,
        "data": data.digest,
        "code": digest_code(),
        "versions": versions(),
        "machine": machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "seconds": None,
        "command": command,
        "precision": {"judge": "float32, the model as given", "propose": victim.execution},
        "card": {
            **card,
            **model.describe(),
            "parameters": counted.all,
            "zeros": counted.zeros,
            "differentiable": model.differentiable,
        },
    }


def _examine(
    store: Store,
    model: Classifier,
    victim: Victim,
    tests: ImageSet,
    protocol: Protocol,
    thresholds: Tensor,
    progress: Progress | None,
) -> None:
    """Have the main attack examined, once, on the first images that the model has right."""
    if store.has_document("diagnosis") or not protocol.examined:
        return
    audit = Audit.read(store.folder)
    row = main_row(audit)
    if row is None:
        return
    right = audit.right(0).all(1) if not model.task.multilabel else np.ones(len(tests), dtype=bool)
    places = np.flatnonzero(right)[: protocol.examined]
    if not len(places):
        return
    batch = gather([tests[int(i)] for i in places])
    goal, concerned = goal_for(row.goal, model.task, batch.targets, thresholds)
    x = batch.images[concerned].to(model.device)
    keys = [key for key, chosen in zip(batch.keys, concerned.tolist(), strict=True) if chosen]
    if not keys:
        return

    def tell(text: str) -> None:
        if progress:
            progress(1.0, 1.0, f"examining the attack on {len(keys)} images: {text}")

    draws = Draws.of(protocol.seed, image_keys(keys))
    store.write_document("diagnosis", {"images": keys, **diagnose(model, victim, row, x, goal.to(x.device), draws, tell)})


# -- shards ------------------------------------------------------------------------------------------------------------


def _walk(bench: _Bench, vals: ImageSet, tests: ImageSet, progress: Progress | None) -> None:
    """Every row of the plan on every shard: first all images as they are, so that a run half done can be read."""
    rows = tuple(enumerate(bench.protocol.plan))
    courses = (("val", vals, rows[:1]), ("test", tests, rows[:1]), ("test", tests, rows[1:]))
    total = sum(row.cost * len(images) for _, images, course in courses for _, row in course)
    done = 0.0
    for split, images, course in courses:
        for start in range(0, len(images), bench.protocol.shard):
            stop = min(start + bench.protocol.shard, len(images))
            names = {number: f"{split}-{start:06d}-{number:03d}-{row.attack}" for number, row in course}
            missing = [(number, row) for number, row in course if not bench.store.has_shard(names[number])]
            batch = gather([images[i] for i in range(start, stop)]) if missing else None
            done += sum(row.cost for _, row in course) * (stop - start)
            left = sum(row.cost for _, row in missing) * (stop - start)
            for number, row in missing:
                assert batch is not None
                if progress:
                    progress(done - left, total, f"{split} images {start + 1} to {stop}: {_told(row)}")
                bench.store.write_shard(names[number], *_examined(bench, number, row, batch))
                left -= row.cost * (stop - start)
        _keep_pace(bench)
    if progress:
        progress(total, total, "done")


def _keep_pace(bench: _Bench) -> None:
    """Write down how long the model took over the clean images; nothing where an earlier run has answered them all."""
    if not bench.clean:
        return
    seconds, images = (sum(part) for part in zip(*bench.clean, strict=True))
    pace = {
        "seconds": seconds / images,
        "images": images,
        "batch": min(AT_ONCE, bench.protocol.shard),
        "threads": torch.get_num_threads(),
        "device": bench.model.device.type,
    }
    bench.store.write_document("provenance", {**bench.store.document("provenance"), "seconds per image, clean": pace})


def _told(row: Row) -> str:
    return "clean" if row.attack == CLEAN else f"{row.attack}, {row.threat} {size(row.threat, row.epsilon)}"


def _examined(bench: _Bench, number: int, row: Row, batch: Batch) -> tuple[list[Example], list[Answer]]:
    """One shard of images under one row of the plan."""
    device, protocol = bench.model.device, bench.protocol
    goal, concerned = goal_for(row.goal, bench.model.task, batch.targets, bench.thresholds)
    places = concerned.nonzero()[:, 0].tolist()
    if not places:
        return [], []
    x = batch.images[concerned].to(device)
    keys = [batch.keys[i] for i in places]
    result = _attacked(bench, row, x, goal.to(device), Draws.of(protocol.seed, image_keys(keys)))
    began = perf_counter()
    answers = bench.model.answers(result.x_adv)
    if row.attack == CLEAN:
        bench.clean.append((perf_counter() - began, len(x)))
    reached = goal.to(torch.device("cpu")).reached(answers)
    pixels = [bench.store.keep_pixels(result.x_adv[i].cpu().numpy()) if key in bench.kept else "" for i, key in enumerate(keys)]
    names = [f"{number:03d}/{key}" for key in keys]
    examples = [
        Example(
            example=names[i],
            image=key,
            row=number,
            attack=row.attack,
            settings=json.dumps(row.settings, sort_keys=True),
            goal=row.goal,
            threat=row.threat if row.attack != CLEAN else "none",
            epsilon=row.epsilon,
            until=row.until,
            seed=protocol.seed,
            pixels=pixels[i],
            **measured,
        )
        for i, (key, measured) in enumerate(zip(keys, measures(x, result, reached), strict=True))
    ]
    return examples, [Answer(name, bench.digest, tuple(said)) for name, said in zip(names, answers.tolist(), strict=True)]


def _attacked(bench: _Bench, row: Row, x: Tensor, goal: Any, draws: Draws) -> AttackResult:
    if row.attack == CLEAN:
        ones, nothing = torch.ones(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.int64)
        return AttackResult(x, nothing.bool(), ones, nothing, {}, -ones.to(x))
    allowed = perturbation_set(row.threat, row.epsilon)
    return attack(row.attack)(bench.victim, x, goal, allowed, until=Until(row.until), generator=draws, **row.arguments)
