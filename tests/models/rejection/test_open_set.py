"""Images of no class."""

import pytest
import torch
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from torch.nn import functional as F

from models.rejection import open_set
from models.rejection.open_set import NoveltyDetector, TooFewToReject
from tests.models.rejection.conftest import draw


def digits(classes, shots, seed=0):
    """Embeddings and labels of some shots of each known digit, and of all other images."""
    images, labels = load_digits(return_X_y=True)
    vectors, labels = torch.from_numpy(images), torch.from_numpy(labels)
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    support = torch.cat([order[labels[order] == digit][:shots] for digit in range(classes)])
    unused = order[~torch.isin(order, support)]
    return vectors[support], labels[support], vectors[unused], labels[unused]


def test_leave_one_class_out_is_fitting_without_the_class():
    embeddings, targets = draw([4, 5, 6, 3])

    trials = open_set.fit(embeddings, targets, 4, torch.zeros(12)).trials

    for target, (detector, scores) in enumerate(trials):
        is_novel = targets == target
        renumbered = targets[~is_novel] - (targets[~is_novel] > target).long()
        refitted = NoveltyDetector.fit(embeddings[~is_novel], renumbered, 3)
        assert torch.allclose(detector.known_scores, refitted.known_scores, rtol=0, atol=1e-9)
        assert torch.allclose(scores, refitted.scores(embeddings[is_novel]), rtol=0, atol=1e-9)
    assert len(trials) == 4


def test_of_many_classes_and_images_some_are_left_out():
    embeddings, targets = draw([13] * 30)

    trials = open_set.fit(embeddings, targets, 30, None).trials

    assert len(trials) == open_set.JUDGED_CLASSES
    assert sum(len(scores) for _, scores in trials) == 260


def test_the_threshold_is_the_order_statistic_of_the_rate():
    embeddings, targets = draw([10, 9])

    fitted = open_set.fit(embeddings, targets, 2, None)

    assert fitted.rejection(0.05).threshold == float(fitted.detector.known_scores[18])
    assert fitted.rejection(0.1).threshold == float(fitted.detector.known_scores[17])
    assert fitted.rejection(0.5).threshold == float(fitted.detector.known_scores[9])


@pytest.mark.parametrize("shots", [5, 20])
def test_unknown_digits_are_told_and_known_ones_kept(shots):
    embeddings, targets, queries, labels = digits(7, shots)

    fitted = open_set.fit(embeddings, targets, 7, torch.zeros(64))
    rejection = fitted.rejection(0.1)
    rejected = fitted.scores(queries) > rejection.threshold

    is_known = labels < 7
    false, caught = rejected[is_known].double().mean(), rejected[~is_known].double().mean()
    assert 0.02 < false < 0.14
    assert caught > 3 * false
    assert rejection.caught == pytest.approx(float(caught), abs=0.2)
    ranks = torch.from_numpy(rankdata(fitted.scores(queries).numpy()))[~is_known]
    unseen, knowns = int((~is_known).sum()), int(is_known.sum())
    assert (ranks.sum() - unseen * (unseen + 1) / 2) / (unseen * knowns) > 0.75


def test_one_shot_of_each_class_leaves_nothing_to_judge_by():
    embeddings, targets = draw([1, 1, 1])

    with pytest.raises(TooFewToReject, match="no label has two images"):
        open_set.fit(embeddings, targets, 3, None)


def test_a_rate_that_the_images_are_too_few_for_is_refused():
    embeddings, targets = draw([5, 4, 1])
    fitted = open_set.fit(embeddings, targets, 3, None)

    assert fitted.rejection(0.1).threshold == float(fitted.detector.known_scores[-1])
    with pytest.raises(TooFewToReject, match=r"0\.05 needs 19 images .* there are 9"):
        fitted.rejection(0.05)
    with pytest.raises(TooFewToReject, match="there are 9"):
        fitted.rejection(5e-324)  # of which the inverse is infinite


def test_with_two_classes_nothing_is_said_of_unseen_ones():
    embeddings, targets = draw([10, 10])

    assert open_set.fit(embeddings, targets, 2, None).rejection(0.1).caught is None


def test_identical_images_are_no_reason_to_fail():
    embeddings = draw([1])[0].expand(12, -1).float()

    fitted = open_set.fit(embeddings, torch.arange(12) % 3, 3, None)

    assert torch.isfinite(fitted.scores(embeddings)).all()
    assert fitted.scores(-embeddings).min() > 100


def test_half_precision_images_are_centred_as_the_head_does():
    embeddings, targets = draw([6, 8, 5])
    queries, mean = draw([3, 3, 3], seed=1)[0], embeddings.mean(0)

    half = open_set.fit(embeddings.half(), targets, 3, mean.float()).scores(queries.float())
    double = open_set.fit(embeddings.half().double(), targets, 3, mean).scores(queries)

    assert torch.allclose(half, double, atol=1e-3)
