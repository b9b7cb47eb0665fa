"""Sets of classes that contain the true one."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from models.heads.kinds import heads
from models.rejection import conformal


def by_the_paper(probabilities, level):
    """The larger of the sets of Romano et al. (2020) at a level; they toss for the last class."""
    ordered = sorted(probabilities, reverse=True)
    size = next((c for c in range(1, len(ordered) + 1) if sum(ordered[:c]) >= level), len(ordered))
    return {y for y, p in enumerate(probabilities) if p in ordered[:size]}


def digits(shots, seed):
    images, labels = load_digits(return_X_y=True)
    vectors, labels = torch.from_numpy(images), torch.from_numpy(labels)
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    support = torch.cat([order[labels[order] == digit][:shots] for digit in range(10)])
    unseen = order[~torch.isin(order, support)]
    return vectors[support], labels[support], vectors[unseen], labels[unseen]


def test_a_class_enters_the_set_of_the_paper_at_its_score():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(20, 6, generator=generator, dtype=torch.float64).softmax(1)

    scores = conformal.set_scores(probabilities)

    for row, values in zip(probabilities.tolist(), scores.tolist(), strict=True):
        for target, score in enumerate(values):
            assert target in by_the_paper(row, score + 1e-9)
            assert score == 0 or target not in by_the_paper(row, score - 1e-9)


def test_the_set_is_that_of_scores_ranked_by_hand():
    embeddings, targets, queries, _ = digits(5, seed=0)
    head = heads["cosine"]().fit(embeddings, targets, 10)

    sets = conformal.fit(head, embeddings, targets).contains(head.probabilities(queries[:50]), 0.8)

    left_out = []
    for i, target in enumerate(targets.tolist()):
        remaining = torch.arange(len(targets)) != i
        refitted = head.options.fit(embeddings[remaining], targets[remaining], 10)
        row = refitted.probabilities(embeddings[i : i + 1])[0].tolist()
        left_out.append(sum(p for p in row if p > row[target]))
    level = sorted(left_out)[41 - 1]  # the ceil(51 * 0.8)-th of 50
    for row, members in zip(head.probabilities(queries[:50]).tolist(), sets, strict=True):
        by_hand = [sum(p for p in row if p > target) <= level + 1e-12 for target in row]
        assert members.tolist() == by_hand


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("shots", [3, 10])
def test_sets_of_held_out_digits_contain_the_digit_as_often_as_asked(shots, coverage):
    covered, accuracy = [], []
    for seed in range(5):
        embeddings, targets, queries, labels = digits(shots, seed)
        head = heads["cosine"]().fit(embeddings, targets, 10)
        probabilities = head.probabilities(queries)
        sets = conformal.fit(head, embeddings, targets).contains(probabilities, coverage)
        covered.append(sets.gather(1, labels[:, None]).double().mean())
        accuracy.append((probabilities.argmax(1) == labels).double().mean())

    expected = max(coverage, float(sum(accuracy) / 5))  # the likeliest is always in
    # Quantiles of 5 x 30 scores vary by 0.02; leaving out of three shots errs to the safe side.
    assert expected - 0.03 < sum(covered) / 5 < expected + (0.08 if shots == 3 else 0.04)


def test_the_likeliest_class_is_in_every_set_and_more_coverage_makes_no_set_smaller():
    embeddings, targets, queries, _ = digits(5, seed=0)
    head = heads["cosine"]().fit(embeddings, targets, 10)
    sets, probabilities = conformal.fit(head, embeddings, targets), head.probabilities(queries)

    small, large = (sets.contains(probabilities, coverage) for coverage in (0.3, 0.95))

    assert small.gather(1, probabilities.argmax(1)[:, None]).all()
    assert (small <= large).all()
    assert large.sum() > small.sum()


def test_where_nothing_can_be_left_out_the_set_is_everything():
    embeddings, targets, queries, _ = digits(1, seed=0)
    head = heads["cosine"]().fit(embeddings, targets, 10)

    sets = conformal.fit(head, embeddings, targets)

    assert not len(sets.scores)
    assert sets.contains(head.probabilities(queries), 0.5).all()


def test_images_alone_in_their_class_are_no_reason_for_larger_sets():
    embeddings, targets, queries, _ = digits(5, seed=0)
    single = torch.cat([torch.arange(5), torch.arange(5, 50, 5)])
    head = heads["cosine"]().fit(embeddings[single], targets[single], 10)

    sets = conformal.fit(head, embeddings[single], targets[single])

    assert len(sets.scores) == 5
    assert not sets.contains(head.probabilities(queries), 0.5).all()


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 5.0), (0.9, 9.0), (0.05, 1.0), (0.91, math.inf)]
)
def test_a_quantile_leaves_room_for_one_more(share, expected):
    scores = torch.arange(1, 10, dtype=torch.float64)

    assert conformal.quantile(scores, share) == expected
