"""What every head promises."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models import heads as package
from models.heads import SHORT, Support, softmax
from models.heads.kinds import heads
from models.heads.kinds.multi_centroid import MultiCentroid

MEAN = 0.3 * F.normalize(torch.ones(16), dim=0)


def unit(rows: int, seed: int, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1)


def clusters(shots, seed=0, dim=16):
    """Embeddings in float64 around a centre for each class, with as many shots as told."""
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    centres = unit(len(shots), seed, dim)
    noise = unit(len(targets), seed + 1, dim)
    return F.normalize((centres[targets] + 1.5 * noise).double(), dim=1), targets


@pytest.fixture(params=heads)
def head(request):
    return heads[request.param]()


@pytest.fixture
def fitted(head):
    targets = torch.arange(30) % 3
    return head.fit(unit(30, seed=0), targets, 3, MEAN)


def test_probabilities_are_positive_and_sum_to_one(fitted):
    probabilities = fitted.probabilities(unit(7, seed=1))

    assert probabilities.shape == (7, 3)
    assert (probabilities >= 0).all()
    assert torch.allclose(probabilities.sum(1), torch.ones(7))


def test_cosines_are_cosines(fitted):
    cosines = fitted.similarities(torch.cat([unit(7, seed=1), fitted.centroids]))

    assert cosines.shape == (10, 3)
    assert (cosines.abs() <= 1).all()
    assert fitted.centroids.norm(dim=1) == pytest.approx(1)


def test_the_order_of_the_shots_does_not_matter(head):
    embeddings, targets = unit(30, seed=0), torch.arange(30) % 3
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))

    in_order = head.fit(embeddings, targets, 3, MEAN)
    shuffled = head.fit(embeddings[order], targets[order], 3, MEAN)

    queries = unit(7, seed=1)
    assert torch.allclose(
        in_order.probabilities(queries), shuffled.probabilities(queries), atol=1e-5
    )


def test_a_class_without_a_shot_is_refused(head):
    with pytest.raises(ValueError, match="needs a shot"):
        head.fit(unit(4, seed=0), torch.tensor([0, 0, 2, 2]), 3, MEAN)


def test_one_shot_of_each_class_is_enough(head):
    shots = unit(5, seed=0)

    fitted = head.fit(shots, torch.arange(5), 5, MEAN)

    assert fitted.probabilities(shots).argmax(1).tolist() == list(range(5))


def test_identical_images_are_no_reason_to_fail(head):
    embeddings = unit(1, seed=0).expand(6, -1)

    probabilities = head.fit(embeddings, torch.arange(6) % 2, 2, MEAN).probabilities(embeddings)

    assert (probabilities.amax(1) < 0.7).all()


def test_half_precision_shots_serve_single_precision_queries(head):
    embeddings, targets = clusters([5, 5, 5])

    half = head.fit(embeddings.half(), targets, 3, MEAN).probabilities(embeddings.float())
    single = head.fit(embeddings.half().float(), targets, 3, MEAN).probabilities(embeddings.float())

    assert half.dtype == torch.float32
    assert torch.allclose(half, single, atol=1e-4)


def test_what_was_chosen_can_be_pinned(head):
    embeddings, targets = clusters([2, 5, 9])

    fitted = head.fit(embeddings, targets, 3, MEAN.double())
    pinned = fitted.options.fit(embeddings, targets, 3, MEAN.double())

    assert pinned.options == fitted.options
    assert torch.equal(pinned.probabilities(embeddings), fitted.probabilities(embeddings))


@pytest.mark.parametrize(
    ("shots", "dim"),
    [([4, 5, 6], 16), ([2, 3, 10], 48), ([30, 40, 20], 16), ([2, 1, 1], 16), ([3, 1, 6, 1], 16)],
    ids=["few", "fewer-than-dimensions", "many", "a-single-pair", "single-shots"],
)
def test_leave_one_out_equals_fitting_again(head, shots, dim):
    if isinstance(head, MultiCentroid):
        head = MultiCentroid(centroids=1)  # clusters of several stay; see test_multi_centroid
    embeddings, targets = clusters(shots, dim=dim)
    mean = 0.3 * unit(1, seed=5, dim=dim)[0].double()
    fitted = head.fit(embeddings, targets, len(shots), mean)

    log_odds = fitted.leave_one_out(embeddings, targets).log_softmax(1)

    for i, target in enumerate(targets.tolist()):
        is_other = torch.arange(len(targets)) != i
        remaining = targets[is_other]
        classes = remaining.unique()
        renumbered = torch.searchsorted(classes, remaining)
        refitted = fitted.options.fit(embeddings[is_other], renumbered, len(classes), mean)
        expected = (refitted.scores(embeddings[i : i + 1]) / refitted.temperature).log_softmax(1)[0]
        assert torch.allclose(log_odds[i, classes], expected, rtol=0, atol=1e-8)
        if target not in classes:
            assert log_odds[i, target] == -torch.inf


def test_leave_one_out_of_some_is_that_of_all(head, monkeypatch):
    monkeypatch.setattr(package, "ROWS_PER_BLOCK", 4)
    embeddings, targets = clusters([4, 5, 6])
    fitted = head.fit(embeddings, targets, 3, MEAN.double())

    everything = fitted.leave_one_out(embeddings, targets)
    part = fitted.leave_one_out(embeddings[5:9], targets[5:9])

    assert torch.allclose(part, everything[5:9], rtol=0, atol=1e-12)


def test_probabilities_are_honest_about_noise(head):
    """Classes that cannot be told apart get even odds."""
    embeddings = unit(60, seed=0)
    generator = torch.Generator().manual_seed(2)

    fitted = head.fit(embeddings, torch.randint(3, (60,), generator=generator), 3, MEAN)

    confidence = fitted.probabilities(unit(100, seed=1)).amax(1)
    assert confidence.mean() < 0.6


@pytest.mark.parametrize("name", [name for name in heads if heads[name]().uses_mean])
def test_centring_needs_the_mean(name):
    with pytest.raises(ValueError, match="needs the mean"):
        heads[name]().fit(torch.eye(2), torch.tensor([0, 1]), 2)


@pytest.mark.parametrize("classes", [2, SHORT - 1, SHORT, 40])
def test_softmax_is_that_of_rows(classes):
    logits = 10 * torch.randn(50, classes, generator=torch.Generator().manual_seed(0)).double()

    assert torch.allclose(softmax(logits), logits.softmax(dim=1), atol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "mahalanobis", "ridge", "knn", "blend", "auto"])
def test_a_class_with_few_shots_and_one_with_many_compete(name):
    embeddings, targets = clusters([260] * 3, seed=20, dim=32)
    place = torch.arange(260).repeat(3)  # among those of the class
    learned = place < torch.tensor([2, 60, 60])[targets]
    queries, truth = embeddings[place >= 60], targets[place >= 60]

    head: Any = heads[name]
    fitted = head(centered=False).fit(embeddings[learned], targets[learned], 3)
    predicted = fitted.probabilities(queries).argmax(dim=1)

    recalls = [float((predicted[truth == c] == c).double().mean()) for c in range(3)]
    assert recalls[0] > 0.8, "few shots know less, but are not outvoted"
    assert min(recalls[1:]) > 0.9


@pytest.mark.parametrize(
    ("shots", "evidence"), [([4, 4, 4], 12), ([1, 4, 4], 8), ([1, 1], 0), ([2, 50], 4 / 0.52)]
)
def test_choices_rest_on_fewer_shots_where_these_are_uneven(shots, evidence):
    embeddings, targets = clusters(shots)
    support = Support(embeddings, embeddings, targets, torch.tensor(shots), None)

    assert support.evidence == pytest.approx(evidence)
