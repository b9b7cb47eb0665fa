"""Learned heads over HTTP: list, set, refuse, download, delete; what they answer."""

from uuid import UUID

import pytest
import safetensors.torch

from app.sql.tables import LearnedHead
from tests import databases
from tests.app.report.conftest import support
from tests.learned_heads import add_learned_head

database_url = databases.each
PROJECT = "/v1/projects/birds"
HEADS = f"{PROJECT}/heads"


def add_head(service, *, version: UUID | None = None, project: str = "birds") -> str:
    """The id of a head that a job might have learned."""
    return str(add_learned_head(service.app.state.parts, project, version))


def learned(head: str) -> dict:
    return {"name": "learned", "options": {"learned": head}}


def set_head(service, head: dict, status: int = 200):
    answer = service.patch(PROJECT, json={"head": head})
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
def colours(birds, png):
    """Three labels of four images each, and an image in the pool."""
    for label in ("red", "blue", "lime"):
        support(birds, label, *(png(label, n) for n in range(4)))
    birds.post(f"{PROJECT}/pool", files=[("files", png("purple"))])
    return birds


@pytest.fixture
def other_version(colours) -> str:
    """Another version, with the weights of the one that serves."""
    current = colours.get(PROJECT).json()["encoder"]["id"]
    weights = colours.get(f"{PROJECT}/encoders/{current}/weights").content
    tensors = safetensors.torch.load(weights)
    content = safetensors.torch.save({name: tensor * 2 for name, tensor in tensors.items()})
    headers = {"content-type": "application/octet-stream"}
    answer = colours.post(f"{PROJECT}/encoders", content=content, headers=headers)
    return answer.json()["id"]


def classify(service, image: bytes) -> list[dict]:
    answer = service.post(f"{PROJECT}/classify", files=[("files", image)])
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]["probabilities"]


def test_a_project_takes_a_learned_head_and_gives_it_back(colours, png):
    head = add_head(colours)
    before = colours.get(PROJECT).json()["head"]
    plain = classify(colours, png("red", 9))

    project = set_head(colours, learned(head))

    assert project["head"] == learned(head)
    (item,) = colours.get(HEADS).json()["items"]
    assert item == colours.get(f"{HEADS}/{head}").json()
    assert (item["id"], item["method"], item["current"]) == (head, "feat", True)
    assert item["encoder"] == project["encoder"]["id"]
    assert item["metrics"]["reason"] == "it is"
    answers = classify(colours, png("red", 9))
    assert sum(label["probability"] for label in answers) == pytest.approx(1)
    assert answers != plain

    set_head(colours, before)

    assert classify(colours, png("red", 9)) == plain
    assert not colours.get(f"{HEADS}/{head}").json()["current"]


def test_all_that_asks_a_head_asks_a_learned_one(colours):
    set_head(colours, learned(add_head(colours)))

    report = colours.get(f"{PROJECT}/report").json()
    assert report["head"]["name"] == report["chosen"]["name"] == "learned"
    assert report["chosen"]["leave_one_out"] == "exact"
    assert set(report["chosen"]["options"]) == {"centered", "temperature"}
    assert report["accuracy"] is not None
    ranked = colours.post(f"{PROJECT}/pool/rank", json={"strategy": {"name": "entropy"}})
    assert ranked.status_code == 200, ranked.text
    assert len(ranked.json()["images"]) == 1
    job = colours.post(f"{PROJECT}/jobs", json={"kind": "transduce"})
    assert job.status_code == 202, job.text


def test_weights_come_as_safetensors(colours):
    head = add_head(colours)

    answer = colours.get(f"{HEADS}/{head}/weights")

    assert "out.weight" in safetensors.torch.load(answer.content)
    assert f"{head}.safetensors" in answer.headers["content-disposition"]


def test_a_head_that_serves_is_not_deleted(colours):
    head = add_head(colours)
    before = colours.get(PROJECT).json()["head"]
    set_head(colours, learned(head))

    refused = colours.delete(f"{HEADS}/{head}")
    assert refused.status_code == 409
    assert refused.json()["type"] == "/problems/head-in-use"
    set_head(colours, before)

    assert colours.delete(f"{HEADS}/{head}").status_code == 204
    for answer in (colours.get(f"{HEADS}/{head}"), colours.delete(f"{HEADS}/{head}")):
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/head-not-found")
    assert set_head(colours, learned(head), 404)["type"] == "/problems/head-not-found"


def test_a_head_of_another_version_is_refused_with_those_that_fit(colours, other_version):
    old, new = add_head(colours), add_head(colours, version=UUID(other_version))

    problem = set_head(colours, learned(new), 409)

    assert problem["type"] == "/problems/head-mismatch"
    assert problem["fitting"] == [old]
    assert other_version in problem["detail"]


def test_a_head_of_another_project_is_not_there(colours):
    colours.post("/v1/projects", json={"name": "cats"})
    head = add_head(colours, project="cats")

    assert set_head(colours, learned(head), 404)["type"] == "/problems/head-not-found"
    created = colours.post("/v1/projects", json={"name": "dogs", "head": learned(head)})
    assert created.status_code == 404


@pytest.mark.parametrize("options", [{}, {"learned": "feat"}, {"learned": 3}])
def test_a_choice_without_an_id_is_refused(birds, options):
    answer = birds.patch(PROJECT, json={"head": {"name": "learned", "options": options}})

    assert answer.status_code == 422


def test_promoting_another_version_gives_the_project_auto_back(colours, other_version, do):
    head = add_head(colours)
    set_head(colours, learned(head))
    colours.post(f"{PROJECT}/encoders/{other_version}/promote")

    do(colours)

    project = colours.get(PROJECT).json()
    assert project["encoder"]["id"] == other_version
    assert project["head"]["name"] == "auto"
    assert colours.get(f"{PROJECT}/report").status_code == 200


def test_evaluate_compares_it_on_its_version(colours, other_version, do):
    old = colours.get(PROJECT).json()["encoder"]["id"]
    head = add_head(colours)
    asked = {"ways": 2, "shots": [1], "queries": 2, "episodes": 5, "seconds": 60}
    colours.post(f"{PROJECT}/encoders/{other_version}/promote")
    do(colours)
    heads = [{"name": "cosine"}, learned(head)]

    refused = colours.post(f"{PROJECT}/evaluate", json=asked | {"heads": heads})
    answer = colours.post(
        f"{PROJECT}/evaluate", json=asked | {"heads": heads, "versions": [old, other_version]}
    )

    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/head-mismatch")
    assert answer.status_code == 200, answer.text
    models = [(model["encoder"], model["head"]["name"]) for model in answer.json()["models"]]
    assert models == [(old, "cosine"), (old, "learned"), (other_version, "cosine")]


def test_a_head_whose_file_is_lost_says_so(colours, png):
    head = add_head(colours)
    set_head(colours, learned(head))
    with colours.app.state.parts.db.reading() as session:
        weights = session.get_one(LearnedHead, UUID(head)).weights
    colours.app.state.parts.blobs.remove(weights)

    answer = colours.post(f"{PROJECT}/classify", files=[("files", png("red", 9))])

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/head-unavailable")
    assert weights in answer.json()["detail"]


def test_a_project_is_deleted_with_its_heads(colours):
    add_head(colours)

    assert colours.delete(PROJECT).status_code == 204

    with colours.app.state.parts.db.reading() as session:
        assert not session.query(LearnedHead).count()
