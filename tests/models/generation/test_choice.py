"""What held-out images choose."""

import pytest
import torch
from torch.nn import functional as F

from models import generation
from models.generation import Groups, TargetKind, TooFewGroups, choice, tasks
from models.generation.choice import Generation, Trial, trials
from models.generation.generators.clusters import Clusters
from models.generation.generators.cvae import Cvae
from models.generation.generators.nearest import Nearest
from models.generation.mover import NONE, SHOTS, MovedCentroids
from models.heads.kinds.cosine import Cosine

EMPTY = torch.empty(0, dtype=torch.long)
KINDS: dict[str, TargetKind] = {"nearest": Nearest(count=5), "clusters": Clusters()}
CVAE: dict[str, TargetKind] = {"cvae": Cvae(steps=200, width=8, latent=2, components=6, samples=8)}


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", 12)


def classes(count: int, each: int, noise: float = 0.6, dim: int = 16, seed: int = 0):
    """Embeddings of some classes, and which each has."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, dim, generator=torch.Generator().manual_seed(9))
    targets = torch.arange(count).repeat_interleave(each)
    points = centres[targets] + noise * dim**0.5 * 0.4 * torch.randn(
        count * each, dim, generator=generator
    )
    return F.normalize(points, dim=1), targets


def done(kinds, found, rivals=None, seed=0):
    running = Generation(kinds, found, rivals or {}, seed)
    epochs = list(running)
    return running, epochs


def test_a_pool_is_judged_by_clusters_of_its_other_half():
    pool, _ = classes(8, 40)

    found = trials(pool[:0], EMPTY, pool, seed=0)

    assert [trial.name for trial in found] == ["clusters", "all"]
    first, last = found
    assert len(first.points) == 160
    both = torch.cat([first.groups.points, first.points])
    assert len(both.unique(dim=0)) == len(both)  # no image is in both halves
    assert last.groups.labels == 0
    assert not len(last.points)


def test_labels_are_judged_by_what_learned_from_the_pool_alone():
    pool, _ = classes(8, 40)
    labeled, targets = classes(8, 10, seed=1)

    found = trials(labeled, targets, pool, seed=0)

    assert [trial.name for trial in found] == ["clusters", "labels", "all"]
    assert found[1].groups.labels == 0
    assert torch.equal(found[1].targets, targets)
    assert found[2].groups.labels == 8


def test_without_a_pool_each_half_of_the_labels_judges_what_learned_from_the_other():
    labeled, targets = classes(6, 10)

    found = trials(labeled, targets, labeled[:0], seed=0)

    assert [trial.name for trial in found] == ["labels", "labels", "all"]
    for trial in found[:2]:
        judged = set(trial.targets[trial.targets >= 0].tolist())
        assert len(judged) == trial.groups.labels == 3
        seen = trial.points[trial.targets >= 0]
        assert not any((trial.groups.points == row).all(dim=1).any() for row in seen)


def test_too_few_groups_are_refused():
    labeled, targets = classes(3, 7)

    with pytest.raises(TooFewGroups):
        trials(labeled, targets, labeled[:0], seed=0)


def test_groups_that_help_move_centroids_of_few_shots_and_serve(monkeypatch):
    monkeypatch.setattr(generation, "MOST_CLUSTERS", 8)  # as many as there are classes
    pool, _ = classes(8, 60)
    found = trials(pool[:0], EMPTY, pool, seed=0)

    finished, _ = done(KINDS, found, {"champion": Cosine()})
    choices = finished.choices()
    options, mover = finished.mover(choices)

    assert [one.shots for one in choices] == list(SHOTS)
    first = choices[0]
    assert first.weight > 0
    assert first.judged_by == "clusters"
    assert set(first.against) == {"blend", "cosine", "champion", *KINDS} - {first.best}
    assert set(first.plain) == {"champion"}
    means, shots = pool[:3], torch.ones(3).long()
    assert bool((mover.moves(means, shots).norm(dim=1) > 0).all())
    again = MovedCentroids(**vars(options)).network(16)
    again.load_state_dict(mover.state_dict())
    assert torch.equal(again.moves(means, shots), mover.moves(means, shots))


def test_groups_by_chance_get_no_weight():
    pool, _ = classes(8, 60)
    found = [
        trial._replace(
            groups=Groups(
                trial.groups.points,
                trial.groups.groups[
                    torch.randperm(
                        len(trial.groups.groups), generator=torch.Generator().manual_seed(0)
                    )
                ],
                0,
            )
        )
        for trial in trials(pool[:0], EMPTY, pool, seed=0)
    ]

    choices = done({"clusters": Clusters()}, found)[0].choices()

    assert [one.groups for one in choices] == [NONE] * len(SHOTS)
    assert [one.weight for one in choices] == [0.0] * len(SHOTS)


def test_a_gain_on_clusters_must_be_a_point(monkeypatch):
    pool, _ = classes(8, 60)
    finished, _ = done(KINDS, trials(pool[:0], EMPTY, pool, seed=0))

    monkeypatch.setattr(choice, "CLUSTERS_FLATTER", 1.0)

    assert all(not one.weight for one in finished.choices())


def test_nothing_to_judge_by_is_no_weight():
    pool, _ = classes(2, 30)
    last = Trial("all", Groups(pool, torch.arange(60) // 30, 0), pool[:0], EMPTY)

    choices = done(KINDS, [last])[0].choices()

    assert [(one.groups, one.judged_by, one.against) for one in choices] == [(NONE, "", {})] * 4


def test_it_goes_on_from_any_epoch_bit_for_bit():
    pool, _ = classes(6, 40)
    found = trials(pool[:0], EMPTY, pool, seed=0)
    kinds: dict[str, TargetKind] = {**KINDS, **CVAE}
    whole, epochs = done(kinds, found)
    places = [(e.run, e.runs, e.trial, e.kind, e.epoch.number) for e in epochs]
    assert places == [
        (run, 2, name, "cvae", number)
        for run, name in ((1, "clusters"), (2, "all"))
        for number in (1, 2)
    ]

    for after in range(1, 4):
        interrupted = Generation(kinds, found, {}, 0)
        for _ in range(after):
            next(interrupted)
        resumed = Generation(kinds, found, {}, 0)
        resumed.load(interrupted.state())

        losses = [step.epoch.loss for step in resumed]

        assert losses == [step.epoch.loss for step in epochs[after:]]
        assert resumed.choices() == whole.choices()
        states = (g.targets["cvae"].state_dict() for g in (whole, resumed))
        assert all(torch.equal(*pair) for pair in zip(*(s.values() for s in states), strict=True))
