"""SimBA's universal perturbation: its waves, its climb, its price, and that answers are all it sees."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from antivenom.attacks.problem import PROBED
from antivenom.attacks.simba_universal import _wave, fit_simba_universal
from antivenom.attacks.universal import apply_universal
from antivenom.errors import SettingsError
from antivenom.models.execution import Victim
from antivenom.randomness import Draws
from antivenom.threat.goals import Targeted, Untargeted
from antivenom.threat.perturbations import L2, Linf
from antivenom.threat.pixels import Pixels
from toys import Counting, Plane, small_network


@pytest.fixture
def network():
    """Images that a network takes for class 0 with some room: noise seldom changes its answer."""
    network = small_network(1, classes=2, seed=3)
    x = 0.3 + 0.4 * torch.rand(2 * 64, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    lead = network(x).detach().diff(dim=1)[:, 0]
    middle = torch.stack([torch.zeros(()), lead.quantile(0.7)])

    def model(z):
        return 10 * (network(z) - middle)

    kept = lead.argsort()[:64].sort().values
    return model, x[kept], torch.zeros(64, dtype=torch.long), Draws.of(0, torch.arange(64))


@pytest.mark.parametrize(("channel", "row", "column"), [(0, 0, 0), (1, 3, 0), (2, 2, 5)])
def test_a_wave_is_a_vector_of_the_cosine_transform(channel, row, column):
    like = torch.zeros(1, 3, 6, 9)
    wave = _wave(like, channel, row, column)
    one = np.zeros((6, 9))
    one[row, column] = 1
    expected = idctn(one, norm="ortho")
    np.testing.assert_allclose((wave / wave.norm())[0, channel].numpy(), expected, atol=1e-5)
    wave[0, channel] = 0
    assert not wave.any()


def test_more_steps_never_lower_the_probability_on_the_images_fitted(network):
    model, x, y, draws = network
    ball, goal = L2(0.7), Untargeted(y)
    sure = []
    for steps in (0, 1, 5, 20, 60):
        delta = fit_simba_universal(model, x, goal, ball, steps=steps, share=0.5, generator=draws)
        answer = model(apply_universal(model, x, goal, ball, delta).x_adv).softmax(1)
        sure.append(1 - answer.gather(1, y[:, None]).mean().item())
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(sure))
    assert sure[-1] > sure[0] + 0.05


@pytest.mark.parametrize("kind", [Linf, L2])
def test_what_is_fitted_on_half_of_the_images_fools_more_of_the_other_half_than_noise(network, kind):
    model, x, y, draws = network
    seen, unseen = torch.arange(0, 32), torch.arange(32, 64)
    ball = kind(0.06 if kind is Linf else 0.7)
    delta = fit_simba_universal(model, x[seen], Untargeted(y[seen]), ball, steps=60, share=0.4, generator=draws.take(seen))
    goal = Untargeted(y[unseen])
    fitted = apply_universal(model, x[unseen], goal, ball, delta).success.float().mean()
    one = ball.extreme(x[:1], Draws.of(1, torch.arange(1)))[0]
    assert fitted > apply_universal(model, x[unseen], goal, ball, one).success.float().mean() + 0.2


def test_it_finds_the_wave_that_a_plane_answers_to():
    model = Plane(64).eval()
    wave = _wave(torch.zeros(1, 1, 8, 8), 0, 1, 2)
    with torch.no_grad():
        model.w.copy_((wave / wave.norm()).flatten())
    x = 0.5 + 0.05 * torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    goal, draws = Targeted(torch.ones(16, dtype=torch.long)), Draws.of(0, torch.arange(16))
    delta = fit_simba_universal(model, x, goal, L2(0.05), steps=5 * 9, step_size=0.5, share=3 / 8, generator=draws)
    cosine = (delta.flatten() @ model.w.detach()) / delta.norm()
    assert delta.norm().item() == pytest.approx(0.05, rel=1e-4)
    assert cosine > 0.95  # rounding lets other waves in at times


def test_only_low_frequencies_are_touched(network):
    model, x, y, draws = network
    delta = fit_simba_universal(model, x, Untargeted(y), L2(0.2), steps=40, share=0.25, generator=draws)
    spectrum = dctn(delta[0].numpy(), norm="ortho")
    assert np.abs(spectrum[:3, :3]).max() > 0.01
    spectrum[:3, :3] = 0
    assert np.abs(spectrum).max() < 1e-6


def test_two_forward_passes_an_image_and_step_and_no_gradient(network):
    model, x, y, draws = network
    judge, asked = Counting(model).eval(), Counting(model).eval()

    def answers(z):
        assert not torch.is_grad_enabled()
        return asked(z)

    victim = Victim(judge, answers, batch=10)
    fit_simba_universal(victim, x, Untargeted(y), Linf(1e-6), steps=9, generator=draws)
    assert judge.images == 2 * PROBED
    assert asked.images == 64 * (1 + 2 * 9)


def test_the_search_ends_where_all_are_fooled(network):
    model, x, y, draws = network
    counted = Counting(model).eval()
    delta = fit_simba_universal(counted, x, Untargeted(1 - y), Linf(0.1), steps=50, generator=draws)
    assert not delta.any()
    assert counted.images == 2 * PROBED + 64


def test_tied_channels_move_as_one():
    model = small_network(3, classes=2)
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    ball, draws = Linf(0.05, Pixels(tied=True)), Draws.of(0, torch.arange(8))
    delta = fit_simba_universal(model, x, Untargeted(model(x).argmax(1)), ball, steps=20, share=0.3, generator=draws)
    assert delta.any()
    assert torch.equal(delta[0], delta[2])


def test_all_waves_are_tried_before_any_is_tried_again(network, monkeypatch):
    from antivenom.attacks import simba_universal

    model, x, y, draws = network
    tried = []

    def watched(like, *place):
        tried.append(place)
        return _wave(like, *place)

    monkeypatch.setattr(simba_universal, "_wave", watched)
    fit_simba_universal(model, x, Untargeted(y), Linf(1e-6), steps=2 * 9, share=0.25, generator=draws)
    assert len(set(tried[:9])) == len(set(tried[9:])) == 9
    assert tried[:9] != tried[9:]


@pytest.mark.parametrize("share", [0.0, 1.1, -1.0])
def test_no_share_of_the_frequencies_is_refused(network, share):
    model, x, y, draws = network
    with pytest.raises(SettingsError, match="share"):
        fit_simba_universal(model, x, Untargeted(y), Linf(0.1), share=share, generator=draws)
