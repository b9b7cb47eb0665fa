"""From support images to predictions and suggestions, over HTTP."""

import pytest

from app.sql.lookups import find_project


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(settings, request):
    """The same behaviour is promised on both databases."""
    if request.param == "sqlite":
        return settings
    return settings.model_copy(update={"database_url": request.getfixturevalue("postgresql")()})


def upload(service, path, *contents, **params):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    return service.post(f"/v1/projects/birds{path}", files=files, params=params)


def test_two_labels_are_told_apart(birds, png):
    red = upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("blue"), png("blue", 1))

    answer = upload(birds, "/classify", png("red", 2), png("blue", 2)).json()

    assert red.status_code == 201
    assert red.json()["label"]["shots"] == 2
    assert [p["label"] for p in answer["predictions"]] == ["red", "blue"]
    assert answer["encoder"] == birds.get("/v1/projects/birds").json()["encoder"]["id"]


def test_probabilities_sum_to_one_over_all_labels_and_come_likeliest_first(birds, png):
    for colour in ("red", "blue", "green"):
        upload(birds, f"/labels/{colour}/support", png(colour))

    prediction = upload(birds, "/classify", png("red", 5), top_k=3).json()["predictions"][0]
    two = upload(birds, "/classify", png("red", 5), top_k=2).json()["predictions"][0]

    probabilities = [p["probability"] for p in prediction["probabilities"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)
    assert two["probabilities"] == prediction["probabilities"][:2]
    assert all(-1 <= p["cosine"] <= 1 for p in prediction["probabilities"])


def test_the_nearest_support_images_are_named(birds, png):
    red = upload(birds, "/labels/red/support", png("red")).json()["images"][0]
    upload(birds, "/labels/blue/support", png("blue"))

    nearest = upload(birds, "/classify", png("red"), nearest=1).json()["predictions"][0]["nearest"]

    assert [n["image"] for n in nearest] == [red["id"]]
    assert nearest[0]["cosine"] == pytest.approx(1, abs=1e-3)


def test_a_label_added_a_moment_ago_takes_part(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    upload(birds, "/classify", png("green", 1))
    upload(birds, "/labels/green/support", png("green"))

    label = upload(birds, "/classify", png("green", 1)).json()["predictions"][0]["label"]

    assert label == "green"


def test_the_same_image_twice_is_one_shot(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    again = upload(birds, "/labels/red/support", png("red"), png("red")).json()

    assert again["label"]["shots"] == 1
    assert [image["created"] for image in again["images"]] == [False, False]


def test_relabeling_an_image_takes_it_from_its_old_label(birds, png):
    upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("red", 1))

    red = upload(birds, "/labels/red/support", png("red", 2)).json()

    assert red["label"]["shots"] == 2


def test_an_import_can_keep_what_people_corrected(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    kept = upload(birds, "/labels/blue/support", png("red"), existing="keep").json()

    assert kept["images"][0]["label"] == "red"
    assert kept["label"]["shots"] == 0


def test_an_upload_to_the_pool_never_unlabels(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    added = upload(birds, "/pool", png("red")).json()

    assert added["images"][0]["label"] == "red"
    assert birds.get("/v1/projects/birds").json()["pool"] == 0


def centroid_cosines(service, content):
    answer = upload(service, "/classify", content).json()["predictions"][0]
    return {p["label"]: p["cosine"] for p in answer["probabilities"]}


def test_after_a_removal_the_centroid_is_exactly_what_it_would_have_been(birds, png):
    upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("blue"))
    before = centroid_cosines(birds, png("purple"))

    extra = upload(birds, "/labels/red/support", png("yellow")).json()["images"][0]["id"]
    moved = centroid_cosines(birds, png("purple"))
    birds.delete(f"/v1/projects/birds/images/{extra}")

    assert moved != before
    assert centroid_cosines(birds, png("purple")) == before


def test_taking_a_label_back_removes_the_shot(birds, png):
    head = {"name": "cosine"}  # not centred: the image stays in the pool
    birds.patch("/v1/projects/birds", json={"head": head})
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    before = centroid_cosines(birds, png("purple"))

    extra = upload(birds, "/labels/red/support", png("yellow")).json()["images"][0]["id"]
    birds.delete(f"/v1/projects/birds/images/{extra}/label")

    assert centroid_cosines(birds, png("purple")) == before


def test_one_label_is_not_enough_to_classify(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    response = upload(birds, "/classify", png("red"))

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "/problems/too-few-labels",
        "title": "Classification needs support images in at least two labels",
        "status": 409,
        "detail": "1 label(s) have support images; register some for at least two",
    }


@pytest.mark.parametrize("name", ["random", "least_confidence", "margin", "entropy"])
def test_ranks_the_pool(birds, png, name):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    added = upload(birds, "/pool", png("red", 3), png("purple"), png("blue", 3)).json()["images"]

    answer = birds.post(
        "/v1/projects/birds/pool/rank", json={"strategy": {"name": name}, "budget": 2}
    ).json()

    ranked = [image["image"] for image in answer["images"]]
    assert len(ranked) == 2
    assert set(ranked) <= {image["id"] for image in added}
    if name != "random":
        assert ranked[0] == added[1]["id"]  # purple lies between red and blue


def test_a_labeled_image_leaves_the_ranking_and_an_unlabeled_one_returns(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    image = upload(birds, "/pool", png("purple")).json()["images"][0]["id"]

    def ranked():
        answer = birds.post("/v1/projects/birds/pool/rank", json={}).json()
        return [i["image"] for i in answer["images"]]

    assert ranked() == [image]
    birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "red"})
    assert ranked() == []
    birds.delete(f"/v1/projects/birds/images/{image}/label")
    assert ranked() == [image]


def test_random_needs_no_labels_and_margin_does(birds, png):
    upload(birds, "/pool", png("red"))

    def rank(name):
        return birds.post("/v1/projects/birds/pool/rank", json={"strategy": {"name": name}})

    assert len(rank("random").json()["images"]) == 1
    assert len(rank("adaptive").json()["images"]) == 1
    assert rank("margin").status_code == 409


def test_the_centred_head_uses_the_pool(service, png):
    head = {"name": "cosine", "options": {"centered": True}}
    service.post("/v1/projects", json={"name": "birds", "head": head})
    upload(service, "/labels/red/support", png("red"))
    upload(service, "/labels/blue/support", png("blue"))
    before = centroid_cosines(service, png("purple"))

    upload(service, "/pool", png("green"), png("yellow"))

    assert before["red"] == pytest.approx(-before["blue"], abs=1e-3)  # symmetric about the mean
    assert centroid_cosines(service, png("purple")) != before


def test_history_tells_who_said_what_and_undo_goes_back_step_by_step(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    image = upload(birds, "/pool", png("purple")).json()["images"][0]["id"]
    path = f"/v1/projects/birds/images/{image}"

    birds.put(f"{path}/label", json={"label": "red", "annotator": "ann"})
    birds.put(f"{path}/label", json={"label": "blue", "annotator": "bob", "replace": True})
    first = birds.post(f"{path}/label/undo").json()
    second = birds.post(f"{path}/label/undo").json()
    third = birds.post(f"{path}/label/undo")

    assert (first["label"], second["label"]) == ("red", None)
    assert third.status_code == 409
    history = birds.get(f"{path}/annotations").json()["items"]
    assert [(h["label"], h["annotator"], h["undone"]) for h in history] == [
        (None, None, False),
        ("red", None, False),
        ("blue", "bob", True),
        ("red", "ann", True),
    ]


def test_many_labels_at_once_and_the_wrong_ones_fail_alone(birds, png):
    birds.post("/v1/projects/birds/labels", json={"name": "red"})
    images = [i["id"] for i in upload(birds, "/pool", png("red"), png("red", 1)).json()["images"]]
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"

    answer = birds.post(
        "/v1/projects/birds/annotations",
        json={
            "annotations": [
                {"image": images[0], "label": "red"},
                {"image": nobody, "label": "red"},
                {"image": images[1], "label": "rde"},
            ]
        },
    ).json()

    assert answer["applied"] == 1
    assert [(f["position"], f["problem"]["type"]) for f in answer["failed"]] == [
        (1, "/problems/image-not-found"),
        (2, "/problems/label-not-found"),
    ]


def test_deleting_a_label_sends_its_images_to_the_pool(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    assert birds.delete("/v1/projects/birds/labels/red").status_code == 204

    project = birds.get("/v1/projects/birds").json()
    assert (project["labels"], project["support"], project["pool"]) == (0, 0, 1)


def test_a_head_is_fitted_anew_for_a_label_and_not_for_each_upload(birds, png):
    parts = birds.app.state.parts

    def fitted():
        with parts.db.reading() as session:
            return parts.ranker.predictors.fitted(find_project(session, "birds"))

    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    for n in range(22):
        upload(birds, "/pool", png("green", n))
    before = fitted()

    upload(birds, "/pool", png("green", 22))
    assert fitted() is before

    upload(birds, "/labels/red/support", png("red", 1))
    assert fitted() is not before


def test_renaming_a_label_keeps_its_support(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    assert upload(birds, "/classify", png("red", 1)).json()["predictions"][0]["label"] == "red"

    birds.patch("/v1/projects/birds/labels/red", json={"name": "crimson"})

    assert upload(birds, "/classify", png("red", 1)).json()["predictions"][0]["label"] == "crimson"


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


def test_deleting_a_project_takes_all_it_has(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    assert birds.delete("/v1/projects/birds").status_code == 204

    assert birds.get("/v1/projects/birds").status_code == 404
    assert birds.post("/v1/projects", json={"name": "birds"}).status_code == 201


def test_files_of_embeddings_go_with_their_project(birds, png, settings):
    for label in ("red", "blue"):
        upload(birds, f"/labels/{label}/support", png(label))
    upload(birds, "/pool", png("green"))
    assert birds.post("/v1/projects/birds/pool/rank", json={"budget": 1}).status_code == 200
    before = list(settings.vector_files.glob("*/*.vectors"))

    birds.delete("/v1/projects/birds")

    assert len(before) == 1
    assert list(settings.vector_files.glob("*/*")) == []


def test_projects_do_not_see_each_other(birds, png):
    image = upload(birds, "/pool", png("red")).json()["images"][0]["id"]
    birds.post("/v1/projects", json={"name": "fish"})

    for method, path in [
        ("GET", ""),
        ("GET", "/content"),
        ("GET", "/thumbnail"),
        ("GET", "/annotations"),
        ("DELETE", ""),
        ("DELETE", "/label"),
        ("POST", "/label/undo"),
    ]:
        response = birds.request(method, f"/v1/projects/fish/images/{image}{path}")
        assert response.status_code == 404, (method, path)


def test_ids_are_uuid7(birds, png):
    image = upload(birds, "/pool", png("red")).json()["images"][0]["id"]

    assert image[14] == "7"
