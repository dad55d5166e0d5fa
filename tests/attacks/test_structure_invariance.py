"""SIA: each of its changes, block by block, against the same written out with slices."""

from dataclasses import replace

import pytest
import torch

from antivenom.attacks import SPENT
from antivenom.attacks.problem import Problem
from antivenom.attacks.structure_invariance import (
    CHANGES,
    FLIP_ACROSS,
    FLIP_DOWN,
    NOISE,
    SCALE,
    SHIFT_ACROSS,
    SHIFT_DOWN,
    TURN,
    rebuilt,
    structure_invariance,
)
from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from toys import small_network


class Told:
    """Draws that are told what to draw."""

    def __init__(self, luck):
        self.luck = luck

    def __len__(self):
        return len(self.luck)

    def uniform(self, count):
        assert count == self.luck.shape[1]
        return self.luck


def problem_of(x, pixels=None):
    goal, draws = Untargeted(torch.zeros(len(x), dtype=torch.long)), Draws.of(0, torch.arange(len(x)))
    return Problem.of(lambda z: z.flatten(1)[:, :2], x, goal, Linf(0.1, pixels or Pixels()), draws, takes=(Linf,))


def lengths(x, blocks):
    height, width = x.shape[2:]
    tall, wide = min(blocks, height), min(blocks, width)
    return [height - 1, width - 1, tall * wide, tall * wide, x[0].numel()]


def edges(luck, bands, length):
    return [0, *sorted((luck.argsort()[: bands - 1] + 1).tolist()), length]


def changed(block, change, amount, noise):
    """One block `(C, h, w)`, as the authors change it."""
    if change == SHIFT_DOWN:
        return block.roll(int(amount * block.shape[1]), 1)
    if change == SHIFT_ACROSS:
        return block.roll(int(amount * block.shape[2]), 2)
    if change == FLIP_DOWN:
        return block.flip(1)
    if change == FLIP_ACROSS:
        return block.flip(2)
    if change == TURN:
        return block.rot90(2, (1, 2))
    return amount * block if change == SCALE else (block + NOISE * (2 * noise - 1)).clamp(0, 1)


def written_out(x, luck, blocks):
    """The view of each image, block after block."""
    views = x.clone()
    height, width = x.shape[2:]
    tall, wide = min(blocks, height), min(blocks, width)
    for image, told in zip(views, luck, strict=True):
        rows, columns, changes, amounts, noise = told.split(lengths(x, blocks))
        tops, lefts = edges(rows, tall, height), edges(columns, wide, width)
        for i in range(tall):
            for j in range(wide):
                place = (slice(None), slice(tops[i], tops[i + 1]), slice(lefts[j], lefts[j + 1]))
                which, amount = i * wide + j, amounts[i * wide + j]
                image[place] = changed(image[place], int(changes[which] * 7), amount, noise.view_as(image)[place]).clone()
    return views


@pytest.mark.parametrize("change", [*CHANGES, None])
@pytest.mark.parametrize(
    ("shape", "blocks"), [((3, 13, 10), 3), ((1, 7, 7), 4), ((2, 2, 5), 3), ((1, 1, 1), 3), ((1, 6, 6), 1)]
)
def test_blocks_are_changed_as_when_written_out(shape, blocks, change):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, *shape, generator=generator)
    sizes = lengths(x, blocks)
    luck = torch.rand(6, sum(sizes), generator=generator)
    if change is not None:  # everywhere the same
        luck[:, sizes[0] + sizes[1] : sum(sizes[:3])] = (change + 0.5) / len(CHANGES)
    told = replace(problem_of(x), draws=Told(luck))
    torch.testing.assert_close(rebuilt(blocks)(told, x), written_out(x, luck, blocks))


def test_every_change_comes_as_often_and_every_block_has_its_own():
    x = torch.rand(500, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    view = rebuilt(1)(problem_of(x), x)
    ratio = (view / x).flatten(1)
    dimmed = (ratio.amax(1) - ratio.amin(1) < 1e-5) & (ratio.amax(1) < 1)
    assert dimmed.float().mean().item() == pytest.approx(1 / 7, abs=0.05)
    turned = (view == x.rot90(2, (2, 3))).flatten(1).all(1)
    assert turned.float().mean().item() == pytest.approx(1 / 7, abs=0.05)
    corners = rebuilt(3)(problem_of(x), x) == x
    assert corners.flatten(1).any(1).float().mean() > 0.5  # a shift by nothing, a row that is its own mirror


def test_blocks_stay_where_they_are():
    """What only moves inside a block leaves the picture's large parts in place; a shuffle would not."""
    x = torch.zeros(200, 1, 30, 30)
    x[:, :, :15] = 1
    problem = problem_of(x)
    view = rebuilt(3)(problem, x)
    assert view[:, 0, :5].mean() > 0.7
    assert view[:, 0, -5:].mean() < 0.2


def test_a_view_stays_in_the_range_of_the_image_and_dims_towards_black():
    low = Pixels(low=-1.0, high=1.0)
    x = 2 * torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    view = rebuilt(3)(problem_of(x, low), x)
    assert view.min() >= -1
    assert view.max() <= 1
    assert view.mean() < x.mean() - 0.02


def test_the_gradient_comes_back_to_the_pixels_it_was_taken_of():
    x = torch.rand(8, 2, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    problem = problem_of(x.detach())
    view = rebuilt(3)(problem, x)
    (gradient,) = torch.autograd.grad(view.sum(), x)
    assert ((gradient >= 0) & (gradient <= 1)).all()
    assert (gradient == 1).float().mean() > 0.6  # every pixel is somewhere, but for those dimmed or cut off by noise


def test_twenty_gradients_a_step():
    model = small_network(1)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    goal, draws = Untargeted(model(x).argmax(1)), Draws.of(0, torch.arange(3))
    found = structure_invariance(model, x, goal, Linf(1e-6), steps=2, until=SPENT, generator=draws)
    assert found.gradients.tolist() == [40] * 3
    assert found.queries.tolist() == [42] * 3


def test_no_block_is_refused():
    model, x = small_network(1), torch.rand(2, 1, 8, 8)
    with pytest.raises(SettingsError, match="block"):
        structure_invariance(model, x, Untargeted(model(x).argmax(1)), Linf(0.1), blocks=0, generator=torch.Generator())
