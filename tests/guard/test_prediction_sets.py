import numpy as np
import pytest
import torch

from antivenom.errors import InputError, SettingsError
from antivenom.guard.prediction_sets import PredictionSets, fit_prediction_sets, measured
from antivenom.task import Task

TASK = Task(("normal", "bacterial", "viral"))
FINDINGS = Task(("effusion", "mass"), multilabel=True)


def drawn(images, seed, prior=(0.6, 0.3, 0.1)):
    """Probabilities of a fallible classifier, and what is true; the rarer a class, the worse it is known."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor(prior), images, replacement=True, generator=generator)
    logits = torch.randn(images, 3, generator=generator) + torch.tensor([3.0, 1.5, 0.5])[targets, None] * torch.eye(3)[targets]
    return logits.softmax(1), targets


def test_coverage_holds_on_average_over_held_out_samples():
    fresh, truth = drawn(4000, 99)
    shares = []
    for seed in range(200):
        sets = fit_prediction_sets(*drawn(60, seed, (1.0, 1.0, 1.0)), TASK, coverage=0.8)
        found = measured(sets.members(fresh), truth, TASK)
        shares.append([found[name].value for name in ("all", *TASK.classes)])
    means = np.mean(shares, 0)
    assert (means >= 0.8 - 0.01).all()
    assert (means <= 0.87).all()


def test_a_class_that_is_badly_known_is_covered_as_well_and_only_with_a_threshold_of_its_own():
    fresh, truth = drawn(4000, 99)
    own = measured(fit_prediction_sets(*drawn(3000, 1), TASK).members(fresh), truth, TASK)
    assert all(own[name].value > 0.86 for name in TASK.classes)
    chances, targets = drawn(300, 1, (0.8, 0.19, 0.01))
    few = fit_prediction_sets(chances, targets, TASK)
    assert int((targets == 2).sum()) < 9
    assert "viral: " in few.notes[0]
    assert "promises nothing of its own images" in few.notes[0]
    assert measured(few.members(fresh), truth, TASK)["viral"].value < 0.7


@pytest.mark.parametrize(("images", "enough"), [(8, False), (9, True)])
def test_the_smallest_sample_that_gives_a_threshold(images, enough):
    chances = torch.linspace(0.5, 0.9, images)
    sets = fit_prediction_sets(torch.stack([chances, 1 - chances], 1), [0] * images, Task(("normal", "ill")))
    assert sets.present[0] == (pytest.approx(0.5, abs=1e-5) if enough else 0.0)
    assert any("every set holds all" in note for note in sets.notes) != enough


def test_the_threshold_is_the_order_statistic_of_the_paper():
    chances, targets = drawn(500, 3)
    sets = fit_prediction_sets(chances, targets, TASK, coverage=0.9)
    for place in range(3):
        scores = np.sort(1 - chances[targets == place, place].numpy())
        rank = int(np.ceil((len(scores) + 1) * 0.9))
        assert sets.present[place] == pytest.approx(1 - scores[rank - 1], abs=2e-6)


def test_findings_have_a_set_of_decisions_each():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20000, 2, generator=generator)
    truth = torch.bernoulli((logits / 2).sigmoid(), generator=generator).long()
    chances = logits.sigmoid()
    sets = fit_prediction_sets(chances[:10000], truth[:10000], FINDINGS)
    members = sets.members(chances[10000:])
    assert members.shape == (10000, 2, 2)
    found = measured(members, truth[10000:], FINDINGS)
    assert set(found) == {"all", *(f"{name} {word}" for name in FINDINGS.classes for word in ("present", "absent"))}
    assert all(0.88 < estimate.value < 0.92 for estimate in found.values())
    assert found["all"].n == 20000
    assert found["mass absent"].n == int((truth[10000:, 1] == 0).sum())


def test_a_rare_finding_takes_the_threshold_of_both_decisions():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(200, 2, dtype=torch.long)
    truth[::2, 0], truth[:3, 1] = 1, 1
    chances = torch.where(truth == 1, 0.8, 0.2) + 0.3 * (torch.rand(200, 2, generator=generator) - 0.5)
    sets = fit_prediction_sets(chances, truth, FINDINGS)
    assert [note.split(":")[0] for note in sets.notes] == ["mass present"]
    assert sets.present[1] == pytest.approx(sets.absent[1], abs=0.02)


def test_patients_count_where_images_belong_together():
    chances, targets = drawn(90, 5, (1.0, 0.001, 0.001))
    targets = torch.zeros_like(targets)
    alone = fit_prediction_sets(chances, targets, TASK)
    eight = fit_prediction_sets(chances, targets, TASK, groups=np.arange(90) % 8)
    assert (alone.groups, eight.groups) == (90, 8)
    assert alone.present[0] > 0
    assert eight.present[0] == 0
    assert "90 images of 8 patients" in eight.notes[0]
    many = fit_prediction_sets(chances, targets, TASK, groups=np.arange(90) % 30)
    assert 0 < many.present[0] <= alone.present[0]


def test_coverage_is_measured_by_stratum_and_by_patient():
    chances, targets = drawn(400, 6)
    members = fit_prediction_sets(*drawn(1000, 7), TASK).members(chances)
    patients, where = np.arange(400) // 4, np.repeat(["A", "B"], 200)
    found = measured(members, targets, TASK, groups=patients, strata=where)
    assert found["all"].n == 400
    assert found["all"].groups == 100
    assert found["A"].n == found["B"].n == 200
    assert found["all"].value == pytest.approx((found["A"].value + found["B"].value) / 2)
    with pytest.raises(InputError, match="one stratum each"):
        measured(members, targets, TASK, strata=["A"])


def test_the_same_image_in_another_batch_stays_covered():
    chances = torch.full((20, 2), 1.0)
    sets = fit_prediction_sets(chances, [0] * 20, Task(("normal", "ill")))
    assert sets.members(torch.tensor([[1 - 2.0**-24 * 4, 0.0]])).tolist() == [[True, False]]


def test_what_is_not_a_number_is_in_no_set_and_fits_none():
    assert not PredictionSets(0.9, (0.0, 0.5)).members(torch.tensor([[torch.nan, torch.nan]])).any()
    with pytest.raises(InputError, match="1 of 2 held-out images have probabilities that are not finite"):
        fit_prediction_sets(torch.tensor([[0.5, 0.2, 0.3], [torch.nan, 0, 0]]), [0, 1], TASK)
    with pytest.raises(InputError, match="at least 1 image"):
        fit_prediction_sets(torch.empty(0, 3), [], TASK)
    with pytest.raises(SettingsError, match="between 0 and 1, got 1"):
        fit_prediction_sets(*drawn(20, 0), TASK, coverage=1.0)
    with pytest.raises(SettingsError, match="least probabilities"):
        PredictionSets(0.9, (1.5, 0.0))
    with pytest.raises(SettingsError, match="one least probability a class"):
        PredictionSets(0.9, (0.5, 0.5), (0.5,))


def test_it_is_written_down_and_read_again():
    for sets in (fit_prediction_sets(*drawn(100, 0), TASK), PredictionSets.none(FINDINGS)):
        assert PredictionSets.from_dict(sets.to_dict()) == sets
    assert PredictionSets.none(FINDINGS).members(torch.rand(2, 2)).all()
