"""Transduction judged beside a head."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.cosine import Cosine
from models.training.checkpoint import pack, unpack
from models.transduction.alpha_tim import AlphaTim, PartlyLabeled
from models.transduction.cross_validation import FOLDS, REPEATS, CrossValidatedTransduction

SHARES = (200, 60, 40)


def images(shots, *, noise=0.25, seed=0):
    """A pool of unbalanced clusters, then support of the same ones."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(3, 16, generator=generator), dim=1)
    classes = torch.arange(3)
    truth = classes.repeat_interleave(torch.tensor(SHARES))
    targets = classes.repeat_interleave(torch.tensor(shots))
    pool = centres[truth] + noise * torch.randn(len(truth), 16, generator=generator)
    support = centres[targets] + noise * torch.randn(len(targets), 16, generator=generator)
    return F.normalize(torch.cat([pool, support]), dim=1).half(), truth, targets


def start(embeddings, targets, **options):
    count = len(embeddings) - len(targets)
    images = PartlyLabeled(
        embeddings,
        torch.arange(count),
        torch.arange(count, len(embeddings)),
        targets,
        3,
        embeddings.float().mean(dim=0),
    )
    return CrossValidatedTransduction(images, AlphaTim(**options))


def test_each_fold_is_judged_without_its_labels_and_the_last_run_has_all():
    embeddings, truth, targets = images([6, 5, 7])
    rescoring = start(embeddings, targets, epochs=2)

    progress = list(rescoring)

    runs = FOLDS * REPEATS + 1
    assert [step.run for step in progress] == [n + 1 for n in range(runs) for _ in range(2)]
    assert [step.fold for step in progress[::2]] == [*range(1, FOLDS + 1)] * REPEATS + [None]
    assert progress[-1].epoch.images == len(truth)
    assert progress[0].epoch.images > len(truth)  # those held out are in the pool
    verdict = rescoring.judge(Cosine())
    assert 0 <= verdict.before <= 1
    assert 0.4 < verdict.accuracy <= 1
    assert rescoring.temperature > 0


def test_labels_that_mean_nothing_are_judged_to_be_no_better_than_chance():
    embeddings, _, targets = images([20, 20, 20])
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    rescoring = start(embeddings, shuffled, epochs=5, rate=0.01)
    list(rescoring)

    verdict = rescoring.judge(Cosine())

    assert verdict.accuracy < 0.5
    assert not verdict.better


def test_where_the_pool_tells_classes_apart_the_verdict_is_that_it_is_better():
    embeddings, truth, targets = images([3, 3, 3], noise=0.3, seed=1)
    rescoring = start(embeddings, targets, epochs=15, rate=0.01, temperature=0.1)
    head, count = Cosine(centered=True), len(truth)
    list(rescoring)

    verdict = rescoring.judge(head)

    plain = head.fit(embeddings[count:], targets, 3, embeddings.float().mean(dim=0))
    before = plain.probabilities(embeddings[:count]).argmax(1)
    predicted = rescoring.scores(torch.arange(count)).argmax(1)
    assert verdict.better
    assert verdict.accuracy > verdict.before
    assert (predicted == truth).float().mean() > (before == truth).float().mean() + 0.05


def test_classes_of_one_shot_are_learned_from_and_never_judged():
    embeddings, _, targets = images([3, 1, 4])
    rescoring = start(embeddings, targets, epochs=1)

    list(rescoring)

    assert targets[rescoring.judged].unique().tolist() == [0, 2]
    assert rescoring.judge(Cosine()) is not None


@pytest.mark.parametrize("shots", [[1, 1, 1], [1, 5, 1]])
def test_without_two_classes_to_judge_on_there_is_no_verdict(shots):
    embeddings, truth, targets = images(shots)
    rescoring = start(embeddings, targets, epochs=3)

    progress = list(rescoring)

    assert [step.fold for step in progress] == [None] * 3
    assert rescoring.judge(Cosine()) is None
    assert rescoring.temperature == AlphaTim().temperature
    assert rescoring.scores(torch.arange(len(truth))).shape == (len(truth), 3)


@pytest.mark.parametrize("after", [1, 5, 31])
def test_an_interrupted_rescoring_ends_bit_for_bit_as_if_it_had_not_been(after):
    embeddings, truth, targets = images([5, 6, 5])
    whole, begun, resumed = (start(embeddings, targets, epochs=2, batch_size=160) for _ in range(3))
    expected = [(step.run, step.epoch.loss) for step in whole]

    list(itertools.islice(begun, after))
    resumed.load(unpack(pack(begun.state())))

    assert [(step.run, step.epoch.loss) for step in resumed] == expected[after:]
    rows = torch.arange(len(truth))
    assert torch.equal(resumed.scores(rows), whole.scores(rows))
    assert resumed.judge(Cosine()) == whole.judge(Cosine())
    assert resumed.temperature == whole.temperature
