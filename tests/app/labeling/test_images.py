"""Images are listed, read and shown."""

from tests.uploads import upload


def test_content_and_thumbnail(birds, png):
    content = png("red")
    image = upload(birds, "/pool", content).json()["images"][0]["id"]
    path = f"/v1/projects/birds/images/{image}"

    whole = birds.get(f"{path}/content")
    small = birds.get(f"{path}/thumbnail", params={"side": 16})

    assert whole.content == content
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in whole.headers["content-security-policy"]
    assert small.headers["content-type"] == "image/webp"
    again = birds.get(f"{path}/content", headers={"If-None-Match": whole.headers["etag"]})
    assert again.status_code == 304


def test_lists_page_by_cursor_without_repeating_or_skipping(birds, png):
    added = upload(birds, "/pool", *(png("red", n) for n in range(5))).json()["images"]

    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        part = birds.get("/v1/projects/birds/images", params=params).json()
        seen += [image["id"] for image in part["items"]]
        cursor = part["next_cursor"]
        if cursor is None:
            break

    assert seen == [image["id"] for image in added]


def test_images_are_found_by_state_and_label(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/pool", png("blue"))

    def found(**params):
        return len(birds.get("/v1/projects/birds/images", params=params).json()["items"])

    assert (found(), found(state="pool"), found(state="support"), found(label="red")) == (
        2,
        1,
        1,
        1,
    )
    assert len(birds.get("/v1/projects/birds/labels/red/support").json()["items"]) == 1


def test_ids_are_uuid7(birds, png):
    image = upload(birds, "/pool", png("red")).json()["images"][0]["id"]

    assert image[14] == "7"
