"""What meta-training takes in memory, beside what `recipes` says that it will.

Each case in a process of its own: what the estimate says, and by how much the process grows at
most, beyond what it holds before the first step, in two steps of the largest episode of the usual
shape. The encoder is `conv4` from random weights at its usual 84 pixels; the images are noise,
which takes as much as any. Goals: all within 1.5 x, and those of a job at its defaults in 2 GB.
"""

import multiprocessing
import resource
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from app.inference.process import keep_freed_memory
from app.jobs.planning.label_splits import USUAL_SHAPE
from bench.harness import Options, Result, option, run
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import start
from models.metalearning.cost import measure_episodes
from models.metalearning.episodes import EpisodeShape, LabelSplit, bounds
from models.metalearning.learners import learners
from models.training.recipe import Recipe

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prototypical": ("prototypical", {}),
    "maml": ("maml", {}),
    "maml, 5 steps": ("maml", {"steps": 5}),
    "maml, 5 steps, first order": ("maml", {"steps": 5, "order": "first"}),
    "lstm_learner": ("lstm_learner", {}),
}
DEFAULTS = ("prototypical", "maml", "lstm_learner")
WITHIN, MOST = 1.5, 2e9  # bytes
STEPS = 2


def measure(options: Options) -> Result:
    """Measure each case twice, in processes of its own."""
    processes = multiprocessing.get_context("spawn")
    rows = {}
    for case in options.cases:
        figures = []
        for target in (_estimate, _peak):
            receiver, sender = processes.Pipe(duplex=False)
            process = processes.Process(target=target, args=(case, options.width, sender))
            process.start()
            figures.append(receiver.recv())
            process.join()
        estimate, peak = figures
        rows[case] = {
            "estimated_mb": round(estimate / 1e6),
            "measured_mb": round(peak / 1e6),
            "ratio": round(estimate / peak, 2),
        }
        print(case, rows[case], flush=True)
    ratios = [row["ratio"] for row in rows.values()]
    largest = max((rows[case]["measured_mb"] for case in DEFAULTS if case in rows), default=0)
    headline = (
        f"estimates {min(ratios):.2f} to {max(ratios):.2f} x what is measured (goal within "
        f"{WITHIN}); at its defaults a job takes up to {largest} MB (goal {MOST / 1e6:.0f})"
    )
    met = all(1 / WITHIN <= ratio <= WITHIN for ratio in ratios) and largest <= MOST / 1e6
    return Result({"memory": rows}, headline, met)


def _estimate(case: str, width: int, sender: Connection) -> None:
    """As `recipes` has it."""
    name, options = CASES[case]
    torch.set_num_threads(1)
    kind: Any = learners[name]
    cost = measure_episodes(kind(**options), Conv4(width=width).build(), USUAL_SHAPE, 1)
    sender.send(cost.memory)


def _peak(case: str, width: int, sender: Connection) -> None:
    """Bytes that training takes beyond what there was."""
    name, options = CASES[case]
    torch.set_num_threads(1)
    keep_freed_memory()  # as jobs do
    kind: Any = learners[name]
    ways, shots = bounds(USUAL_SHAPE.ways)[1], bounds(USUAL_SHAPE.shots)[1]
    shape = EpisodeShape(ways=ways, shots=shots, queries=USUAL_SHAPE.queries)
    encoder = Conv4(width=width).build()
    size = (ways * shape.images, 3, *[encoder.preprocessing.crop] * 2)
    noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=Generator().manual_seed(0))
    encoder.embed(noise[:8])  # libraries are loaded
    before = _resident()
    training = start(
        kind(**options),
        encoder,
        noise,
        torch.arange(ways).repeat_interleave(shape.images),
        LabelSplit(list(range(ways)), [], []),
        shape,
        Recipe(epochs=STEPS, rate=1e-6),
        episodes_an_epoch=1,
        fresh=False,
    )
    for _ in training:
        pass
    sender.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    run(
        measure,
        option("--cases", list(CASES), nargs="*", quick=["prototypical", "maml"]),
        option("--width", 64, quick=16, help="channels of the network"),
    )
