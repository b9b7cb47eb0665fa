"""What every encoder promises."""

import copy

import pytest
import torch
from torch import nn

from models.encoders import Encoder, EncoderUnavailable, pick_device
from models.encoders.architectures import architectures
from tests.models.encoders.small import SMALL


@pytest.fixture(scope="module", params=architectures)
def encoder(request) -> Encoder:
    return SMALL[request.param].build(pretrained=False).eval()


def pixels(encoder: Encoder, count: int = 3) -> torch.Tensor:
    side = encoder.preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def test_embeddings_are_unit_vectors_of_the_promised_length(encoder):
    embeddings = encoder.embed(pixels(encoder))

    assert embeddings.shape == (3, encoder.embedding_dim)
    assert embeddings.dtype == torch.float32
    assert embeddings.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_an_image_is_embedded_alike_in_any_batch(encoder):
    images = pixels(encoder)

    alone = torch.cat([encoder.embed(image[None]) for image in images])

    assert torch.allclose(encoder.embed(images), alone, atol=1e-5)


def test_serving_and_training_see_the_same(encoder):
    images = pixels(encoder)

    with torch.no_grad():
        trained = encoder(images.float() / 255)

    assert torch.allclose(trained, encoder.embed(images), atol=1e-5)


def test_stages_go_from_shallow_to_deep_and_hold_every_weight(encoder):
    assert isinstance(encoder.stages, nn.ModuleList)
    assert len(encoder.stages) >= 4
    names = {name for name, _ in encoder.named_parameters()}
    assert names
    assert all(name.startswith("stages.") for name in names)


def test_weights_go_through_a_file(encoder, request):
    name = next(name for name in architectures if name in request.node.name)
    loaded = SMALL[name].build(pretrained=False).eval()

    loaded.load_state_dict(encoder.state_dict())

    assert torch.equal(loaded.embed(pixels(encoder)), encoder.embed(pixels(encoder)))


@pytest.mark.cuda
def test_cuda_embeds_as_the_cpu_does(encoder):
    images = pixels(encoder)
    on_cpu = encoder.embed(images)

    on_cuda = copy.deepcopy(encoder).to("cuda").embed(images)

    assert (on_cpu * on_cuda).sum(dim=1).min() >= 0.9999


def test_every_architecture_is_tried_here():
    assert set(SMALL) == set(architectures)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(EncoderUnavailable, match="there is no device 'gpu'"):
        pick_device("gpu")
    with pytest.raises(EncoderUnavailable, match=r"'cuda:99' is not there"):
        pick_device("cuda:99")
