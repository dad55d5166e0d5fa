"""How well a guard notices: every trial on every test image, to records beside those of an audit.

    run/detection/
      asked.json        trials, detectors with their thresholds, model, data; a run continues only under the very same
      executions.json   how each attacked model is run for gradients, chosen once
      provenance.json   command, code digest, versions, machine
      scans.parquet     held-out clean images (`val`), test images, images of other sets (`other`)
      shards/NAME/      examples, answers of the model, scores of the detectors

The images are walked in shards; what a trial left of one is stored before the next begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from antivenom.attacks import AttackResult, Until, attack
from antivenom.attacks.orthogonal_pgd import orthogonal_pgd
from antivenom.attacks.pgd import pgd
from antivenom.corruptions.table import corrupt
from antivenom.data.imageset import Batch, ImageSet, gather
from antivenom.detection.detector import Detector
from antivenom.detection.reading import FEATURES, Reading, Sensor
from antivenom.detection.table import DETECTORS
from antivenom.detection.watched import Watched
from antivenom.errors import RecordsError, SettingsError
from antivenom.evaluation.examples import measures
from antivenom.evaluation.guarding import halves, read
from antivenom.evaluation.operating import thresholds as operating_thresholds
from antivenom.evaluation.protocol import Frozen
from antivenom.evaluation.run import Progress, check_fit, drawn, scans_of
from antivenom.evaluation.trials import MATCHING, ORTHOGONAL, Trial
from antivenom.guard.guard import Guard, Watch, sensor_for
from antivenom.models.classifier import Classifier, check_ready
from antivenom.models.execution import AS_GIVEN, Victim, accelerate, execute
from antivenom.provenance import digest_code, machine, versions
from antivenom.randomness import Draws, image_keys
from antivenom.records.detection import ASKED, HOME, ORIGIN
from antivenom.records.store import Store
from antivenom.records.tables import Answer, Example, Score
from antivenom.threat.card import perturbation_set
from antivenom.threat.evading import Evading, Matching
from antivenom.threat.goals import Goal, against_own_answer
from antivenom.threat.objectives import likeness

EXECUTIONS = "executions"


class Examination(Frozen):
    """What a guard is tried on.

    Attributes:
        trials: beside the clean images.
        images: at most so many test images, drawn by the seed; None: all.
        seed: of every draw.
        shard: images that are tried and stored together.
        batch: images in flight.
        execution: `auto` for the fastest way to each gradient that this machine was measured to have, `as given` for none.
    """

    trials: tuple[Trial, ...]
    images: Annotated[int, Field(gt=0)] | None = 1000
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    shard: Annotated[int, Field(gt=0)] = 128
    batch: Annotated[int, Field(gt=0)] = 64
    execution: Literal["auto", "as given"] = "auto"


def examine(
    guard: Guard,
    data: ImageSet,
    order: Examination,
    folder: str | Path,
    *,
    surrogate: Classifier | None = None,
    others: Mapping[str, ImageSet] | None = None,
    baselines: Sequence[Watch] = (),
    split_seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Path:
    """Try a guard on the test images of a set.

    Args:
        guard: left exactly as it is.
        data: with the splits `val` and `test`, and the task of the model. Thresholds at other rates come from the part of `val`
            that neither fitted nor tuned the guard.
        order: what to try.
        folder: of the run; records go into its `detection`. Where that holds the same run half done, it continues.
        surrogate: another classifier of the same task, on which trials of `made_on="surrogate"` are made.
        others: images of other sets, by name, in the channels of the model.
        baselines: detectors that are not part of the guard, to compare with.
        split_seed: with which the guard was fitted; see `guarding.halves`.
        command: what the user typed.
        progress: told of the work done.

    Returns:
        The folder of the records.

    Raises:
        ModelError: training mode.
        DataError, ImageError: no validation or test images, another task or other channels than the model's, bad images.
        SettingsError: a trial that names an unknown detector, or a surrogate where there is none.
        RecordsError: the folder belongs to another run, or cannot be written.
    """
    check_ready(guard)
    check_fit(guard.model, data)
    watches = (*guard.watches, *baselines)
    _check_order(guard.model, watches, order, surrogate)
    others = {name: drawn(images, order.images, order.seed) for name, images in (others or {}).items()}
    tests, (tune, held) = drawn(data.split("test"), order.images, order.seed), halves(data.split("val"), split_seed)
    store = Store(Path(folder) / HOME)
    _begin(store, guard, watches, data, order, surrogate, tests, held, others)
    store.sweep()
    thresholds = operating_thresholds(store, guard.model, held)
    if not store.has_document(ORIGIN):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        origin = {"command": command, "code": digest_code(), "versions": versions(), "machine": machine(), "started": started}
        store.write_document(ORIGIN, origin)
    makers = _Makers(store, guard.model, watches, surrogate, order, tests, tune, thresholds)
    sensor = sensor_for(guard.model, [watch.detector for watch in watches])
    bench = _Bench(store, guard.model, watches, sensor, order, makers, guard.model.digest())
    _walk(bench, held, tests, others, progress)
    return store.folder


# -- before the first shard --------------------------------------------------------------------------------------------


def _check_order(model: Classifier, watches: Sequence[Watch], order: Examination, surrogate: Classifier | None) -> None:
    known = [watch.name for watch in watches]
    for trial in order.trials:
        if strange := set(trial.evading) - set(known):
            raise SettingsError(f"the guard has no detector {sorted(strange)[0]!r}; it has {', '.join(known)}")
        if trial.made_on == "surrogate" and surrogate is None:
            raise SettingsError(f"{trial.attack} is to be made on a surrogate, and none is given")
    if surrogate is not None:
        check_ready(surrogate)
        if surrogate.task != model.task:
            raise SettingsError("the surrogate answers another question than the guarded model; give one of the same task")


def _begin(
    store: Store,
    guard: Guard,
    watches: Sequence[Watch],
    data: ImageSet,
    order: Examination,
    surrogate: Classifier | None,
    tests: ImageSet,
    held: ImageSet,
    others: Mapping[str, ImageSet],
) -> None:
    """Write down what is to be tried, or make sure that it is what the folder holds already."""
    names = [watch.name for watch in guard.watches]
    deciding = {name for name, decides in zip(names, guard.policy.deciding(names), strict=True) if decides}
    wanted = {
        **json.loads(order.model_dump_json()),
        "task": guard.model.task.to_dict(),
        "model": guard.model.digest(),
        "architecture": guard.model.architecture,
        "guard": guard.digest(),
        "detectors": [
            {
                **watch.to_dict(),
                "decides": watch.name in deciding,
                "part of the guard": watch in guard.watches,
                "differentiable": watch.detector.differentiable,
                "notes": list(watch.detector.notes),
                **_facts(watch.name),
            }
            for watch in watches
        ],
        "policy": guard.policy.describe(names),
        "surrogate": None if surrogate is None else {"architecture": surrogate.architecture, "digest": surrogate.digest()},
        "data": {"name": data.name, "digest": data.digest, "held-out": len(held), "test": len(tests), "unit": data.index.unit},
        "others": {name: {"digest": images.digest, "images": len(images)} for name, images in others.items()},
    }
    if store.has_document(ASKED):
        found = store.document(ASKED)
        differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        if differing:
            raise RecordsError(
                f"{store.folder} holds another examination: its {', '.join(differing)} differ; "
                "choose another folder, or remove it"
            )
        return
    foreign = [scan for name, images in others.items() for scan in scans_of(images, name)]
    store.write_scans([*scans_of(held, "val"), *scans_of(tests, "test"), *foreign])
    store.write_document(ASKED, wanted)  # last: from now on the folder holds an examination


def _facts(name: str) -> dict[str, str]:
    """What a report says of a detector of the table."""
    if name not in DETECTORS:
        return {"title": name}
    row, (paper, url) = DETECTORS[name], DETECTORS[name].reference
    return {"title": row.title, "summary": row.summary, "paper": paper, "url": url}


# -- who makes the images ----------------------------------------------------------------------------------------------


class _Makers:
    """The models on which attacks are made: as given, a surrogate, or with the detectors that are to be passed."""

    def __init__(
        self,
        store: Store,
        model: Classifier,
        watches: Sequence[Watch],
        surrogate: Classifier | None,
        order: Examination,
        tests: ImageSet,
        tune: ImageSet,
        thresholds: Tensor,
    ) -> None:
        self._store, self.model, self.surrogate, self._order, self._tune = store, model, surrogate, order, tune
        self._watches = {watch.name: watch for watch in watches}
        self._thresholds = thresholds if model.task.multilabel else None
        self._like = gather([tests[i] for i in range(min(8, len(tests)))]).images.to(model.device)
        self._victims: dict[str, Victim] = {}
        self._read: Reading | None = None

    def goal(self, answers: Tensor) -> Goal:
        """Overturn a model's own answers `(B, A)`."""
        return against_own_answer(answers, self._thresholds)

    def concerned(self, answers: Tensor) -> Tensor:
        """Images whose most probable finding counts as present: else there is nothing to overturn. `(B,)` bool."""
        if self._thresholds is None:
            return torch.ones(len(answers), dtype=torch.bool)
        top = answers.argmax(1)
        return answers.gather(1, top[:, None])[:, 0] > self._thresholds[top]

    def victim(self, trial: Trial) -> Victim:
        """Whom the attack of a trial sees; the fastest way to its gradients is looked for once and then kept."""
        key = ", ".join([trial.made_on, *trial.evading, *([MATCHING] if trial.attack == MATCHING else [])])
        if key not in self._victims:
            self._victims[key] = self._made(trial, key)
        return self._victims[key]

    def _made(self, trial: Trial, key: str) -> Victim:
        if not trial.evading:
            model = self.model if trial.made_on == "model" else self.surrogate
            assert model is not None
            return self._fastest(model, key)
        watches = [self._watches[name] for name in trial.evading]
        layer = FEATURES if trial.attack == MATCHING else None
        judge = self._watched(watches, layer)
        stood_in = [watch if watch.detector.differentiable else self._stand_in() for watch in watches]
        propose = judge if stood_in == watches else self._watched(stood_in, layer)
        fast = self._fastest(propose, key)
        return Victim(judge, fast.propose, self._order.batch, fast.execution)

    def _fastest(self, model: nn.Module, key: str) -> Victim:
        """The fastest way to a model's gradients, measured once for all shards and every run that goes on."""
        known = self._store.document(EXECUTIONS) if self._store.has_document(EXECUTIONS) else {}
        if self._order.execution == AS_GIVEN:
            return Victim(model, model, self._order.batch)
        if key not in known:
            known[key] = accelerate(model, self._like, batch=self._order.batch).execution
            self._store.write_document(EXECUTIONS, known)
        return execute(model, self._like, known[key], batch=self._order.batch)

    def _watched(self, watches: Sequence[Watch], layer: str | None) -> Watched:
        detectors = [watch.detector for watch in watches]
        sensor = sensor_for(self.model, detectors)
        if layer is not None:
            sensor = Sensor(self.model, tuple(dict.fromkeys([*sensor.layers, layer])), sensor.squeezes)
        levels, scales = [watch.threshold.value for watch in watches], [watch.scale for watch in watches]
        return Watched(sensor, detectors, levels, scales, layer=layer)

    def _stand_in(self) -> Watch:
        """Whose gradients lead past a detector that has none."""
        smooth = [watch for watch in self._watches.values() if watch.detector.differentiable]
        if not smooth:
            raise SettingsError(
                "no detector of this guard has a gradient to lend; fit gaussian as well, or ask for square alone"
            )
        return smooth[0]

    def guides(self, reading: Reading, goal: Goal) -> Tensor:
        """Features `(B, D)` of the nearest clean image, of those that tuned the guard, that meets each image's goal."""
        if self._read is None:
            self._read = read(Sensor(self.model), self._tune)
        found = torch.empty_like(reading.layer(FEATURES))
        bank, answers = self._read.layer(FEATURES), self._read.logits
        distance = torch.cdist(reading.layer(FEATURES), bank)
        for place in range(len(found)):
            alone = goal.take(torch.full((len(bank),), place))
            meets = alone.reached(answers)
            nearest = distance[place].where(meets, torch.inf) if bool(meets.any()) else distance[place]
            found[place] = bank[nearest.argmin()]
        return found


# -- shards ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """What every shard is worked on with."""

    store: Store
    model: Classifier
    watches: tuple[Watch, ...]
    sensor: Sensor
    order: Examination
    makers: _Makers
    digest: str  # of the model


def _walk(bench: _Bench, held: ImageSet, tests: ImageSet, others: Mapping[str, ImageSet], progress: Progress | None) -> None:
    """Every clean image first, so that what is half done can be read; then every trial on every shard of test images."""
    clean = (0, Trial(kind="clean"))
    courses: list[tuple[str, ImageSet, list[tuple[int, Trial]]]] = [("val", held, [clean]), ("test", tests, [clean])]
    courses += [(name, images, [(0, Trial(kind="other set", attack=name))]) for name, images in others.items()]
    courses.append(("test", tests, list(enumerate(bench.order.trials, 1))))
    total = sum(trial.cost * len(images) for _, images, trials in courses for _, trial in trials)
    done = 0.0
    for split, images, trials in courses:
        for start in range(0, len(images), bench.order.shard):
            stop = min(start + bench.order.shard, len(images))
            names = {number: f"{split}-{start:06d}-{number:03d}" for number, _ in trials}
            missing = [(number, trial) for number, trial in trials if not bench.store.has_shard(names[number])]
            done += sum(trial.cost for number, trial in trials if (number, trial) not in missing) * (stop - start)
            batch = gather([images[i] for i in range(start, stop)]) if missing else None
            for number, trial in missing:
                assert batch is not None
                if progress:
                    progress(done, total, f"{split} images {start + 1} to {stop}: {trial.told}")
                bench.store.write_shard(names[number], *_tried(bench, number, trial, batch))
                done += trial.cost * (stop - start)
    if progress:
        progress(total, total, "done")


def _tried(bench: _Bench, number: int, trial: Trial, batch: Batch) -> tuple[list[Example], list[Answer], list[Score]]:
    """One shard of images in one trial."""
    model, makers = bench.model, bench.makers
    x, keys = batch.images.to(model.device), list(batch.keys)
    if trial.kind == "attack":
        before = bench.sensor.read(x)
        concerned = makers.concerned(before.logits)
        if not bool(concerned.any()):
            return [], [], []
        x, keys = x[concerned.to(x.device)], [key for key, kept in zip(keys, concerned.tolist(), strict=True) if kept]
        result, goal = _attacked(bench, trial, x, before.take(concerned), Draws.of(bench.order.seed, image_keys(keys)))
    else:
        changed = x
        if trial.kind == "corruption":
            changed = corrupt(x, trial.attack, int(trial.settings["severity"]), Draws.of(bench.order.seed, image_keys(keys)))
        ones, nothing = torch.ones(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.int64)
        result, goal = AttackResult(changed, nothing.bool(), ones, nothing, {}, -ones.to(x)), None
    reading = bench.sensor.read(result.x_adv)
    scores = {watch.name: _scored(watch.detector, reading, model.device) for watch in bench.watches}
    reached = torch.zeros(len(x), dtype=torch.bool) if goal is None else _reached(bench, trial, goal, reading, scores)
    home = f"{number:03d}/{trial.attack}" if trial.kind == "other set" else f"{number:03d}"
    names = [f"{home}/{key}" for key in keys]
    examples = [
        Example(
            example=name,
            image=key,
            row=number,
            attack=trial.attack,
            settings=json.dumps(trial.settings, sort_keys=True),
            goal=trial.goal,
            threat=trial.threat if trial.kind == "attack" else "none",
            epsilon=trial.epsilon,
            until=trial.until,
            seed=bench.order.seed,
            pixels="",
            **measured,
        )
        for name, key, measured in zip(names, keys, measures(x, result, reached), strict=True)
    ]
    answers = [Answer(name, bench.digest, tuple(said)) for name, said in zip(names, reading.logits.tolist(), strict=True)]
    seen = [
        Score(name, detector, value)
        for detector, values in scores.items()
        for name, value in zip(names, values.tolist(), strict=True)
    ]
    return examples, answers, seen


def _attacked(bench: _Bench, trial: Trial, x: Tensor, before: Reading, draws: Draws) -> tuple[AttackResult, Goal]:
    """What the attack of a trial leaves of the images, and its goal for the guarded model's logits."""
    makers = bench.makers
    own = makers.goal(before.logits)
    wanted = own
    if trial.made_on == "surrogate":
        assert makers.surrogate is not None
        wanted = makers.goal(makers.surrogate.answers(x))
    if trial.evading:
        count = len(trial.evading)
        wanted = Evading(own, torch.zeros(count), torch.ones(count))
    settings, run = trial.arguments, pgd if trial.attack == MATCHING else orthogonal_pgd
    if trial.attack == MATCHING:
        wanted, settings = Matching(wanted, makers.guides(before, own)), {**settings, "objective": likeness}
    chosen: Callable[..., AttackResult] = run if trial.attack in (MATCHING, ORTHOGONAL) else attack(trial.attack)
    allowed = perturbation_set(trial.threat, trial.epsilon)
    goal = wanted.to(x.device)
    found = chosen(makers.victim(trial), x, goal, allowed, until=Until(trial.until), generator=draws, **settings)
    if trial.made_on == "surrogate":  # to fool that one is no claim about the guarded model
        found = replace(found, success=torch.zeros_like(found.success))
    return found, own


def _reached(bench: _Bench, trial: Trial, own: Goal, reading: Reading, scores: Mapping[str, Tensor]) -> Tensor:
    """Whether the model's answer is overturned and, where detectors were to be passed, none of them noticed."""
    found = own.reached(reading.logits)
    for watch in bench.watches:
        if watch.name in trial.evading:
            found &= ~watch.threshold.flags(scores[watch.name])
    return found


@torch.no_grad()
def _scored(detector: Detector, reading: Reading, device: torch.device) -> Tensor:
    scores: Tensor = detector(reading.map(lambda values: values.to(device)))
    return scores.double().cpu()
