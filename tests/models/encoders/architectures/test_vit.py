"""A small vision transformer."""

import pytest
import torch

from models.encoders.architectures.vit import ViT
from models.encoders.specs import parse

SMALL = ViT(width=24, image_side=16, patch=4, depth=2, heads=2)


def test_it_is_stages_of_tokens_blocks_and_a_mean():
    encoder = SMALL.build().eval()

    embeddings = encoder(torch.rand(2, 3, 16, 16))

    assert [type(stage).__name__ for stage in encoder.stages] == [
        "Tokens", "Block", "Block", "Pooled",
    ]  # fmt: skip
    assert embeddings.shape == (2, 24)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))


def test_the_seed_makes_the_weights_and_leaves_torch_s_own_alone():
    before = torch.random.get_rng_state()

    first, second = SMALL.build(), SMALL.build()

    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_positions_say_from_the_start_what_is_near():
    encoder = ViT(width=64, image_side=64, patch=8, depth=1, heads=2).build()

    embedding = encoder.get_parameter("stages.0.net.pos_embed")
    (positions,) = embedding[:, 1:]  # (64, D), without that of the class
    alike = torch.nn.functional.cosine_similarity(positions[0], positions, dim=1).view(8, 8)

    assert (alike[0, 1], alike[1, 0]) > (alike[0, 2], alike[2, 0])
    assert alike[0, 1] > alike[0, 3] > alike[0, 7]
    assert alike[1, 0] > alike[3, 0] > alike[7, 0]


def test_a_setting_names_its_width():
    assert parse("vit:96")[1] == ViT(width=96)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"width": 20},
        {"width": 6, "heads": 3},
        {"depth": 0},
        {"patch": 7},
        {"image_side": 8},
    ],
)
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        ViT(**options)
