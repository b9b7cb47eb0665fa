"""What every runtime promises."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.kinds import runtimes
from models.runtimes.streams import compute_alone
from models.runtimes.trial import AGREEMENT, samples
from tests.models.runtimes.reference import ENCODERS, RESOURCES, make_encoder

pytestmark = pytest.mark.usefixtures("conversions")


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("runtime", runtimes)
def test_a_runtime_embeds_as_pytorch_does_or_says_why_not(runtime, name):
    network = make_encoder(name)
    try:
        embed = runtimes[runtime]().prepare(network, RESOURCES)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))

    for count in (1, 3, 4, 9):  # one, fewer and more than the largest batch
        pictures = samples(network.preprocessing.crop, count)
        embeddings = embed(pictures)
        assert embeddings.shape == (count, network.embedding_dim)
        assert embeddings.dtype == torch.float32
        assert (embeddings * network.embed(pictures)).sum(dim=1).min() >= AGREEMENT
        assert torch.equal(embeddings, embed(pictures))  # nothing of one batch is in the next


@pytest.mark.parametrize("runtime", runtimes)
def test_streams_compute_side_by_side_what_one_batch_gives(runtime):
    network = make_encoder()
    try:
        embed = runtimes[runtime]().prepare(network, Resources(threads=1, batch=4, streams=3))
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    batches = samples(network.preprocessing.crop, 24).split(2)

    with ThreadPoolExecutor(3, initializer=compute_alone) as threads:
        embeddings = list(threads.map(embed, batches))

    expected = network.embed(torch.cat(batches))
    assert (torch.cat(embeddings) * expected).sum(dim=1).min() >= AGREEMENT
