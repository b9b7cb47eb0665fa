"""Encoder versions and their weights."""

import pytest
import safetensors.torch
import timm
import torch

from app.encoders.versions import Versions, derive_version
from app.sql.database import Database, migrate
from app.sql.tables import EncoderVersion
from app.storage.blobs import Blobs
from models.encoders import EncoderUnavailable
from models.encoders.architectures.timm import Timm
from models.encoders.specs import parse


@pytest.fixture
def versions(tmp_path):
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    migrate(url)
    db = Database(url)
    yield Versions(db, Blobs(str(tmp_path / "blobs")), torch.device("cpu"))
    db.close()


def weights(path, seed: int) -> None:
    torch.manual_seed(seed)
    network = timm.create_model("convnext_atto", pretrained=False, num_classes=0)
    safetensors.torch.save_file(network.state_dict(), path)


def test_a_pretrained_architecture_becomes_one_version(versions):
    one = versions.get_or_create(*parse("conv4:8"))

    assert versions.get_or_create(*parse("conv4:8")) == one
    assert versions.get_or_create(*parse("conv4:16")) != one


@pytest.mark.parametrize("spec", ["conv4:8", "efficientnet_lite:0"])
def test_a_loaded_encoder_embeds_like_the_one_that_was_stored(versions, spec):
    name, architecture = parse(spec)
    original = architecture.build().eval()
    side = original.preprocessing.crop
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)

    loaded = versions.load(versions.get_or_create(name, architecture))

    assert torch.equal(loaded.embed(images), original.embed(images))
    assert loaded.preprocessing == original.preprocessing


def test_what_a_version_learned_beside_its_weights_is_read_as_it_was_stored(versions):
    version = versions.get_or_create(*parse("conv4:8"))
    document = {"name": "maml", "options": {"steps": 3}, "state": {"rates": torch.arange(2.0)}}
    assert versions.learner(version) is None
    digest = versions.store_learner(document)
    with versions.db.writing() as session:
        parent = session.get_one(EncoderVersion, version)
        parent.learner = digest
        assert derive_version(parent, parent.weights).learner is None  # its steps fit no others

    document = versions.learner(version)

    assert (document["name"], document["options"]) == ("maml", {"steps": 3})
    assert torch.equal(document["state"]["rates"], torch.arange(2.0))
    versions.blobs.remove(digest)
    with pytest.raises(EncoderUnavailable, match=f"{digest} of the steps .* restore it from"):
        versions.learner(version)


def test_weights_are_kept_as_safetensors_by_their_sha256(versions):
    version = versions.get_or_create(*parse("conv4:8"))

    with versions.db.reading() as session:
        digest = session.get_one(EncoderVersion, version).weights
    tensors = safetensors.torch.load(versions.blobs.get(digest))
    assert "stages.0.0.weight" in tensors


def test_a_weights_file_is_needed_once_and_another_file_is_another_version(versions, tmp_path):
    file = tmp_path / "w.safetensors"
    architecture = Timm(model="convnext_atto", weights=str(file))
    weights(file, seed=0)
    one = versions.get_or_create("timm", architecture)
    same = versions.get_or_create("timm", architecture)
    weights(file, seed=1)
    other = versions.get_or_create("timm", architecture)
    file.unlink()

    assert same == one
    assert other != one
    assert versions.get_or_create("timm", architecture) == other
    assert versions.load(one).embedding_dim == 320


def test_an_architecture_that_this_installation_lacks_is_named(versions):
    with versions.db.writing() as session:
        version = EncoderVersion(
            architecture="future", options={}, weights="0" * 64, embedding_dim=8
        )
        session.add(version)

    with pytest.raises(EncoderUnavailable, match="needs the encoder 'future'"):
        versions.load(version.id)


def test_lost_weights_are_named(versions, tmp_path):
    version = versions.get_or_create(*parse("conv4:8"))
    for file in (tmp_path / "blobs").glob("??/*"):
        file.unlink()

    with pytest.raises(EncoderUnavailable, match=r"missing .* restore it from a backup"):
        versions.load(version)
