"""Calls are data: what to send, and how to read the answer."""

from uuid import UUID

import httpx
import pytest

from handful import calls
from handful.calls import plugin, project_path

IMAGE = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def test_a_project_name_is_quoted_in_its_path():
    assert project_path("a/b ?", "pool") == "/v1/projects/a%2Fb%20%3F/pool"


def test_files_are_sent_under_their_names(tmp_path):
    path = tmp_path / "wren.png"
    path.write_bytes(b"a wren")

    call = calls.add_to_pool("birds", [path, str(path), b"bytes", ("owl.png", b"an owl")])

    assert call.arguments()["files"] == [
        ("files", ("wren.png", b"a wren")),
        ("files", ("wren.png", b"a wren")),
        ("files", ("2", b"bytes")),
        ("files", ("owl.png", b"an owl")),
    ]


def test_what_is_not_said_is_not_sent():
    call = calls.images("birds", label="wren", metadata={"camera": "north"})

    assert call.arguments() == {
        "params": {"label": "wren", "limit": 100, "metadata": ["camera=north"]}
    }
    assert calls.edit_project("birds", name="fowl").body == {"name": "fowl"}


def test_ids_are_sent_as_text():
    call = calls.classify("birds", [b""], query_encoder=IMAGE)

    assert call.arguments()["params"]["query_encoder"] == str(IMAGE)
    assert calls.image("birds", IMAGE).path == f"/v1/projects/birds/images/{IMAGE}"


@pytest.mark.parametrize("choice", ["margin", {"name": "margin"}])
def test_a_plug_in_is_named_alone_or_with_options(choice):
    assert plugin(choice) == {"name": "margin"}
    options = {"name": "adaptive", "options": {"uniform": 1}}
    assert calls.rank("birds", strategy=options).body["strategy"] == options


def test_a_reservation_asks_as_a_ranking_does():
    ranking = calls.rank("birds", budget=3, balanced=True).body
    reservation = calls.next_images("birds", "ann", budget=3, balanced=True, lease_s=60).body

    assert reservation == ranking | {"annotator": "ann", "lease_s": 60}


def test_an_answer_is_read_as_what_the_contract_says():
    answer = httpx.Response(200, json={"skipped": 3})

    assert calls.skip("birds", "ann", [IMAGE]).read(answer).skipped == 3
    assert calls.delete_image("birds", IMAGE).read(httpx.Response(204)) is None
