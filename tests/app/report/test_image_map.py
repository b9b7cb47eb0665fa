"""Where images lie, in two dimensions."""


def test_a_map_says_where_each_image_lies_and_what_is_known_of_it(coloured, png):
    service, red = coloured
    added = service.post("/v1/projects/birds/pool", files=[("files", png("red", 99))])
    new = added.json()["images"][0]["id"]

    found = service.get("/v1/projects/birds/report/map").json()

    points = {point["image"]: point for point in found["points"]}
    assert found["images"] == len(points) == 25
    assert 0 < found["explained"][1] <= found["explained"][0] <= 1
    assert {points[image]["label"] for image in red} == {"red"}
    assert {points[image]["confidence"] for image in red} == {None}
    assert points[new]["label"] == "red"
    assert 0.5 < points[new]["confidence"] <= 1
    others = [one["x"] for one in points.values() if one["label"] == "blue"]
    assert (min(others) > points[new]["x"]) or (max(others) < points[new]["x"])


def test_a_map_of_nothing_is_empty(birds):
    assert birds.get("/v1/projects/birds/report/map").json() == {
        "images": 0,
        "explained": [0, 0],
        "points": [],
    }
