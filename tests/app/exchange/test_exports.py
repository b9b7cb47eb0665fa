"""A project is written as it was when the export began."""

from app.exchange.exports import BLOCK_BYTES, ExportQuery, blocks
from app.exchange.formats import formats


def test_small_parts_are_sent_together_and_none_is_lost():
    parts = [bytes([n]) * 1000 for n in range(200)]

    sent = list(blocks(parts))

    assert b"".join(sent) == b"".join(parts)
    assert all(len(block) >= BLOCK_BYTES for block in sent[:-1])
    assert list(blocks([])) == []


def test_an_image_that_goes_meanwhile_is_left_out_and_one_that_comes_is_not_in(birds, png):
    files = [("files", (f"{n}.png", png("red", n))) for n in range(3)]
    images = birds.post("/v1/projects/birds/pool", files=files).json()["images"]
    exports = birds.app.state.parts.exports
    export = exports.export("birds", formats["csv_manifest"](), ExportQuery("all", None, False))

    birds.delete(f"/v1/projects/birds/images/{images[0]['id']}")
    birds.post("/v1/projects/birds/pool", files=[("files", ("late.png", png("blue")))])
    text = b"".join(export.parts).decode()

    assert [image["id"] in text for image in images] == [False, True, True]
    assert "late.png" not in text
    assert export.filename == "birds.csv"
