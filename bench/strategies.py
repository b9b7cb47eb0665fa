"""The same batches as scikit-activeml, in how much less time; and with a million images.

Embeddings are drawn around random centres, since only their geometry matters here. Peers run on as
many threads.
"""

import resource
from typing import Any

import torch

from bench.data import made_up
from bench.figures import timed
from bench.harness import NO_PEER, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.acquisition import AcquisitionStrategy, Pool, of_labeled
from models.acquisition.strategies import strategies
from models.heads.kinds.cosine import Cosine

SAME: dict[str, dict[str, float]] = {  # options with which they choose as the peer's do
    "margin": {},
    "entropy": {},
    "coreset": {},
    "maxherding": {"sigma": 1.0, "landmarks": 20_000},
    "probcover": {"radius": 0.9, "landmarks": 20_000},
}
SECONDS, GIGABYTES = 120, 8  # for a million images
GOALS = {"badge": 100, "maxherding": 20}  # times as fast as the peer


def measure(options: Options) -> Result:
    """Compare with the peer, or measure alone with a million images."""
    if options.million:
        return _million(options)
    images, budget = (2000, 20) if options.quick else (5000, 100)
    dimensions = 64 if options.quick else 384
    pool = make_pool(images, dimensions=dimensions, classes=20, shots=5)
    badge_rows = 1000 if options.quick else 10_000
    large = make_pool(badge_rows, dimensions=dimensions, classes=100, shots=1)
    picks, seconds = {}, {}
    for name, same in SAME.items():
        picks[name], seconds[name] = _pick(strategies[name](**same), pool, budget)
    _, seconds["badge"] = _pick(strategies["badge"](), large, budget)
    if not options.peers:
        return NO_PEER._replace(figures={"seconds": seconds})
    question = {"pool": _arrays(pool), "badge": _arrays(large), "picks": picks, "budget": budget}
    threads = torch.get_num_threads()
    (answer,) = ask_peer(options.peers, "strategies", [question], threads=threads)
    rows: dict[str, dict[str, float]] = {
        name: {**peer, "ours": seconds[name], "times": peer["seconds"] / seconds[name]}
        for name, peer in answer.items()
    }
    print("uherding: skipped, since scikit-activeml 1.0.1 does not have it")
    agreed = min(row["agreement"] for row in rows.values() if "agreement" in row)
    fast = all(rows[name]["times"] >= goal for name, goal in GOALS.items())
    headline = (
        f"{100 * agreed:.0f} % of picks as scikit-activeml's; badge {rows['badge']['times']:.0f}, "
        f"maxherding {rows['maxherding']['times']:.0f} times as fast"
    )
    return Result({"strategies": rows}, headline, agreed == 1 and (fast or options.quick))


def make_pool(images: int, *, dimensions: int, classes: int, shots: int) -> Pool:
    """Made-up images, with labels and a head for some."""
    total = images + classes * shots
    embeddings, truth = made_up(total, dimensions, classes, shots=shots, noise=1.0)
    labeled, targets = torch.arange(images, total), truth[images:]
    head = Cosine(temperature=0.1).fit(embeddings[labeled], targets, classes)
    return Pool(embeddings, torch.arange(images), head.probabilities, labeled, targets)


def _pick(strategy: AcquisitionStrategy, pool: Pool, budget: int) -> tuple[list[int], float]:
    return timed(lambda: strategy.rank(pool, budget).indices.tolist())


def _arrays(pool: Pool) -> dict[str, Any]:
    """What a peer needs: vectors as we see them, and our probabilities for them."""
    everything = torch.cat([pool.rows, pool.labeled])
    classify = pool.classify()
    blocks = [classify(pool.embeddings[rows].float()) for rows in torch.split(everything, 4096)]
    return {
        "vectors": pool.vectors(everything).numpy(),
        "probabilities": torch.cat(blocks).numpy(),
        "labeled": pool.labeled.numpy(),
        "targets": pool.targets.numpy(),
    }


def _million(options: Options) -> Result:
    """Seconds and memory of every strategy with a million images and a thousand classes."""
    images = 20_000 if options.quick else 1_000_000
    pool = make_pool(images, dimensions=384, classes=1000, shots=5)
    rows: dict[str, dict[str, float]] = {}
    for name in (name for name, kind in strategies.items() if not of_labeled(kind())):
        _, seconds = _pick(strategies[name](), pool, 100)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of all so far
        rows[name] = {"seconds": seconds, "peak_gigabytes": peak}
        print(f"{name}: {seconds:.1f} s, {peak:.2f} GB", flush=True)
    slowest = max(rows, key=lambda name: rows[name]["seconds"])
    peak = max(row["peak_gigabytes"] for row in rows.values())
    return Result(
        {"strategies": rows},
        f"{images} images: at most {rows[slowest]['seconds']:.0f} s ({slowest}), {peak:.1f} GB",
        rows[slowest]["seconds"] <= SECONDS and peak <= GIGABYTES,
    )


if __name__ == "__main__":
    million = option("--million", action="store_true", help="a million images, without peers")
    run(measure, million, peers("scikit-activeml"))
