"""Labels are set, contested, taken back, and remembered with who gave them."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.uploads import upload


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


def test_a_second_annotator_learns_what_the_first_said(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/label"
    birds.put(path, json={"label": "red", "annotator": "ann"})

    refused = birds.put(path, json={"label": "blue", "annotator": "bob"})
    agreed = birds.put(path, json={"label": "red", "annotator": "bob"})
    corrected = birds.put(path, json={"label": "blue", "annotator": "ann"})
    birds.put(path, json={"label": "red", "annotator": "ann"})
    replaced = birds.put(path, json={"label": "blue", "annotator": "bob", "replace": True})

    assert refused.status_code == 409
    problem = refused.json()
    assert problem["type"] == "/problems/already-labeled"
    assert (problem["label"], problem["annotator"]) == ("red", "ann")
    assert "replace: true" in problem["detail"]
    assert (agreed.status_code, corrected.status_code) == (200, 200)
    assert replaced.json()["label"] == "blue"


def test_of_many_who_label_an_image_at_once_one_wins(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/label"
    together = threading.Barrier(4)

    def label(n: int) -> int:
        together.wait()
        body = {"label": ("red", "blue")[n % 2], "annotator": f"annotator {n}"}
        return birds.put(path, json=body).status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(threads.map(label, range(4)))

    assert statuses == [200, 200, 409, 409]  # the other with the same label agrees


def test_among_many_labels_the_contested_one_fails_alone(birds, pool):
    birds.put(
        f"/v1/projects/birds/images/{pool[0]}/label", json={"label": "red", "annotator": "ann"}
    )

    changes = [{"image": i, "label": "blue", "annotator": "bob"} for i in pool[:2]]
    answer = birds.post("/v1/projects/birds/annotations", json={"annotations": changes}).json()

    assert answer["applied"] == 1
    assert answer["failed"][0]["problem"]["type"] == "/problems/already-labeled"
