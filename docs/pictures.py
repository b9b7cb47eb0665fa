"""Labels the digits of the demo in a browser as a person would, and takes the pictures of it.

handful demo                        # in another terminal, with an empty HANDFUL_DATA_DIR
python -m docs.pictures http://127.0.0.1:8000 handful-data/demo/digits
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import typer
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

from handful.client import Handful

PROJECT = "demo-digits"
KEYS = 56  # pressed after the grids
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
SIZE: ViewportSize = {"width": 1120, "height": 720}  # pixels
PATIENCE_MS = 60_000
SETTLED_MS = 500  # after which nothing moves any more
FOLDER = Path(__file__).parent / "pictures"

Shoot = Callable[[str], None]  # takes a picture of that name


class Walked(NamedTuple):
    """What it took, and what came of it."""

    clicks: int  # of the mouse, with which grids were confirmed
    keys: int  # pressed for images one by one
    labels: int  # that there are then
    before: float  # share of the pool that was suggested its true label
    after: float


def main() -> None:
    """Take the pictures."""
    options = _options()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("chromium is not installed, and the pictures are taken in it")
    options.out.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=FLAGS).new_page(viewport=SIZE)
        typer.echo(walk(page, options.url, options.digits, options.out))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the service")
    parser.add_argument("digits", type=Path, help="folder of class folders, the truth")
    parser.add_argument("--out", type=Path, default=FOLDER)
    return parser.parse_args()


def walk(page: Page, url: str, digits: Path, pictures: Path | None = None) -> Walked:
    """Label by grids of each digit first, then one by one.

    Args:
        digits: the images of the demo, in a folder for each digit.
        pictures: where to put the pictures; None: nowhere.
    """
    expect.set_options(timeout=PATIENCE_MS)
    page.set_default_timeout(PATIENCE_MS)
    truth = {path.name: path.parent.name for path in digits.rglob("*.png")}

    def shoot(name: str) -> None:
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(SETTLED_MS)
        if pictures is not None:
            page.screenshot(path=pictures / f"{name}.png")

    with Handful(url) as client:
        right = {
            str(image.id): truth[Path(image.filename or "").name]
            for image in client.all(client.images, PROJECT)
        }
        before = _accuracy(client, right)
        page.goto(f"{url}/#/{PROJECT}/start")
        expect(page.locator(".cards li")).to_have_count(10)
        shoot("images")
        page.get_by_role("link", name="Label", exact=True).click()
        page.get_by_role("button", name="Grid").click()
        clicks = sum(_confirm(page, right, shoot if n == 0 else None) for n in range(10))
        page.get_by_role("button", name="One by one").click()
        expect(page.locator(".stage img")).to_be_visible()
        shoot("label")
        keys = 0
        while keys < KEYS:
            keys += _label(page, right)
        expect(page.get_by_text("All is saved")).to_be_visible()
        after = _accuracy(client, right)
        labels = client.project(PROJECT).support
    _look(page, digits, shoot)
    return Walked(clicks, keys, labels, before, after)


def _confirm(page: Page, right: dict[str, str], shoot: Shoot | None) -> int:
    """Take out of a grid what does not belong, and confirm the rest; how many clicks."""
    wanted = page.get_by_label("Look for")
    digit = wanted.input_value()
    tiles = page.locator(".tiles button")
    expect(tiles.first).to_be_visible()
    wrong = [tile for tile in tiles.all() if right[_image(tile.locator("img"))] != digit]
    for tile in wrong:
        tile.click()
    if shoot is not None:
        shoot("grid")
    page.get_by_role("button", name="Confirm").click()
    expect(wanted).not_to_have_value(digit)
    expect(page.get_by_text("All is saved")).to_be_visible()
    return len(wrong) + 1


def _label(page: Page, right: dict[str, str]) -> int:
    """Say what the image is that is shown; how many keys it took."""
    expect(page.locator(".stage img")).to_be_visible()
    shown = page.locator(".stage img")
    image = _image(shown)
    digit = right[image]
    choices = page.locator(".choices button span:first-of-type").all_inner_texts()
    keys = [str(choices.index(digit) + 1)] if digit in choices else ["/", digit, "Enter"]
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator(f'.stage img[src*="{image}"]')).to_have_count(0)
    return len(keys)


def _look(page: Page, digits: Path, shoot: Shoot) -> None:
    """The other views."""
    page.get_by_role("link", name="See").click()
    expect(page.locator(".map .nsewdrag").first).to_be_visible()
    shoot("see")
    page.get_by_role("heading", name="Map of the images").evaluate("one => one.scrollIntoView()")
    area = page.locator(".map .nsewdrag").first.bounding_box()
    assert area is not None
    for n, (x, y) in enumerate([(0.7, 0.3), (0.97, 0.3), (0.97, 0.9), (0.7, 0.9), (0.7, 0.32)]):
        page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"], steps=5)
        if n == 0:
            page.mouse.down()
    page.mouse.up()
    expect(page.get_by_text("of them without a label")).to_be_visible()
    shoot("map")
    page.get_by_role("link", name="Train").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    shoot("train")
    page.get_by_role("link", name="Try").click()
    page.locator("input[type=file]").set_input_files(sorted((digits / "3").iterdir())[0])
    expect(page.get_by_role("heading", name="Nearest labeled images")).to_be_visible()
    shoot("try")


def _accuracy(client: Handful, right: dict[str, str]) -> float:
    """The share of the pool whose likeliest label is the true one."""
    ranked = client.rank(PROJECT, strategy="least_confidence", budget=10_000).images
    return sum(one.suggestions[0].label == right[str(one.image)] for one in ranked) / len(ranked)


def _image(picture: Locator) -> str:
    """The id of the image that an element shows."""
    source = picture.get_attribute("src")
    assert source is not None
    return source.split("/")[5]


if __name__ == "__main__":
    main()
