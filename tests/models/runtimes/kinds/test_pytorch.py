"""What PyTorch alone does."""

import torch

from models.runtimes.kinds.pytorch import PyTorch
from models.runtimes.trial import samples
from tests.models.runtimes.reference import RESOURCES, make_encoder


def test_it_gives_exactly_what_the_encoder_embeds():
    encoder = make_encoder()
    pictures = samples(encoder.preprocessing.crop, 3)

    embed = PyTorch().prepare(encoder, RESOURCES)

    assert torch.equal(embed(pictures), encoder.embed(pictures))


def test_it_converts_nothing_so_that_new_weights_are_served_at_once():
    encoder = make_encoder()
    pictures = samples(encoder.preprocessing.crop, 3)
    embed = PyTorch().prepare(encoder, RESOURCES)
    before = embed(pictures)

    with torch.no_grad():
        next(encoder.parameters()).mul_(-1)

    assert not torch.allclose(embed(pictures), before)
    assert torch.equal(embed(pictures), encoder.embed(pictures))
