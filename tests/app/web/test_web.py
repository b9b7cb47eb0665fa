"""The labeling page, in a real browser."""

import io
import re
import shutil
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image as PILImage
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from app.api.parts import Parts
from app.sql.lookups import find_project
from app.sql.tables import Embedding, EncoderVersion, Image, Project
from app.storage.blobs import Blobs
from models.finetuning.methods import methods
from models.metalearning.learners import learners
from tests.learned_heads import add_learned_head

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
SERIOUS = {"serious", "critical"}
WAYS = ("level", "upright")
MANY = 10_000  # images
MOST_ELEMENTS = 8_000  # of a page: the map draws 3,000 images
VIEWS = ["start", "label", "see", "train", "try"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed: the labeling page is not tested"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, live_url):
    """Open the page as somebody new; whatever it complains of fails the test."""
    contexts, complaints = [], []

    def go(place: str = "", **options: object) -> Page:
        context = browser.new_context(locale="en-GB", **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{live_url}/#/{place}")
        return page

    expect.set_options(timeout=PATIENCE_MS)
    yield go
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def api(live_url):
    # A connection that waited for the browser may be closed by the server just as it is used again.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=f"{live_url}/v1/projects", timeout=60, limits=limits) as client:
        yield client


@pytest.fixture
def stripes_project(api, stripes):
    """A project with two labels of two images each, and twenty images in the pool."""
    api.post(f"{api.base_url}".rstrip("/"), json={"name": "s"}).raise_for_status()
    for way in WAYS:
        send(api, f"s/labels/{way}/support", [stripes(way, n) for n in range(2)])
    send(api, "s/pool", [stripes(way, 50 + n) for n in range(10) for way in WAYS])
    return "s"


def send(api, path, contents):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    api.post(f"/{path}", files=files).raise_for_status()


def shown(page: Page) -> str:
    """The id of the image that is to be labeled now."""
    source = page.locator(".stage img").get_attribute("src")
    assert source is not None
    return source.split("/")[5]


def labels(api) -> dict[str, str]:
    """Labels of images that somebody has labeled on the page."""
    images = api.get("/s/images", params={"limit": 1000}).json()["items"]
    return {one["id"]: one["label"] for one in images if one["label"]}


def test_from_nothing_to_a_classified_image(visit, api, stripes, tmp_path):
    files = []
    for number in range(6):
        for way in WAYS:
            files.append(tmp_path / f"{way} {number}.png")
            files[-1].write_bytes(stripes(way, number))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page = visit()

    page.get_by_role("textbox", name="Name").fill("lines")
    page.get_by_role("button", name="Create").click()
    page.locator("input[type=file]").set_input_files([*files, broken])
    expect(page.get_by_text("12 images are in the project.")).to_be_visible()
    expect(page.get_by_text("broken.png: the file is not an image")).to_be_visible()
    for way in WAYS:
        page.get_by_role("textbox", name="Name").fill(way)
        page.get_by_role("button", name="Add a label").click()
        expect(page.locator(".cards strong", has_text=way)).to_be_visible()
    page.get_by_role("link", name="Start labeling").click()
    named = {one["id"]: one["filename"] for one in api.get("/lines/images").json()["items"]}
    for _ in range(12):
        expect(page.locator(".stage img")).to_be_visible()
        way = named[shown(page)].split()[0]
        choice = page.locator(".choices button", has=page.get_by_text(way, exact=True))
        page.keyboard.press(choice.locator("kbd").inner_text())
    expect(page.get_by_text("Nothing is left to label.")).to_be_visible()
    expect(page.get_by_text("All is saved")).to_be_visible()
    page.get_by_role("link", name="Try").click()
    query = tmp_path / "query.png"
    query.write_bytes(stripes("upright", 99))
    page.locator("input[type=file]").set_input_files(query)
    expect(page.locator("tr").first).to_contain_text("upright")

    kept = api.get("/lines/images", params={"state": "support"}).json()["items"]
    assert len(kept) == 12
    assert all(one["filename"].startswith(one["label"]) for one in kept)


def test_space_accepts_s_skips_and_z_takes_back(visit, api, stripes_project):
    page = visit("s/label")
    expect(page.locator(".choices .first")).to_be_visible()
    first, before = shown(page), labels(api)
    suggested = page.locator(".choices .first span").first.inner_text()

    page.keyboard.press("Space")
    expect(page.get_by_text("All is saved")).to_be_visible()
    assert labels(api) == {**before, first: suggested}
    second = shown(page)
    page.keyboard.press("s")
    assert shown(page) not in {first, second}
    page.keyboard.press("z")
    assert shown(page) == second
    page.keyboard.press("z")
    assert shown(page) == first
    expect(page.get_by_text("All is saved")).to_be_visible()
    assert labels(api) == before


def test_a_new_label_is_typed_and_u_is_none_of_these(visit, api, stripes_project):
    page = visit("s/label")
    expect(page.locator(".stage img")).to_be_visible()
    first = shown(page)

    page.keyboard.press("/")
    page.keyboard.type("diagonal")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 labeled in this session")).to_be_visible()
    second = shown(page)
    page.keyboard.press("u")
    expect(page.get_by_text("2 labeled in this session")).to_be_visible()
    expect(page.get_by_text("All is saved")).to_be_visible()

    said = labels(api)
    assert (said[first], said[second]) == ("diagonal", "none of these")


def test_two_people_never_see_the_same_image(visit, stripes_project):
    ann, bob = visit("s/label"), visit("s/label")
    seen: dict[Page, set[str]] = {ann: set(), bob: set()}
    for page, name in ((ann, "ann"), (bob, "bob")):
        expect(page.locator(".stage img")).to_be_visible()
        page.get_by_label("Your name").fill(name)

    for _ in range(6):
        for page, images in seen.items():
            page.locator("main").focus()
            expect(page.locator(".stage img")).to_be_visible()
            images.add(shown(page))
            page.keyboard.press("1")

    assert len(seen[ann]) == len(seen[bob]) == 6
    assert not seen[ann] & seen[bob]


def test_labels_given_while_the_network_is_away_arrive_when_it_is_back(visit, api, stripes_project):
    page = visit("s/label")
    expect(page.locator(".stage img")).to_be_visible()
    before = labels(api)

    page.context.set_offline(True)
    said = {}
    for _ in range(3):
        said[shown(page)] = page.locator(".choices button span").first.inner_text()
        page.keyboard.press("1")
    expect(page.get_by_text("Offline: 3 labels wait")).to_be_visible()
    assert labels(api) == before
    page.context.set_offline(False)
    expect(page.get_by_text("All is saved")).to_be_visible()

    assert labels(api) == {**before, **said}


def test_a_reload_loses_neither_labels_nor_the_images_in_hand(visit, api, stripes_project):
    page = visit("s/label")
    expect(page.locator(".stage img")).to_be_visible()
    before, first = labels(api), shown(page)
    page.route("**/label", lambda route: route.abort())
    page.keyboard.press("1")
    second = shown(page)
    page.on("dialog", lambda dialog: dialog.accept())
    page.unroute("**/label")

    page.reload()

    expect(page.locator(".stage img")).to_be_visible()
    assert shown(page) == second
    expect(page.get_by_text("All is saved")).to_be_visible()
    assert labels(api).keys() == before.keys() | {first}


def test_who_disagrees_with_another_is_told_and_may_overrule(visit, api, stripes_project):
    page = visit("s/label")
    expect(page.locator(".choices .first")).to_be_visible()
    image = shown(page)
    mine, other = (page.locator(".choices button span").nth(n).inner_text() for n in (0, 2))
    api.put(f"/s/images/{image}/label", json={"label": other, "annotator": "ann"})

    page.keyboard.press("1")
    expect(page.get_by_text(f"ann has labeled this image as “{other}”")).to_be_visible()
    assert labels(api)[image] == other
    page.get_by_role("button", name="Keep mine").click()
    expect(page.get_by_text("All is saved")).to_be_visible()

    assert labels(api)[image] == mine


def test_strategy_and_batch_are_a_choice_that_is_kept(visit, stripes_project):
    page = visit("s/label")
    expect(page.locator(".stage img")).to_be_visible()
    page.get_by_label("Strategy").select_option("margin")
    page.get_by_label("Batch").select_option("4")
    page.evaluate("sessionStorage.clear()")

    with page.expect_request("**/pool/next") as asked:
        page.reload()

    assert asked.value.post_data_json["budget"] == 4
    assert asked.value.post_data_json["strategy"] == {"name": "margin"}
    expect(page.get_by_label("Batch")).to_have_value("4")


def test_a_grid_is_confirmed_without_those_taken_out(visit, api, stripes_project):
    page = visit("s/label")
    page.get_by_role("button", name="Grid").click()
    expect(page.locator(".tiles button").first).to_be_visible()
    before, count = labels(api), page.locator(".tiles button").count()
    assert count > 1

    page.locator(".tiles button").first.click()
    page.get_by_role("button", name=f"Confirm {count - 1}").click()
    expect(page.get_by_label("Look for")).to_have_value("upright")
    expect(page.get_by_text("All is saved")).to_be_visible()

    given = {image: label for image, label in labels(api).items() if image not in before}
    assert len(given) == count - 1
    assert set(given.values()) == {"level"}


def test_of_a_grid_what_somebody_else_has_labeled_meanwhile_is_told(visit, api, stripes_project):
    page = visit("s/label")
    page.get_by_role("button", name="Grid").click()
    tile = page.locator(".tiles img").first
    expect(tile).to_be_visible()
    source = tile.get_attribute("src")
    assert source is not None
    image = source.split("/")[5]
    api.put(f"/s/images/{image}/label", json={"label": "upright", "annotator": "ann"})

    page.get_by_role("button", name="Confirm").click()

    expect(page.get_by_text("1 of these images kept their label, such as: ")).to_be_visible()
    assert labels(api)[image] == "upright"


def draw_around(page: Page) -> int:
    """Draw around the right half of the map; how many images are in it."""
    area = page.locator(".map .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    corners = [(0.5, 0.01), (0.99, 0.01), (0.99, 0.99), (0.5, 0.99), (0.5, 0.02)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    said = page.get_by_text(" of them without a label")
    expect(said).to_be_visible()
    return int(said.inner_text().split()[2])


def test_how_few_images_do_is_a_curve_over_shots(visit, api, stripes_project, stripes):
    for way in WAYS:
        files = [("files", stripes(way, 500 + seed)) for seed in range(4)]
        api.post(f"/s/labels/{way}/support", files=files).raise_for_status()
    page = visit("s/see")

    page.get_by_role("button", name="Measure").click()

    curve = page.get_by_role("img", name="Accuracy by images of each label, of 2 labels")
    expect(curve).to_be_visible()
    assert len((curve.locator("polyline").get_attribute("points") or "").split()) == 2
    rows = curve.locator("xpath=following-sibling::table[1]//tr[td]")
    expect(rows).to_have_count(2)
    for n in range(2):
        assert re.match(r"\d+(\.\d)? %, between", rows.nth(n).locator("td").first.inner_text())


def test_what_is_drawn_around_on_the_map_is_labeled_or_looked_at_next(visit, api, stripes_project):
    page = visit("s/see")
    before = labels(api)
    count = draw_around(page)
    assert 0 < count < 20
    page.get_by_role("button", name=f"Look at {count} next").click()
    expect(page.locator(".stage img")).to_be_visible()
    hand = set()
    for _ in range(count):
        expect(page.locator(".stage img")).to_be_visible()
        hand.add(shown(page))
        page.keyboard.press("s")

    page.get_by_role("link", name="See").click()
    assert draw_around(page) == count
    page.get_by_label("Labels").select_option("upright")
    page.get_by_role("button", name=f"Label {count}", exact=True).click()
    expect(page.get_by_text(f"{count} images are “upright” now.")).to_be_visible()
    expect(page.get_by_text("All is saved")).to_be_visible()

    given = {image: label for image, label in labels(api).items() if image not in before}
    assert given == dict.fromkeys(hand, "upright")


def test_images_are_found_by_label_likeness_name_and_metadata(visit, api, stripes_project):
    special = api.get("/s/images?state=pool").json()["items"][0]["id"]
    api.put(f"/s/images/{special}/metadata", json={"metadata": {"camera": "north"}})
    page = visit("s/see")
    tiles = page.locator("h2:has-text('Images by label') + div .tiles li")
    expect(tiles).to_have_count(2)
    expect(page.get_by_label("Looks like")).to_be_hidden()

    page.get_by_role("combobox", name="Label").last.select_option("without a label")
    expect(tiles).to_have_count(20)
    ranked = api.post("/s/pool/rank", json={"budget": 100, "where": {"label": "level"}}).json()
    page.get_by_label("Looks like").select_option("level")
    expect(tiles).to_have_count(len(ranked["images"]))
    expect(tiles.first).to_contain_text("level?")
    page.get_by_label("Looks like").select_option("anything")
    page.get_by_label("File name has").fill("19.PNG")
    page.keyboard.press("Tab")
    expect(tiles).to_have_count(1)
    page.get_by_label("File name has").fill("")
    page.get_by_label("Metadata").fill("camera=north")
    page.keyboard.press("Tab")
    expect(tiles).to_have_count(1)
    page.get_by_label("Metadata").fill("camera")
    page.keyboard.press("Tab")

    expect(page.get_by_text("metadata 'camera' has no '='")).to_be_visible()


@pytest.mark.timeout(600)
def test_with_ten_thousand_images_a_key_still_shows_the_next(
    visit, api, stripes_project, live_service
):
    """And no view holds them all; `python -m bench.labeling` measures how soon."""
    add_noise(live_service[1].state.parts, MANY)
    assert api.get("/s").json()["pool"] == 20 + MANY
    page = visit("s/label")
    expect(page.locator(".stage img")).to_be_visible()
    seen = [shown(page)]
    for _ in range(30):
        page.keyboard.press("1")
        another = re.compile(f"^(?!.*{seen[-1]})")
        expect(page.locator(".stage img")).to_have_attribute("src", another)
        seen.append(shown(page))
    expect(page.get_by_text("All is saved")).to_be_visible()
    assert len(set(seen)) == 31

    for view, ready in (("see", ".map .nsewdrag"), ("label", ".stage img")):
        page.goto(f"{page.url.partition('#')[0]}#/s/{view}")
        expect(page.locator(ready).first).to_be_visible()
        assert page.evaluate("document.querySelectorAll('*').length") < MOST_ELEMENTS


def add_noise(parts: Parts, count: int) -> None:
    """Add small pictures of noise to the pool, embedded anywhere: a network would take a minute."""
    chance = np.random.default_rng(0)
    with parts.db.writing() as session:
        project = find_project(session, "s", lock=True)
        version = session.get_one(EncoderVersion, project.encoder_id)
        project.revision += 1
        images = [noise(parts.blobs, project, chance) for _ in range(count)]
        session.add_all(images)
        session.flush()
        vectors = chance.normal(size=(count, version.embedding_dim))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        session.add_all(
            Embedding(image_id=image.id, encoder_id=version.id, vector=vector)
            for image, vector in zip(images, vectors.astype(np.float16), strict=True)
        )


def noise(blobs: Blobs, project: Project, chance: np.random.Generator) -> Image:
    picture = io.BytesIO()
    PILImage.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).save(picture, "PNG")
    return Image(
        id=uuid7(),
        project_id=project.id,
        sha256=blobs.put(picture.getvalue()),
        media_type="image/png",
        width=8,
        height=8,
        bytes=picture.tell(),
        revision=project.revision,
    )


def test_a_version_shows_its_accuracy_and_its_job_what_came_out(
    visit, api, stripes_project, live_service, do
):
    options = {"recipe": {"epochs": 1}, "promote": "never"}
    job = api.post("/s/jobs", json={"kind": "finetune", "options": options}).json()
    do(live_service[1])
    summary = api.get(f"/s/jobs/{job['id']}").json()["result"]["summary"]

    page = visit("s/train")

    expect(page.get_by_text(summary)).to_be_visible()
    rows = page.get_by_role("row")
    expect(rows.nth(0)).to_contain_text("Accuracy on images it had not seen")
    expect(rows.nth(1).get_by_role("cell").nth(2)).to_have_text(re.compile(r"^\d+(\.\d)? %$"))
    expect(rows.nth(2).get_by_role("cell").nth(2)).to_be_empty()  # pretrained: not judged
    expect(rows.nth(2)).to_contain_text("serves now")


def test_what_learns_across_labels_is_started_with_other_projects(visit, api, stripes_project):
    api.post(f"{api.base_url}".rstrip("/"), json={"name": "earlier"}).raise_for_status()
    page = visit("s/train")
    choice, begin = page.get_by_label("How"), page.get_by_role("button", name="Start")
    expect(choice.locator("option")).to_have_count(len(methods) + len(learners) + 1)  # generate

    choice.select_option("adapt")
    expect(page.get_by_text("the project's encoder has learned no steps")).to_be_visible()
    expect(begin).to_be_disabled()
    choice.select_option("projections")
    expect(page.get_by_text("It wants 20 labels with eight images each")).to_be_visible()
    page.get_by_text("Learn from the labels of other projects as well").click()
    page.get_by_role("checkbox", name="earlier").check()
    with page.expect_request(lambda sent: sent.method == "POST") as request:
        begin.click()

    assert request.value.url.endswith("/v1/projects/s/jobs")
    options = {"method": {"name": "projections"}, "projects": ["earlier"]}
    assert request.value.post_data_json == {"kind": "metatrain", "options": options}
    expect(
        page.get_by_text("to learn from, 5 labels with 8 images each are needed")
    ).to_be_visible()


def test_what_moves_centroids_is_started_as_it_is(visit, stripes_project):
    page = visit("s/train")

    page.get_by_label("How").select_option("generate")
    expect(page.get_by_text("Learn from labels and clusters of the pool")).to_be_visible()
    with page.expect_request(lambda sent: sent.method == "POST") as request:
        page.get_by_role("button", name="Start").click()

    assert request.value.post_data_json == {"kind": "generate", "options": {}}


def test_a_learned_head_is_let_serve_with_a_click(visit, api, stripes_project, live_service):
    head = add_learned_head(live_service[1].state.parts, "s")
    page = visit("s/train")
    heads = page.get_by_role("table").nth(1)
    expect(heads.get_by_role("row").nth(0)).to_contain_text("Accuracy on labels it had not seen")
    expect(heads.get_by_role("row").nth(1)).to_contain_text("FEAT")
    expect(heads.get_by_role("row").nth(1)).to_contain_text("75 %")

    heads.get_by_role("button", name="Promote").click()

    expect(heads.get_by_role("row").nth(1)).to_contain_text("serves now")
    assert api.get("/s").json()["head"]["options"]["learned"] == str(head)
    heads.get_by_role("button", name="Use auto instead").click()
    expect(heads.get_by_role("button", name="Promote")).to_be_visible()
    assert api.get("/s").json()["head"]["name"] == "auto"


def test_a_job_of_any_kind_shows_how_far_it_is(visit, api, stripes_project, live_service):
    queue = live_service[1].state.parts.queue
    api.post("/s/jobs", json={"kind": "augmentation_search"}).raise_for_status()
    claim = queue.claim()
    page = visit("s/train")
    expect(page.get_by_text("preparing")).to_be_visible()

    queue.record(claim, "metrics", {"stage": "dreaming"})  # of an older service
    figures = [
        {"name": "score", "value": -0.25, "unit": ""},
        {"name": "held-out accuracy", "value": 0.75, "unit": "share"},
    ]
    progress = {"stage": "dreaming", "share": 0.5, "title": "dream 1 of 2", "figures": figures}
    queue.record(claim, "metrics", progress | {"seconds_left": 7.4})

    text = "dream 1 of 2, score -0.25, held-out accuracy 75 %, about 7 s left"
    expect(page.get_by_text(text)).to_be_visible()
    assert page.locator("progress").evaluate("bar => bar.value") == 0.5
    expect(page.get_by_role("img", name="score")).to_be_attached()


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_suits_keyboards_and_screen_readers(visit, stripes_project, view):
    page = visit(f"s/{view}", viewport={"width": 390, "height": 800})
    expect(page.get_by_text("Loading")).to_have_count(0)

    found = Axe().run(page)

    serious = [one for one in found.response["violations"] if one["impact"] in SERIOUS]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
    for _ in range(2):  # in Russian, whose words are longer, as well
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        page.locator("#language").click()
        expect(page.get_by_text("Loading")).to_have_count(0)


def test_it_speaks_russian(visit, stripes_project):
    page = visit("s/see")
    page.locator("#language").click()

    expect(page.get_by_role("link", name="Разметка")).to_be_visible()
    expect(page.get_by_role("heading", name="Обзор")).to_be_visible()


class TestWithAKey:
    """The service asks for a key."""

    @pytest.fixture
    def settings(self, settings):
        return settings.model_copy(update={"api_key": SecretStr("correct horse")})

    def test_the_key_is_asked_for_once_and_hidden_from_scripts(self, visit, live_url):
        page = visit()

        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_text("this is not the API key of the service")).to_be_visible()
        page.get_by_label("API key").fill("correct horse")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("heading", name="Projects")).to_be_visible()
        page.get_by_role("textbox", name="Name").fill("mine")
        page.get_by_role("button", name="Create").click()
        expect(page.get_by_role("heading", name="mine")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="mine")).to_be_visible()

        assert page.evaluate("document.cookie") == ""
        assert "correct horse" not in page.evaluate("JSON.stringify({...localStorage})")
