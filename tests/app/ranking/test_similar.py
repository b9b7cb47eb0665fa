"""The images that look most alike."""


def test_similar_images_come_closest_first_without_the_image_itself(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/similar"

    similar = birds.get(path, params={"limit": 5}).json()["images"]
    whole = birds.get(path, params={"limit": 1000}).json()["images"]

    cosines = [s["cosine"] for s in whole]
    assert cosines == sorted(cosines, reverse=True)
    assert similar == whole[:5]
    assert len(whole) == 13
    assert pool[0] not in [s["image"] for s in whole]
    assert {s["label"] for s in whole} == {None, "red", "blue"}
    birds.delete(f"/v1/projects/birds/images/{similar[0]['image']}")
    assert birds.get(path, params={"limit": 5}).json()["images"][0] == whole[1]


def test_similar_to_an_image_that_is_not_there(birds, pool):
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"

    assert birds.get(f"/v1/projects/birds/images/{nobody}/similar").status_code == 404
