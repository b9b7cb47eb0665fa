"""Meta-learning as a user meets it: over HTTP, from an empty server to new labels of one image."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import safetensors.torch
import torch

from bench.data import encoded
from bench.figures import progress
from bench.harness import Options, Result
from bench.omniglot import DRAWERS, SIDE, Characters, read_characters
from bench.processes import Server, wait_for
from handful.client import Handful
from handful.contract.jobs import FINAL, JobState
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.finetuning import embed_all
from models.heads.kinds.cosine import Cosine

EARLIER, NEW = "earlier", "new"
WAYS = 20  # new labels, of one drawing each
QUERIES = 10  # of each
NEAR, AHEAD = 1.0, 10.0  # points
PATIENCE_S = 3600.0


def measure_served(options: Options) -> Result:
    """Learn from earlier labels on a server, and classify new ones there and in process."""
    taught = read_characters(options.images, "train", turns=False)
    tested = read_characters(options.images, "test", turns=False)
    generator = random.Random(options.seed)
    earlier = generator.sample(range(len(taught.names)), options.labels)
    new = generator.sample(range(len(tested.names)), WAYS)
    settings = {
        "encoder": f"conv4:{options.width},image_side={SIDE}",
        "device": "cpu",
        "runtime": "pytorch",
        "workers": "1",
        "training_threads": "1",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), **settings) as server,
        Handful(server.url) as client,
    ):
        client.create_project(EARLIER)
        client.create_project(NEW, head={"name": "cosine"})
        for label in progress(earlier, "labels"):
            client.add_support(
                EARLIER, taught.names[label].replace("/", "-"), _files(taught, label)
            )
        for label in new:
            client.add_support(NEW, str(label), _files(tested, label)[:1])
        queries = [
            (label, file) for label in new for file in _files(tested, label)[1 : 1 + QUERIES]
        ]
        before = _accuracy(client, queries)
        job = client.start_job(
            NEW,
            "metatrain",
            projects=[EARLIER],
            start="random",
            ways=[5, 20],
            episodes=options.episodes,
            rate=options.rate,
            promote="always",
        ).id
        wait_for(lambda: client.job(NEW, job).state in FINAL, PATIENCE_S, pause_s=1.0)
        ended = client.job(NEW, job)
        if ended.state != JobState.SUCCEEDED or ended.result is None:
            raise RuntimeError(f"the job {ended.state}: {ended.error}")
        after = _accuracy(client, queries)
        version = UUID(ended.result.model_dump()["version"])
        weights = client.weights(NEW, version)
        verdict = ended.result.verdict
    same = _in_process(options.width, weights, tested, new)
    figures = {
        "labels": {"earlier": options.labels, "new": WAYS},
        "accuracy": {"before": before, "after": after, "in_process": same},
        "verdict": verdict.model_dump(mode="json") if verdict else None,
    }
    headline = (
        f"{WAYS} new labels of one drawing each: {before:.1f} % before, {after:.1f} % after "
        f"{options.episodes} episodes of {options.labels} earlier labels, {same:.1f} % in process; "
        f"{verdict.reason if verdict else ''}"
    )
    return Result(figures, headline, abs(after - same) <= NEAR and after - before >= AHEAD)


def _files(data: Characters, label: int) -> list[bytes]:
    """The drawings of a character, as PNG."""
    rows = data.images[label * DRAWERS : (label + 1) * DRAWERS]
    return [encoded(row.permute(1, 2, 0).numpy(), "PNG") for row in rows]


def _accuracy(client: Handful, queries: Sequence[tuple[int, bytes]]) -> float:
    """The percentage of drawings whose character is told right."""
    answers = client.classify(NEW, [file for _, file in queries]).predictions
    right = sum(
        answer.label == str(label) for answer, (label, _) in zip(answers, queries, strict=True)
    )
    return round(100 * right / len(queries), 2)


def _in_process(width: int, weights: bytes, data: Characters, new: Sequence[int]) -> float:
    """The same by the weights that the server has learned, without it."""
    encoder: Encoder = Conv4(width=width, image_side=SIDE).build(pretrained=False)
    encoder.load_state_dict(safetensors.torch.load(weights))
    rows = torch.tensor([list(range(n * DRAWERS, n * DRAWERS + 1 + QUERIES)) for n in new])
    embeddings = embed_all(encoder.eval(), data.images[rows.flatten()])
    by_label = embeddings.view(len(new), 1 + QUERIES, -1)
    head = Cosine().fit(by_label[:, 0], torch.arange(len(new)), len(new))
    answers = head.scores(by_label[:, 1:].flatten(0, 1)).argmax(dim=1)
    truth = torch.arange(len(new)).repeat_interleave(QUERIES)
    return round(100 * float((answers == truth).float().mean()), 2)
