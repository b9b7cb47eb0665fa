"""Which groups move centroids, and how far, for each number of shots: held-out images choose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.evaluation.comparison import Verdict, compare_on_episodes
from models.generation import FEWEST, Groups, Sizes, Target, TargetKind, cluster_pool, group
from models.generation.mover import NONE, SHOTS, MovedCentroids, Mover
from models.generation.tasks import WEIGHTS, Answers, answer, candidate, cautious_gain, draw_tasks
from models.heads import Head
from models.training.loop import Epoch, Training

PLAIN = ("blend", "cosine")  # rivals that move nothing


# Clusters are rounder than labels, and flatter what moves by them, most at 20 shots, where labels
# of photos of clothes and of hands gained nothing. So much they must gain to count: a point.
CLUSTERS_FLATTER = 0.01


class Trial(NamedTuple):
    """Groups to learn from, and images of others to judge with."""

    name: str
    groups: Groups
    points: Float[Tensor, "M D"]  # to judge with; none in the last trial, which serves
    targets: Int[Tensor, " M"]  # of these; less than 0: of no label


class GenerationEpoch(NamedTuple):
    """An epoch of one kind of groups in one trial."""

    run: int  # from 1
    runs: int
    trial: str
    kind: str
    epoch: Epoch


class Choice(NamedTuple):
    """What serves at a number of shots, and how it did in tasks that did not choose it."""

    shots: int
    groups: str  # or none
    weight: float
    best: str  # of all that were tried, whether or not it serves
    judged_by: str  # labels, or clusters; empty: nothing
    against: dict[str, Verdict]  # of the best
    plain: dict[str, Verdict]  # of `blend`, which serves where nothing moves, beside other heads


def trials(
    labeled: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    pool: Float[Tensor, "N D"],
    *,
    seed: int,
) -> list[Trial]:
    """What to learn by in turn; the last learns from all, and serves.

    One learns from the clusters of one half of the pool and is judged by those of the other, which
    are found by themselves. Labels are judged by what learned from clusters alone or, where there
    are none, from the other half of the labels.

    Raises:
        TooFewGroups: there are fewer than two groups.
    """
    everything = group(labeled, targets, pool, seed=seed)
    last = Trial("all", everything, pool[:0], targets[:0])
    clusters = list(range(everything.labels, everything.total))
    found = []
    if len(clusters) >= 2:
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        first, second = pool[order[: len(pool) // 2]], pool[order[len(pool) // 2 :]]
        try:
            groups = group(labeled[:0], targets[:0], first, seed=seed)
        except ValueError:  # halves are too small
            pass
        else:
            found.append(Trial("clusters", groups, second, cluster_pool(second, seed=seed + 1)))
    if len(torch.bincount(targets).nonzero()) >= 2:
        if len(clusters) >= 2:
            found.append(Trial("labels", everything.only(clusters), labeled, targets))
        else:
            found += _label_folds(everything, labeled, targets)
    return [*found, last]


def _label_folds(
    everything: Groups, labeled: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> list[Trial]:
    """Each half of the large labels judged by what learned from the other; few teach nothing."""
    large = (torch.bincount(targets) >= FEWEST).nonzero().flatten().tolist()
    folds = [large[::2], large[1::2]]
    found = []
    for own, other in (folds, folds[::-1]):
        if len(own) >= 2 and len(other) >= 2:
            places = [large.index(label) for label in other]
            held_out = torch.where(torch.isin(targets, torch.tensor(own)), targets, -1)
            found.append(Trial("labels", everything.only(places), labeled, held_out))
    return found


class Generation(Iterator[GenerationEpoch]):
    """Learns where the rest of a class lies, in each trial by each kind of groups.

    Everything that the next epoch depends on is in `state()`.

    Args:
        kinds: to choose among, the plainest first.
        rivals: heads that serve or could, besides `PLAIN`.
        seed: of all draws.
    """

    def __init__(
        self,
        kinds: Mapping[str, TargetKind],
        found: Sequence[Trial],
        rivals: Mapping[str, Head],
        seed: int,
    ) -> None:
        self._kinds, self._trials, self._rivals, self._seed = kinds, found, rivals, seed
        self._answers: list[dict[int, Answers]] = []
        self._begin()

    def __next__(self) -> GenerationEpoch:
        while True:
            for name, training in self._trainings.items():
                epoch = next(training, None)
                if epoch is not None:
                    number = len(self._answers) + 1
                    trial = self._trials[number - 1].name
                    return GenerationEpoch(number, len(self._trials), trial, name, epoch)
            if len(self._answers) == len(self._trials) - 1:
                raise StopIteration
            self._answers.append(self._judge())
            self._begin()

    @property
    def targets(self) -> dict[str, Target]:
        """What each kind has learned in the trial that is under way, the last one at the end."""
        return self._targets

    @property
    def groups(self) -> Groups:
        """That are learned from now."""
        return self._trials[len(self._answers)].groups

    def choices(self) -> list[Choice]:
        """What serves at each number of shots, once all epochs are done."""
        return [self._choose(shots) for shots in SHOTS]

    def mover(self, choices: Sequence[Choice]) -> tuple[MovedCentroids, Mover]:
        """What they make: its options, and itself."""
        used = sorted({choice.groups for choice in choices} - {NONE})
        groups = self.groups
        options = MovedCentroids(
            groups=tuple(choice.groups for choice in choices),
            weights=tuple(choice.weight for choice in choices),
            options={name: _plain(self._kinds[name]) for name in used},
            group_count=groups.total,
            point_count=len(groups.points),
        )
        network = options.network(groups.points.shape[1])
        for name in used:
            network.targets[name].load_state_dict(self._targets[name].state_dict())
        return options, network.eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, besides what the constructor was given."""
        return {
            "answers": [
                {shots: tuple(answers) for shots, answers in trial.items()}
                for trial in self._answers
            ],
            "trainings": {name: training.state() for name, training in self._trainings.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._answers = [
            {shots: Answers(*answers) for shots, answers in trial.items()}
            for trial in state["answers"]
        ]
        self._begin()
        for name, training in self._trainings.items():
            training.load(state["trainings"][name])

    def _begin(self) -> None:
        groups = self.groups
        sizes = Sizes(groups.points.shape[1], groups.total, len(groups.points))
        self._targets: dict[str, Target] = {}
        self._trainings: dict[str, Training] = {}
        for name, kind in self._kinds.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                target = kind.target(sizes)
            training = kind.start(target, groups, self._seed)
            self._targets[name] = target
            if training is not None:
                self._trainings[name] = training

    def _judge(self) -> dict[int, Answers]:
        """What each kind and weight gets right, and each rival, at each number of shots."""
        trial, answers = self._trials[len(self._answers)], {}
        classes = int(trial.targets.max()) + 1
        for shots in SHOTS:
            tasks = draw_tasks(trial.targets, shots, self._seed)
            if tasks:
                answers[shots] = answer(trial.points, tasks, self._targets, self._rivals, classes)
        return answers

    def _choose(self, shots: int) -> Choice:
        """By every second task; the others judge. Labels count where there are some."""
        judged_by, answers = self._evidence(shots)
        tried = [(name, weight) for name in self._kinds for weight in WEIGHTS]
        if answers is None or not tried:
            return Choice(shots, NONE, 0.0, NONE, "", {}, {})
        asked, right = answers
        before = right["blend"]
        gains = {
            pair: cautious_gain(right[candidate(*pair)][::2], before[::2], asked[::2])
            for pair in tried
        }
        name, weight = max(gains, key=lambda pair: gains[pair])
        rivals = {rival: right[rival] for rival in (*PLAIN, *self._rivals)}
        rivals |= {
            other: right[candidate(other, max(WEIGHTS, key=lambda w: gains[other, w]))]
            for other in self._kinds
            if other != name
        }
        best = right[candidate(name, weight)]
        against = {
            rival: compare_on_episodes(best[1::2], theirs[1::2], asked[1::2])
            for rival, theirs in rivals.items()
        }
        plain = {
            rival: compare_on_episodes(before[1::2], right[rival][1::2], asked[1::2])
            for rival in self._rivals
        }
        serves = all(against[rival].better for rival in (*PLAIN, *self._rivals))
        if judged_by == "clusters":
            serves = serves and gains[name, weight] >= CLUSTERS_FLATTER
        return Choice(
            shots,
            name if serves else NONE,
            weight if serves else 0.0,
            name,
            judged_by,
            against,
            plain,
        )

    def _evidence(self, shots: int) -> tuple[str, Answers | None]:
        """The answers of all trials that were judged by labels, or else of clusters."""
        for kind in ("labels", "clusters"):
            found = [
                answers[shots]
                for trial, answers in zip(self._trials, self._answers, strict=False)
                if trial.name == kind and shots in answers
            ]
            if found:
                names = found[0].right
                return kind, Answers(
                    torch.cat([answers.asked for answers in found]),
                    {name: torch.cat([answers.right[name] for answers in found]) for name in names},
                )
        return "", None


def _plain(options: TargetKind) -> dict[str, Any]:
    """Options as they are stored."""
    return asdict(options)  # type: ignore[call-overload, no-any-return]
