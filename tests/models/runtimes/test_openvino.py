"""What OpenVINO keeps of a conversion."""

import pytest
import torch

from models.encoders import Encoder
from models.encoders.conv4 import Conv4
from models.runtimes import AGREEMENT, Resources, RuntimeUnavailable, agree
from models.runtimes import openvino as module
from models.runtimes.openvino import KEPT, OpenVINO


def encoder(seed: int = 0) -> Encoder:
    return Conv4(width=4, image_side=16, seed=seed).build().eval()


@pytest.fixture
def conversions(monkeypatch) -> list[Encoder]:
    """The encoders that were converted."""
    seen = []
    convert = module._convert

    def counted(library, encoder):
        seen.append(encoder)
        return convert(library, encoder)

    monkeypatch.setattr(module, "_convert", counted)
    return seen


@pytest.fixture
def resources(tmp_path) -> Resources:
    return Resources(threads=1, batch=4, cache=tmp_path / "runtimes")


def test_a_network_is_converted_once_for_its_weights(conversions, resources):
    for seed in (0, 1, 0, 1):
        given = encoder(seed)
        assert agree(OpenVINO().prepare(given, resources), given) >= AGREEMENT

    assert len(conversions) == 2


def test_a_damaged_file_is_converted_anew(conversions, resources):
    OpenVINO().prepare(encoder(), resources)
    (file,) = resources.cache.glob("*.xml")
    file.write_text(file.read_text()[:500])

    assert agree(OpenVINO().prepare(encoder(), resources), encoder()) >= AGREEMENT
    assert len(conversions) == 2


def test_weights_that_are_missing_are_converted_anew(conversions, resources):
    OpenVINO().prepare(encoder(), resources)
    (file,) = resources.cache.glob("*.bin")
    file.unlink()

    assert agree(OpenVINO().prepare(encoder(), resources), encoder()) >= AGREEMENT
    assert len(conversions) == 2


def test_the_oldest_conversion_goes(resources, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    for seed in range(4):
        OpenVINO().prepare(encoder(seed), resources)

    assert len(list(resources.cache.glob("*.xml"))) == 2 < KEPT
    assert len(list(resources.cache.glob("*.bin"))) == 2


def test_a_folder_that_cannot_be_written_is_done_without(conversions, tmp_path):
    (tmp_path / "file").write_text("")
    resources = Resources(threads=1, batch=4, cache=tmp_path / "file" / "runtimes")

    assert agree(OpenVINO().prepare(encoder(), resources), encoder()) >= AGREEMENT


def test_a_network_that_cannot_be_converted_is_refused_in_one_sentence(resources):
    class Capricious(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) * (1 if images.sum() > 0 else 2)

    given = Encoder([Capricious()], embedding_dim=3, preprocessing=encoder().preprocessing)

    with pytest.raises(RuntimeUnavailable, match="OpenVINO cannot convert this encoder") as caught:
        OpenVINO().prepare(given, resources)

    assert "\n" not in str(caught.value)
