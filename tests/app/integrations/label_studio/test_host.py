"""Images of tasks are read from wherever they are."""

import base64
from urllib.parse import parse_qs, urlsplit

from tests.app.integrations.label_studio.conftest import (
    AT,
    Studio,
    labels,
    predict,
    set_up,
    task,
    upload,
)


def test_images_come_from_wherever_tasks_have_them(backend, studio, png):
    set_up(backend)
    data = "data:image/png;base64," + base64.b64encode(png("green")).decode()

    predict(
        backend,
        upload(1, "red1.png"),
        task(2, "/data/local-files/?d=some/red2.png"),
        task(3, f"{studio}/elsewhere/red3.png"),
        task(4, data),
        task(5, "s3://bucket/red5.png"),
        task(6, "http://127.0.0.1:9/red.png"),
        task(7, "file:///etc/passwd"),
        task(8, None),
        task(9, "data:image/png,plain"),
        task(10, "data:image/png;base64,####"),
    )

    assert sorted(labels(backend)) == ["red1.png", "red2.png", "red3.png", "task-4"]
    assert "/storage-data/uploaded/?filepath=upload%2F7%2Fred1.png" in Studio.asked
    (signed,) = [a for a in Studio.asked if a.startswith("/tasks/5/presign/")]
    assert base64.urlsafe_b64decode(parse_qs(urlsplit(signed).query)["fileuri"][0]) == (
        b"s3://bucket/red5.png"
    )


def test_without_its_address_images_in_label_studio_are_not_looked_for(birds):
    set_up(birds)

    (nothing,) = predict(birds, upload(1, "red1.png"))

    assert nothing["result"] == []
    assert birds.get("/v1/projects/birds").json()["pool"] == 0


def test_label_studio_that_is_not_set_or_away_is_told(birds, backend):
    refused = birds.post(f"{AT}/push", json={"project": 7})
    assert refused.status_code == 422
    assert "set HANDFUL_LABEL_STUDIO_URL" in refused.json()["detail"]

    away = backend.post(f"{AT}/push", json={"project": 7})
    assert away.status_code == 502
    assert "answered GET /api/projects/7 with status 404" in away.json()["detail"]
