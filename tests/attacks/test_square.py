import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.square import pattern, side, square
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import ANYWHERE, L2, Linf
from antivenom.threat.pixels import Pixels
from toys import Plane, small_network


@pytest.fixture
def scene():
    model = small_network(3)
    x = 0.3 + 0.4 * torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return model, x, Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(12))


def test_squares_shrink_on_the_published_schedule():
    steps = torch.tensor([0, 6, 30, 120, 300, 700, 1500, 2500, 3500, 4500])
    assert side(steps, 5000, 0.8, 224, 224).tolist() == [200, 142, 100, 71, 50, 35, 25, 18, 13, 9]


def test_the_first_query_shows_vertical_stripes(scene):
    model, x, goal, draws = scene
    delta = square(model, x, goal, Linf(0.1), queries=2, until=SPENT, generator=draws).x_adv - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
    torch.testing.assert_close(delta.amax(2), delta.amin(2))
    assert (delta.amax(3) > delta.amin(3)).all()


def test_more_queries_never_lower_the_margin(scene):
    model, x, goal, draws = scene
    heights = []
    for queries in (2, 5, 20, 80):  # the schedule follows the budget, so each is another search; stripes are shared
        result = square(model, x, goal, Linf(0.01), queries=queries, until=SPENT, generator=draws)
        heights.append(goal.margin(model(result.x_adv)))
    assert all((later >= heights[0] - 1e-6).all() for later in heights[1:])
    assert heights[-1].mean() > heights[0].mean()


def test_every_value_stands_at_an_edge_of_the_ball(scene):
    model, x, goal, draws = scene
    delta = square(model, x, goal, Linf(0.05), queries=50, until=SPENT, generator=draws).x_adv - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.05))


@pytest.mark.parametrize("queries", [2, 7, 100])
def test_the_budget_is_kept(scene, queries):
    model, x, goal, draws = scene
    assert square(model, x, goal, Linf(1e-4), queries=queries, generator=draws).queries.tolist() == [queries] * 12


def test_a_budget_without_a_query_is_refused(scene):
    model, x, goal, draws = scene
    with pytest.raises(SettingsError, match="at least 2"):
        square(model, x, goal, Linf(0.1), queries=1, generator=draws)


# -- L2 ----------------------------------------------------------------------------------------------------------------


def first_points(model, x, goal, draws, radius, queries, pixels=ANYWHERE):
    """Every point that is shown, in order."""
    shown = []

    def watched(z):
        shown.append(z.clone())
        return model(z)

    square(watched, x, goal, L2(radius, pixels), queries=queries, until=SPENT, generator=draws)
    return torch.stack(shown[2:])  # the door shows it some images first


@pytest.mark.parametrize("edge", [2, 3, 7, 10])
def test_a_pattern_is_bright_and_dark_in_halves_and_of_length_one(edge):
    upright, lying = pattern(torch.tensor([edge, edge]), torch.tensor([True, False]))
    assert upright.norm().item() == pytest.approx(1)
    assert torch.equal(lying, upright.T)
    half = edge // 2
    assert (upright[:half] > 0).all()
    assert (upright[half:] < 0).all()


def test_tiles_come_first_and_every_point_is_as_large_as_it_may_be(scene):
    model, x, goal, draws = scene
    points = first_points(model, x, goal, draws, 0.5, 40)
    sizes = (points - x).flatten(2).norm(dim=2)
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.5), rtol=1e-4, atol=0)
    first = (points[0] - x)[..., :15, :15].reshape(12, 3, 5, 3, 5, 3).transpose(3, 4)
    lengths = first.flatten(4).norm(dim=4)
    torch.testing.assert_close(lengths, lengths[:, :1, :1, :1].expand_as(lengths))  # 25 tiles a channel, all alike


def test_a_step_changes_two_squares_only(scene):
    model, x, goal, draws = scene
    points, kept, height = first_points(model, x, goal, draws, 0.5, 60), None, None
    for point in points:
        rise = goal.margin(model(point))
        if kept is not None:
            # Beside the two squares all values keep their share: one factor for the whole image.
            before, after = kept - x, point - x
            ratio = (after / before).flatten(1).nanmedian(1).values[:, None, None, None]
            same = ((after - ratio * before).abs() < 1e-5).float().mean((1, 2, 3))
            assert (same > 0.6).all()
        better = torch.ones(len(x), dtype=torch.bool) if height is None else rise > height
        kept = point.clone() if kept is None else torch.where(better[:, None, None, None], point, kept)
        height = rise if height is None else height.maximum(rise)


def test_tied_channels_change_alike_and_no_tile_less_than_another(scene):
    model, x, _, draws = scene
    x = x[:, :1].expand(-1, 3, -1, -1)
    points = first_points(model, x, Untargeted(model(x).argmax(1)), draws, 0.5, 40, Pixels(tied=True))
    delta = points - x
    torch.testing.assert_close(delta.flatten(2).norm(dim=2), torch.full((len(points), 12), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(delta[:, :, 0], delta[:, :, 2], rtol=0, atol=1e-7)
    lengths = delta[0, ..., :15, :15].reshape(12, 3, 5, 3, 5, 3).transpose(3, 4).flatten(4).norm(dim=4)
    torch.testing.assert_close(lengths, lengths[:, :1, :1, :1].expand_as(lengths))


def test_the_best_of_all_points_is_kept_in_l2(scene):
    model, x, goal, draws = scene
    heights = torch.stack([goal.margin(model(point)) for point in first_points(model, x, goal, draws, 0.5, 60)])
    result = square(model, x, goal, L2(0.5), queries=60, until=SPENT, generator=draws)
    torch.testing.assert_close(goal.margin(model(result.x_adv)), heights.amax(0), rtol=0, atol=1e-5)
    assert (heights.amax(0) > heights[0]).all()


def test_with_room_enough_the_far_side_of_a_plane_is_reached():
    model = Plane().eval()
    x = 0.5 + 0.02 * torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y, draws = model(x).argmax(1), Draws.of(0, torch.arange(16))
    near, far = (
        square(model, x, Untargeted(y), L2(share * model.distance(x, L2).max().item()), queries=500, generator=draws)
        for share in (0.99 * float(model.distance(x, L2).min() / model.distance(x, L2).max()), 3.0)
    )
    assert not near.success.any()
    assert far.success.all()


def test_squares_in_l2_are_odd_and_never_below_three_pixels(scene):
    model, x, goal, draws = scene
    result = square(model, x, goal, L2(1.0), queries=300, share=1e-6, generator=draws)
    assert result.success.any()
