"""Two random views of each image: images a second on one thread, beside lightly's transforms.

The same operations at the same strengths (those of SimCLR), on the same decoded images in memory.
Ours and lightly's take turns, so that both meet the same machine.
"""

import itertools

import torch
from torch import Generator

from bench.figures import rate_of_turns, spreads
from bench.harness import NO_PEER, Options, Result, peers, run
from bench.tasks import ask_peer
from models.pretraining.views import Views
from models.training.loop import as_values

GOALS = {32: 5.0, 64: 3.0, 128: 0.0}  # times lightly, by the side of the images in pixels
BATCH = 64


def measure(options: Options) -> Result:
    """Take turns with lightly at each side."""
    if not options.peers:
        return NO_PEER
    torch.set_num_threads(1)
    turns: dict[int, list[dict[str, float]]] = {side: [] for side in GOALS}
    rounds, seconds = (2, 0.2) if options.quick else (7, 2.0)
    for _, side in itertools.product(range(rounds), GOALS):
        (theirs,) = ask_peer(options.peers, "lightly_views", [(side, seconds)])
        ours = _speed(side, seconds)
        turns[side].append({"ours": ours, "lightly": theirs, "ratio": ours / theirs})
    figures = {side: spreads(rows, 2) for side, rows in turns.items()}
    medians = {side: figures[side]["ratio"]["median"] for side in GOALS}
    by_side = ", ".join(f"{ratio:.1f} x at {side} px" for side, ratio in medians.items())
    return Result(
        {"images_per_second": figures},
        f"two views of each image on one thread, against lightly: {by_side}",
        all(medians[side] >= goal for side, goal in GOALS.items()),
    )


def _speed(side: int, seconds: float) -> float:
    """Images a second, two views each."""
    generator = Generator().manual_seed(side)
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, generator=generator)
    views = Views(crop=0.08, colour=1.0)

    def turn() -> int:
        values = as_values(images)
        for _ in range(2):
            views(values, generator)
        return BATCH

    return rate_of_turns(turn, seconds)


if __name__ == "__main__":
    run(measure, peers("lightly"))
