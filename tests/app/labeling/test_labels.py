"""Labels are made, renamed and removed."""

from tests.uploads import upload


def test_deleting_a_label_sends_its_images_to_the_pool(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    assert birds.delete("/v1/projects/birds/labels/red").status_code == 204

    project = birds.get("/v1/projects/birds").json()
    assert (project["labels"], project["support"], project["pool"]) == (0, 0, 1)


def test_renaming_a_label_keeps_its_support(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    assert upload(birds, "/classify", png("red", 1)).json()["predictions"][0]["label"] == "red"

    birds.patch("/v1/projects/birds/labels/red", json={"name": "crimson"})

    assert upload(birds, "/classify", png("red", 1)).json()["predictions"][0]["label"] == "crimson"


def test_a_name_is_taken_once_in_each_project(birds):
    path = "/v1/projects/birds/labels"
    wren = birds.post(path, json={"name": "wren"}).json()["id"]
    birds.post(path, json={"name": "owl"})

    again = birds.post(path, json={"name": " wren "})
    renamed = birds.patch(f"{path}/owl", json={"name": "wren"})
    same = birds.patch(f"{path}/{wren}", json={"name": "wren"})

    assert (again.status_code, renamed.status_code, same.status_code) == (409, 409, 200)
    birds.post("/v1/projects", json={"name": "fish"})
    assert birds.post("/v1/projects/fish/labels", json={"name": "wren"}).status_code == 201
