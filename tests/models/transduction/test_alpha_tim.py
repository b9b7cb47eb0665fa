"""Transduction by alpha-TIM."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from models.heads import center_and_normalize
from models.training.checkpoint import pack, unpack
from models.training.loop import Diverged
from models.transduction import alpha_tim
from models.transduction.alpha_tim import AlphaTim, PartlyLabeled, Transduction, entropy, loss_of

SHARES = (300, 40, 20)  # of the pool, in classes


def clusters(seed=0, dim=32, shots=1, deviation=0.08, off=0.15):
    """An unbalanced pool, then labeled images that lie off the middle of their class; float16."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(len(SHARES), dim, generator=generator), dim=1)
    truth = torch.arange(len(SHARES)).repeat_interleave(torch.tensor(SHARES))
    targets = torch.arange(len(SHARES)).repeat_interleave(shots)
    pool = centres[truth] + deviation * torch.randn(len(truth), dim, generator=generator)
    shift = off * torch.randn(len(SHARES), dim, generator=generator)
    support = centres[targets] + shift[targets]
    support += deviation * torch.randn(support.shape, generator=generator)
    return F.normalize(torch.cat([pool, support]), dim=1).half(), truth, targets


def start(embeddings, targets, pool=None, **options):
    count = len(embeddings) - len(targets)
    images = PartlyLabeled(
        embeddings,
        torch.arange(count) if pool is None else pool,
        torch.arange(count, len(embeddings)),
        targets,
        len(SHARES),
        embeddings.float().mean(dim=0),
    )
    return Transduction(images, AlphaTim(**options))


def naive_entropy(shares, alpha):
    if alpha == 1:
        return -sum(p * math.log(p) for p in shares)
    return (1 - sum(p**alpha for p in shares)) / (alpha - 1)


@pytest.mark.parametrize(("alpha", "order"), [(1.0, 1.0), (2.0, 1.0), (5.0, 3.0)])
def test_the_loss_is_what_the_formula_says(alpha, order):
    generator = torch.Generator().manual_seed(1)
    pool, support = (torch.randn(n, 3, generator=generator).log_softmax(1) for n in (7, 4))
    targets = torch.tensor([0, 2, 1, 2])
    options = AlphaTim(
        alpha=alpha,
        support_alpha=order,
        support_weight=0.5,
        marginal_weight=2.0,
        conditional_weight=3.0,
    )

    loss = loss_of(options, pool, support, targets)

    rows = pool.exp().tolist()
    shares = [support.exp()[n, c].item() for n, c in enumerate(targets.tolist())]
    surprises = [
        -math.log(p) if order == 1 else (1 - p ** (order - 1)) / (order - 1) for p in shares
    ]
    cross = sum(surprises) / len(shares)
    marginal = naive_entropy([sum(column) / len(rows) for column in zip(*rows)], alpha)  # noqa: B905
    conditional = sum(naive_entropy(row, alpha) for row in rows) / len(rows)
    expected = 0.5 * cross - (2 * marginal - 3 * conditional)
    parts = torch.stack(list(loss)).tolist()
    assert parts == pytest.approx([expected, cross, marginal, conditional], abs=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 5.0])
def test_entropy_is_0_where_a_label_is_certain_and_greatest_for_equal_shares(alpha):
    certain = torch.tensor([0.0, -1e4, -1e4, -1e4])
    even = torch.full((4,), 0.25).log()
    uneven = torch.tensor([0.3, 0.3, 0.2, 0.2]).log()

    assert float(entropy(certain, alpha)) == 0
    assert float(entropy(even, alpha)) > float(entropy(uneven, alpha)) > 0


def test_from_shots_off_the_middle_it_finds_unbalanced_classes():
    gains = []
    for seed in range(3):
        embeddings, truth, targets = clusters(seed)
        learning = start(embeddings, targets, temperature=0.1, epochs=15, rate=0.01)
        rows = torch.arange(len(truth))
        nearest = (learning.scores(rows).argmax(1) == truth).float().mean()

        epochs = list(learning)

        predicted = learning.scores(rows).argmax(1)
        gains.append(float((predicted == truth).float().mean() - nearest))
        assert epochs[-1].loss < epochs[0].loss
    assert sum(gains) / len(gains) > 0.05
    assert min(gains) >= 0


def test_the_higher_alpha_the_less_equal_shares_are_forced():
    embeddings, truth, targets = clusters(seed=2, deviation=0.2)
    largest = {}
    for alpha in (1.0, 5.0):
        learning = start(
            embeddings,
            targets,
            alpha=alpha,
            temperature=0.1,
            marginal_weight=2.0,
            epochs=40,
            rate=0.003,
        )
        list(learning)
        predicted = learning.scores(torch.arange(len(truth))).argmax(1)
        largest[alpha] = int(torch.bincount(predicted).max())

    assert largest[1.0] < largest[5.0] <= max(SHARES)


@pytest.mark.parametrize("batch_size", [100, 4096])
def test_the_same_seed_learns_the_same_and_an_interrupted_run_goes_on_bit_for_bit(batch_size):
    embeddings, truth, targets = clusters(shots=40)
    whole, repeated, begun, resumed = (
        start(embeddings, targets, batch_size=batch_size, epochs=3) for _ in range(4)
    )
    rows = torch.arange(len(truth))
    losses = [epoch.loss for epoch in whole]

    list(itertools.islice(begun, 1))
    resumed.load(unpack(pack(begun.state())))

    assert [epoch.loss for epoch in repeated] == losses
    assert [epoch.loss for epoch in resumed] == losses[1:]
    assert torch.equal(resumed.scores(rows), whole.scores(rows))
    different = start(embeddings, targets, batch_size=100, epochs=3, seed=1)
    assert ([epoch.loss for epoch in different] == losses) is False


def test_a_pool_in_batches_is_never_wider_than_a_batch_and_learns_much_the_same(monkeypatch):
    embeddings, truth, targets = clusters(seed=1)
    rows = torch.arange(len(truth))
    options = {"epochs": 12, "rate": 0.005}
    whole = start(embeddings, targets, **options)
    list(whole)
    expected = whole.scores(rows)
    widths: list[int] = []

    def watched(vectors, mean):
        widths.append(len(vectors))
        return center_and_normalize(vectors, mean)

    monkeypatch.setattr(alpha_tim, "center_and_normalize", watched)
    monkeypatch.setattr(alpha_tim, "ROWS_PER_BLOCK", 50)

    in_blocks = whole.scores(rows)
    batched = start(embeddings, targets, batch_size=128, **options | {"epochs": 4})
    list(batched)

    # Products of matrices of other shapes are summed in another order.
    assert torch.allclose(in_blocks, expected, atol=1e-6)
    assert torch.equal(in_blocks.argmax(1), expected.argmax(1))
    agree = (batched.scores(rows).argmax(1) == expected.argmax(1)).float().mean()
    assert agree > 0.9
    assert max(widths) <= 128


@pytest.mark.parametrize(("batch_size", "epochs"), [(4096, 100), (120, 34)])
def test_without_a_number_of_epochs_there_are_as_many_as_make_100_steps(batch_size, epochs):
    embeddings, _, targets = clusters()

    assert start(embeddings, targets, batch_size=batch_size).epochs == epochs


def test_whitening_makes_directions_count_by_how_much_classes_vary_along_them():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(2).repeat(100)
    noise = torch.randn(200, 8, generator=generator) * torch.tensor([2.0] + [0.05] * 7)
    signal = F.one_hot(truth + 1, 8) * 0.4
    embeddings = F.normalize(noise + signal, dim=1).half()
    right = {}
    for whitened in (True, False):
        images = PartlyLabeled(
            embeddings,
            torch.arange(60, 200),
            torch.arange(60),
            truth[:60],
            2,
            embeddings.float().mean(dim=0),
        )
        learning = Transduction(images, AlphaTim(whitened=whitened))
        predicted = learning.scores(torch.arange(60, 200)).argmax(1)
        right[whitened] = float((predicted == truth[60:]).float().mean())

    assert right[True] > right[False] + 0.1


def test_what_cannot_be_learned_from_is_refused():
    embeddings, _, targets = clusters()

    with pytest.raises(ValueError, match="the pool is empty"):
        start(embeddings, targets, pool=torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"each of the 3 classes needs a shot, got \[1, 2, 0\]"):
        start(embeddings, torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    "option",
    [
        {"alpha": 0.5},
        {"support_weight": -1.0},
        {"temperature": 0.0},
        {"rate": 0.0},
        {"batch_size": 1},
    ],
)
def test_options_out_of_bounds_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        AlphaTim(**option)


def test_a_loss_that_is_no_number_stops_it():
    embeddings, _, targets = clusters()
    learning = start(embeddings, targets)
    embeddings[0] = torch.nan

    with pytest.raises(Diverged, match="epoch 1"):
        next(learning)
