"""What bad input gets: a problem that says what came and what would work, never a 5xx."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import pytest
from PIL import Image

POOL = "/v1/projects/birds/pool"


def problem(response, status, type_):
    """The response's problem document, after checking its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"/problems/{type_}"
    assert document["status"] == status
    assert document["title"]
    assert len(document["detail"]) > 15
    return document


def send(service, content, kind="image/png"):
    return service.post(POOL, content=content, headers={"Content-Type": kind})


def saved(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def vast_png():
    """A PNG that claims 60,000 x 60,000 pixels in a few kilobytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(7501 * 600))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
NOISE = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"plain text", "not an image"),
        (SVG, "SVG"),
        (NOISE[: len(NOISE) // 2], "damaged or incomplete"),
        (NOISE[:3], "not an image"),
        (vast_png(), "60000 x 60000"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "32-bit"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
    ],
    ids=["text", "svg", "truncated", "three-bytes", "vast", "float", "heic"],
)
def test_what_cannot_be_decoded_is_refused_with_the_reason(birds, content, says):
    document = problem(send(birds, content), 422, "image-not-decodable")

    assert says in document["detail"]
    assert document["position"] == 0


def test_zero_bytes(birds):
    assert "empty" in problem(send(birds, b""), 422, "no-files")["detail"]

    response = birds.post(POOL, files=[("files", ("a.png", b"", "image/png"))])

    assert "empty" in problem(response, 422, "image-not-decodable")["detail"]


PICTURES = {
    "jpeg": saved(Image.new("RGB", (30, 20), "red"), "JPEG"),
    "png": saved(Image.new("RGB", (30, 20), "red"), "PNG"),
    "webp": saved(Image.new("RGB", (30, 20), "red"), "WEBP"),
    "gif": saved(Image.new("RGB", (30, 20), "red"), "GIF"),
    "bmp": saved(Image.new("RGB", (30, 20), "red"), "BMP"),
    "tiff": saved(Image.new("RGB", (30, 20), "red"), "TIFF"),
    "animated-gif": saved(
        Image.new("RGB", (30, 20), "red"),
        "GIF",
        save_all=True,
        append_images=[Image.new("RGB", (30, 20), "blue")],
    ),
    "multi-frame-tiff": saved(
        Image.new("RGB", (30, 20), "red"),
        "TIFF",
        save_all=True,
        append_images=[Image.new("RGB", (30, 20), "blue")],
    ),
    "16-bit": saved(Image.new("I;16", (30, 20), 40_000), "PNG"),
    "cmyk": saved(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"),
    "palette-with-transparency": saved(Image.new("P", (30, 20), 1), "PNG", transparency=1),
    "one-bit": saved(Image.new("1", (30, 20), 1), "PNG"),
    "one-pixel": saved(Image.new("RGB", (1, 1), "red"), "PNG"),
    "one-pixel-high": saved(Image.new("RGB", (500, 1), "red"), "PNG"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_unusual_images_are_taken(birds, name):
    response = send(birds, PICTURES[name], "application/octet-stream")

    assert response.status_code == 201, response.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_stored_upright_whatever_its_exif_orientation(birds, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = send(birds, saved(Image.new("RGB", (30, 20), "red"), "JPEG", exif=exif)).json()
    path = f"/v1/projects/birds/images/{image['images'][0]['id']}"

    size = birds.get(path).json()
    assert (size["width"], size["height"]) == ((20, 30) if orientation >= 5 else (30, 20))
    thumbnail = Image.open(io.BytesIO(birds.get(f"{path}/thumbnail").content))
    assert thumbnail.size == (size["width"], size["height"])
    assert not thumbnail.getexif()


def test_one_bad_file_fails_alone_with_its_position(birds, png):
    files = [png("red"), b"nonsense", png("blue"), NOISE[:200]]

    answer = birds.post(
        POOL, files=[("files", (f"{n}.png", f)) for n, f in enumerate(files)]
    ).json()

    assert [i["position"] for i in answer["images"]] == [0, 2]
    assert [(f["position"], f["filename"]) for f in answer["failed"]] == [
        (1, "1.png"),
        (3, "3.png"),
    ]
    assert birds.get("/v1/projects/birds").json()["pool"] == 2


def test_when_every_file_fails_each_reason_is_told(birds):
    response = birds.post(POOL, files=[("files", ("a.png", b"x")), ("files", ("b.png", b"y"))])

    document = problem(response, 422, "nothing-stored")
    assert [f["filename"] for f in document["failed"]] == ["a.png", "b.png"]


def test_a_file_over_the_limit_fails_alone(limited, png):
    large = png("red") + bytes(3000)

    answer = limited.post(
        POOL, files=[("files", ("l.png", large)), ("files", ("s.png", png("red")))]
    )

    assert answer.status_code == 201
    assert answer.json()["failed"][0]["problem"]["type"] == "/problems/file-too-large"
    problem(send(limited, large), 413, "file-too-large")


def test_a_body_over_the_limit_is_refused(limited):
    problem(send(limited, bytes(200_000)), 413, "body-too-large")

    def endless():
        for _ in range(100):
            yield bytes(10_000)

    archive = {"Content-Type": "application/zip"}
    problem(limited.post(POOL, content=endless(), headers=archive), 413, "body-too-large")


def test_ten_thousand_files_in_one_request(birds):
    files = [("files", (f"{n}.png", b"x")) for n in range(10_000)]

    document = problem(birds.post(POOL, files=files), 413, "too-many-files")

    assert "1000" in document["detail"]


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_are_read_without_using_their_names(birds, png):
    members = {"a/1.png": png("red"), "b/2.png": png("blue"), "__MACOSX/._1.png": b"litter"}
    as_zip = send(birds, zipped(**members), "application/zip").json()
    as_tar = send(
        birds, tarred((tarfile.TarInfo("x.png"), png("green"))), "application/x-tar"
    ).json()
    as_tgz = send(
        birds, gzip.compress(tarred((tarfile.TarInfo("y.png"), png("pink")))), "application/gzip"
    ).json()
    in_form = birds.post(
        POOL, files=[("files", ("z.zip", zipped(**{"z.png": png("black")})))]
    ).json()

    assert [i["filename"] for i in as_zip["images"]] == ["a/1.png", "b/2.png"]
    assert [len(answer["images"]) for answer in (as_tar, as_tgz, in_form)] == [1, 1, 1]


def test_archive_members_that_leave_the_archive_or_link_are_refused_alone(birds, png, tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../etc/passwd"
    good = tarfile.TarInfo("good.png")
    linked_zip = io.BytesIO()
    with zipfile.ZipFile(linked_zip, "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("/absolute.png", png("red"))
        archive.writestr("good.png", png("red", 1))

    tar = send(birds, tarred((link, b""), (hard, b""), (good, png("red"))), "application/x-tar")
    escaped = send(birds, zipped(**{"../evil.png": png("blue")}), "application/zip")
    zip_ = send(birds, linked_zip.getvalue(), "application/zip")

    assert [f["filename"] for f in tar.json()["failed"]] == ["link.png", "hard.png"]
    assert len(tar.json()["images"]) == 1
    assert "leaves the archive" in problem(escaped, 422, "archive-member-refused")["detail"]
    assert [f["filename"] for f in zip_.json()["failed"]] == ["link.png", "/absolute.png"]
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_zip_bomb_is_refused_at_the_limit(limited):
    bomb = zipped(**{f"{n}.png": bytes(2000) for n in range(60)})

    response = send(limited, bomb, "application/zip")

    assert response.status_code == 422
    reasons = {f["problem"]["type"] for f in response.json()["failed"]}
    assert "/problems/archive-refused" in reasons


def test_a_tar_of_zeros_is_not_unpacked(limited):
    vast = tarfile.TarInfo("vast.png")
    bomb = gzip.compress(tarred((vast, bytes(10_000_000))))

    document = problem(send(limited, bomb, "application/gzip"), 422, "archive-refused")

    assert "unpacks to more than" in document["detail"]


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04 broken", b"nothing of the kind", gzip.compress(b"x")],
    ids=["zip", "text", "gzip"],
)
def test_damaged_archives(birds, content):
    problem(send(birds, content, "application/zip"), 422, "archive-refused")


def test_too_many_members(limited, png):
    crowd = zipped(**{f"{n}.png": png("red", n) for n in range(101)})

    assert (
        "101 files and folders"
        in problem(send(limited, crowd, "application/zip"), 422, "archive-refused")["detail"]
    )


def test_wrong_field_name(birds, png):
    document = problem(
        birds.post(POOL, files=[("image", ("a.png", png("red")))]), 422, "invalid-request"
    )

    assert "'image'" in document["detail"]
    assert "'files'" in document["detail"]


def test_a_body_of_another_kind(birds):
    problem(birds.post(POOL, json={"image": "base64"}), 415, "unsupported-media-type")
    problem(birds.post(POOL), 415, "unsupported-media-type")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(birds.post(POOL, content=b"no boundary here", headers=broken), 422, "invalid-request")


def test_unknown_project_and_label(birds, png):
    document = problem(birds.get("/v1/projects/fish"), 404, "project-not-found")
    assert "'fish'" in document["detail"]
    problem(birds.get("/v1/projects/birds/labels/heron"), 404, "label-not-found")
    problem(
        birds.post("/v1/projects/fish/pool", files=[("files", ("a.png", png("red")))]),
        404,
        "project-not-found",
    )
    image = send(birds, png("red")).json()["images"][0]["id"]
    response = birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "heron"})
    assert "labels lists them" in problem(response, 404, "label-not-found")["detail"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 300, "a/b", "..", "line\nbreak", "\x00"])
def test_names_that_cannot_be(birds, name):
    problem(birds.post("/v1/projects/birds/labels", json={"name": name}), 422, "invalid-request")
    problem(birds.post("/v1/projects", json={"name": name}), 422, "invalid-request")


@pytest.mark.parametrize("name", ["🐦", "Zaunkönig", "a b", "Ж", "50% grey?", "#1"])
def test_unusual_names_are_fine(birds, png, name):
    created = birds.post("/v1/projects/birds/labels", json={"name": name}).json()
    from urllib.parse import quote

    path = f"/v1/projects/birds/labels/{quote(name, safe='')}"
    answer = birds.post(f"{path}/support", files=[("files", ("a.png", png("red")))]).json()

    assert answer["label"]["id"] == created["id"]
    assert birds.get(path).json()["shots"] == 1


def test_duplicate_names(birds):
    birds.post("/v1/projects/birds/labels", json={"name": "heron"})
    birds.post("/v1/projects/birds/labels", json={"name": "wren"})

    problem(birds.post("/v1/projects/birds/labels", json={"name": "heron"}), 409, "already-exists")
    problem(
        birds.patch("/v1/projects/birds/labels/wren", json={"name": "heron"}), 409, "already-exists"
    )
    problem(birds.post("/v1/projects", json={"name": "birds"}), 409, "already-exists")


def test_a_misspelt_option_is_named(birds):
    rank = f"{POOL}/rank"

    assert "budgt" in problem(birds.post(rank, json={"budgt": 3}), 422, "invalid-request")["detail"]
    document = problem(birds.get("/v1/projects/birds/images?staet=pool"), 422, "invalid-request")
    assert "did you mean 'state'" in document["detail"]
    unknown = birds.post(rank, json={"strategy": {"name": "astrology"}})
    assert "margin" in problem(unknown, 422, "invalid-request")["detail"]
    option = birds.post(rank, json={"strategy": {"name": "margin", "options": {"sede": 1}}})
    assert "sede" in problem(option, 422, "invalid-request")["detail"]
    head = {"name": "cosine", "options": {"temperature": 0}}
    wrong = birds.post("/v1/projects", json={"name": "fish", "head": head})
    assert "temperature" in problem(wrong, 422, "invalid-request")["detail"]


def test_a_stale_edit_is_refused(birds):
    tag = birds.get("/v1/projects/birds").headers["etag"]
    edited = birds.patch("/v1/projects/birds", json={"description": "a"}, headers={"If-Match": tag})

    stale = birds.patch("/v1/projects/birds", json={"description": "b"}, headers={"If-Match": tag})

    assert edited.status_code == 200
    problem(stale, 412, "stale")
    assert birds.get("/v1/projects/birds").json()["description"] == "a"
    problem(birds.delete("/v1/projects/birds", headers={"If-Match": "nonsense"}), 412, "stale")


@pytest.mark.parametrize("cursor", ["nonsense", "🐦", "", "AAAA"])
def test_a_cursor_of_somebody_else(birds, cursor):
    problem(birds.get("/v1/projects", params={"cursor": cursor}), 422, "invalid-request")


def test_malformed_ids_and_json(birds):
    problem(birds.get("/v1/projects/birds/images/not-an-id"), 422, "invalid-request")
    headers = {"Content-Type": "application/json"}
    problem(birds.post("/v1/projects", content=b"{", headers=headers), 422, "invalid-request")
    problem(
        birds.post("/v1/projects", content=b'{"name": "\\ud800"}', headers=headers),
        422,
        "invalid-request",
    )


def test_unknown_addresses_and_methods(birds):
    missing = birds.get("/v2/nothing")
    wrong = birds.put("/v1/projects")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.headers["content-type"] == wrong.headers["content-type"]
    assert "/v2/nothing" in missing.json()["detail"]


def test_half_a_surrogate_pair_is_refused(birds, png):
    image = send(birds, png("red")).json()["images"][0]["id"]

    answer = birds.put(
        f"/v1/projects/birds/images/{image}/label",
        content=rb'{"label": "\ud800"}',
        headers={"Content-Type": "application/json"},
    )

    assert "half of a pair" in problem(answer, 422, "invalid-request")["detail"]
