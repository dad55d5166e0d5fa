"""What every attack of the table promises, whatever it does."""

import pytest
import torch

from antivenom.attacks import ATTACKS, FOOLED, SPENT, Sees, attack
from antivenom.attacks.problem import PROBED
from antivenom.errors import ImageError, LabelError, ModelError, SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Findings, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from antivenom.threat.sparse import L0, L1
from toys import Counting, Plane, small_network

FEW = {
    "autoattack": {"steps": 20, "queries": 100},
    "spearhead": {"steps": 20},
    "cw": {"steps": 60, "searches": 4, "constant": 10.0},
    "fab": {"steps": 20},
    "sigma_zero": {"steps": 60},
    "square": {"queries": 200},
    "simba": {"queries": 120},
    "spsa": {"queries": 300, "samples": 8},
    "few_pixel": {"queries": 200, "population": 20, "block": 5},
    "hop_skip_jump": {"queries": 200, "probes": 20},
    "noise": {"tries": 100},
    "speckle": {"tries": 100},
    "sia": {"copies": 4},
}
KINDS = (Linf, L2, L1, L0)
PAIRS = [(name, kind) for name, row in ATTACKS.items() for kind in KINDS if kind in row.norms]
IN_BALLS = [name for name, row in ATTACKS.items() if row.norms & set(KINDS)]  # the others: test_transforms.py


def own_norm(name):
    """Linf where the attack takes it, else the next."""
    return next(kind for kind in KINDS if kind in ATTACKS[name].norms)


ROOM = {Linf: Linf(0.5), L2: L2(3.0), L1: L1(12.0), L0: L0(40.0)}
EVERY = pytest.mark.parametrize(("name", "kind"), PAIRS)
UNTIL = pytest.mark.parametrize("until", [FOOLED, SPENT])


def run(name, model, x, goal, allowed, *, until=FOOLED, generator=None):
    draws = generator or Draws.of(0, torch.arange(len(x)))
    if name == "few_pixel" and 0 < allowed.epsilon < x.shape[1]:  # it changes whole pixels and refuses to be allowed none
        allowed = allowed.within(float(x.shape[1]))
    return ATTACKS[name](model, x, goal, allowed, until=until, generator=draws, **FEW.get(name, {}))


@pytest.fixture
def scan():
    """Images as a scanner gives them: a black surround and saturated bone. Each lies as far from the plane as it likes."""
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x[..., 0, :], x[..., -1, :] = 0, 1
    return model, x, model(x).argmax(1)


@EVERY
@UNTIL
def test_an_attack_stays_inside_and_is_right_about_itself(scan, name, kind, until):
    model, x, y = scan
    before, world = x.clone(), torch.get_rng_state()
    # Noise meets a plane's normal by chance only: the control needs more room for its one success.
    allowed = kind((40 if ATTACKS[name].sees is Sees.NOTHING else 3) * model.distance(x, kind).median().item())
    result = run(name, model, x, Untargeted(y), allowed, until=until)

    assert result.success.any()  # else the rest would hold of an attack that does nothing
    assert (allowed.size(result.x_adv - x) <= allowed.epsilon * (1 + 1e-5)).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))
    assert torch.equal(x, before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model.training
    assert torch.equal(world, torch.get_rng_state())
    assert not any(flag.any() for flag in result.flags.values())
    again = run(name, model, x, Untargeted(y), allowed, until=until)
    assert torch.equal(result.x_adv, again.x_adv)


@EVERY
@UNTIL
def test_every_query_is_counted(scan, name, kind, until):
    model, x, y = scan
    counted = Counting(model).eval()
    allowed = kind(0.5 * model.distance(x, kind).median().item())
    result = run(name, counted, x, Untargeted(y), allowed, until=until)
    assert result.queries.sum() == counted.images - 2 * PROBED  # what the door asks
    assert (result.gradients > 0).any() == (ATTACKS[name].sees is Sees.GRADIENT)


@EVERY
def test_what_may_not_move_does_not(scan, name, kind):
    model, x, y = scan
    x = (255 * x[:, :1]).round().expand(-1, 3, -1, -1) / 255  # a grey image of 8 bits, copied to three channels
    y = model(x).argmax(1)
    region = torch.zeros(len(x), 1, 4, 4)
    region[..., :3] = 1
    pixels = Pixels(region=region, tied=True, grid=1 / 255)
    size = (60 if ATTACKS[name].sees is Sees.NOTHING else 8) * model.distance(x, kind).median().item() + 2 / 255
    allowed = kind(size, pixels)
    result = run(name, model, x, Untargeted(y), allowed)

    delta = result.x_adv - x
    assert result.success.any()
    assert (allowed.size(delta) <= allowed.epsilon * (1 + 1e-5)).all()
    assert (delta * (1 - region) == 0).all()
    assert torch.equal(delta[:, 0], delta[:, 2])
    torch.testing.assert_close(255 * result.x_adv, (255 * result.x_adv).round(), rtol=0, atol=1e-3)
    assert torch.equal(result.success, Untargeted(y).reached(model(result.x_adv)))


@EVERY
@UNTIL
def test_an_image_alone_gives_what_it_gives_in_company(scan, name, kind, until):
    model, x, y = scan
    draws = Draws.of(0, torch.arange(16))
    ball = kind(model.distance(x, kind).median().item())
    together = run(name, Victim(model, model, batch=5), x, Untargeted(y), ball, until=until, generator=draws)
    some = torch.tensor([11, 3])
    apart = run(name, model, x[some], Untargeted(y[some]), ball, until=until, generator=draws.take(some))
    torch.testing.assert_close(apart.x_adv, together.x_adv[some], rtol=0, atol=5e-5)
    assert torch.equal(apart.success, together.success[some])
    assert torch.equal(apart.queries, together.queries[some])


@EVERY
def test_an_image_that_is_wrong_anyway_is_left_as_it_is(scan, name, kind):
    model, x, y = scan
    result = run(name, model, x, Untargeted(1 - y), kind(0.01))
    assert result.success.all()
    assert torch.equal(result.x_adv, x)
    assert (result.queries == 1).all()


@EVERY
def test_no_room_no_success(scan, name, kind):
    model, x, y = scan
    result = run(name, model, x, Untargeted(y), kind(0.0))
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)


@EVERY
def test_a_twin_proposes_and_the_model_itself_decides(scan, name, kind):
    """A twin that always claims success has none that the judge does not confirm; a right one loses none."""
    model, x, y = scan
    ball = kind(1.05 * model.distance(x, kind).max().item())

    def boaster(z):
        answer = model(z)
        return torch.stack([answer[:, 0] - 9, answer[:, 1] + 9], 1)

    result = run(name, Victim(model, boaster), x, Untargeted(torch.zeros_like(y)), ball)
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != 0)
    assert torch.equal(
        run(name, Victim(model, lambda z: model(z)), x, Untargeted(y), ball).success,
        run(name, model, x, Untargeted(y), ball).success,
    )


@EVERY
def test_a_model_that_answers_nan_is_not_fooled(scan, name, kind):
    _, x, y = scan
    result = run(name, lambda z: (z.flatten(1) * torch.nan)[:, :2], x, Untargeted(y), kind(0.1))
    assert not result.success.any()
    assert result.x_adv.isfinite().all()


@EVERY
def test_logits_a_thousand_times_as_large_change_no_result(scan, name, kind):
    """The same decisions, and cross-entropy without a gradient: torchattacks, Foolbox and ART find nothing then."""
    model, x, y = scan
    ball = kind((40 if name in ("noise", "speckle") else 3) * model.distance(x, kind).median().item())
    plain, large = (run(name, lambda z, factor=factor: factor * model(z), x, Untargeted(y), ball) for factor in (1.0, 3e4))
    assert plain.success.any()
    assert torch.equal(plain.success, large.success)
    assert large.flags["saturated"].all()
    assert not plain.flags["saturated"].any()


@EVERY
def test_a_model_without_a_gradient_is_flagged(scan, name, kind):
    model, x, y = scan
    ball = kind(1.05 * model.distance(x, kind).max().item())
    for masked in (lambda z: model((z * 255).round() / 255), lambda z: model(z.detach())):
        flag = run(name, masked, x, Untargeted(y), ball).flags["zero-gradient"]
        assert flag[~run(name, masked, x, Untargeted(y), ball).success].all() == (ATTACKS[name].sees is Sees.GRADIENT)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", IN_BALLS)
def test_grey_colour_and_multispectral_images_alike(name, channels):
    model = small_network(channels)
    x = torch.rand(6, channels, 12, 10, generator=torch.Generator().manual_seed(0))
    result = run(name, model, x, Untargeted(model(x).argmax(1)), ROOM[own_norm(name)], until=SPENT)
    assert result.x_adv.shape == x.shape
    moved = (result.x_adv != x).flatten(2).any(2)  # by channel
    if ATTACKS[name].sees is Sees.LABELS:  # who meets no decision but the first has nowhere to go, and gives the image back
        moved = moved[result.success]
    assert (moved.any(1) if own_norm(name) is L0 else moved.all(1)).all()  # few values may all lie in one


@pytest.mark.parametrize("name", IN_BALLS)
def test_findings_are_hidden_and_invented_at_once(name):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 48, generator=generator)

    def model(z):
        return (z - 0.5).flatten(1) @ weights.T

    x = 0.5 + 0.001 * torch.randn(16, 3, 4, 4, generator=generator)
    goal = Findings(torch.tensor([[1, -1, 0]]).expand(16, 3), threshold=torch.tensor([1.0, -1.0, 0.0]))
    kind = own_norm(name)
    result = run(name, model, x, goal, ROOM[kind])
    answer = model(result.x_adv)
    assert not goal.reached(model(x)).any()
    assert result.success.all() if ATTACKS[name].sees is Sees.GRADIENT else result.success.any()
    assert (answer[result.success, 0] > 1).all()
    assert (answer[result.success, 1] < -1).all()


@pytest.mark.parametrize("name", IN_BALLS)
def test_what_is_not_listed_is_refused(scan, name):
    model, x, y = scan
    for kind in set(KINDS) - ATTACKS[name].norms:
        with pytest.raises(SettingsError, match=kind.__name__):
            run(name, model, x, Untargeted(y), kind(0.1))


BAD = [
    (lambda m, x, y, k: (m, 255 * x, Untargeted(y), k(0.1)), ImageError, "divide"),
    (lambda m, x, y, k: (m, x.where(x > 0, torch.nan), Untargeted(y), k(0.1)), ImageError, "finite"),
    (lambda m, x, y, k: (m, (255 * x).byte(), Untargeted(y), k(0.1)), ImageError, "uint8"),
    (lambda m, x, y, k: (m, x[0], Untargeted(y), k(0.1)), ImageError, "shape"),
    (lambda m, x, y, k: (m, x[:0], Untargeted(y[:0]), k(0.1)), ImageError, "no image"),
    (lambda m, x, y, k: (m, x, Untargeted(y + 2), k(0.1)), LabelError, "0..1"),
    (lambda m, x, y, k: (m, x, Untargeted(y[:3]), k(0.1)), LabelError, "shape"),
    (lambda m, x, y, k: (m.train(), x, Untargeted(y), k(0.1)), ModelError, "training mode"),
    (lambda m, x, y, k: (lambda z: m(z)[:, 0], x, Untargeted(y), k(0.1)), ModelError, "must answer"),
    (lambda m, x, y, k: (m, x, Untargeted(y), k(-0.1)), SettingsError, "epsilon"),
    (lambda m, x, y, k: (m, x, Untargeted(y), k(0.5 / 255, Pixels(grid=1 / 255))), SettingsError, "grid"),
]


@pytest.mark.parametrize("name", IN_BALLS)
@pytest.mark.parametrize(("change", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_the_door_refuses_what_cannot_be_attacked(name, change, error, said):
    model = Plane().eval()
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = 0
    if said == "grid" and own_norm(name) is L0:
        return  # it counts values, whatever the grid of each
    with pytest.raises(error, match=said):
        run(name, *change(model, x, model(x).argmax(1), own_norm(name)))


@pytest.mark.parametrize("name", IN_BALLS)
def test_only_what_looks_for_the_smallest_perturbation_may_go_any_distance(scan, name):
    model, x, y = scan
    if ATTACKS[name].nearest:
        assert run(name, model, x, Untargeted(y), own_norm(name)(float("inf"))).success.all()
        return
    for kind in ATTACKS[name].norms:
        with pytest.raises(SettingsError, match="epsilon"):
            run(name, model, x, Untargeted(y), kind(float("inf")))


def test_streams_of_other_images_are_refused():
    model, x = Plane().eval(), torch.full((4, 3, 4, 4), 0.5)
    with pytest.raises(SettingsError, match="3 streams"):
        run("pgd", model, x, Untargeted(torch.zeros(4, dtype=torch.long)), Linf(0.1), generator=Draws.of(0, torch.arange(3)))


def test_an_attack_of_another_name_is_refused():
    with pytest.raises(SettingsError, match="there are"):
        attack("gps")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_row_cites_its_paper(name):
    paper, url = ATTACKS[name].reference
    assert paper
    assert url.startswith("https://")
