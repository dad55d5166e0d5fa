"""What the tests of training share."""

import pytest
import timm


@pytest.fixture
def thin_backbones(monkeypatch):
    """ResNet-18s a quarter as wide: reading and writing eleven million weights takes seconds, and few depend on the number."""
    genuine = timm.create_model

    def thin(name, **settings):
        return genuine(name, **settings, **({"channels": (16, 32, 64, 128)} if name == "resnet18" else {}))

    monkeypatch.setattr(timm, "create_model", thin)
