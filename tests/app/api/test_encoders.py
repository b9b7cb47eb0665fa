"""Encoder versions over HTTP: download, upload, and what uploads are refused."""

import pickle
import struct

import pytest
import safetensors.torch
import torch
from fastapi import Request

ENCODERS = "/v1/projects/birds/encoders"
BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture
def current(birds):
    """Id of the version that serves the project."""
    return birds.get("/v1/projects/birds").json()["encoder"]["id"]


@pytest.fixture
def weights(birds, current):
    """The weights of the version that serves the project."""
    return birds.get(f"{ENCODERS}/{current}/weights").content


def test_a_project_starts_with_the_pretrained_version(birds, current):
    (version,) = birds.get(ENCODERS).json()["items"]

    assert version == birds.get(f"{ENCODERS}/{current}").json()
    assert version["id"] == current
    assert version["current"]
    assert (version["parent"], version["job"], version["images"]) == (None, None, 0)
    assert birds.get(f"{ENCODERS}/{current}/images").json()["items"] == []


def test_weights_come_as_safetensors_and_are_not_sent_twice(birds, current, weights):
    answer = birds.get(f"{ENCODERS}/{current}/weights")
    again = birds.get(
        f"{ENCODERS}/{current}/weights", headers={"If-None-Match": answer.headers["etag"]}
    )

    assert "stages.0.0.weight" in safetensors.torch.load(weights)
    assert f"{current}.safetensors" in answer.headers["content-disposition"]
    assert again.status_code == 304


def test_uploaded_weights_become_a_version_that_embeds_by_them(birds, current, weights):
    tensors = safetensors.torch.load(weights)
    changed = safetensors.torch.save({name: tensor + 1 for name, tensor in tensors.items()})

    answer = birds.post(ENCODERS, content=changed, headers=BINARY)

    assert answer.status_code == 201
    version = answer.json()
    assert version["parent"] == current
    assert not version["current"]
    assert birds.get(f"{ENCODERS}/{version['id']}/weights").content == changed
    assert birds.post(f"{ENCODERS}/{version['id']}/promote").json()["promoted"]  # no images yet


def changed(weights, **tensors):
    return safetensors.torch.save(safetensors.torch.load(weights) | tensors)


@pytest.mark.parametrize(
    ("spoil", "status", "reason"),
    [
        (lambda w: pickle.dumps({"a": 1}), 415, "pickle"),
        (lambda w: b"PK\x03\x04" + w, 415, "pickle"),
        (lambda w: b"", 415, "not a safetensors file"),
        (lambda w: w[:100], 415, "not a safetensors file"),
        (lambda w: w[:-10], 415, "not a safetensors file"),
        (lambda w: struct.pack("<Q", 2**62) + w[8:], 415, "its header would have"),
        (lambda w: struct.pack("<Q", 10) + b"x" * 10, 415, "not a safetensors file"),
        (lambda w: safetensors.torch.save({"a": torch.zeros(1)}), 422, "tensors are missing"),
        (lambda w: changed(w, extra=torch.zeros(1)), 422, "1 are not of this architecture"),
        (
            lambda w: changed(w, **{"stages.0.0.weight": torch.zeros(2)}),
            422,
            "F32 [2], not F32 [8, 3, 3, 3]",
        ),
        (
            lambda w: changed(w, **{"stages.0.0.weight": torch.zeros(8, 3, 3, 3).half()}),
            422,
            "F16 [8, 3, 3, 3], not F32",
        ),
        (
            lambda w: changed(w, **{"stages.0.0.weight": torch.full((8, 3, 3, 3), torch.nan)}),
            422,
            "not finite",
        ),
    ],
)
def test_what_is_not_weights_of_the_architecture_is_refused(birds, weights, spoil, status, reason):
    answer = birds.post(ENCODERS, content=spoil(weights), headers=BINARY)

    assert answer.status_code == status, answer.text
    assert reason in answer.json()["detail"]
    assert len(birds.get(ENCODERS).json()["items"]) == 1


def test_a_body_of_another_type_is_refused(birds, weights):
    answer = birds.post(ENCODERS, content=weights, headers={"content-type": "application/json"})

    assert answer.status_code == 415


def test_weights_go_to_the_disk_as_they_come(birds, weights, monkeypatch):
    monkeypatch.setattr(Request, "body", None)  # which would read them whole
    halves = iter([weights[:1000], weights[1000:]])

    assert birds.post(ENCODERS, content=halves, headers=BINARY).status_code == 201


def test_an_architecture_is_named_by_a_version_of_it(birds, current, weights):
    known = birds.post(ENCODERS, content=weights, headers=BINARY, params={"like": current})
    unknown = birds.post(
        ENCODERS, content=weights, headers=BINARY, params={"like": "0" * 8 + current[8:]}
    )

    assert known.status_code == 201
    assert unknown.status_code == 404


def other_version(birds, weights):
    """A version that sees colours otherwise: its first layer is turned around."""
    tensors = safetensors.torch.load(weights)
    tensors["stages.0.0.weight"] = tensors["stages.0.0.weight"].flip(0) * 0.7
    answer = birds.post(ENCODERS, content=safetensors.torch.save(tensors), headers=BINARY)
    return answer.json()["id"]


def classify(birds, content, **params):
    files = [("files", ("query.png", content, "image/png"))]
    return birds.post("/v1/projects/birds/classify", files=files, params=params)


def fill(birds, png, count):
    for label in ("red", "blue"):
        files = [("files", (f"{n}.png", png(label, n), "image/png")) for n in range(count)]
        birds.post(f"/v1/projects/birds/labels/{label}/support", files=files)


def test_queries_may_be_embedded_by_another_version(birds, png, current, weights, do):
    fill(birds, png, 12)
    other = other_version(birds, weights)
    for version in (other, current):  # both have all images now
        birds.post(f"{ENCODERS}/{version}/promote")
        do(birds)
    assert birds.get("/v1/projects/birds").json()["encoder"]["id"] == current

    plain = classify(birds, png("red", 99))
    answer = classify(birds, png("red", 99), query_encoder=other)

    assert plain.json()["encoder"] == current
    assert plain.json()["bridge"] is None
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["encoder"] == other
    assert found["bridge"]["images"] == 24
    assert found["bridge"]["cosine"] > 0.9
    assert found["predictions"][0]["label"] == "red"
    assert classify(birds, png("red", 99), query_encoder=current).json() == plain.json()


def test_a_version_that_embedded_too_few_images_cannot_take_queries(birds, png, current, weights):
    fill(birds, png, 3)
    other = other_version(birds, weights)

    few = classify(birds, png("red", 99), query_encoder=other)
    unknown = classify(birds, png("red", 99), query_encoder="01900000-0000-7000-8000-000000000000")

    assert few.status_code == 409
    assert "needs 16 images, got 0" in few.json()["detail"]
    assert unknown.status_code == 404
