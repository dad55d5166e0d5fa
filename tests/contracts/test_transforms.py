"""What every attack on the parameters of a transformation promises, whatever the transformation."""

import math

import pytest
import torch

from antivenom.attacks import ATTACKS, FOOLED, SPENT, Sees
from antivenom.attacks.problem import PROBED
from antivenom.errors import ImageError, LabelError, ModelError, SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.transforms import TRANSFORMS, BiasField, Exposure, Placement, Stripes, Transform
from toys import Counting, small_network

FEW = {"worst_of": {"tries": 12}, "parameter_ascent": {"steps": 10, "step_size": 0.2}}
NAMES = [name for name, row in ATTACKS.items() if row.norms & set(TRANSFORMS.values())]
PAIRS = [(name, kind) for name in NAMES for kind in TRANSFORMS.values() if kind in ATTACKS[name].norms]
ROOM = {Placement: 0.4, Exposure: 0.6, BiasField: 1.0, Stripes: 0.05}  # some images fall, some do not
WIDE = {Placement: Placement(1.0), Exposure: Exposure(1.0), BiasField: BiasField(1.0, limit=1.0), Stripes: Stripes(0.1)}
EVERY = pytest.mark.parametrize(("name", "kind"), PAIRS)
UNTIL = pytest.mark.parametrize("until", [FOOLED, SPENT])


def run(name, model, x, goal, allowed, *, until=FOOLED, generator=None):
    draws = generator or Draws.of(0, torch.arange(len(x)))
    return ATTACKS[name](model, x, goal, allowed, until=until, generator=draws, **FEW.get(name, {}))


def undecided(channels, x):
    """A network whose answers to these images lie near a tie, some on this side and some on that."""
    model = small_network(channels, classes=5)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
    return model


@pytest.fixture
def scan():
    """Images as a scanner gives them, with a black surround and saturated bone, and a model that is unsure of them."""
    x = torch.rand(16, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    x[..., 0, :], x[..., -1, :] = 0, 1
    model = undecided(3, x)
    return model, x, model(x).argmax(1)


@EVERY
@UNTIL
def test_what_it_gives_back_is_the_image_under_some_parameters_within_the_limits(scan, monkeypatch, name, kind, until):
    model, x, y = scan
    before, world, made, apply = x.clone(), torch.get_rng_state(), [], Transform.apply

    def watched(self, images, theta):
        made.append((theta.detach(), apply(self, images, theta)))
        return made[-1][1]

    monkeypatch.setattr(Transform, "apply", watched)
    result = run(name, model, x, Untargeted(y), kind(ROOM[kind]), until=until)
    assert result.success.any()  # else the rest would hold of an attack that does nothing
    assert not result.success.all()
    assert all(theta.abs().max() <= 1 for theta, _ in made)
    points = torch.cat([x, *(points.detach() for _, points in made)])  # where nothing helped, no parameters at all
    assert all((points == image).flatten(1).all(1).any() for image in result.x_adv)
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))
    assert torch.equal(x, before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model.training
    assert torch.equal(world, torch.get_rng_state())
    assert not any(flag.any() for flag in result.flags.values())
    assert torch.equal(result.x_adv, run(name, model, x, Untargeted(y), kind(ROOM[kind]), until=until).x_adv)


@EVERY
@UNTIL
def test_every_query_is_counted(scan, name, kind, until):
    model, x, y = scan
    counted = Counting(model).eval()
    result = run(name, counted, x, Untargeted(y), kind(ROOM[kind]), until=until)
    assert result.queries.sum() == counted.images - 2 * PROBED  # what the door asks
    assert (result.gradients > 0).any() == (ATTACKS[name].sees is Sees.GRADIENT)


@EVERY
def test_what_may_not_move_does_not(scan, name, kind):
    model, x, _ = scan
    x = (255 * x[:, :1]).round().expand(-1, 3, -1, -1) / 255  # a grey image of 8 bits, copied to three channels
    model = undecided(3, x)
    y = model(x).argmax(1)
    region = torch.zeros(len(x), 1, 12, 10)
    region[..., :8] = 1
    result = run(name, model, x, Untargeted(y), kind(ROOM[kind], Pixels(region=region, tied=True, grid=1 / 255)))

    delta = result.x_adv - x
    assert result.success.any()
    assert (delta * (1 - region) == 0).all()
    assert torch.equal(delta[:, 0], delta[:, 2])
    torch.testing.assert_close(255 * result.x_adv, (255 * result.x_adv).round(), rtol=0, atol=1e-3)
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))


@EVERY
@UNTIL
def test_an_image_alone_gives_what_it_gives_in_company(scan, name, kind, until):
    """Whatever differs by image goes with it: its draws, its epsilon, its region and its range."""
    model, x, y = scan
    draws = Draws.of(0, torch.arange(16))
    region = (torch.rand(16, 1, 12, 10, generator=torch.Generator().manual_seed(2)) > 0.2).float()
    pixels = Pixels(low=torch.linspace(-0.1, 0, 16), high=torch.linspace(1, 1.2, 16), region=region)
    allowed = kind(ROOM[kind] * torch.linspace(0.5, 1, 16), pixels)
    together = run(name, Victim(model, model, batch=5), x, Untargeted(y), allowed, until=until, generator=draws)
    for some in torch.tensor([[11, 3], [0, 14]]):
        goal, alone = Untargeted(y[some]), allowed.take(some)
        apart = run(name, model, x[some], goal, alone, until=until, generator=draws.take(some))
        torch.testing.assert_close(apart.x_adv, together.x_adv[some], rtol=0, atol=5e-5)
        assert torch.equal(apart.success, together.success[some])
        assert torch.equal(apart.queries, together.queries[some])


@EVERY
def test_an_image_that_is_wrong_anyway_is_left_as_it_is(scan, name, kind):
    model, x, y = scan
    result = run(name, model, x, Untargeted((y + 1) % 5), kind(ROOM[kind]))
    assert result.success.all()
    assert torch.equal(result.x_adv, x)
    assert (result.queries == 1).all()


@EVERY
@UNTIL
def test_no_room_no_success(scan, name, kind, until):
    model, x, y = scan
    result = run(name, model, x, Untargeted(y), kind(0.0), until=until)
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)


@EVERY
def test_a_twin_proposes_and_the_model_itself_decides(scan, name, kind):
    """A twin that always claims success has none that the judge does not confirm; a right one loses none."""
    model, x, y = scan
    allowed = kind(ROOM[kind])

    def boaster(z):
        answer = model(z)
        return answer - 9 * torch.nn.functional.one_hot(answer.argmax(1), 5)

    result = run(name, Victim(model, boaster), x, Untargeted(y), allowed)
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    assert torch.equal(
        run(name, Victim(model, lambda z: model(z)), x, Untargeted(y), allowed).success,
        run(name, model, x, Untargeted(y), allowed).success,
    )


@EVERY
def test_a_model_that_answers_nan_is_not_fooled(scan, name, kind):
    _, x, y = scan
    result = run(name, lambda z: (z.flatten(1) * torch.nan)[:, :5], x, Untargeted(y), kind(ROOM[kind]))
    assert not result.success.any()
    assert result.x_adv.isfinite().all()


@EVERY
def test_a_model_without_a_gradient_is_flagged(scan, name, kind):
    model, x, y = scan
    for masked in (lambda z: model((z * 255).round() / 255), lambda z: model(z.detach())):
        result = run(name, masked, x, Untargeted(y), kind(ROOM[kind] / 4))
        assert not result.success.all()
        assert result.flags["zero-gradient"][~result.success].all() == (ATTACKS[name].sees is Sees.GRADIENT)


@pytest.mark.parametrize("channels", [1, 3, 4])
@EVERY
def test_grey_colour_and_multispectral_images_alike(name, kind, channels):
    model = small_network(channels)
    x = torch.rand(6, channels, 12, 10, generator=torch.Generator().manual_seed(0))
    result = run(name, model, x, Untargeted(model(x).argmax(1)), kind(ROOM[kind]), until=SPENT)
    assert result.x_adv.shape == x.shape
    assert ((result.x_adv != x).flatten(2).any(2)).all()  # in every channel


@EVERY
def test_findings_are_hidden_and_invented_at_once(scan, name, kind):
    model, x, _ = scan
    answer = model(x).detach()
    goal = Findings((1 - 2 * (answer > 0).long()) * torch.tensor([1, 1, 0, 0, 0]), threshold=torch.zeros(5))
    result = run(name, model, x, goal, WIDE[kind])
    turned = (model(result.x_adv) > 0) != (answer > 0)
    assert not goal.reached(answer).any()
    assert result.success.any()
    assert turned[result.success, :2].all()


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_not_listed_is_refused(scan, name):
    model, x, y = scan
    for kind in (*TRANSFORMS.values(), Linf):
        if kind not in ATTACKS[name].norms:
            with pytest.raises(SettingsError, match=f"not for {kind.__name__}"):
                run(name, model, x, Untargeted(y), kind(0.1))


BAD = [
    (lambda m, x, y, k: (m, 255 * x, Untargeted(y), k(0.1)), ImageError, "divide"),
    (lambda m, x, y, k: (m, x.where(x > 0, torch.nan), Untargeted(y), k(0.1)), ImageError, "finite"),
    (lambda m, x, y, k: (m, x[0], Untargeted(y), k(0.1)), ImageError, "shape"),
    (lambda m, x, y, k: (m, x[:0], Untargeted(y[:0]), k(0.1)), ImageError, "no image"),
    (lambda m, x, y, k: (m, x, Untargeted(y + 5), k(0.1)), LabelError, "0..4"),
    (lambda m, x, y, k: (m.train(), x, Untargeted(y), k(0.1)), ModelError, "training mode"),
    (lambda m, x, y, k: (m, x, Untargeted(y), k(-0.1)), SettingsError, "not negative"),
    (lambda m, x, y, k: (m, x, Untargeted(y), k(math.inf)), SettingsError, "epsilon"),
    (lambda m, x, y, k: (m, x, Untargeted(y), k(math.nan)), SettingsError, "epsilon"),
]


@EVERY
@pytest.mark.parametrize(("change", "error", "said"), BAD)
def test_the_door_refuses_what_cannot_be_attacked(scan, name, kind, change, error, said):
    with pytest.raises(error, match=said):
        run(name, *change(*scan, kind))


@EVERY
def test_an_epsilon_beyond_the_limits_or_finer_than_the_grid_is_refused(scan, name, kind):
    model, x, y = scan
    if kind.additive:
        with pytest.raises(SettingsError, match="grid"):
            run(name, model, x, Untargeted(y), kind(0.5 / 255, Pixels(grid=1 / 255)))
    else:
        with pytest.raises(SettingsError, match="state wider limits"):
            run(name, model, x, Untargeted(y), kind(1.1))


def test_streams_of_other_images_are_refused(scan):
    model, x, y = scan
    with pytest.raises(SettingsError, match="3 streams"):
        run("worst_of", model, x, Untargeted(y), Placement(0.1), generator=Draws.of(0, torch.arange(3)))
