"""A draw belongs to its image: company, order and sharding change nothing."""

import torch

from antivenom.randomness import Draws, image_keys

IMAGES = torch.arange(64) * 7919


def test_a_draw_does_not_know_its_batch():
    together = Draws.of(3, IMAGES).at(0, 5).uniform(3, 8, 8)
    alone = Draws.of(3, IMAGES[10:11]).at(0, 5).uniform(3, 8, 8)
    assert torch.equal(together[10:11], alone)


def test_images_may_stand_at_different_steps():
    apart = Draws.of(3, IMAGES).at(0, torch.arange(64)).normal(4)
    assert torch.equal(apart[5], Draws.of(3, IMAGES).at(0, 5).normal(4)[5])


def test_seed_image_and_place_all_matter():
    draw = Draws.of(3, IMAGES).at(0, 5).uniform(16)
    others = Draws.of(4, IMAGES).at(0, 5), Draws.of(3, IMAGES + 1).at(0, 5), Draws.of(3, IMAGES).at(5, 0)
    for other in others:
        assert (draw != other.uniform(16)).any(1).all()


def test_streams_are_uniform_and_unrelated():
    u = Draws.of(0, torch.arange(256)).uniform(4096)
    assert abs(u.mean() - 0.5) < 1e-3
    assert abs(u.var() * 12 - 1) < 3e-3
    assert (torch.corrcoef(u) - torch.eye(256)).abs().max() < 0.1


def test_a_mix_is_splitmix64():
    """First outputs of the reference generator from seed 1234567, as published with it."""
    from antivenom.randomness import _GAMMA, _mix

    outputs = [_mix(torch.tensor([1234567]) + torch.tensor(k) * _GAMMA).item() % 2**64 for k in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Draws.of(0, IMAGES).at(1).normal(3)
    assert torch.equal(before, torch.get_rng_state())


def test_names_give_keys_that_stay_the_same():
    assert image_keys(["images/a.png", "b"]).tolist() == [image_keys(["images/a.png"]).item(), image_keys(["b"]).item()]
    assert len(set(image_keys([str(i) for i in range(1000)]).tolist())) == 1000
