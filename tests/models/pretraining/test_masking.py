"""Hidden parts of images."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.stages import split
from models.pretraining.masking import (
    PixelPainter,
    TokenPainter,
    hide,
    is_masked_by_tokens,
    patches,
    reveal,
    shuffled,
)
from tests.models.pretraining.conftest import SIDE, conv, vit


def vit_with_prefix() -> Encoder:
    """Like those of timm with pretrained weights: a token of the class, and registers."""
    net = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0, reg_tokens=2
    ).eval()
    stages, dim = split(net, SIDE)
    return Encoder(stages, embedding_dim=dim, preprocessing=vit().preprocessing)


ENCODERS = {"conv": conv, "vit": vit, "prefix": vit_with_prefix}


def painter_of(encoder: Encoder, mask: float = 0.75) -> nn.Module:
    if is_masked_by_tokens(encoder):
        return TokenPainter(encoder, mask, width=16, depth=1)
    return PixelPainter(encoder, mask)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=Generator().manual_seed(seed))


def test_kept_tokens_are_those_of_the_lowest_ranks_in_their_order():
    tokens = torch.arange(60.0).view(2, 10, 3)

    visible, ranks = shuffled(tokens, 0.4)

    assert visible.shape == (2, 4, 3)
    for image, its, order in zip(tokens, visible, ranks, strict=True):
        assert sorted(order.tolist()) == list(range(10))
        for rank in range(4):
            assert torch.equal(its[rank], image[order == rank][0])


def test_which_tokens_are_kept_is_drawn_for_each_image():
    _, ranks = shuffled(torch.zeros(100, 10, 1), 0.4)

    frequency = (ranks < 4).float().mean(dim=0)
    assert float(frequency.min()) > 0.2
    assert float(frequency.max()) < 0.6


def test_one_token_at_least_is_kept():
    assert shuffled(torch.zeros(1, 4, 1), 0.01)[0].shape == (1, 1, 1)


def test_patches_are_the_normalised_pixels_of_cells_in_reading_order():
    images = noise(2)

    cells = patches(images, 36)

    assert cells.shape == (2, 36, 3 * 8 * 8)
    assert torch.allclose(cells.mean(dim=2), torch.zeros(2, 36), atol=1e-5)
    assert torch.allclose(cells.std(dim=2), torch.ones(2, 36), atol=1e-3)
    pixels = images[1, :, 8:16, 24:32].flatten()  # second row, fourth column
    assert torch.allclose(cells[1, 6 + 3], (pixels - pixels.mean()) / pixels.std(), atol=1e-3)


def test_patches_of_one_colour_are_zero():
    cells = patches(torch.full((1, 3, 16, 16), 0.7), 4)

    assert torch.allclose(cells, torch.zeros(1, 4, 192), atol=1e-3)


def test_what_is_hidden_has_other_values_and_the_rest_stays():
    images, hidden = noise(1), torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, 4 + 2] = True  # second row, third column, of cells of 12 pixels
    instead = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)

    covered = hide(images, hidden, instead)

    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[12:24, 24:36] = True
    assert torch.equal(covered[..., ~inside], images[..., ~inside])
    assert torch.equal(covered[0][:, inside], instead.flatten(1).expand(3, 144))


def test_tokens_are_left_out_of_plain_transformers_only():
    assert is_masked_by_tokens(vit())
    assert is_masked_by_tokens(vit_with_prefix())
    assert not is_masked_by_tokens(conv())


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("mask", [0.5, 0.75])
def test_as_many_patches_are_hidden_as_asked_for_and_all_are_painted(name, mask):
    encoder = ENCODERS[name]()

    pixels, hidden, features = painter_of(encoder, mask)(encoder, noise(3))

    count, values = (64, 3 * 6 * 6) if name == "conv" else (36, 3 * 8 * 8)
    assert pixels.shape == (3, count, values)
    assert hidden.sum(dim=1).tolist() == [mask * count] * 3
    assert features.shape == (3, encoder.embedding_dim)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_hidden_never_reaches_the_encoder(name):
    encoder, images = ENCODERS[name](), noise(3)
    painter = painter_of(encoder)
    torch.manual_seed(0)
    first = painter(encoder, images)

    mask = first.hidden.view(3, 1, *2 * [8 if name == "conv" else 6])
    mask = nn.functional.interpolate(mask.float(), (SIDE, SIDE)).bool()
    runs = []
    for where in (mask, ~mask):
        torch.manual_seed(0)
        runs.append(painter(encoder, torch.where(where, noise(3, seed=1), images)))

    assert torch.equal(runs[0].hidden, first.hidden)
    assert torch.equal(runs[0].features, first.features)
    assert torch.equal(runs[0].pixels, first.pixels)
    assert not torch.allclose(runs[1].features, first.features, atol=1e-4)


def test_a_transformer_sees_the_tokens_that_are_left_as_if_nothing_were_hidden():
    encoder, images = vit().eval(), noise(2)
    painter = TokenPainter(encoder, 0.0, width=16, depth=1)  # all tokens, in another order

    features = painter(encoder, images).features

    assert torch.allclose(features, encoder.features(images), atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "prefix"])
def test_every_seen_token_is_painted_at_its_own_place(name):
    encoder, images = ENCODERS[name]().eval(), noise(2)
    painter = TokenPainter(encoder, 0.5, width=16, depth=1).eval()
    painter.blocks = nn.Sequential()  # nothing that mixes tokens
    painter.positions.zero_()
    torch.manual_seed(0)
    tokens = encoder.stages[0](encoder.normalised(images))[:, painter.prefix :]
    _, ranks = shuffled(tokens, 0.5)
    hidden = painter.leave(painter.hidden)
    encoder.stages = nn.ModuleList([encoder.stages[0], encoder.stages[-1]])

    torch.manual_seed(0)
    pixels = painter(encoder, images).pixels

    visible = painter.leave(painter.enter(encoder.stages[-1].get_submodule("net.norm")(tokens)))
    expected = torch.where((ranks < 18).unsqueeze(2), visible, hidden)
    assert torch.allclose(pixels, expected, atol=1e-5)


def test_a_convolutional_encoder_sees_a_learned_value_where_patches_are_hidden():
    encoder, images = conv(), noise(2)
    painter = PixelPainter(encoder, 0.75)

    painter(encoder, images).features.sum().backward()

    assert painter.hidden.shape == (3, 1, 1)
    assert bool((painter.hidden.grad != 0).all())


def test_a_painter_of_pixels_leaves_the_encoder_as_it_is():
    encoder = conv().train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}

    PixelPainter(encoder, 0.75)

    assert encoder.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])


def test_views_of_a_side_that_eight_does_not_divide_are_smaller():
    encoder = Conv4(width=8, image_side=50).build()

    painter = PixelPainter(encoder, 0.75)

    assert painter.side == 48
    assert painter(encoder, noise(2)).pixels.shape == (2, 64, 3 * 6 * 6)


def test_what_was_painted_is_shown_where_patches_were_hidden_and_nowhere_else():
    images, different = noise(2), noise(2, seed=1)
    hidden = torch.zeros(2, 36, dtype=torch.bool)
    hidden[:, 7] = True  # the second patch of the second row

    right = reveal(images, patches(images, 36), hidden)
    wrong = reveal(images, patches(different, 36), hidden)

    assert torch.allclose(right, images, atol=1e-4)
    changed = (wrong - images).abs().amax(dim=(0, 1)) > 1e-4
    assert changed[8:16, 8:16].any()
    changed[8:16, 8:16] = False
    assert not changed.any()
