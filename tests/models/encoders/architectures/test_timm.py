"""Encoders of timm."""

import pytest
import safetensors.torch
import timm
import torch

from models.encoders import EncoderUnavailable
from models.encoders.architectures.timm import Timm

MODELS = {"resnet18": 6, "vit_tiny_patch16_224": 14, "convnext_atto": 6, "mobilenetv3_small_050": 8}


@pytest.fixture(scope="module")
def network():
    """Networks of timm with random weights, made once."""
    networks = {}

    def make(name: str) -> torch.nn.Module:
        if name not in networks:
            torch.manual_seed(0)
            networks[name] = timm.create_model(name, pretrained=False, num_classes=0).eval()
        return networks[name]

    return make


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_a_local_file(name, network, tmp_path):
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network(name).state_dict(), file)
    images = torch.rand(2, 3, 224, 224)

    encoder = Timm(model=name, weights=str(file)).build()

    side = encoder.preprocessing.crop
    images = torch.nn.functional.interpolate(images, (side, side))
    with torch.inference_mode():
        whole = network(name)((images - encoder.mean) / encoder.std)
        expected = torch.nn.functional.normalize(whole, dim=1)
        assert torch.allclose(encoder(images), expected, atol=1e-5)
    assert len(encoder.stages) == MODELS[name]


def test_a_network_of_another_build_is_one_stage():
    encoder = Timm(model="mixer_s32_224").build(pretrained=False)

    with torch.inference_mode():
        assert encoder(torch.rand(1, 3, 224, 224)).shape == (1, encoder.embedding_dim)


def test_preprocessing_is_that_of_the_pretrained_weights():
    preprocessing = (
        Timm(model="vit_tiny_patch16_224.augreg_in21k_ft_in1k")
        .build(pretrained=False)
        .preprocessing
    )

    assert (preprocessing.crop, preprocessing.resize) == (224, 249)
    assert preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("cannot reach the hub\nand a long story")

    monkeypatch.setattr(timm, "create_model", unreachable)

    with pytest.raises(EncoderUnavailable) as caught:
        Timm(model="resnet18.a1_in1k").build()

    assert str(caught.value) == (
        "timm could not build 'resnet18.a1_in1k' with weights from the hub (cannot reach the hub); "
        "give a local file as timm:resnet18.a1_in1k@weights.safetensors"
    )


@pytest.mark.parametrize("content", [b"", b"\x80\x04 a pickle", None])
def test_a_file_that_is_no_safetensors_is_refused(content, tmp_path):
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(EncoderUnavailable, match="cannot be read as safetensors"):
        Timm(model="resnet18", weights=str(file)).build()


def test_weights_of_another_network_are_refused_by_name(network, tmp_path):
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network("convnext_atto").state_dict(), file)

    with pytest.raises(EncoderUnavailable, match=r"does not fit 'resnet18': .* first 'conv1"):
        Timm(model="resnet18", weights=str(file)).build()
