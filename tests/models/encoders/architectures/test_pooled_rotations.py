"""Another encoder that does not care which way is up."""

import pytest
import torch
from torch.nn import functional as F

from models.encoders import EncoderUnavailable
from models.encoders.specs import parse


@pytest.mark.parametrize("base", ["conv4:8", "vit:24"])
def test_a_quarter_turn_changes_nothing(base):
    encoder = parse(f"pooled_rotations:{base}")[1].build(pretrained=False).eval()
    images = torch.rand(3, 3, encoder.preprocessing.crop, encoder.preprocessing.crop)

    with torch.no_grad():
        upright, turned = encoder(images), encoder(images.rot90(1, dims=(2, 3)))

    assert torch.allclose(upright, turned, atol=1e-5)
    assert not torch.allclose(upright[0], upright[1], atol=1e-4)


def test_it_is_the_mean_of_its_base_over_the_turns():
    encoder, base = (
        parse(spec)[1].build(pretrained=False).eval()
        for spec in ("pooled_rotations:conv4:8", "conv4:8")
    )
    images = torch.rand(2, 3, 84, 84)

    with torch.no_grad():
        turns = [base.features(images.rot90(n, dims=(2, 3))) for n in range(4)]
        mean = torch.stack(turns).mean(dim=0)
        assert torch.allclose(encoder(images), F.normalize(mean, dim=1), atol=1e-5)


@pytest.mark.parametrize("base", ["pooled_rotations:conv4:8", "nothing"])
def test_an_impossible_base_is_refused(base):
    with pytest.raises(EncoderUnavailable):
        parse(f"pooled_rotations:{base}")
