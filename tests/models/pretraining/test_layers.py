"""Parts of pretraining methods."""

import copy

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.pretraining.layers import (
    Bank,
    EmbeddingQueue,
    follow,
    kmeans,
    projection_head,
    sinkhorn,
)


def unit(count: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 6, generator=Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_is_linear_layers_with_norms_and_relus_between_them(layers):
    head = projection_head(8, 16, 4, layers=layers)

    assert head(torch.rand(3, 8)).shape == (3, 4)
    assert [type(module) for module in head] == [
        *[nn.Linear, nn.BatchNorm1d, nn.ReLU] * (layers - 1),
        nn.Linear,
    ]
    assert head[-1].bias is not None


def test_a_head_that_ends_in_a_norm_has_no_bias_before_it():
    head = projection_head(8, 16, 4, norm_last=True)

    outputs = head(torch.rand(32, 8))

    assert head[-2].bias is None
    assert torch.allclose(outputs.mean(dim=0), torch.zeros(4), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_what_follows_goes_the_rest_of_the_way_that_momentum_leaves(momentum):
    source, target = projection_head(3, 5, 2), projection_head(3, 5, 2).requires_grad_(False)
    before = [p.clone() for p in target.parameters()]
    aims = [p.detach().clone() for p in source.parameters()]

    follow(target, source, momentum)

    for old, new, aim, share in zip(
        before, target.parameters(), aims, source.parameters(), strict=True
    ):
        assert torch.allclose(new, momentum * old + (1 - momentum) * aim, atol=1e-6)
        assert torch.equal(share, aim)
        assert new.grad_fn is None


def test_what_follows_keeps_its_own_statistics():
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.rand(4, 3))

    follow(target, source, 0.0)

    assert torch.equal(target.get_buffer("running_mean"), torch.zeros(3))


def test_a_queue_holds_the_newest_first_and_the_oldest_fall_out():
    queue = EmbeddingQueue(5, 1)
    assert queue.inside().shape == (0, 1)

    queue.push(torch.tensor([[1.0], [2.0]]), torch.tensor([10, 20]))
    assert int(queue.filled) == 2
    assert queue.inside().flatten().tolist() == [1, 2]

    queue.push(torch.tensor([[3.0], [4.0]]), torch.tensor([30, 40]))
    queue.push(torch.tensor([[5.0], [6.0]]), torch.tensor([50, 60]))
    assert int(queue.filled) == 5
    assert queue.inside().flatten().tolist() == [5, 6, 3, 4, 1]
    assert queue.images.tolist() == [50, 60, 30, 40, 10]


def test_a_queue_knows_which_of_its_features_are_of_an_image():
    queue = EmbeddingQueue(6, 1)
    queue.push(torch.zeros(3, 1), torch.tensor([4, 7, 4]))

    same = queue.of(torch.tensor([4, 7, 9, -1]))

    assert same.tolist() == [
        [True, False, True],
        [False, True, False],
        [False, False, False],
        [False, False, False],
    ]


def test_more_than_fits_into_a_queue_leaves_its_end_inside():
    queue = EmbeddingQueue(3, 1)
    queue.push(torch.tensor([[9.0]]), torch.tensor([9]))

    queue.push(torch.arange(5.0).unsqueeze(1), torch.arange(5))

    assert int(queue.filled) == 3
    assert queue.features.flatten().tolist() == [2, 3, 4]
    assert queue.images.tolist() == [2, 3, 4]


def test_a_queue_goes_on_from_its_state():
    queue, loaded = EmbeddingQueue(4, 6), EmbeddingQueue(4, 6)
    queue.push(unit(3), torch.tensor([5, 6, 7]))

    loaded.load_state_dict(copy.deepcopy(queue.state_dict()))

    assert torch.equal(loaded.inside(), queue.inside())
    assert torch.equal(loaded.of(torch.tensor([6])), queue.of(torch.tensor([6])))


def test_a_queue_keeps_no_gradients():
    queue = EmbeddingQueue(4, 6)

    queue.push(unit(2).requires_grad_(), torch.arange(2))

    assert not queue.features.requires_grad


def test_a_memory_moves_by_what_momentum_leaves_and_only_where_images_were_seen():
    bank = Bank(5, 6)
    before, features = bank.features.clone(), 3 * unit(2, seed=1)
    assert torch.allclose(before.norm(dim=1), torch.ones(5))

    bank.move(torch.tensor([3, 1]), features, 0.25)

    expected = F.normalize(0.25 * before[[3, 1]] + 0.75 * features / 3, dim=1)
    assert torch.allclose(bank.features[[3, 1]], expected, atol=1e-6)
    assert torch.equal(bank.features[[0, 2, 4]], before[[0, 2, 4]])


def test_a_memory_without_momentum_is_what_was_seen():
    bank, features = Bank(5, 6), unit(2, seed=1)

    bank.move(torch.tensor([3, 1]), features, 0.0)

    assert torch.allclose(bank.features[[3, 1]], features, atol=1e-6)


@pytest.mark.parametrize("count", [4, 100])
def test_negatives_are_of_different_images_and_those_of_the_batch_are_marked(count):
    bank, positions = Bank(10, 6), torch.tensor([7, 2])

    negatives, is_own = bank.negatives(positions, count)

    rows = (negatives @ bank.features.T).argmax(dim=1)
    assert len(rows) == len(set(rows.tolist())) == min(count, 10)
    assert torch.equal(is_own, positions.unsqueeze(1) == rows)
    assert count < 10 or is_own.sum(dim=1).tolist() == [1, 1]


def test_kmeans_finds_clusters_that_are_clear():
    torch.manual_seed(0)
    truth = torch.arange(3).repeat_interleave(10)
    points = 5 * (torch.eye(6)[truth] + 0.05 * torch.randn(30, 6))

    centres, clusters = kmeans(points, 3)

    assert torch.allclose(centres.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.equal(clusters.unsqueeze(0) == clusters.unsqueeze(1), truth == truth.unsqueeze(1))
    for cluster in range(3):
        inside = F.normalize(points[clusters == cluster], dim=1)
        assert torch.allclose(centres[cluster], F.normalize(inside.mean(dim=0), dim=0), atol=1e-5)


def test_kmeans_starts_empty_clusters_again_beside_the_largest():
    torch.manual_seed(0)
    points = torch.eye(6)[torch.tensor([0] * 18 + [1] * 2)]  # two distinct points

    centres, clusters = kmeans(points, 5)

    assert bool(centres.isfinite().all())
    assert torch.allclose(centres.norm(dim=1), torch.ones(5), atol=1e-5)
    assert 0 <= int(clusters.min()) <= int(clusters.max()) < 5
    assert clusters[0] != clusters[-1]


def test_kmeans_splits_a_crowd_when_a_cluster_is_empty():
    torch.manual_seed(0)
    crowd = F.normalize(torch.eye(6)[0] + 0.1 * torch.randn(200, 6), dim=1)
    alone = -torch.eye(6)[0].repeat(30, 1)  # where most centres start, and all but one are empty

    _, clusters = kmeans(torch.cat([crowd, alone]), 4)

    sizes = torch.bincount(clusters[:200], minlength=4)
    assert int((sizes > 0).sum()) == 3
    assert int(torch.bincount(clusters[200:], minlength=4).max()) == 30


def test_kmeans_of_a_seed_is_the_same_and_of_another_another():
    points, solutions = unit(40), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        solutions.append(kmeans(points, 4))

    assert torch.equal(solutions[0][0], solutions[1][0])
    assert torch.equal(solutions[0][1], solutions[1][1])
    assert not torch.equal(solutions[0][1], solutions[2][1])


def test_sinkhorn_assigns_every_image_once_and_uses_clusters_equally():
    scores = unit(40) @ unit(5, seed=1).T

    codes = sinkhorn(scores, 0.5)

    assert torch.allclose(codes.sum(dim=1), torch.ones(40), atol=1e-5)
    assert torch.allclose(codes.sum(dim=0), torch.full((5,), 40 / 5), rtol=0.01)  # 3 iterations


def test_sinkhorn_is_that_of_exponents():
    scores, epsilon = unit(12) @ unit(4, seed=1).T, 0.2

    codes = sinkhorn(scores, epsilon)

    expected = (scores.double() / epsilon).exp()
    for _ in range(3):  # Caron et al., 2020, appendix A
        expected = expected / expected.sum(dim=0, keepdim=True) / 4
        expected = expected / expected.sum(dim=1, keepdim=True) / 12
    assert torch.allclose(codes.double(), 12 * expected, atol=1e-5)


def test_sinkhorn_stays_finite_where_exponents_would_not():
    codes = sinkhorn(torch.tensor([[1.0, -1.0], [0.9, -1.0]]), 1e-3)

    assert bool(codes.isfinite().all())
    assert torch.allclose(codes.sum(dim=1), torch.ones(2), atol=1e-5)
