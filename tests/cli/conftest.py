"""What the tests of the command line share."""

import pytest
import timm


@pytest.fixture(scope="module", autouse=True)
def _thin_backbones():
    """ResNet-18s a quarter as wide: running and storing eleven million weights takes time, and nothing here needs them."""
    genuine = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        thin = {"channels": (16, 32, 64, 128)}
        patch.setattr(
            timm, "create_model", lambda name, **given: genuine(name, **given, **(thin if name == "resnet18" else {}))
        )
        yield
