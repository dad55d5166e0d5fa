import urllib.request

import pytest
import torch

from antivenom.errors import WeightsError
from antivenom.models import pretrained
from antivenom.models.architectures import ARCHITECTURES, build, make_network
from antivenom.models.tensor_files import write_safetensors
from antivenom.task import Task

TWO, FOUR = Task(("normal", "pneumonia")), Task(("a", "b", "c", "d"))


@pytest.fixture(scope="module")
def donor():
    return build("resnet18", FOUR, channels=3, seed=5)


@pytest.fixture(params=[".safetensors", ".pth"])
def file(request, donor, tmp_path):
    path = tmp_path / f"donor{request.param}"
    if request.param == ".pth":
        torch.save(donor.backbone.state_dict(), path)
    else:
        write_safetensors(path, donor.backbone.state_dict(), {})
    return path


def test_all_but_the_head_comes_from_the_file_and_is_counted(donor, file):
    said = []
    model = build("resnet18", TWO, channels=3, seed=0, pretrained=file, tell=said.append)
    own, given = model.backbone.state_dict(), donor.backbone.state_dict()
    body = [name for name in own if not name.startswith("fc.")]
    assert all(torch.equal(own[name], given[name]) for name in body)
    assert f"{len(body)} of {len(own)} tensors loaded, 2 skipped (2 for other classes)" in said[0]
    assert said[0] in model.notes[0]
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_the_stem_of_a_grey_model_answers_grey_as_colour_would(donor, file):
    model = build("resnet18", TWO, channels=1, seed=0, pretrained=file, tell=lambda _: None)
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        model.backbone.conv1(grey), donor.backbone.conv1(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )
    assert "conv1.weight (3 to 1 channel(s))" in model.notes[0]
    assert model.mean.numel() == 1


def test_the_stem_of_a_colour_model_answers_the_mean_of_the_colours():
    grey, colour = (build("resnet18", TWO, channels=channels, seed=channels) for channels in (1, 3))
    report = pretrained.load_tensors(colour.backbone, grey.backbone.state_dict(), source="x", stem="conv1", head="fc")
    images = torch.rand(2, 3, 32, 32)
    expected = grey.backbone.conv1(images.mean(1, keepdim=True))
    torch.testing.assert_close(colour.backbone.conv1(images), expected, rtol=1e-4, atol=1e-5)
    assert not report.missing
    assert not report.skipped


def test_every_tensor_is_accounted_for(donor):
    tensors = dict(donor.backbone.state_dict()) | {"extra": torch.zeros(1), "bn1.weight": torch.zeros(7)}
    del tensors["layer1.0.bn1.bias"]
    model = build("resnet18", TWO, channels=3, seed=0)
    report = pretrained.load_tensors(model.backbone, tensors, source="x", stem="conv1", head="fc")
    assert report.missing == {
        "bn1.weight": "of another shape",
        "layer1.0.bn1.bias": "not in the file",
        "fc.weight": "for other classes",
        "fc.bias": "for other classes",
    }
    assert report.skipped == {
        "bn1.weight": "of another shape",
        "fc.weight": "for other classes",
        "fc.bias": "for other classes",
        "extra": "not in the network",
    }
    assert len(report.loaded) + len(report.missing) == len(model.backbone.state_dict())
    assert "4 left as initialised (1 of another shape; 1 not in the file; 2 for other classes)" in str(report)


def test_weights_of_another_architecture_are_refused(file):
    with pytest.raises(WeightsError, match="another architecture"):
        build("densenet121", TWO, channels=3, seed=0, pretrained=file)


def test_vgg_of_torchvision_fits():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.vgg19().state_dict()
        ours = make_network(ARCHITECTURES["vgg19"], classes=4, channels=3)
    renamed = pretrained._as_timm(dict(theirs), "vgg19")
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items() if not name.startswith("head.")}
    assert {name: renamed[name].shape for name in shapes} == shapes


def test_old_files_of_densenet_fit():
    tensors = {"features.denseblock1.denselayer1.norm.1.weight": torch.zeros(1), "features.norm0.weight": torch.zeros(1)}
    assert set(pretrained._as_timm(tensors, "densenet121")) == {
        "features.denseblock1.denselayer1.norm1.weight",
        "features.norm0.weight",
    }


def test_without_a_network_the_answer_is_quick_and_clear(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(pretrained, "_in_cache", lambda _: False)
    with pytest.raises(WeightsError, match=r"no network: weights of resnet18 .* give a local"):
        build("resnet18", TWO, channels=3, seed=0, pretrained=True)


def test_with_a_network_timm_is_asked(monkeypatch, donor):
    timm = pytest.importorskip("timm")
    make = timm.create_model

    def create(name, pretrained=False, **settings):
        return donor.backbone if pretrained else make(name, **settings)

    monkeypatch.setattr(pretrained, "_reachable", lambda: True)
    monkeypatch.setattr(timm, "create_model", create)
    model = build("resnet18", TWO, channels=3, seed=0, pretrained=True, tell=lambda _: None)
    assert torch.equal(model.backbone.conv1.weight, donor.backbone.conv1.weight)
    assert "timm/resnet18" in model.notes[0]
