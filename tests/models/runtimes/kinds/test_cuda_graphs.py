"""Which stages compute in half precision; the graphs themselves need CUDA: see the other tests."""

import pytest
import torch

from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.efficientnet_lite import EfficientNetLite
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.folding import fold
from models.runtimes.kinds.cuda_graphs import CUDAGraphs, Halved, _halved, sizes
from models.runtimes.selector import RuntimeSelector
from models.runtimes.trial import AGREEMENT, RuntimeTrial, agree, samples


def test_deep_stages_are_in_float16_as_far_as_embeddings_agree():
    encoder = fold(Conv4(width=8, image_side=32).build().eval())
    first, second = encoder.stages[0][0], encoder.stages[1][0]
    with torch.no_grad():
        first.weight *= 1e6  # what leaves the first stage is too large for float16,
        first.bias *= 1e6
        second.weight *= 1e-6  # and the weights that undo it are too small

    halved = _halved(encoder)

    dtypes = [next(stage.parameters()).dtype for stage in halved.encoder.stages[:4]]
    assert dtypes == [torch.float32, torch.float32, torch.float16, torch.float16]
    assert agree(halved, encoder) >= AGREEMENT
    assert not agree(Halved(encoder, 1), encoder) >= AGREEMENT  # it is not a number
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_without_a_half_stage_it_is_the_encoder():
    encoder = Conv4(width=8, image_side=32).build().eval()
    pictures = samples(32, 3)

    exact = Halved(encoder, len(encoder.stages))(pictures)

    assert torch.allclose(exact, encoder.embed(pictures), atol=1e-6)


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_there_is_a_graph_for_each_power_of_two(largest, expected):
    assert sizes(largest) == expected


def test_a_cpu_has_no_graphs():
    with pytest.raises(RuntimeUnavailable, match="need an encoder on a CUDA device"):
        CUDAGraphs().prepare(Conv4(width=8).build(), Resources(threads=1, batch=4))


@pytest.mark.cuda
def test_cuda_computes_with_graphs_in_half_precision():
    encoder = EfficientNetLite().build().eval().to("cuda")
    trials: list[RuntimeTrial] = []
    resources = Resources(threads=1, batch=32)

    serving = RuntimeSelector("auto", resources, lambda tried, _: trials.extend(tried)).prepare(
        encoder
    )

    assert serving.runtime == "cuda_graphs"
    assert AGREEMENT <= trials[-1].agreement < 1
    pictures = samples(224, 70)
    agreement = (serving.embed(pictures) * encoder.embed(pictures)).sum(dim=1)
    assert agreement.min() >= 1 - 2 * (1 - AGREEMENT)  # half of these were not judged before
