"""Another encoder with a learned projection behind it."""

import pytest
import torch

from models.encoders import EncoderUnavailable
from models.encoders.architectures.projected import Projected
from models.encoders.specs import parse


def test_it_starts_as_its_base():
    base, projected = (
        parse(spec)[1].build(pretrained=False).eval()
        for spec in ("conv4:8,image_side=32", "projected:conv4:8,image_side=32")
    )
    projected.load_state_dict(base.state_dict(), strict=False)
    images = torch.rand(2, 3, 32, 32)

    with torch.no_grad():
        assert torch.allclose(projected(images), base(images), atol=1e-6)
    assert projected.preprocessing == base.preprocessing


def test_it_names_its_base():
    assert parse("projected:timm:resnet18.a1_in1k")[1] == Projected(base="timm:resnet18.a1_in1k")


@pytest.mark.parametrize("base", ["projected:conv4:8", "nothing"])
def test_an_impossible_base_is_refused(base):
    with pytest.raises(EncoderUnavailable):
        parse(f"projected:{base}")
