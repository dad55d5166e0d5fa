"""HopSkipJump where the smallest perturbation is known, and what it may use: decisions, and no more of them than allowed."""

import math

import pytest
import torch

from antivenom.attacks import FOOLED
from antivenom.attacks.hop_skip_jump import _Plan, _Walk, hop_skip_jump
from antivenom.attacks.problem import Problem
from antivenom.errors import ImageError, SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import FREE, Affine, Plane, Sphere, small_network

KINDS = pytest.mark.parametrize("kind", [L2, Linf])


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(16))


@pytest.fixture
def scene():
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = Plane().eval()
    return model, x, model(x).argmax(1)


class Recording:
    """A model that keeps what it was shown, call by call."""

    def __init__(self, model):
        self.model, self.shown = model, []

    def __call__(self, images):
        self.shown.append(images.clone())
        return self.model(images)

    @property
    def blocks(self):
        """Sizes of the calls, single images between blocks of probes left out."""
        sizes, block = [], 0
        for images in self.shown[2:]:  # the door asks first
            block += len(images) * (len(images) > 1)
            if len(images) == 1 and block:
                sizes.append(block)
                block = 0
        return sizes


@pytest.mark.parametrize(("kind", "truth"), [(L2, 0.4737364557517151), (Linf, 0.2846153846)])
def test_the_affine_case(kind, truth):
    model, x = Affine().eval(), torch.tensor([0.6, 0.5, 0.1]).reshape(1, 3, 1, 1)
    ball = kind(math.inf, FREE)
    goal = Untargeted(torch.tensor([0]))
    found = hop_skip_jump(model, x, goal, ball, queries=3000, generator=Draws.of(0, torch.arange(1)))
    assert truth * (1 - 1e-5) <= ball.size(found.x_adv - x).item() <= 1.02 * truth


@KINDS
def test_ends_near_a_plane(scene, draws, kind):
    model, x, y = scene
    truth = model.distance(x, kind)
    found = hop_skip_jump(model, x, Untargeted(y), kind(math.inf), queries=1000, probes=50, generator=draws)
    size = kind(math.inf).size(found.x_adv - x)
    assert found.success.all()
    assert (size >= truth * (1 - 1e-4) - 1e-7).all()
    assert (size / truth).median() <= 1.3


def test_ends_near_a_sphere(draws):
    model = Sphere((3, 4, 4)).eval()
    x = 0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = hop_skip_jump(
        model, x, Untargeted(model(x).argmax(1)), L2(math.inf), starts=x * 0 + 0.5, queries=400, generator=draws
    )
    assert found.success.all()
    assert (L2(1.0).size(found.x_adv - x) <= 1.05 * model.distance(x) + 1e-3).all()


@KINDS
def test_more_queries_come_nearer(scene, draws, kind):
    model, x, y = scene
    sizes = []
    for queries in (60, 200, 700):
        found = hop_skip_jump(model, x, Untargeted(y), kind(math.inf), queries=queries, probes=25, generator=draws)
        sizes.append(kind(math.inf).size(found.x_adv - x).median().item())
    assert sizes[0] > sizes[1] > sizes[2]


@KINDS
def test_nothing_but_the_decision_is_used(draws, kind):
    model = small_network(3)
    x = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(model(x).argmax(1))

    def decided(z):
        return torch.nn.functional.one_hot(model(z).argmax(1), 3).float()

    scores, labels = (hop_skip_jump(m, x, goal, kind(math.inf), queries=300, generator=draws) for m in (model, decided))
    assert scores.success.any()
    assert torch.equal(scores.x_adv, labels.x_adv)
    assert torch.equal(scores.success, labels.success)
    assert torch.equal(scores.queries, labels.queries)
    torch.testing.assert_close(scores.margin, goal.margin(model(scores.x_adv)).detach(), rtol=0, atol=1e-5)


def test_a_twin_is_never_asked(scene, draws):
    model, x, y = scene

    def twin(_):
        raise AssertionError

    found = hop_skip_jump(Victim(model, twin), x, Untargeted(y), L2(math.inf), queries=60, probes=20, generator=draws)
    assert found.success.all()


def test_probes_grow_with_the_root_of_the_turn(scene, draws):
    model, x, y = scene
    recording = Recording(model)
    one = draws.take(torch.tensor([0]))
    settings = {"probes": 50, "queries": 600, "generator": one}
    found = hop_skip_jump(recording, x[:1], Untargeted(y[:1]), L2(math.inf), **settings)
    blocks = recording.blocks
    assert blocks[:4] == [50, 70, 86, 100]
    assert 0 < blocks[-1] <= 50 * len(blocks) ** 0.5  # the last turn keeps enough to use what it learns
    assert found.queries.item() <= 600
    capped = Recording(model)
    hop_skip_jump(capped, x[:1], Untargeted(y[:1]), L2(math.inf), most=60, **settings)
    assert capped.blocks[:4] == [50, 60, 60, 60]


def test_a_leap_that_does_not_fool_is_halved():
    """Into a small sphere from its edge: whoever leaps as far as the image lies away comes out on the other side."""
    model = Sphere((3, 4, 4), radius=0.1).eval()
    x = torch.full((1, 3, 4, 4), 0.7)
    recording = Recording(model)
    goal, settings = Targeted(torch.tensor([1])), {"starts": torch.full_like(x, 0.5), "generator": Draws.of(0, torch.arange(1))}
    hop_skip_jump(recording, x, goal, L2(math.inf, FREE), queries=140, **settings)
    probed = [len(images) > 1 for images in recording.shown]
    first = probed.index(False, probed.index(True))  # the first image on its own after probes
    leaps = [L2(1.0).size(recording.shown[first + k] - recording.shown[first + k + 1]).item() for k in range(3)]
    distance = L2(1.0).size(x - 0.5).item() - 0.1
    assert leaps == pytest.approx([distance / 2, distance / 4, distance / 8], rel=0.02)


def test_a_slope_of_which_only_one_side_was_seen_leads_to_it(scene, draws):
    """Where every probe fools, their mean; where none does, away from it."""
    model, x, y = scene
    problem = Problem.of(model, x, Untargeted(y), L2(math.inf), draws, takes=(L2,), endless=True)
    slopes = []
    for seen in (True, False):
        walk = _Walk(problem, 0, _Plan(100, 20, 20, 0.01, 10, FOOLED), x[0][None][:0])
        asking = walk._slope(x[:1], 0.1, 1, 20)
        shown = next(asking)
        with pytest.raises(StopIteration) as ended:
            asking.send(torch.full((20,), seen))
        slopes.append(ended.value.value)
    torch.testing.assert_close(slopes[0], (shown - x[:1]).sum(0, keepdim=True))
    assert torch.equal(slopes[0], -slopes[1])


@pytest.mark.parametrize("queries", [2, 3, 17, 150, 151])
@pytest.mark.parametrize("epsilon", [math.inf, 1e-4])
def test_the_budget_is_kept(scene, draws, queries, epsilon):
    model, x, y = scene
    recording = Recording(model)
    found = hop_skip_jump(recording, x, Untargeted(y), L2(epsilon), queries=queries, probes=20, generator=draws)
    assert (found.queries <= queries).all()
    assert found.queries.sum() == sum(map(len, recording.shown[2:]))
    assert found.success.any() == (epsilon == math.inf)


def test_the_batch_is_kept_full(scene, draws):
    model, x, y = scene
    recording = Recording(model)
    victim = Victim(recording, recording, batch=16)
    hop_skip_jump(victim, x, Untargeted(y), L2(math.inf), queries=400, generator=draws)
    sizes = [len(images) for images in recording.shown[2:]]
    assert max(sizes) <= 16
    assert sum(sizes) / len(sizes) > 0.95 * 16


def test_the_first_point_that_fools_is_farther_than_the_last(scene, draws):
    model, x, y = scene
    first, last = (
        hop_skip_jump(model, x, Untargeted(y), L2(math.inf), queries=300, probes=20, generator=draws, **until)
        for until in ({"until": FOOLED}, {})
    )
    assert first.success.all()
    assert (L2(1.0).size(first.x_adv - x) > L2(1.0).size(last.x_adv - x)).all()
    assert (first.queries < 20).all()


def test_what_lies_beyond_epsilon_does_not_count(scene, draws):
    """The walk goes through points beyond epsilon; what is given back lies inside and is what the model said of it."""
    model, x, y = scene
    truth = model.distance(x, L2)
    ball = L2(1.1 * truth.median().item())
    found = hop_skip_jump(model, x, Untargeted(y), ball, queries=800, probes=50, generator=draws)
    assert found.success.any()
    assert not found.success.all()
    assert not found.success[truth > ball.epsilon].any()
    assert (ball.size(found.x_adv - x) <= ball.epsilon * (1 + 1e-5)).all()
    assert torch.equal(found.success, Untargeted(y).reached(model(found.x_adv)))
    assert ((found.x_adv != x).flatten(1).any(1)).all()  # the nearest it came
    first = hop_skip_jump(model, x, Untargeted(y), ball, queries=800, probes=50, until=FOOLED, generator=draws)
    assert torch.equal(first.success, found.success)
    assert first.queries[first.success].sum() < found.queries[first.success].sum()


# -- where it starts ---------------------------------------------------------------------------------------------------


def test_an_image_that_no_start_fools_is_given_back(scene, draws):
    _, x, _ = scene
    goal = Targeted(torch.ones(16, dtype=torch.int64))
    found = hop_skip_jump(lambda z: torch.eye(2)[z.new_zeros(len(z)).long()], x, goal, L2(math.inf), tries=7, generator=draws)
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)
    assert (found.queries == 8).all()


def test_a_class_that_looks_like_fine_noise_is_left_all_the_same(draws):
    """Noise in single pixels never fools a model that calls every rough image by the same name; noise in blocks does."""

    def roughness(z):
        rough = (z[..., 1:] - z[..., :-1]).abs().mean((1, 2, 3))
        return torch.stack([rough, torch.full_like(rough, 0.2)], 1)

    x = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    goal = Untargeted(torch.zeros(16, dtype=torch.int64))
    assert not goal.reached(roughness(x)).any()
    assert not hop_skip_jump(roughness, x, goal, L2(math.inf), tries=1, queries=50, generator=draws).success.any()
    assert hop_skip_jump(roughness, x, goal, L2(math.inf), queries=50, generator=draws).success.all()


@KINDS
def test_a_target_that_noise_does_not_reach_is_reached_from_an_image_of_it(draws, kind):
    """The inside of a small sphere."""
    model = Sphere((3, 4, 4), radius=0.2).eval()
    x = 0.6 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    goal, inside = Targeted(torch.ones(16, dtype=torch.int64)), torch.full_like(x, 0.51)
    settings = {"queries": 120, "generator": draws}
    assert not hop_skip_jump(model, x, goal, kind(math.inf), **settings).success.any()
    found = hop_skip_jump(model, x, goal, kind(math.inf), starts=inside, **settings)
    assert found.success.all()
    assert (kind(1.0).size(found.x_adv - x) < kind(1.0).size(inside - x)).all()


def test_of_several_starts_the_nearest_that_fools_is_taken(scene, draws):
    model, x, y = scene
    normal = model.w.detach().reshape(1, 3, 4, 4) * (1 - 2.0 * y).reshape(-1, 1, 1, 1)
    way = normal / normal.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    starts = torch.stack([x + reach * way for reach in (0.5, 0.0, 0.3)], 1)
    found = hop_skip_jump(model, x, Untargeted(y), L2(math.inf, FREE), starts=starts, until=FOOLED, generator=draws)
    near = model.distance(x, L2) < 0.3
    size = L2(1.0).size(found.x_adv - x)
    torch.testing.assert_close(size[near], torch.full_like(size[near], 0.3))
    assert near.any()
    assert (found.queries[near] == 3).all()  # the image, the start that is the image itself, the one that fools


@pytest.mark.parametrize(
    "starts",
    [torch.rand(15, 3, 4, 4), torch.rand(16, 1, 4, 4), torch.rand(2, 16, 3, 4, 4), torch.zeros(16, 3, 4, 4).byte()],
)
def test_starts_that_are_not_of_these_images_are_refused(scene, draws, starts):
    model, x, y = scene
    with pytest.raises(ImageError, match="starts must be"):
        hop_skip_jump(model, x, Untargeted(y), L2(1.0), starts=starts, generator=draws)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"queries": 1}, "at least 2"), ({"probes": 0}, "probes=0"), ({"most": 0}, "most=0"), ({"probe": 0.0}, r"probe=0\.0")],
)
def test_settings_that_cannot_be_are_refused(scene, draws, settings, said):
    model, x, y = scene
    with pytest.raises(SettingsError, match=said):
        hop_skip_jump(model, x, Untargeted(y), L2(1.0), generator=draws, **settings)


# -- what an image can be ----------------------------------------------------------------------------------------------


@KINDS
def test_every_image_shown_is_one_that_could_be_stored(draws, kind):
    model = Plane().eval()
    x = (255 * torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))).round().expand(-1, 3, -1, -1) / 255
    region = torch.zeros(16, 1, 4, 4)
    region[..., 1:] = 1
    recording = Recording(model)
    ball = kind(math.inf, Pixels(region=region, tied=True, grid=1 / 255))
    one = torch.tensor([0])
    found = hop_skip_jump(
        recording, x[one], Untargeted(model(x).argmax(1)[one]), ball.take(one), queries=200, generator=draws.take(one)
    )
    shown = torch.cat(recording.shown)
    assert found.success.all()
    assert shown.min() >= -1e-6
    assert shown.max() <= 1 + 1e-6
    assert (shown[..., 0] == x[0, :, :, 0]).all()
    assert torch.equal(shown[:, 0], shown[:, 2])
    torch.testing.assert_close(255 * shown, (255 * shown).round(), rtol=0, atol=1e-3)


@KINDS
def test_the_point_that_is_stored_is_the_one_that_is_judged(draws, kind):
    model = small_network(3)
    x = (255 * torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))).round() / 255
    goal = Untargeted(model(x).argmax(1))
    ball = kind(math.inf, Pixels(grid=1 / 255))
    found, free = (hop_skip_jump(model, x, goal, b, queries=500, generator=draws) for b in (ball, kind(math.inf)))
    torch.testing.assert_close(255 * found.x_adv, (255 * found.x_adv).round(), rtol=0, atol=1e-3)
    assert found.success.sum() > 8
    assert torch.equal(found.success, goal.reached(model(found.x_adv)))
    both = found.success & free.success
    sizes = [ball.size(result.x_adv - x)[both].median() for result in (found, free)]
    assert sizes[0] <= 1.3 * sizes[1] + 1 / 255  # rounding costs little


def test_a_range_may_differ_by_image(draws):
    """Hounsfield units as they come: the walk scales with the range."""
    model = Plane().eval()
    low, high = torch.full((16,), -1000.0), torch.linspace(1000, 3000, 16)
    span = (high - low).reshape(-1, 1, 1, 1)
    x = span * (0.5 + 0.2 * torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))) - 1000

    def scaled(z):
        return model((z + 1000) / 3000)

    goal = Untargeted(scaled(x).argmax(1))
    found = hop_skip_jump(scaled, x, goal, L2(math.inf, Pixels(low, high)), queries=400, probes=50, generator=draws)
    assert found.success.all()
    assert (found.x_adv >= -1000).all()
    assert (found.x_adv <= span - 1000 + 1e-3).all()
    truth = 3000 * model.distance((x + 1000) / 3000, L2)
    assert (L2(1.0).size(found.x_adv - x) / truth).median() < 2
