"""How long the labeling page makes people wait, in a real browser.

From a key press to the next image painted, in a project with many images, at the pace of a quick
annotator; and from dropping a folder of photos to the first that can be labeled.
"""

import itertools
import shutil
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from bench.data import encoded
from bench.figures import percentiles, progress
from bench.harness import ENCODER, Options, Result, run
from bench.processes import new_server, wait_for
from handful.client import Handful

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
COLOURS = {"red": [0], "green": [1], "blue": [2], "grey": [0, 1, 2]}  # their channels
PACE_S = 0.25  # between two key presses
PATIENCE_S = 120.0
PAINTED_MS = 50.0  # at most, at the 95th percentile
FIRST_S = 3.0  # from the drop to the first image

# Resolves with the milliseconds from the key press until the next image is on the screen: a task
# that is posted from a frame's callback runs after that frame was painted.
MEASURE = """() => {
  const before = document.querySelector(".stage img");
  return new Promise((resolve) => document.addEventListener("keydown", (event) => {
    const look = () => requestAnimationFrame(() => {
      const shown = document.querySelector(".stage img");
      if (!shown || shown === before || !shown.complete) return look();
      setTimeout(() => resolve(performance.now() - event.timeStamp));
    });
    look();
  }, { once: true, capture: true }));
}"""


def measure(options: Options) -> Result:
    """Press keys, and drop photos."""
    images, presses, photos = (500, 30, 100) if options.quick else (10_000, 200, 1_000)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("chromium is not installed, and the page is measured in it")
    with (
        new_server(encoder=options.encoder) as server,
        Handful(server.url) as client,
        sync_playwright() as driver,
    ):
        _prepare(client, images)
        print(f"a project with {images} images is ready", flush=True)
        page = driver.chromium.launch(executable_path=browser, args=FLAGS).new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        painted = _press(page, server.url, presses)
        first_s, all_s = _drop(page, client, server.url, server.data / "photos", photos)
    waits = percentiles(painted, 50, 95) | {"longest": round(max(painted), 1)}
    figures = {
        "images": images,
        "presses": len(painted),
        "painted_ms": waits,
        "photos_dropped": photos,
        "first_labelable_s": round(first_s, 2),
        "all_stored_s": round(all_s, 1),
    }
    headline = (
        f"from a key press to the next image: p50 {waits['p50']} ms, "
        f"p95 {waits['p95']} ms in a project of {images} images; "
        f"of {photos} photos dropped, the first can be labeled after {first_s:.1f} s"
    )
    return Result(figures, headline, waits["p95"] <= PAINTED_MS and first_s <= FIRST_S)


def _prepare(client: Handful, images: int) -> None:
    """A project whose labels have two images each, and a pool."""
    client.create_project("many")
    generator = np.random.default_rng(0)
    for colour in COLOURS:
        files = [_picture(generator, colour, 64) for _ in range(2)]
        client.add_support("many", colour, files)
    colours = itertools.islice(itertools.cycle(COLOURS), images)
    client.add_images("many", [_picture(generator, colour, 64) for colour in colours])


def _picture(generator: np.random.Generator, colour: str, side: int) -> bytes:
    """Noise of one colour, as JPEG."""
    pixels = generator.integers(0, 80, (side, side, 3))
    pixels[..., COLOURS[colour]] += 120
    return encoded(pixels, "JPEG")


def _press(page: Page, url: str, presses: int) -> list[float]:
    """Milliseconds from each key press to the next image."""
    page.goto(f"{url}/#/many/label")
    page.wait_for_selector(".choices .first")
    painted = []
    for _ in progress(range(presses), "key presses", every=50):
        waiting = page.evaluate_handle(f"() => ({{ painted: ({MEASURE})() }})")
        page.keyboard.press("Space")
        painted.append(float(page.evaluate("async (waiting) => await waiting.painted", waiting)))
        time.sleep(PACE_S)
    return painted


def _drop(page: Page, client: Handful, url: str, folder: Path, photos: int) -> tuple[float, float]:
    """Seconds from dropping photos to the first in the pool, and to the last."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    files = [folder / f"{number}.jpg" for number in range(photos)]
    for file, colour in zip(files, itertools.cycle(COLOURS)):
        file.write_bytes(_picture(generator, colour, 640))
    client.create_project("new")
    page.goto(f"{url}/#/new/start")
    page.wait_for_selector(".drop")
    started = time.perf_counter()
    page.set_input_files("input[type=file]", files)
    wait_for(lambda: client.project("new").pool, PATIENCE_S, pause_s=0.02)
    first = time.perf_counter() - started
    page.wait_for_selector(".good", timeout=3_600_000)
    return first, time.perf_counter() - started


if __name__ == "__main__":
    run(measure, ENCODER)
