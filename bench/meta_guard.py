"""Whether the guard of meta-training ever lets something worse serve.

An encoder that has learned some characters learns on, with seeds of its own, from labels that were
shuffled, at a rate a hundred times too high, or as it should. The guard judges each beside the
encoder before, on labels that neither saw; 300 episodes of other labels say what is true.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from bench.figures import progress
from bench.harness import Options, Result, option, run
from bench.omniglot import SIDE, Characters, read_characters
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.evaluation.comparison import Verdict, compare_on_episodes
from models.finetuning import embed_all
from models.heads.kinds.cosine import Cosine
from models.metalearning import start
from models.metalearning.episodes import Episode, Episodes, EpisodeShape, LabelSplit
from models.metalearning.guard import correct_answers, queries_asked
from models.metalearning.learners.prototypical import Prototypical
from models.training.loop import Diverged
from models.training.recipe import Recipe

HEALTHY, SHUFFLED, FAST = "healthy", "labels shuffled", "rate x 100"
LABELS, JUDGED = 200, 24  # to learn from, and to judge with
RATE, BASE_EPISODES, AN_EPOCH = 1e-3, 200, 20
JUDGED_EPISODES, TRUE_EPISODES = 100, 300
WORSE = 1.0  # points


class Outcome(NamedTuple):
    """What became of a run."""

    kind: str
    seed: int
    promoted: bool
    gain: float  # points, on labels that nothing was judged with


def measure(options: Options) -> Result:
    """Let the guard judge runs of each kind."""
    torch.set_num_threads(1)
    train, test = (read_characters(options.images, part) for part in ("train", "test"))
    fresh = Conv4(width=32, image_side=SIDE).build()
    base = _trained(fresh, train, train.targets, BASE_EPISODES, 3e-3, 0, fresh=True)
    runs = [(kind, seed) for seed in range(options.runs) for kind in (HEALTHY, SHUFFLED, FAST)]
    outcomes = [
        _attempt(base, train, test, kind, seed, options.episodes)
        for kind, seed in progress(runs, "runs")
    ]
    sabotaged = [o for o in outcomes if o.promoted and o.kind != HEALTHY]
    worse = [o for o in outcomes if o.promoted and o.gain < -WORSE]
    figures: dict[str, Any] = {
        kind: {
            "runs": options.runs,
            "promoted": sum(o.promoted for o in outcomes if o.kind == kind),
            "gains": [o.gain for o in outcomes if o.kind == kind],
        }
        for kind in (HEALTHY, SHUFFLED, FAST)
    }
    headline = (
        f"{options.runs} runs of each kind: {figures[HEALTHY]['promoted']} healthy ones promoted, "
        f"{len(sabotaged)} sabotaged ones, {len(worse)} that are worse by more than {WORSE:g} point"
    )
    return Result({"runs": figures}, headline, not sabotaged and not worse)


def _attempt(
    base: Encoder, train: Characters, test: Characters, kind: str, seed: int, episodes: int
) -> Outcome:
    generator = Generator().manual_seed(1 + seed)
    targets = train.targets
    if kind == SHUFFLED:
        targets = targets[torch.randperm(len(targets), generator=generator)]
    rate = 100 * RATE if kind == FAST else RATE
    try:
        candidate = _trained(base, train, targets, episodes, rate, 1 + seed, fresh=False)
    except Diverged:
        return Outcome(kind, seed, promoted=False, gain=0.0)  # the job fails
    order = torch.randperm(len(test.names), generator=generator).tolist()
    judged, others = order[:JUDGED], order[JUDGED:]
    verdicts = [
        _compared(candidate, base, test, _drawn(test, judged, shots, JUDGED_EPISODES, generator))
        for shots in (1, 5)
    ]
    promoted = all(verdict.better for verdict in verdicts)
    truth = _compared(candidate, base, test, _drawn(test, others, 1, TRUE_EPISODES, generator))
    return Outcome(kind, seed, promoted, round(100 * (truth.accuracy - truth.before), 2))


def _trained(
    encoder: Encoder,
    data: Characters,
    targets: Tensor,
    episodes: int,
    rate: float,
    seed: int,
    *,
    fresh: bool,
) -> Encoder:
    """A copy that has learned from some of the labels."""
    order = torch.randperm(len(data.names), generator=Generator().manual_seed(seed)).tolist()
    training = start(
        Prototypical(),
        encoder,
        data.images,
        targets,
        LabelSplit(order[:LABELS], [], []),
        EpisodeShape(ways=(5, 20), shots=(1, 5), queries=3),
        Recipe(epochs=-(-episodes // AN_EPOCH), rate=rate, schedule="cosine", seed=seed),
        episodes_an_epoch=AN_EPOCH,
        fresh=fresh,
    )
    for _ in training:
        pass
    learned: Encoder = training.objective.encoder
    return learned.eval()


def _drawn(
    data: Characters, labels: Sequence[int], shots: int, count: int, generator: Generator
) -> list[Episode]:
    shape = EpisodeShape(ways=10, shots=shots, queries=5)
    episodes = Episodes(data.targets, labels, shape)
    return [episodes.draw(generator) for _ in range(count)]


def _compared(
    candidate: Encoder, before: Encoder, data: Characters, episodes: Sequence[Episode]
) -> Verdict:
    """The verdict of the guard, both under the same head."""
    drawn = torch.cat([episode.positions for episode in episodes])
    positions = (torch.bincount(drawn, minlength=len(data.images)) > 0).nonzero().flatten()
    embeddings = []
    for encoder in (candidate, before):
        every = torch.zeros(len(data.images), encoder.embedding_dim)
        every[positions] = embed_all(encoder, data.images[positions])
        embeddings.append(every)
    classes = len(data.names)
    learned, earlier = (
        correct_answers(Cosine(), vectors, episodes, classes) for vectors in embeddings
    )
    return compare_on_episodes(learned, earlier, queries_asked(episodes, classes))


if __name__ == "__main__":
    run(
        measure,
        option("--images", type=Path, required=True, help="folder of Omniglot"),
        option("--runs", 20, quick=3, help="of each kind"),
        option("--episodes", 60, help="to learn on from"),
    )
