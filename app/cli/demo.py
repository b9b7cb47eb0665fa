"""The whole loop on real images, over HTTP: register, classify, rank."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from handful.calls import project_path
from handful.client import Handful
from handful.folders import CONNECTIONS, REQUEST_FILES, FolderImage, ImportOutcome, scan, upload

SHOTS = 5
SHOWN = 5


class DemoRefused(RuntimeError):
    """The images do not suit the demo; the message says what would."""


class _JudgedQuery(NamedTuple):
    """A query image, its true label and what the service made of it."""

    path: Path
    truth: str
    predicted: str


def write_digits(folder: Path) -> Path:
    """The 1,797 handwritten digits of scikit-learn as PNG files, one folder for each.

    8 x 8 pixels, dark on light. Alpaydin and Kaynak, 1998. https://doi.org/10.24432/C50P49
    """
    digits = load_digits()
    for number, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(target) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 - image * 255 / 16).astype(np.uint8)).save(path)
    return folder


def choose(folder: Path, seed: int = 0) -> list[FolderImage]:
    """The images of class folders; of each label, `SHOTS` at random are support, the rest pool.

    Raises:
        DemoRefused: fewer than two labels, or nothing left to classify.
        NothingToImport: not a folder, or one without images.
    """
    labeled = [source for source in scan(folder) if source.label is not None]
    drawn: list[FolderImage] = []
    for label, sources in groupby(labeled, key=lambda source: source.label):
        paths = [source.path for source in sources]
        random.Random(seed).shuffle(paths)
        drawn += [FolderImage(path, label if n < SHOTS else None) for n, path in enumerate(paths)]
    if len({source.label for source in drawn} - {None}) < 2 or all(s.label for s in drawn):
        raise DemoRefused(
            f"{folder} needs at least two folders, one for each label, "
            f"with more than {SHOTS} images in some of them"
        )
    return drawn


def run(client: Handful, folder: Path, console: Console) -> None:
    """Show the loop on the images of `folder`.

    Raises:
        DemoRefused: the images do not suit.
    """
    sources = choose(folder)
    support = [source for source in sources if source.label is not None]
    pool = [source for source in sources if source.label is None]
    project = f"demo-{folder.resolve().name}"
    with _progress(console) as progress:
        client.get_or_create_project(project)
        _upload(client, project, support, "Registering support images", progress)
        added, pool_s = _upload(client, project, pool, "Adding the others to the pool", progress)
        judged, classify_s = _classify(
            client, project, folder, list(added.paths.values()), progress
        )
    started = time.monotonic()
    ranked = client.rank(project, strategy="margin", budget=SHOWN).images
    rank_s = time.monotonic() - started
    _print_accuracy(console, judged, support)
    stored = f"stored {added.added / pool_s:.0f}" if added.added else "the pool was there already"
    console.print(
        f"Throughput over HTTP, images/s: {stored}, classified {len(judged) / classify_s:.0f}; "
        f"ranked the pool of {len(judged)} in {rank_s:.2f} s."
    )
    by_path = {one.path: one for one in judged}
    _print_ranking(
        console,
        folder,
        [(by_path.get(added.paths.get(r.image, folder)), r.score) for r in ranked],
    )
    console.print(
        f"\nAPI docs      {client.url}/docs"
        f"\nThis project  {client.url}{project_path(project)}"
        f"\nIts images    {client.url}{project_path(project, 'images')}",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def serving(server: uvicorn.Server, sockets: list[Any]) -> Iterator[threading.Thread]:
    """The server on a thread of its own, stopped at the end."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, name="server")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield thread
    finally:
        server.should_exit = True
        thread.join()


def _upload(
    client: Handful, project: str, sources: Sequence[FolderImage], what: str, progress: Progress
) -> tuple[ImportOutcome, float]:
    """What became of the images, and the seconds that it took."""
    task = progress.add_task(what, total=len(sources))
    started = time.monotonic()
    report = upload(client, project, sources, lambda n: progress.advance(task, n))
    for path, reason in report.failed:
        progress.console.print(f"{path}: {reason}", style="yellow", markup=False)
    return report, time.monotonic() - started


def _classify(
    client: Handful, project: str, folder: Path, paths: Sequence[Path], progress: Progress
) -> tuple[list[_JudgedQuery], float]:
    batches = [paths[i : i + REQUEST_FILES] for i in range(0, len(paths), REQUEST_FILES)]
    task = progress.add_task("Classifying the others", total=len(paths))
    judged: list[_JudgedQuery] = []
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = threads.map(lambda b: client.classify(project, b, top_k=1, nearest=0), batches)
        for batch, answer in zip(batches, answers, strict=True):
            for prediction in answer.predictions:
                path = batch[prediction.position]
                truth = path.relative_to(folder).parts[0]
                judged.append(_JudgedQuery(path, truth, prediction.label))
            progress.advance(task, len(batch))
    return judged, time.monotonic() - started


def _print_accuracy(
    console: Console, judged: list[_JudgedQuery], support: Sequence[FolderImage]
) -> None:
    right = sum(one.truth == one.predicted for one in judged)
    interval = binomtest(right, len(judged)).proportion_ci(method="wilson")
    labels = len({source.label for source in support})
    console.print(
        f"\nAccuracy {right / len(judged):.1%} "
        f"(95 % interval {interval.low:.1%} to {interval.high:.1%}): {right} of {len(judged)} "
        f"images right, from {len(support)} support images of {labels} labels; "
        f"chance would be {1 / labels:.0%}."
    )


def _print_ranking(
    console: Console, folder: Path, ranked: Sequence[tuple[_JudgedQuery | None, float]]
) -> None:
    table = Table(title="\nMost worth labeling next (margin)", title_justify="left")
    for column in ("file", "score", "predicted", "true"):
        table.add_column(column)
    for one, score in ranked:
        if one is not None:  # somebody else may have added images meanwhile
            table.add_row(
                str(one.path.relative_to(folder)), f"{score:.3f}", one.predicted, one.truth
            )
    console.print(table)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<30}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
