import pytest
import torch

from antivenom.detection.bank import distance, gather, nearest, squared_distances, squares, unless_odd
from antivenom.detection.reading import Reading
from antivenom.errors import InputError
from readings import clouds, stream


def test_a_bank_keeps_the_layers_asked_for_of_some_images():
    whole = clouds(100)
    many = Reading(whole.logits, {**whole.layers, "other": whole.logits}, {"dark": whole.logits})
    bank = gather(stream(many), ["features"], 40, seed=0)
    assert (len(bank), list(bank.layers), list(bank.squeezed)) == (40, ["features"], [])
    assert bool((bank.layer("features")[:, None] == whole.layer("features")).all(2).any(1).all())
    assert not torch.equal(bank.logits, gather(stream(many), ["features"], 40, seed=1).logits)
    assert len(gather(stream(many), ["features"], 400, seed=0)) == 100


def test_a_bank_holds_no_graph_and_draws_from_no_global_generator():
    reading = clouds(50).map(lambda values: values.double().requires_grad_())
    before = torch.get_rng_state()
    bank = gather([reading], ["features"], 10, seed=0)
    assert (bank.logits.dtype, bank.logits.requires_grad) == (torch.float32, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bank_of_nothing_or_of_what_is_not_finite_is_refused():
    with pytest.raises(InputError, match="no image"):
        gather([], ["features"], 10, seed=0)
    with pytest.raises(InputError, match="most=0"):
        gather(stream(clouds(5)), ["features"], 0, seed=0)
    with pytest.raises(InputError, match="'other' was not read"):
        gather(stream(clouds(5)), ["other"], 10, seed=0)
    odd = clouds(5)
    odd.layer("features")[3, 1] = torch.inf
    with pytest.raises(InputError, match=r"layer 'features': 1 of 5 images \(the first: 3\)"):
        gather([odd], ["features"], 10, seed=0)
    odd = clouds(5)
    odd.logits[2] = torch.nan
    with pytest.raises(InputError, match="logits: 1 of 5"):
        gather([odd], ["features"], 10, seed=0)


def test_distances_are_those_of_differences():
    generator = torch.Generator().manual_seed(0)
    points, bank = torch.randn(5, 40, generator=generator), torch.randn(30, 40, generator=generator)
    apart = (points[:, None].double() - bank).norm(dim=2)
    torch.testing.assert_close(squared_distances(points, bank, squares(bank)).double(), apart.square(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distance(points[:, None], bank).double(), apart, rtol=1e-6, atol=0)
    assert torch.equal(nearest(points, bank, squares(bank), 4), apart.topk(4, largest=False).indices)


def test_a_distance_of_zero_has_a_gradient_of_zero():
    point = torch.ones(1, 4, requires_grad=True)
    far = distance(point, torch.ones(1, 4))
    assert far.item() < 1e-18
    (gradient,) = torch.autograd.grad(far.sum(), point)
    assert torch.equal(gradient, torch.zeros(1, 4))


def test_what_is_not_finite_has_no_score():
    values = torch.tensor([[1.0, 2.0], [torch.inf, 0.0], [0.0, torch.nan]])
    assert unless_odd(torch.zeros(3), torch.zeros(3, 1), values).isnan().tolist() == [False, True, True]
