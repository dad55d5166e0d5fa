"""Universal perturbations: on a plane the best one is known; on a network it carries over to images it was not fitted on."""

import pytest
import torch

from antivenom.attacks.problem import PROBED, Problem
from antivenom.attacks.universal import KINDS, _batches, _pulls, apply_universal, fit_universal
from antivenom.errors import ImageError, SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Targeted, Untargeted
from antivenom.threat.objectives import log_odds
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1
from toys import Counting, Plane, small_network

COUNT = 32


@pytest.fixture
def plane():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1), Draws.of(0, torch.arange(COUNT))


@pytest.fixture
def network():
    """Images that a network takes for class 0 with some room: noise seldom changes its answer."""
    network = small_network(1, classes=2, seed=3)
    x = 0.3 + 0.4 * torch.rand(2 * 128, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    lead = network(x).detach().diff(dim=1)[:, 0]
    middle = torch.stack([torch.zeros(()), lead.quantile(0.7)])

    def model(z):
        return 10 * (network(z) - middle)

    kept = lead.argsort()[:128].sort().values
    return model, x[kept], torch.zeros(128, dtype=torch.long), Draws.of(0, torch.arange(128))


def steepest(w, kind, epsilon):
    """The perturbation of a size that raises w.x most."""
    if kind is Linf:
        return epsilon * w.sign()
    if kind is L2:
        return epsilon * w / w.norm()
    return epsilon * w.sign() * (w.abs() == w.abs().amax())


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("label", [0, 1])
def test_of_one_class_of_a_plane_it_is_the_steepest_direction(plane, kind, label):
    model, x, y, draws = plane
    own = (y == label).nonzero()[:, 0]
    epsilon = 0.05 if kind is Linf else 0.2
    delta = fit_universal(model, x[own], Untargeted(y[own]), kind(epsilon), steps=30, batch=5, generator=draws.take(own))
    way = (1 - 2 * label) * model.w.detach()
    torch.testing.assert_close(delta.flatten(), steepest(way, kind, epsilon), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_towards_one_class_all_images_pull_alike(plane, kind):
    model, x, y, draws = plane
    goal, ball = Targeted(torch.ones_like(y)), kind(1.01 * model.distance(x, kind).max().item())
    delta = fit_universal(model, x, goal, ball, steps=30, batch=7, generator=draws)
    torch.testing.assert_close(delta.flatten(), steepest(model.w.detach(), kind, ball.epsilon), rtol=0, atol=1e-5)
    assert apply_universal(model, x, goal, ball, delta).success.all()


def test_an_image_that_is_fooled_beyond_the_clip_pulls_no_further(plane):
    """Three in four images are fooled by far and would pull on towards class 0; the others still have to go to class 1."""
    model, _, _, draws = plane
    w = model.w.detach().view(3, 4, 4)
    x = torch.cat([0.5 - 0.3 * w.sign().expand(24, -1, -1, -1), 0.5 - 0.001 * w.expand(8, -1, -1, -1)])
    goal = Untargeted(torch.cat([torch.ones(24, dtype=torch.long), torch.zeros(8, dtype=torch.long)]))

    def loud(z):
        return 20 * model(z)

    assert goal.margin(loud(x))[:24].min() > 3 > 0 > goal.margin(loud(x))[24:].max()
    common = {"steps": 30, "batch": COUNT, "generator": draws}
    many, few = (fit_universal(loud, x, goal, Linf(0.01), clip=clip, **common) for clip in (1e9, 3.0))
    torch.testing.assert_close(many, -0.01 * w.sign())
    torch.testing.assert_close(few, 0.01 * w.sign())


def test_classes_that_want_opposite_changes_do_not_hold_each_other_in_place(plane):
    """As many images on either side of a plane: all pulling alike would cancel out; pulling as they yield, one side wins."""
    model, x, y, draws = plane
    chosen = torch.cat([(y == label).nonzero()[:10, 0] for label in (0, 1)])
    x, y, draws = x[chosen], y[chosen], draws.take(chosen)
    ball = Linf(1.05 * model.distance(x, Linf).max().item())
    for loud in (20.0, 1e6):  # with logits so large, no weight but a relative one is left
        louder = lambda z, loud=loud: loud * model(z)  # noqa: E731 - as short as it is
        delta = fit_universal(louder, x, Untargeted(y), ball, steps=60, batch=20, generator=draws)
        fooled = apply_universal(louder, x, Untargeted(y), ball, delta).success
        assert fooled.sum() == 10
        assert len(y[fooled].unique()) == 1


@pytest.mark.parametrize("every", [False, True])
def test_images_pull_as_the_gradient_of_cross_entropy_does(every):
    logits = 3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 4
    goal = Targeted(labels) if every else Untargeted(labels)
    rise = log_odds(goal, logits).requires_grad_()
    entropy = -torch.nn.functional.logsigmoid(rise if every else -rise)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(entropy, expected)
    (slope,) = torch.autograd.grad(entropy.sum(), rise)
    torch.testing.assert_close(_pulls(goal, rise.detach(), 1e9), slope.abs() / slope.abs().max())
    assert not _pulls(goal, torch.full((7,), 10.0), 9.0).any()


@pytest.mark.parametrize("kind", [Linf, L2])
def test_what_is_fitted_on_half_of_the_images_fools_more_of_the_other_half_than_noise(network, kind):
    model, x, y, draws = network
    seen, unseen = torch.arange(0, 64), torch.arange(64, 128)
    ball = kind(0.03 if kind is Linf else 0.3)
    delta = fit_universal(model, x[seen], Untargeted(y[seen]), ball, steps=60, batch=16, generator=draws.take(seen))
    goal = Untargeted(y[unseen])
    fitted = apply_universal(model, x[unseen], goal, ball, delta).success.float().mean()
    one = ball.extreme(x[:1], Draws.of(1, torch.arange(1)))[0]
    noisy = apply_universal(model, x[unseen], goal, ball, one).success.float().mean()
    assert fitted > noisy + 0.8


def test_an_image_is_seen_again_when_all_have_been(plane):
    model, x, y, draws = plane
    problem = Problem.of(model, x, Untargeted(y), Linf(0.1), draws, takes=KINDS)
    rounds = torch.cat(list(_batches(problem, 12, 8)))
    assert all(len(part.unique()) == COUNT for part in rounds.split(COUNT))
    assert not torch.equal(rounds[:COUNT], rounds[COUNT : 2 * COUNT])
    uneven = list(_batches(problem, 10, 10))
    assert [len(part) for part in uneven] == [10] * 10
    assert torch.cat(uneven).bincount().max() - torch.cat(uneven).bincount().min() <= 1
    assert [len(part) for part in _batches(problem, 2, 100)] == [COUNT, COUNT]


def test_the_order_of_the_images_is_their_own(plane):
    model, x, y, draws = plane
    turned = torch.arange(COUNT).flip(0)
    common = {"steps": 9, "batch": 5}
    one = fit_universal(model, x, Untargeted(y), L2(0.1), generator=draws, **common)
    other = fit_universal(model, x[turned], Untargeted(y[turned]), L2(0.1), generator=draws.take(turned), **common)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_fit_spends_one_gradient_a_step_and_judges_nothing(plane):
    model, x, y, draws = plane
    judge, proposing = Counting(model).eval(), Counting(model).eval()
    before = x.clone()
    fit_universal(Victim(judge, proposing), x, Untargeted(y), Linf(0.1), steps=7, batch=5, generator=draws)
    assert judge.images == 2 * PROBED
    assert proposing.images == 7 * 5
    assert torch.equal(x, before)


def test_values_at_the_end_of_their_range_do_not_stop_those_of_other_images(plane):
    """What one image cannot follow, others can: the perturbation goes on where any of them still gains."""
    model, x, _, draws = plane
    rising = (model.w.detach() > 0).view(3, 4, 4)
    x[: COUNT // 2] = torch.where(rising, 1.0, 0.0)  # nothing left to gain towards class 1
    goal = Targeted(torch.ones(COUNT, dtype=torch.long))
    delta = fit_universal(model, x, goal, Linf(0.1), steps=20, generator=draws)
    torch.testing.assert_close(delta.flatten(), 0.1 * model.w.detach().sign())
    result = apply_universal(model, x, goal, Linf(0.1), delta)
    assert torch.equal(result.x_adv[: COUNT // 2], x[: COUNT // 2])


def test_images_that_can_gain_no_more_do_not_outvote_those_that_can_still_be_harmed(plane):
    """Most images want what they cannot have, being at the end of their range; the others want the opposite."""
    model, x, _, draws = plane
    w = model.w.detach()
    x[:24] = (w > 0).float().view(3, 4, 4)
    goal = Untargeted(torch.cat([torch.zeros(24, dtype=torch.long), torch.ones(8, dtype=torch.long)]))
    delta = fit_universal(model, x, goal, Linf(0.1), steps=40, batch=COUNT, generator=draws)
    assert delta.flatten() @ w < 0.02 * w.abs().sum()  # and not 0.1 of it, the whole way


def test_no_size_is_spent_outside_the_region(plane):
    model, x, y, draws = plane
    region = torch.zeros(COUNT, 1, 4, 4)
    region[..., :2] = 1
    ball = L2(0.1, Pixels(region=region))
    delta = fit_universal(model, x, Targeted(torch.ones_like(y)), ball, steps=20, generator=draws)
    inside = (model.w.detach().view(3, 4, 4) * region[0]).flatten()
    torch.testing.assert_close(delta.flatten(), steepest(inside, L2, 0.1), rtol=0, atol=1e-6)


def test_applying_asks_the_judge_once_an_image_and_keeps_to_each_set(plane):
    model, x, y, _ = plane
    x[..., 0, :] = 0
    judge = Counting(model).eval()
    sizes = torch.linspace(0.0, 0.2, COUNT)
    region = torch.ones(COUNT, 1, 4, 4)
    region[..., 3] = 0
    ball = Linf(sizes, Pixels(region=region))
    result = apply_universal(Victim(judge, lambda z: z / 0, batch=5), x, Untargeted(y), ball, torch.full((3, 4, 4), -0.15))
    moved = result.x_adv - x
    assert judge.images == 2 * PROBED + COUNT
    assert result.queries.tolist() == [1] * COUNT
    assert not result.gradients.any()
    torch.testing.assert_close(moved[..., 1:, :3], -sizes.clamp_max(0.15).reshape(-1, 1, 1, 1).expand(-1, 3, 3, 3))
    assert not moved[..., 0, :].any()
    assert not moved[..., 3].any()
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))


def test_tied_channels_move_as_one_and_stored_images_stay_on_their_grid(plane):
    model, x, _, draws = plane
    x = (255 * x[:, :1]).round().expand(-1, 3, -1, -1) / 255
    goal = Targeted(torch.ones(COUNT, dtype=torch.long))
    ball = Linf(12.5 / 255, Pixels(tied=True, grid=1 / 255))
    delta = fit_universal(model, x, goal, ball, steps=20, generator=draws)
    assert torch.equal(delta[0], delta[2])
    stored = apply_universal(model, x, goal, ball, delta).x_adv
    torch.testing.assert_close(255 * stored, (255 * stored).round(), rtol=0, atol=1e-3)
    assert (255 * (stored - x)).abs().max().round() == 12


def test_findings_are_hidden_in_all_images_at_once():
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))

    def model(z):
        return (z - 0.5).flatten(1) @ weights.T

    x = 0.5 + 0.001 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal = Findings(torch.tensor([[1, -1, 0]]).expand(16, 3), threshold=torch.tensor([1.0, -1.0, 0.0]))
    delta = fit_universal(model, x, goal, Linf(0.2), steps=30, generator=torch.Generator().manual_seed(0))
    assert not goal.reached(model(x)).any()
    assert apply_universal(model, x, goal, Linf(0.2), delta).success.all()


def test_a_model_that_answers_nan_is_not_fooled(plane):
    _, x, y, draws = plane
    model = lambda z: (z.flatten(1) * torch.nan)[:, :2]  # noqa: E731 - as short as it is
    delta = fit_universal(model, x, Untargeted(y), Linf(0.1), steps=3, generator=draws)
    assert not delta.any()
    result = apply_universal(model, x, Untargeted(y), Linf(0.1), delta)
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)


def test_what_cannot_be_is_refused(plane):
    model, x, y, draws = plane
    goal = Untargeted(y)
    with pytest.raises(ImageError, match=r"\(3, 4, 4\), got \(1, 4, 4\)"):
        apply_universal(model, x, goal, Linf(0.1), torch.zeros(1, 4, 4))
    with pytest.raises(ImageError, match="finite"):
        apply_universal(model, x, goal, Linf(0.1), torch.full((3, 4, 4), torch.nan))
    with pytest.raises(SettingsError, match="L0"):
        fit_universal(model, x, goal, L0(3.0), generator=draws)
    with pytest.raises(SettingsError, match="batch"):
        fit_universal(model, x, goal, Linf(0.1), batch=0, generator=draws)
    with pytest.raises(SettingsError, match="epsilon"):
        fit_universal(model, x, goal, L2(float("inf")), generator=draws)
