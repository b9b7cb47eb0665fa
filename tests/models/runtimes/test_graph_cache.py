"""What runtimes keep of a conversion."""

from pathlib import Path

import pytest
import torch

import models.runtimes.graph_cache
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.graph_cache import KEPT
from models.runtimes.kinds import runtimes
from models.runtimes.trial import AGREEMENT, agree


@pytest.fixture(params=["openvino", "onnxruntime"])
def runtime(request):
    pytest.importorskip(request.param)
    return runtimes[request.param]()


def encoder(seed: int = 0) -> Encoder:
    return Conv4(width=4, image_side=16, seed=seed).build().eval()


def networks(resources: Resources) -> list[Path]:
    return [*resources.cache.glob("*.xml"), *resources.cache.glob("*.onnx")]


def test_a_network_is_converted_once_for_its_weights(runtime, conversions, resources):
    for seed in (0, 1, 0, 1):
        network = encoder(seed)
        assert agree(runtime.prepare(network, resources), network) >= AGREEMENT

    assert len(conversions) == 2


def test_a_damaged_file_is_converted_anew(runtime, conversions, resources):
    runtime.prepare(encoder(), resources)
    (file,) = networks(resources)
    file.write_bytes(file.read_bytes()[:500])

    assert agree(runtime.prepare(encoder(), resources), encoder()) >= AGREEMENT
    assert len(conversions) == 2


def test_the_oldest_conversion_goes(runtime, conversions, resources, monkeypatch):
    monkeypatch.setattr(models.runtimes.graph_cache, "KEPT", 1)
    for seed in range(2):
        runtime.prepare(encoder(seed), resources)

    assert len(networks(resources)) == 1 < KEPT
    assert len(list(resources.cache.glob("*.bin"))) in (0, 1)  # OpenVINO's weights


def test_a_folder_that_cannot_be_written_is_done_without(runtime, conversions, tmp_path):
    (tmp_path / "file").write_text("")
    resources = Resources(threads=1, batch=4, cache=tmp_path / "file" / "runtimes")

    assert agree(runtime.prepare(encoder(), resources), encoder()) >= AGREEMENT


def test_a_network_that_cannot_be_converted_is_refused_in_one_sentence(runtime, resources):
    class Capricious(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) * (1 if images.sum() > 0 else 2)

    network = Encoder([Capricious()], embedding_dim=3, preprocessing=encoder().preprocessing)

    with pytest.raises(RuntimeUnavailable, match="this encoder") as caught:
        runtime.prepare(network, resources)

    assert "\n" not in str(caught.value)
