import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from antivenom.errors import ImageError, ModelError, SettingsError
from antivenom.models.classifier import Classifier
from antivenom.models.presentation import CentreCrop, Clahe, Pipeline, Presented, Resize, Window
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))


@pytest.fixture
def images():
    return torch.randint(256, (3, 1, 12, 10), generator=torch.Generator().manual_seed(0)) / 255


def classifier(channels=1, side=(6, 6), mean=0.5, std=0.25):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(channels * side[0] * side[1], 2))
    return Classifier(network, TASK, channels=channels, mean=mean, std=std).eval()


def test_a_window_stretches_and_clips():
    x = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0]).reshape(1, 1, 1, 5)
    torch.testing.assert_close(Window(0.2, 0.6)(x).flatten(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    for low, high in ((0.6, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(SettingsError, match="window"):
            Window(low, high)


def test_a_crop_keeps_the_middle(images):
    assert torch.equal(CentreCrop((4, 6))(images), images[..., 4:8, 2:8])
    assert torch.equal(CentreCrop((12, 10))(images), images)
    with pytest.raises(ImageError, match="cannot crop"):
        CentreCrop((13, 6))(images)


def test_what_is_presented_is_what_answers(images):
    inner = classifier()
    model = Presented(inner, [Window(0.1, 0.8), CentreCrop((10, 10)), Resize((6, 6))])
    expected = F.interpolate(((images - 0.1) / 0.7).clamp(0, 1)[..., 1:11, :], (6, 6), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(images), inner(expected))
    assert isinstance(model, Classifier)
    assert (model.task, model.channels, model.differentiable, model.training) == (TASK, 1, True, False)
    torch.testing.assert_close(model.features(images), inner.features(expected))
    assert model.digest() != inner.digest()


def test_steps_may_be_put_before_steps(images):
    once = Presented(classifier(), [Window(0.1, 0.8), Resize((6, 6))])
    twice = Presented(Presented(classifier(), [Resize((6, 6))]), [Window(0.1, 0.8)])
    assert torch.equal(once(images), twice(images))


def test_an_exact_gradient_is_exact(images):
    model = Presented(classifier(), [Window(0.1, 0.8), Resize((6, 6))]).double()
    x = images[:1].double() * 0.5 + 0.2
    assert torch.autograd.gradcheck(model, (x.requires_grad_(),))


def test_clahe_runs_as_opencv_runs_it(images):
    cv2 = pytest.importorskip("cv2")
    pixels = (images[0, 0] * 255).round().byte().numpy()
    expected = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(2, 3)).apply(pixels)  # OpenCV counts across, then down
    assert torch.equal(Clahe(3.0, (3, 2))(images)[0, 0], torch.from_numpy(expected) / 255)


def test_clahe_of_colour_changes_lightness_only():
    cv2 = pytest.importorskip("cv2")
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    before, after = (
        cv2.cvtColor((x[0].permute(1, 2, 0) * 255).round().byte().numpy(), cv2.COLOR_RGB2LAB).astype(int)
        for x in (images, Clahe()(images))
    )
    lightness, hue = abs(before - after)[..., 0].mean(), abs(before - after)[..., 1:].mean()
    assert lightness > 10
    assert hue < 1  # rounding and the edge of the gamut


def test_a_pipeline_runs_exactly_and_lends_the_identitys_gradient(images):
    step = Pipeline(lambda image: image.point(lambda value: value // 2))
    x = images.clone().requires_grad_()
    out = step(x)
    assert torch.equal(out.detach(), (images * 255).round().div(2, rounding_mode="floor") / 255)
    weights = torch.rand(out.shape)
    (gradient,) = torch.autograd.grad((weights * out).sum(), x)
    torch.testing.assert_close(gradient, weights)
    assert not step.differentiable


def test_a_pipeline_that_resizes_lends_the_gradient_of_resampling(images):
    step = Pipeline(lambda image: image.resize((5, 6), Image.Resampling.NEAREST))
    x, twin = images.clone().requires_grad_(), images.clone().requires_grad_()
    weights = torch.rand(3, 1, 6, 5)
    (gradient,) = torch.autograd.grad((weights * step(x)).sum(), x)
    resampled = F.interpolate(twin, (6, 5), mode="bilinear", antialias=True)
    (expected,) = torch.autograd.grad((weights * resampled).sum(), twin)
    torch.testing.assert_close(gradient, expected)


def test_a_pipeline_from_grey_to_colour_lends_the_sum(images):
    model = Presented(classifier(3, (12, 10), mean=0.0, std=1.0), [Pipeline(lambda image: image.convert("RGB"))], channels=1)
    torch.testing.assert_close(model(images), classifier(3, (12, 10), mean=0.0, std=1.0)(images.expand(-1, 3, -1, -1)))
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    torch.testing.assert_close(gradient[0, 0].flatten(), model.backbone[1].weight[1].reshape(3, -1).sum(0))
    assert not model.differentiable


def test_a_torchvision_pipeline_is_taken_as_it_is(images):
    transforms = pytest.importorskip("torchvision.transforms")
    pipeline = transforms.Compose([transforms.Resize((6, 6)), transforms.ToTensor(), transforms.Normalize(0.5, 0.25)])
    model = Presented(classifier(mean=0.0, std=1.0), [Pipeline(pipeline)])
    expected = torch.stack([pipeline(Image.fromarray((x[0] * 255).round().byte().numpy())) for x in images])
    torch.testing.assert_close(model(images), classifier(mean=0.0, std=1.0)(expected))
    assert "Normalize" in model.describe()["steps"][0]


@pytest.mark.parametrize("result", ["word", torch.zeros(4, 4)])
def test_a_pipeline_that_gives_no_image_is_refused(images, result):
    with pytest.raises(ImageError, match="expected a PIL image"):
        Pipeline(lambda _: result)(images)


def test_training_mode_is_refused_through_the_presentation(images):
    model = Presented(classifier(), [Resize((6, 6))]).train()
    with torch.no_grad(), pytest.raises(ModelError, match="training mode"):
        model(images)
