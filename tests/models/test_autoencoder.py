import json

import pytest
import torch

from antivenom.errors import ImageError, SettingsError, WeightsError
from antivenom.models.architectures import build
from antivenom.models.autoencoder import Decoder, Denoiser
from antivenom.models.presentation import Presented, Resize
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.models.weights import load, read_card, save
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))
FACTS = {"data_digest": "d" * 64, "seed": 3, "metrics": {}}


def learnt(channels=1, seed=0, **settings):
    """A denoiser whose last layer is no longer at rest."""
    step = Denoiser(channels, **{"width": 4, **settings}, seed=seed)
    torch.nn.init.normal_(step.last.weight, std=0.2, generator=torch.Generator().manual_seed(seed))
    return step.eval()


@pytest.fixture
def model():
    return Presented(build("resnet18", TASK, channels=1, size=(16, 16), seed=1).eval(), [Resize((20, 20)), learnt()])


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (3, (13, 9)), (2, (1, 5))])
def test_it_gives_images_of_any_size_in_their_range(channels, size):
    images = torch.rand(2, channels, *size)
    out = learnt(channels)(images)
    assert out.shape == images.shape
    assert ((out >= 0) & (out <= 1)).all()
    assert not torch.equal(out, images)
    assert torch.equal(Denoiser(channels, width=4)(images), images)  # untrained


def test_an_odd_image_is_denoised_as_if_its_border_went_on():
    images, step = torch.rand(2, 1, 13, 9), learnt()
    longer = torch.nn.functional.pad(images, (0, 3, 0, 3), mode="replicate")
    torch.testing.assert_close(step(images), step(longer)[..., :13, :9])


def test_an_image_is_denoised_alike_alone_and_in_training():
    images, step = torch.rand(3, 1, 12, 12), learnt()
    torch.testing.assert_close(step(images)[1:2], step(images[1:2]))
    assert torch.equal(step.train()(images), step.eval()(images))


def test_its_gradient_is_exact():
    step = learnt().double()
    images = (0.4 + 0.1 * torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(0))).double()
    assert step.differentiable
    assert torch.autograd.gradcheck(step, (images.requires_grad_(),))


def test_the_seed_alone_decides_the_start():
    before = torch.random.get_rng_state()
    one, again, other = (Denoiser(1, width=4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "down.0.0.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])


def test_images_of_another_kind_are_refused():
    with pytest.raises(ImageError, match=r"\(B, 1, H, W\), got \(2, 3, 8, 8\)"):
        Denoiser(1)(torch.rand(2, 3, 8, 8))
    for settings in ({"channels": 0}, {"channels": 1, "width": 0}, {"channels": 1, "levels": 7}):
        with pytest.raises(SettingsError, match="got"):
            Denoiser(**settings)


def test_what_it_has_learnt_travels_with_the_classifier(model, tmp_path):
    save(model, tmp_path / "a.safetensors", **FACTS)
    again, images = load(tmp_path / "a.safetensors"), torch.rand(2, 1, 24, 24)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.digest() == model.digest()
    assert not again.training
    assert again.describe()["steps"][1] == "Denoiser(channels=1, width=4, levels=2)"
    assert read_card(tmp_path / "a.safetensors")["steps"][1] == {"step": "Denoiser", "channels": 1, "width": 4, "levels": 2}


def test_two_that_have_learnt_otherwise_have_different_digests(model):
    other = Presented(build("resnet18", TASK, channels=1, size=(16, 16), seed=1).eval(), [Resize((20, 20)), learnt(seed=1)])
    assert model.describe() == other.describe()
    assert model.digest() != other.digest()


@pytest.mark.parametrize("harm", ["altered", "missing", "too wide", "too deep"])
def test_a_step_that_does_not_fit_its_tensors_is_refused(model, tmp_path, harm):
    path = tmp_path / "a.safetensors"
    save(model, path, **FACTS)
    tensors, metadata = read_safetensors(path)
    card = json.loads(metadata["card"])
    if harm == "altered":
        tensors["steps.1.last.bias"] += 1
    elif harm == "missing":
        del tensors["steps.1.last.bias"]
    else:  # sizes that would need more memory than there is
        card["steps"][1] |= {"width": 10**7} if harm == "too wide" else {"levels": 60}
    write_safetensors(path, tensors, {"card": json.dumps(card)})
    with pytest.raises(WeightsError, match="written for" if harm in {"altered", "missing"} else "does not describe"):
        load(path)


def test_a_decoder_comes_back_to_the_size():
    decoder = Decoder(8, 3, doublings=2, width=2)
    out = decoder(torch.rand(2, 8, 3, 2), (11, 9))
    assert out.shape == (2, 3, 11, 9)
    assert torch.equal(
        Decoder(8, 3, doublings=2, width=2)(torch.ones(1, 8, 3, 2), (11, 9)), decoder(torch.ones(1, 8, 3, 2), (11, 9))
    )
