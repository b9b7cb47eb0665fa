"""A linear layer behind an encoder."""

import torch

from models.encoders import Encoder
from models.encoders.projection import Projection, project
from models.encoders.specs import parse


def make_encoder() -> Encoder:
    return parse("conv4:8,image_side=32")[1].build(pretrained=False).eval()


def test_it_starts_as_the_identity():
    encoder = make_encoder()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        assert torch.allclose(project(encoder)(images), encoder(images), atol=1e-6)


def test_it_is_linear_in_unit_embeddings():
    projection = Projection(4)
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        projection.difference.copy_(matrix)
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))

    projected = projection(3 * features)

    units = torch.nn.functional.normalize(features, dim=1)
    assert torch.allclose(projected, units @ (torch.eye(4) + matrix).T, atol=1e-5)


def test_an_encoder_has_one_projection_at_most():
    once = project(make_encoder())

    assert project(once) is once
    assert sum(isinstance(stage, Projection) for stage in once.stages) == 1


def test_a_projection_is_where_the_encoder_is():
    elsewhere = project(parse("conv4:8")[1].build(pretrained=False).to("meta"))

    tensors = [*elsewhere.parameters(), *elsewhere.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
