"""What every head promises."""

import pytest
import torch

from models.heads import heads


def unit(rows: int, seed: int, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)


@pytest.fixture(params=heads)
def head(request):
    return heads[request.param]()


@pytest.fixture
def fitted(head):
    targets = torch.arange(30) % 3
    return head.fit(unit(30, seed=0), targets, 3, unit(1, seed=9)[0])


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

    one = head.fit(embeddings, targets, 3)
    two = head.fit(embeddings[order], targets[order], 3)

    queries = unit(7, seed=1)
    assert torch.allclose(one.probabilities(queries), two.probabilities(queries))


def test_a_class_without_a_shot_is_refused(head):
    with pytest.raises(ValueError, match="needs a shot"):
        head.fit(unit(4, seed=0), torch.tensor([0, 0, 2, 2]), 3)


def test_one_shot_of_each_class_is_enough(head):
    shots = unit(5, seed=0)

    fitted = head.fit(shots, torch.arange(5), 5)

    assert fitted.probabilities(shots).argmax(1).tolist() == list(range(5))
