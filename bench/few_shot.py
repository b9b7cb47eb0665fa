"""Accuracy from few shots, over HTTP: what a client gets, beside another implementation.

The service classifies every test image of every draw; nothing is computed here but the share of
right answers. `bench.heads` compares all heads, and those of peers, on the same embeddings.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from bench.data import Photo, draw_shots, split, targets_of
from bench.figures import in_words, mean
from bench.harness import ENCODER, Options, Result, option, run
from bench.processes import new_server
from handful.client import Handful

PROJECT = "few-shot"
SHOTS = (1, 5, 20, 100)
CENTERED = {"cosine": False, "centered": True}  # by the name of what is judged
# Accuracy in %, of another implementation on the same images (shared with the data sets).
REFERENCE = {
    "clothing": {"cosine": (51.3, 73.6, 82.5, 85.5), "centered": (54.9, 73.9, 80.9, 83.9)},
    "sign-digits": {"cosine": (43.4, 66.0, 78.3, 82.3), "centered": (47.7, 66.0, 77.3, 80.9)},
}
# Points. Only `clothing` is judged, whose test images are fixed; even there the mean of 8 draws
# has a standard error of 2.4 points at one shot.
TOLERANCE = 1.5


def measure(options: Options) -> Result:
    """Classify the test images of every draw."""
    name = options.images.resolve().name
    train, test = split(options.images)
    shots, repeats = ((1, 5), 2) if options.quick else (SHOTS, 8)
    table: dict[str, dict[str, list[float]]] = {row: {} for row in CENTERED}
    with new_server(encoder=options.encoder) as server, Handful(server.url) as client:
        ids = _fill(client, train)
        targets = targets_of(train, train)
        for n in shots:
            draws = []
            for seed in range(min(repeats, 3) if n >= 100 else repeats):
                rows, _ = draw_shots(targets, n, seed)
                labels = {ids[row]: train[row].label for row in rows.tolist()}
                draws.append(_judge(client, labels, test))
                print(f"{n} shots, seed {seed}: {in_words(draws[-1])}", flush=True)
            for row in CENTERED:
                of = [draw[row] for draw in draws]
                table[row][str(n)] = [round(x, 2) for x in (mean(of), min(of), max(of))]
    differences = [
        abs(table[row][str(n)][0] - value)
        for row, values in REFERENCE.get(name, {}).items()
        for n, value in zip(SHOTS, values, strict=True)
        if n in shots
    ]
    headline = f"{name}: cosine over HTTP " + ", ".join(
        f"{table['cosine'][str(n)][0]:.1f} % at {n}" for n in shots
    )
    if differences:
        headline += f"; at most {max(differences):.1f} points from the reference"
    goal_met = name != "clothing" or max(differences) <= TOLERANCE
    return Result({"accuracy": table}, headline, goal_met)


def _fill(client: Handful, train: Sequence[Photo]) -> list[UUID]:
    """The labels, and a pool; the ids of its images."""
    client.create_project(PROJECT)
    for label in sorted({image.label for image in train}):
        client.create_label(PROJECT, label)
    added = client.add_images(PROJECT, [image.path for image in train])
    if added.failed:  # which would spoil the comparison
        raise RuntimeError(f"{len(added.failed)} images failed, first {added.failed[0]}")
    return [image.id for image in sorted(added.images, key=lambda image: image.position)]


def _judge(client: Handful, labels: dict[UUID, str], test: Sequence[Photo]) -> dict[str, float]:
    """Accuracy in % with these labels, centred or not."""
    client.annotate(PROJECT, labels)
    accuracies = {}
    for row, centered in CENTERED.items():
        client.edit_project(PROJECT, head={"name": "cosine", "options": {"centered": centered}})
        accuracies[row] = _accuracy(client, test)
    client.annotate(PROJECT, dict.fromkeys(labels, None))
    return accuracies


def _accuracy(client: Handful, test: Sequence[Photo]) -> float:
    def hits(batch: Sequence[Photo]) -> int:
        answer = client.classify(PROJECT, [image.path for image in batch], top_k=1, nearest=0)
        if answer.failed:
            raise RuntimeError(f"an image was not classified: {answer.failed[0]}")
        return sum(p.label == batch[p.position].label for p in answer.predictions)

    batches = [test[start : start + 16] for start in range(0, len(test), 16)]
    with ThreadPoolExecutor(4) as threads:
        return 100 * sum(threads.map(hits, batches)) / len(test)


if __name__ == "__main__":
    images = option("--images", type=Path, required=True, help="folder of class folders")
    run(measure, images, ENCODER)
