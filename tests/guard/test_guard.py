import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from antivenom.detection.reading import Sensor
from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.guard.guard import Guard, Guarded, Watch
from antivenom.guard.policy import Policy, Verdict
from antivenom.guard.prediction_sets import PredictionSets
from antivenom.guard.temperature import Temperature
from toys import Counting


@pytest.fixture(scope="module")
def guard(scans):
    return scans.fitted()


@pytest.fixture(scope="module")
def images(scans):
    return scans.scans(50, 9)[0]


def strange(images):
    """Far from all clean images, and yet in range."""
    checked = torch.zeros_like(images)
    checked[..., ::2, ::2] = 1
    return checked


def test_every_part_of_the_answer_is_what_it_says(guard, scans, images):
    with torch.no_grad():
        answer, reading = guard(images), Sensor(scans.model)(images)
    assert isinstance(answer, Guarded)
    torch.testing.assert_close(answer.logits, scans.model(images))
    torch.testing.assert_close(answer.probabilities, (answer.logits / guard.temperature.values[0]).softmax(1))
    torch.testing.assert_close(answer.scores[:, 0], guard.watches[0].detector(reading))
    assert torch.equal(answer.flagged[:, 0], guard.watches[0].threshold.flags(answer.scores[:, 0]))
    assert torch.equal(answer.members, guard.sets.members(answer.probabilities))
    assert answer.verdict.dtype == torch.int8
    assert answer.verdict.shape == (50,)


def test_clean_images_are_accepted_and_strange_ones_rejected(guard, images):
    with torch.no_grad():
        assert (guard(images).verdict == Verdict.REJECT).float().mean() < 0.15
        assert (guard(strange(images)).verdict == Verdict.REJECT).all()


def test_one_image_is_judged_as_among_others(guard, images):
    with torch.no_grad():
        together, alone = guard(images), guard(images[7:8])
    torch.testing.assert_close(alone.scores[0], together.scores[7])
    assert alone.verdict[0] == together.verdict[7]


def test_it_abstains_where_the_set_is_not_of_one(scans, guard, images):
    sets = PredictionSets(0.9, (0.4, 0.4, 0.4))
    loose = Guard(scans.model, guard.watches, temperature=guard.temperature, sets=sets, policy=Policy(single=True))
    with torch.no_grad():
        answer = loose(images)
    kept = answer.verdict != Verdict.REJECT
    sizes = answer.members.sum(1)
    assert set(sizes.tolist()) >= {0, 1} or set(sizes.tolist()) >= {1, 2}
    assert torch.equal(answer.verdict[kept] == Verdict.ABSTAIN, sizes[kept] != 1)


def test_it_abstains_where_the_answer_is_not_sure(scans, guard, images):
    picky = Guard(scans.model, guard.watches, policy=Policy(confidence=0.7, single=False))
    with torch.no_grad():
        answer = picky(images)
    kept, top = answer.verdict != Verdict.REJECT, answer.probabilities.amax(1)
    assert torch.equal(answer.verdict[kept] == Verdict.ABSTAIN, top[kept] < 0.7)
    assert 0 < int((top[kept] < 0.7).sum()) < int(kept.sum())


def test_rejecting_wins_over_abstaining(scans, guard, images):
    neither = Guard(scans.model, guard.watches, sets=PredictionSets(0.9, (0.0, 0.0, 0.0)))
    with torch.no_grad():
        assert (neither(strange(images)).verdict == Verdict.REJECT).all()
        assert Verdict.ABSTAIN in neither(images).verdict


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_rejected(guard, images, value):
    odd = images[:3].clone()
    odd[1, 0, 2, 2] = value
    with torch.no_grad():
        verdicts = guard(odd).verdict.tolist()
        before = guard(images[:3]).verdict.tolist()
    assert verdicts[1] == Verdict.REJECT
    assert [verdicts[0], verdicts[2]] == [before[0], before[2]]
    finding = guard.check(odd)[1]
    assert finding.verdict is Verdict.REJECT
    assert finding.reason == "its values are not all finite"
    json.dumps(finding.to_dict(), allow_nan=False)


class Blind(nn.Module):
    """Puts out what is not finite, whatever it sees."""

    def forward(self, x):
        return x + torch.inf


def test_an_answer_that_is_not_finite_is_rejected(scans, guard, images):
    model = copy.deepcopy(scans.model)
    model.backbone.append(Blind().eval())
    finding = Guard(model, [replace(guard.watches[0], model="")]).check(images[:1])[0]
    assert (finding.verdict, finding.decision) == (Verdict.REJECT, "nothing")
    assert finding.reason == "the classifier's answer is not finite"


def test_one_that_does_not_decide_is_scored_and_flagged_all_the_same(scans, images):
    policy = Policy(rate=0.05, detectors=("energy",), single=False)
    guard = scans.fitted(("gaussian", "energy"), policy=policy)
    with torch.no_grad():
        answer = guard(strange(images))
    assert answer.flagged[:, 0].all()
    assert answer.scores.shape == (50, 2)
    assert torch.equal(answer.verdict == Verdict.REJECT, answer.flagged[:, 1])


def test_one_forward_pass_serves_all_and_one_more_each_squeeze(scans, images):
    guard = copy.deepcopy(scans.fitted(("gaussian", "max-softmax", "squeezing")))
    guard.model.backbone = counting = Counting(guard.model.backbone).eval()
    guard(images[:4])
    assert counting.images == 4 * (1 + len(guard.sensor.squeezes))
    assert len(guard.sensor.squeezes) == 2


def test_gradients_flow_to_the_pixels_from_everything_that_has_one(guard, images):
    pixels = images[:4].clone().requires_grad_()
    for part in ("logits", "probabilities", "scores"):
        slope = torch.autograd.grad(getattr(guard(pixels), part)[:, 0].sum(), pixels)[0]
        assert slope.isfinite().all(), part
        assert (slope != 0).any(), part


def test_people_are_told_why(scans, guard, images):
    odd = guard.check(strange(images[:1]))[0]
    watch = guard.watches[0]
    assert odd.verdict is Verdict.REJECT
    assert odd.reason.startswith("looks unlike the clean images it was fitted on: gaussian score ")
    assert f"above {watch.threshold.value:.1f}, which 5 % of clean images exceed" in odd.reason
    assert odd.scores["gaussian"] > watch.threshold.value
    assert odd.decision in scans.model.task.classes
    found = guard.check(images)
    for finding in found:
        assert sum(finding.probability.values()) == pytest.approx(1, abs=1e-5)
        assert (finding.reason == "") == (finding.verdict is Verdict.ACCEPT)
        if finding.verdict is Verdict.ABSTAIN:
            assert finding.reason.startswith("prediction set holds ")
            assert len(finding.set) != 1
        if finding.verdict is Verdict.ACCEPT:
            assert finding.set == (finding.decision,)
    assert {finding.verdict for finding in found} >= {Verdict.ACCEPT, Verdict.ABSTAIN}


def test_people_and_programs_are_told_the_same(guard, images):
    many = torch.cat([images, images, strange(images)])
    with torch.no_grad():
        answer = guard(many)
    found = guard.check(many)
    assert [finding.verdict for finding in found] == answer.verdict.tolist()


def test_findings_are_judged_each(findings):
    guard = findings.fitted(policy=Policy(confidence=0.6))
    images = findings.scans(80, 9)[0]
    with torch.no_grad():
        answer = guard(images)
    assert answer.members.shape == (80, 2, 2)
    found = guard.check(images)
    assert {finding.verdict for finding in found} >= {Verdict.ACCEPT, Verdict.ABSTAIN}
    for finding, row in zip(found, answer.probabilities.tolist(), strict=True):
        present = [name for name, chance in zip(("effusion", "mass"), row, strict=True) if chance > 0.5]
        assert finding.decision == (", ".join(present) or "nothing")
        if finding.verdict is Verdict.ACCEPT:
            assert len(finding.set) == 2
            assert all(max(chance, 1 - chance) >= 0.6 for chance in row)
        if finding.verdict is Verdict.ABSTAIN:
            assert "effusion" in finding.reason or "mass" in finding.reason


def test_findings_that_need_not_be_sure_hold_nothing_up(findings):
    all_of_them = findings.fitted(policy=Policy(confidence=0.75, single=False))
    one = Guard(findings.model, all_of_them.watches, policy=Policy(confidence=0.75, single=False, findings=("mass",)))
    images = findings.scans(200, 9)[0]
    with torch.no_grad():
        strict, lax = all_of_them(images), one(images)
    sure = torch.maximum(lax.probabilities, 1 - lax.probabilities)[:, 1] >= 0.75
    kept = lax.verdict != Verdict.REJECT
    assert torch.equal(lax.verdict[kept] == Verdict.ACCEPT, sure[kept])
    assert int((strict.verdict == Verdict.ACCEPT).sum()) < int((lax.verdict == Verdict.ACCEPT).sum())


def test_it_moves_and_copies_as_any_module(guard, images):
    fine = copy.deepcopy(guard).double()
    with torch.no_grad():
        answer, plain = fine(images.double()), guard(images)
    assert answer.scores.dtype == answer.probabilities.dtype == torch.float64
    torch.testing.assert_close(answer.scores.float(), plain.scores, rtol=1e-3, atol=1e-3)
    assert guard.model.backbone[0].weight.dtype == torch.float32
    assert guard.digest() == copy.deepcopy(guard).digest() != replace_policy(guard, Policy(rate=0.06)).digest()


def replace_policy(guard, policy):
    return Guard(guard.model, guard.watches, temperature=guard.temperature, sets=guard.sets, policy=policy)


def test_images_of_another_shape_and_training_mode_are_refused(guard, images):
    with pytest.raises(ImageError, match=r"takes images \(B, 1, H, W\)"):
        guard(images[:, 0])
    guard = copy.deepcopy(guard).train()
    with pytest.raises(ModelError, match="training mode"):
        guard(images)


def test_without_calibration_it_says_so(scans, guard, images):
    bare = Guard(scans.model, guard.watches)
    assert any("not calibrated" in note for note in bare.notes)
    assert not bare.policy.single
    with torch.no_grad():
        assert set(bare(images).verdict.tolist()) <= {Verdict.ACCEPT, Verdict.REJECT}


def test_parts_that_do_not_go_together_are_refused(scans, findings, guard):
    watch, other = guard.watches[0], findings.fitted().watches[0]
    for watches, settings, told in (
        ([], {}, "at least one detector"),
        ([watch, watch], {}, "a name of its own"),
        ([replace(watch, scale=0.0)], {}, "a scale positive"),
        ([replace(watch, threshold=replace(watch.threshold, value=float("nan")))], {}, "threshold is finite"),
        ([watch, replace(watch, name="second")], {}, "add up to 0.1, and the policy allows 0.05; take each at 0.025"),
        ([watch], {"policy": Policy(detectors=("energy",))}, "detector 'energy'"),
        ([watch], {"temperature": Temperature((1.0, 1.0), multilabel=True)}, "another task"),
        ([watch], {"sets": PredictionSets(0.9, (0.5, 0.5))}, "another task"),
        ([other], {}, "fitted on another classifier"),
    ):
        with pytest.raises(SettingsError, match=told):
            Guard(scans.model, watches, **settings)
    named = [watch, replace(watch, name="second")]
    assert Guard(scans.model, named, policy=Policy(detectors=("gaussian",)))
    assert isinstance(watch, Watch)
