import pytest

from antivenom.errors import SettingsError
from antivenom.guard.policy import Policy, holds, looks_unlike, unsure
from antivenom.task import Task

FINDINGS = Task(("effusion", "mass"), multilabel=True)


def test_several_detectors_share_the_rate():
    assert Policy(rate=0.06).share(3) == pytest.approx(0.02)
    assert Policy(rate=0.06, detectors=("a",)).share(3) == pytest.approx(0.06)


def test_those_that_decide_are_named():
    assert Policy().deciding(["a", "b"]) == [True, True]
    assert Policy(detectors=("b",)).deciding(["a", "b"]) == [False, True]
    with pytest.raises(SettingsError, match="detector 'c'; there is a, b"):
        Policy(detectors=("c",)).deciding(["a", "b"])


def test_findings_that_must_be_sure_are_named():
    assert Policy(findings=("mass",)).sure(FINDINGS) == [False, True]
    with pytest.raises(SettingsError, match="classes exclude each other"):
        Policy(findings=("mass",)).sure(Task(("normal", "mass")))
    with pytest.raises(SettingsError, match="finding 'nodule'"):
        Policy(findings=("nodule",)).sure(FINDINGS)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 1}, {"confidence": 1.2}, {"detectors": ()}, {"findings": ("a", "a")}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(SettingsError):
        Policy(**wrong)


@pytest.mark.parametrize("policy", [Policy(), Policy(0.01, ("a",), 0.8, single=False, findings=("mass",))])
def test_it_is_written_down_and_read_again(policy):
    assert Policy.from_dict(policy.to_dict()) == policy


def test_it_says_what_it_does():
    said = Policy(0.05, confidence=0.8).describe(["gaussian", "energy"])
    assert said == (
        "rejects what gaussian or energy flags at a false-alarm rate of 5 %, 2.5 % each; "
        "abstains where the answer is below 80 % or the prediction set does not hold exactly one"
    )
    assert Policy(single=False).describe(["gaussian"]).endswith("never abstains")


def test_numbers_that_lie_close_are_told_apart():
    assert "score 0.9130, above 0.9129," in looks_unlike("energy", 0.91301, 0.91292, 0.05)
    assert "score 1490.8, above 1450.2, which 2.5 % of clean" in looks_unlike("gaussian", 1490.77, 1450.2, 0.025)


def test_sets_and_doubts_are_put_in_words():
    assert holds([], 0.9) == "prediction set holds no class at 90 % coverage"
    assert holds(["a", "b", "c"], 0.95) == "prediction set holds a, b and c at 95 % coverage"
    assert unsure("mass absent", 0.55, 0.7) == "mass absent at 55.0 %, below the 70 % asked for"
