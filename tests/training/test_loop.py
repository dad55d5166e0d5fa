import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from antivenom.attacks.pgd import pgd
from antivenom.data.imageset import ImageSet, Index
from antivenom.errors import DataError, SettingsError, SplitError, WeightsError
from antivenom.models.architectures import build
from antivenom.models.autoencoder import Denoiser
from antivenom.models.classifier import Classifier
from antivenom.models.kwta import ratios
from antivenom.models.presentation import Presented
from antivenom.models.tensor_files import load_weights_file
from antivenom.models.weights import load, read_card
from antivenom.provenance import digest_tensors
from antivenom.randomness import Draws
from antivenom.task import Task
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.training import loop
from antivenom.training.adversary import Adversary
from antivenom.training.augmentation import Augmentation
from antivenom.training.loop import Epoch, _order, train
from antivenom.training.presets import Recipe
from antivenom.training.pruning import prune
from antivenom.training.shelf import Shelf

TASK, FINDINGS = Task(("dark", "bright")), Task(("left", "right"), multilabel=True)
PLAIN = Recipe(name="test", epochs=3, batch=8, learning_rate=0.05, precision="float32")


def changed(recipe, **settings):
    return Recipe.model_validate(recipe.model_dump() | settings)


# Everything that holds state or draws: momentum, average, dropout (in the network), sampling, augmentation, schedule.
RICH = changed(
    PLAIN,
    schedule="one-cycle",
    sampling="balanced",
    average=0.9,
    augmentation=Augmentation(rotation=10, shift=0.1, mirror=True, brightness=0.1),
)


def spots(n=44, task=TASK, seed=0, channels=1):
    """Noise with a bright square where the class, or the finding, says so."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(n, channels, 8, 8, generator=generator)
    if task.multilabel:
        targets = torch.randint(2, (n, 2), generator=generator)
        images[targets[:, 0] == 1, :, 2:6, :3] += 0.6
        images[targets[:, 1] == 1, :, 2:6, 5:] += 0.6
    else:
        targets = (torch.arange(n) % 4 == 0).long()
        images[targets == 1, :, 2:6, 2:6] += 0.6
    splits = ["val" if i % 11 > 7 else "train" for i in range(n)]
    index = Index.of([f"spot-{i}" for i in range(n)], targets.numpy(), splits=splits)
    return ImageSet("spots", task, index, images.__getitem__, channels=channels)


def network(seed=0, task=TASK):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(96, len(task.classes)),
        )  # fmt: skip
    return Classifier(layers, task, channels=1, mean=0.5, std=0.25)


def run(folder, recipe=PLAIN, images=None, model=None, **settings):
    images = spots() if images is None else images
    model = network() if model is None else model
    settings = {"seed": 0} | settings
    return train(model, images.split("train"), images.split("val"), recipe, folder=folder, **settings)


class Kill(Exception):  # noqa: N818
    """The process dies here."""


def killed_after(steps):
    def progress(done, total, text):  # noqa: ARG001
        if done == steps:
            raise Kill

    return progress


def weights(result):
    return digest_tensors(result.classifier.state_dict())


def test_it_learns_and_keeps_the_best_epoch(tmp_path):
    recipe = changed(PLAIN, epochs=8)
    images = spots(88)
    result = run(tmp_path, recipe, images)
    validation = images.split("val")
    with torch.inference_mode():
        answers = result.classifier(torch.stack([sample.image.half().float() for sample in validation])).argmax(1)
    recalls = [float((answers[validation.targets == k] == k).float().mean()) for k in (0, 1)]
    assert result.score == pytest.approx(np.mean(recalls))
    assert result.score > 0.9
    assert result.history[-1].loss < result.history[0].loss / 2
    assert (result.score, -result.history[result.best_epoch].validation_loss) == max(
        (epoch.score, -epoch.validation_loss) for epoch in result.history
    )
    assert result.score_name == "balanced accuracy"


@pytest.mark.parametrize(("scores", "best"), [((0.6, 0.9, 0.7), 1), ((0.9, 0.8, 0.7), 0), ((0.1, 0.2, 0.3), 2)])
def test_a_later_epoch_that_does_worse_is_not_kept(tmp_path, monkeypatch, scores, best):
    def trained(epochs, folder):
        told = iter(scores)
        monkeypatch.setattr(loop, "_score", lambda *_: next(told))
        return run(tmp_path / folder, changed(PLAIN, epochs=epochs))

    result = trained(3, "long")
    assert (result.best_epoch, result.score) == (best, scores[best])
    assert weights(result) == weights(trained(best + 1, "short"))  # that epoch was its last
    assert [path.name for path in (tmp_path / "long").glob("best-*")] == [f"best-{best}.safetensors"]


def test_of_equal_scores_the_lower_loss_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_score", lambda *_: 0.5)
    result = run(tmp_path)
    losses = [epoch.validation_loss for epoch in result.history]
    assert result.best_epoch == losses.index(min(losses)) != 0


def test_findings_are_chosen_by_the_mean_auroc(tmp_path):
    result = run(tmp_path, images=spots(88, FINDINGS), model=network(task=FINDINGS))
    assert result.score_name == "mean AUROC"
    assert result.score > 0.9


@pytest.mark.parametrize("steps", [1, 4, 5, 7, 11])
def test_a_training_that_was_killed_at_any_step_ends_in_the_same_tensors(tmp_path, steps):
    whole = run(tmp_path / "whole", RICH)
    with pytest.raises(Kill):
        run(tmp_path / "killed", RICH, every=0, progress=killed_after(steps))
    again = run(tmp_path / "killed", RICH)
    assert weights(again) == weights(whole)
    assert again.history == whole.history


def test_what_was_not_saved_is_done_again_to_the_same_end(tmp_path):
    whole = run(tmp_path / "whole", RICH)
    for steps in (3, 9):
        with pytest.raises(Kill):
            run(tmp_path / "killed", RICH, every=1e9, progress=killed_after(steps))
    assert weights(run(tmp_path / "killed", RICH)) == weights(whole)


def test_a_continued_training_goes_on_where_it_stood(tmp_path):
    with pytest.raises(Kill):
        run(tmp_path, RICH, every=0, progress=killed_after(7))
    seen = []
    run(tmp_path, RICH, progress=lambda *news: seen.append(news[:2]))
    assert seen == [(done, 12) for done in range(7, 13)]  # the kill came before step 7 was saved


def test_a_killed_process_leaves_what_can_be_continued(tmp_path):
    program = (
        "import importlib.util, pathlib, sys, time, torch\n"
        "spec = importlib.util.spec_from_file_location('loop_tests', sys.argv[1])\n"
        "tests = importlib.util.module_from_spec(spec); spec.loader.exec_module(tests)\n"
        "def slowly(done, total, text):\n    print(done, flush=True); time.sleep(0.02)\n"
        "torch.set_num_threads(1); tests.run(pathlib.Path(sys.argv[2]), tests.RICH, every=0, progress=slowly)\n"
    )
    folder = tmp_path / "killed"
    arguments = [sys.executable, "-c", program, __file__, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 6:
            pass
        time.sleep(0.013)  # somewhere in a step or in a write
        process.send_signal(signal.SIGKILL)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert weights(run(folder, RICH)) == weights(run(tmp_path / "whole", RICH))
    finally:
        torch.set_num_threads(threads)


def test_a_finished_training_is_not_done_again(tmp_path):
    first = run(tmp_path)
    steps = []
    again = run(tmp_path, progress=lambda *news: steps.append(news))
    assert steps == []
    assert weights(again) == weights(first)
    assert again.history == first.history


def test_a_leftover_draft_is_swept(tmp_path):
    draft = tmp_path / ".state.safetensors.123.draft"
    draft.write_bytes(b"half")
    run(tmp_path)
    assert not draft.exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"recipe": changed(PLAIN, learning_rate=0.01)}, "recipe.learning_rate: 0.05 there, 0.01 here"),
        ({"recipe": changed(PLAIN, augmentation={"mirror": True})}, "augmentation.mirror: False"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"images": spots(seed=1, n=48)}, "training images"),
        ({"model": network(seed=1)}, "starting weights"),
    ],
    ids=["rate", "augmentation", "seed", "images", "start"],
)
def test_other_settings_are_not_mixed_into_a_training(tmp_path, change, match):
    with pytest.raises(Kill):
        run(tmp_path, progress=killed_after(2))
    with pytest.raises(SettingsError, match=match):
        run(tmp_path, **change)


def test_a_damaged_state_is_said_to_be_damaged(tmp_path):
    with pytest.raises(Kill):
        run(tmp_path, progress=killed_after(2))
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        run(tmp_path)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    wild = changed(PLAIN, learning_rate=1e30)
    with pytest.raises(SettingsError, match=r"the loss became (nan|inf) in epoch \d+.*1e\+30"):
        run(tmp_path, wild)


def test_the_outcome_depends_on_the_seed_and_on_no_global_generator(tmp_path):
    world = torch.get_rng_state()
    one = run(tmp_path / "a", RICH)
    assert torch.equal(world, torch.get_rng_state())
    torch.rand(5)
    assert weights(run(tmp_path / "b", RICH)) == weights(one)
    assert weights(run(tmp_path / "c", RICH, seed=1)) != weights(one)


@pytest.mark.parametrize("cache", [0, 2000])
def test_memory_for_images_moves_no_figure(tmp_path, cache):
    assert weights(run(tmp_path / "a", cache=cache)) == weights(run(tmp_path / "b"))


def test_the_shelf_keeps_no_more_than_its_budget():
    images = spots()
    opened = []
    counting = ImageSet(
        "spots", TASK, images.index, lambda i: (opened.append(i), images[i].image)[1], channels=1
    )  # 64 pixels of two bytes an image
    shelf = Shelf(10 * 128)
    for _ in range(2):
        shelf.samples(counting, torch.arange(44))
    assert opened == [*range(44), *range(10, 44)]
    assert shelf.left == 0


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    images = spots()
    first, second = (_order(images, PLAIN, 0, epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(44))
    assert not torch.equal(first, second)
    assert torch.equal(first, _order(images, PLAIN, 0, 0))


def test_balanced_sampling_shows_the_classes_equally_often():
    images = spots(400)
    shown = torch.cat([images.targets[_order(images, RICH, 0, epoch)] for epoch in range(5)])
    assert 0.45 < shown.float().mean() < 0.55  # a quarter of the images
    assert len(shown) == 5 * 400


def test_class_weighting_reaches_the_loss(tmp_path):
    weighted = changed(PLAIN, class_weighting=True)
    assert weights(run(tmp_path / "a", weighted)) != weights(run(tmp_path / "b"))


def test_progress_tells_every_step(tmp_path):
    told = []
    run(tmp_path, progress=lambda *news: told.append(news))
    assert [news[:2] for news in told] == [(done, 12) for done in range(1, 13)]
    assert "epoch 2 of 3, validation balanced accuracy 0." in told[5][2]


@pytest.mark.usefixtures("thin_backbones")
def test_a_checkpoint_of_the_table_can_be_loaded_with_its_card(tmp_path):
    images = spots(22)
    recipe = changed(PLAIN, epochs=1)
    result = run(tmp_path, recipe, images, build("resnet18", TASK, channels=1, size=(32, 32), seed=0))
    again, card = load(result.checkpoint), read_card(result.checkpoint)
    some = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again(some), result.classifier(some))
    assert card["data"] == images.split("train").digest
    assert card["recipe"]["learning_rate"] == 0.05
    assert card["metrics"]["validation"]["balanced accuracy"] == result.score
    assert (card["metrics"]["validation images"], card["metrics"]["training images"]) == (6, 16)


def test_the_tensors_of_a_users_own_module_are_written(tmp_path):
    result = run(tmp_path)
    assert digest_tensors(load_weights_file(result.checkpoint)) == digest_tensors(result.classifier.backbone.state_dict())


def test_bfloat16_leaves_weights_in_float32(tmp_path):
    result = run(tmp_path, changed(PLAIN, precision="bfloat16", epochs=6))
    assert {tensor.dtype for tensor in result.classifier.parameters()} == {torch.float32}
    assert result.precision.name == "bfloat16"
    assert result.history[-1].loss < result.history[0].loss


def test_an_image_or_patient_in_both_sets_is_refused(tmp_path):
    images = spots()
    with pytest.raises(SplitError, match="spot-0"):
        train(network(), images.take([0, 1, 2]), images.take([0, 3]), PLAIN, seed=0, folder=tmp_path)
    index = Index.of(["a", "b", "c"], [0, 1, 0], groups=["Jane", "Mary", "Jane"])
    pairs = ImageSet("pairs", TASK, index, lambda _: torch.zeros(1, 8, 8), channels=1)
    with pytest.raises(SplitError, match="Jane"):
        train(network(), pairs.take([0, 1]), pairs.take([2]), PLAIN, seed=0, folder=tmp_path)


def test_sets_that_do_not_suit_are_refused(tmp_path):
    images, findings = spots(), spots(88, FINDINGS)
    with pytest.raises(SettingsError, match="asks for"):
        run(tmp_path, images=findings)
    with pytest.raises(DataError, match="too few"):
        train(network(), images.take([0]), images.take([1]), PLAIN, seed=0, folder=tmp_path)
    with pytest.raises(SettingsError, match="class_weighting"):
        run(tmp_path, RICH, findings, network(task=FINDINGS))
    constant = findings.take(np.flatnonzero((findings.targets == 1).all(1))[:4])
    others = findings.take(np.flatnonzero(~(findings.targets == 1).all(1)))
    with pytest.raises(SettingsError, match="no epoch can be chosen"):
        train(network(task=FINDINGS), others, constant, PLAIN, seed=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


HARD = Adversary(epsilon=0.2, warm_up=0.2)


def test_a_model_trained_against_an_adversary_withstands_more(tmp_path):
    images, fresh = spots(88), spots(60, seed=9)
    x, y, draws = torch.stack([sample.image for sample in fresh]), fresh.targets, Draws.of(0, torch.arange(60))
    accuracy = {}
    for name, adversary in (("balanced accuracy", None), ("robust balanced accuracy", HARD.model_dump())):
        result = run(tmp_path / name, changed(PLAIN, epochs=8, adversary=adversary), images)
        found = pgd(result.classifier, x, Untargeted(y), Linf(0.2), steps=20, generator=draws)
        accuracy[name] = np.mean([float((~found.success[y == k]).float().mean()) for k in (0, 1)])
        assert result.score_name == name
    assert accuracy["robust balanced accuracy"] > accuracy["balanced accuracy"] + 0.15


def test_a_training_against_an_adversary_continues_in_the_same_tensors(tmp_path):
    recipe = changed(RICH, adversary=HARD.model_dump() | {"attacks": ("pgd", "stripes"), "clean": 0.5})
    whole = run(tmp_path / "whole", recipe)
    with pytest.raises(Kill):
        run(tmp_path / "killed", recipe, every=0, progress=killed_after(5))
    assert weights(run(tmp_path / "killed", recipe)) == weights(whole)


def test_one_step_is_scored_beside_several_and_a_trick_is_named(tmp_path):
    result = run(tmp_path, changed(PLAIN, adversary=HARD.model_dump()))
    assert all(epoch.one_step is not None for epoch in result.history)
    assert not result.overfitted
    tricked = Epoch(4, 0.1, 0.5, 2.0, score=0.04, one_step=0.8)
    assert tricked.overfitted
    assert not Epoch(4, 0.1, 0.5, 2.0, score=0.04).overfitted
    assert replace(result, history=(*result.history, tricked)).overfitted == (4,)


def test_what_was_pruned_stays_pruned_and_the_rest_learns(tmp_path):
    model = network()
    prune(model, 0.5)
    zeros = model.backbone[0].weight == 0
    before = model.backbone[0].weight.detach().clone()
    recipe = changed(RICH, keep_zeros=True, weight_decay=0.01)
    result = run(tmp_path / "kept", recipe, model=model)
    after = result.classifier.backbone[0].weight.detach()
    assert zeros.sum() == 27
    assert torch.equal(after == 0, zeros)
    assert not torch.equal(after, before)
    loose = network()
    prune(loose, 0.5)
    assert (run(tmp_path / "loose", RICH, model=loose).classifier.backbone[0].weight[zeros] != 0).any()
    with pytest.raises(SettingsError, match="prune the model first"):
        run(tmp_path / "none", recipe)


def test_a_pupil_learns_what_its_teacher_answers(tmp_path):
    contrary = network(seed=1)
    with torch.no_grad():
        for parameter in contrary.backbone[-1].parameters():
            parameter.zero_()
        contrary.backbone[-1].bias.copy_(torch.tensor([4.0, -4.0]))  # dark, whatever it sees
    pupil = run(tmp_path / "pupil", changed(PLAIN, temperature=2.0, learning_rate=0.5), teacher=contrary.eval())
    x = torch.stack([sample.image for sample in spots()])
    assert (pupil.classifier(x).argmax(1) == 0).all()
    with pytest.raises(SettingsError, match="another folder"):
        run(tmp_path / "pupil", changed(PLAIN, temperature=2.0, learning_rate=0.5))
    with pytest.raises(SettingsError, match="the teacher decides"):
        run(tmp_path / "other", teacher=network(task=FINDINGS).eval())


@pytest.mark.usefixtures("thin_backbones")
def test_k_winners_come_to_their_share_and_only_then_can_an_epoch_be_chosen(tmp_path):
    model = build("resnet18+kwta:0.2", TASK, channels=1, seed=0, size=(32, 32), tell=len)
    seen = []

    def watched(done, total, text):  # noqa: ARG001
        seen.append(next(iter(ratios(model.backbone).values())))

    result = run(tmp_path, changed(PLAIN, epochs=4, batch=16, kwta_start=0.6, average=0.9), model=model, progress=watched)
    assert seen[0] == pytest.approx(0.6)
    assert seen == sorted(seen, reverse=True)
    assert set(ratios(result.classifier.backbone).values()) == {0.2}
    assert result.best_epoch >= 2
    assert load(result.checkpoint).architecture == "resnet18+kwta:0.2"
    with pytest.raises(SettingsError, match="has no k-winners layers"):
        run(tmp_path / "none", changed(PLAIN, kwta_start=0.6))


def test_a_training_ends_early_where_nothing_becomes_better(tmp_path, monkeypatch):
    scores = iter([0.5, 0.8, 0.7, 0.6, 0.9])
    monkeypatch.setattr(loop._Course, "_validate", lambda _: (1.0, next(scores), None))
    result = run(tmp_path, changed(PLAIN, epochs=5, patience=2))
    assert len(result.history) == 4
    assert result.best_epoch == 1


# -- steps in front ----------------------------------------------------------------------------------------------------


class Smooth(Denoiser):
    """One that has learnt something, and notes in which mode it is asked."""

    def __init__(self):
        super().__init__(1, width=2, levels=1)
        torch.nn.init.constant_(self.last.weight, 0.1)
        self.modes = set()

    def forward(self, images):
        self.modes.add(self.training)
        return super().forward(images)


def test_what_stands_in_front_learns_nothing_and_the_network_behind_it_does(tmp_path):
    model = Presented(network(), [Smooth()])
    (front,) = model.own_steps
    before, behind = digest_tensors(front.state_dict()), digest_tensors(model.backbone.state_dict())
    run(tmp_path, changed(RICH, weight_decay=0.1), model=model)
    assert digest_tensors(front.state_dict()) == before
    assert digest_tensors(model.backbone.state_dict()) != behind
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in front.parameters())
    assert front.modes == {False}
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_network_learns_from_what_stands_in_front_of_it(tmp_path):
    seen, model = [], Presented(network(), [Smooth()])
    model.backbone[0].register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    plain, first = network(), []
    plain.backbone[0].register_forward_hook(lambda _, given, __: first.append(given[0].detach()))
    run(tmp_path / "presented", changed(PLAIN, epochs=1), model=model)
    run(tmp_path / "plain", changed(PLAIN, epochs=1), model=plain)
    assert len(seen) == len(first)
    assert not any(torch.equal(one, other) for one, other in zip(seen, first, strict=True))
    torch.testing.assert_close(seen[0], (model.own_steps[0](first[0] * 0.25 + 0.5) - 0.5) / 0.25)
