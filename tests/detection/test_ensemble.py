import pytest
import torch

from antivenom.detection.ensemble import Ensemble, fit_ensemble
from antivenom.detection.isolation_forest import fit_isolation_forest
from antivenom.detection.logits import fit_energy
from antivenom.detection.neighbours import fit_neighbours
from antivenom.detection.one_class_svm import fit_one_class_svm
from antivenom.detection.reading import Reading
from antivenom.errors import InputError, SettingsError
from readings import clouds, of, stream

TUNE = clouds(200, seed=7)


@pytest.fixture(scope="module")
def parts():
    clean = stream(clouds(200))
    return [fit_neighbours(clean, k=5, normalised=False, seed=0), fit_energy(clean)]


def test_each_score_has_its_clean_median_at_0_and_its_95th_percentile_at_1(parts):
    for part in parts:
        even = fit_ensemble([part], tune=TUNE)(TUNE)
        assert even.median().item() == pytest.approx(0, abs=0.02)
        assert (even > 1).float().mean().item() == pytest.approx(0.05)


@pytest.mark.parametrize("way", ["largest", "mean"])
def test_the_largest_or_the_mean_counts(parts, way):
    seen = clouds(50, seed=1, shift=0.3)
    each = torch.stack([fit_ensemble([part], tune=TUNE)(seen) for part in parts], 1)
    expected = each.amax(1) if way == "largest" else each.mean(1)
    torch.testing.assert_close(fit_ensemble(parts, tune=TUNE, way=way)(seen), expected)


def test_it_notices_what_only_one_of_its_detectors_notices(parts):
    seen = clouds(20, seed=1)
    unsure, far = Reading(seen.logits * 0, seen.layers), Reading(seen.logits, {"features": seen.layer("features") + 9})
    whole = fit_ensemble(parts, tune=TUNE)
    assert bool((whole(unsure) > 1).all() and (whole(far) > 1).all())
    assert not bool((fit_ensemble(parts[:1], tune=TUNE)(unsure) > 1).all())


def test_it_reads_what_its_detectors_read(parts):
    whole = fit_ensemble(parts, tune=TUNE)
    assert (whole.layers, whole.widths) == (("features",), (6,))
    with pytest.raises(InputError, match="another model"):
        whole(clouds(5, width=7))
    other = fit_neighbours(stream(clouds(200, width=7)), k=5, seed=0)
    with pytest.raises(InputError, match="6 values to one detector and 7 to another"):
        fit_ensemble([*parts, other], tune=TUNE)


def test_it_has_gradients_where_all_of_them_have(parts):
    whole = fit_ensemble(parts, tune=TUNE, way="mean")
    assert whole.differentiable
    features = clouds(3, seed=4, dtype=torch.float64).layer("features").requires_grad_()
    assert torch.autograd.gradcheck(lambda values: whole(of(values)), (features,))
    assert not fit_ensemble([*parts, fit_isolation_forest(stream(clouds(200)), trees=5, seed=0)], tune=TUNE).differentiable


def test_it_is_rebuilt_with_its_detectors(parts):
    whole = fit_ensemble(parts, tune=TUNE)
    again = Ensemble(**whole.settings(), detectors=parts, centre=whole.centre, scale=whole.scale)
    assert torch.equal(again(clouds(50, seed=2)), whole(clouds(50, seed=2)))
    assert {name.split(".")[0] for name in whole.state_dict()} == {"centre", "scale", "detectors"}


def test_what_must_be_told_of_its_detectors_must_be_told_of_it():
    forest = fit_isolation_forest(stream(clouds(60)), trees=5, seed=0)
    assert fit_ensemble([forest, forest], tune=TUNE).notes == forest.notes
    assert "rests on few" in fit_ensemble([forest], tune=clouds(30, seed=7)).notes[-1]


def test_what_is_not_finite_is_as_suspicious_as_can_be(parts):
    for way in ("largest", "mean"):
        seen = clouds(3)
        seen.layer("features")[1] = torch.nan
        assert fit_ensemble(parts, tune=TUNE, way=way)(seen).isposinf().tolist() == [False, True, False]


def test_what_cannot_be_is_refused(parts):
    with pytest.raises(SettingsError, match="at least one"):
        fit_ensemble([], tune=TUNE)
    with pytest.raises(SettingsError, match="'median'"):
        fit_ensemble(parts, tune=TUNE, way="median")
    with pytest.raises(InputError, match="at least 20 held-out clean images, got 19"):
        fit_ensemble(parts, tune=clouds(19))
    far = fit_one_class_svm(stream(clouds(100)), seed=0)
    with pytest.raises(InputError, match=r"detector 1 \(OneClassSvm\) gives nearly all 200 images the same"):
        fit_ensemble([parts[0], far], tune=clouds(200, shift=1e3))
    odd = clouds(30)
    odd.layer("features")[4] = torch.nan
    with pytest.raises(InputError, match="scores: 1 of 30"):
        fit_ensemble(parts, tune=odd)
