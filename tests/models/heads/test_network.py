"""Heads that a network makes, with a network that is as plain as can be."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.heads.network import (
    Condensed,
    HeadNetwork,
    NetworkHead,
    class_prototypes,
    prototypes_without,
)


class Nearest(HeadNetwork):
    """The product with each prototype; it remembers on how many shots it was asked to look."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def condense(self, support: Tensor, targets: Tensor, classes: int) -> Condensed:
        assert support.dtype == torch.float32
        self.sizes.append(len(targets))
        return Condensed(class_prototypes(support, targets, classes), ())

    def log_odds(self, condensed: Condensed, projected: Tensor) -> Tensor:
        return projected


def shots(*numbers: int, dim: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(numbers))
    centres = torch.randn(len(numbers), dim, generator=generator)
    noise = torch.randn(len(targets), dim, generator=generator)
    return F.normalize(centres[targets] + noise, dim=1), targets


def fit(embeddings: Tensor, targets: Tensor, *, mean: Tensor | None = None, **options):
    head = NetworkHead(network=Nearest(), centered=mean is not None, **options)
    return head.fit(embeddings, targets, int(targets.max()) + 1, mean)


def test_it_answers_as_its_network_over_the_temperature():
    embeddings, targets = shots(3, 3)
    mean = torch.full((8,), 0.1)
    queries = shots(4, 4)[0].flip(0)

    fitted = fit(embeddings, targets, mean=mean, temperature=0.5)

    units = F.normalize(embeddings - mean, dim=1)
    prototypes = torch.stack([units[:3].mean(dim=0), units[3:].mean(dim=0)])
    expected = (F.normalize(queries - mean, dim=1) @ prototypes.T / 0.5).softmax(dim=1)
    assert torch.allclose(fitted.probabilities(queries), expected, atol=1e-6)


def test_the_temperature_is_fitted_to_what_is_left_out_unless_it_is_set():
    embeddings, targets = shots(20, 20, 20)

    fitted, hot = fit(embeddings, targets), fit(embeddings, targets, temperature=5.0)

    assert fitted.temperature != 1
    assert fitted.loss > 0
    assert fitted.options.temperature == fitted.temperature
    assert hot.temperature == 5
    assert hot.network.sizes == [60]
    with pytest.raises(ValueError, match="temperature must be from"):
        NetworkHead(network=Nearest(), temperature=0.0)


def test_of_many_shots_a_sixteenth_is_left_out_at_a_time():
    embeddings, targets = shots(20, 12)
    fitted = fit(embeddings, targets)
    fitted.network.sizes.clear()

    fitted.leave_one_out_scores(embeddings, targets)

    assert fitted.network.sizes == [30] * 16


def test_of_few_shots_each_is_left_out_alone():
    embeddings, targets = shots(4, 3, 2)
    fitted = fit(embeddings, targets, temperature=1.0)

    log_odds = fitted.leave_one_out_scores(embeddings, targets)

    for row in range(9):
        others = torch.arange(9) != row
        refitted = fit(embeddings[others], targets[others], temperature=1.0)
        expected = refitted.scores(embeddings[row : row + 1])[0].double()
        assert torch.allclose(log_odds[row], expected, atol=1e-6)


def test_a_class_is_lost_with_its_only_shot():
    embeddings, targets = shots(1, 3, 3)
    fitted = fit(embeddings, targets)

    log_odds = fitted.leave_one_out_scores(embeddings, targets)

    assert log_odds[0, 0] == -torch.inf
    assert torch.allclose(log_odds[0, 1:], fitted.scores(embeddings[:1])[0, 1:].double())
    assert log_odds[1:].isfinite().all()


def test_single_shots_alone_have_nothing_to_choose_a_temperature_on():
    embeddings, targets = shots(1, 1, 1)

    fitted = fit(embeddings, targets)

    assert fitted.temperature == 1
    assert (fitted.leave_one_out(embeddings, targets).diagonal() == -torch.inf).all()


def test_some_shots_are_left_out_as_all_are_whatever_their_order():
    embeddings, targets = shots(5, 20, 9)
    fitted = fit(embeddings, targets)
    rows = torch.tensor([30, 2, 2, 11])

    some = fitted.leave_one_out(embeddings[rows], targets[rows])

    assert torch.allclose(some, fitted.leave_one_out(embeddings, targets)[rows], atol=1e-6)


def test_a_shot_that_is_there_twice_is_left_out_once():
    embeddings, targets = shots(3, 3)
    embeddings[1] = embeddings[0]
    fitted = fit(embeddings, targets, temperature=1.0)

    log_odds = fitted.leave_one_out_scores(embeddings, targets)

    own = class_prototypes(embeddings[1:], targets[1:], 2)[0]
    assert torch.allclose(log_odds[:2, 0], (embeddings[:2] @ own).double(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_it_computes_in_float32_whatever_it_is_given(dtype):
    embeddings, targets = shots(4, 4)
    mean = torch.full((8,), 0.1)
    expected = fit(embeddings, targets, mean=mean)

    fitted = fit(embeddings.to(dtype), targets, mean=mean)
    scores = fitted.scores(embeddings.to(dtype))

    assert scores.dtype == torch.float32
    assert torch.allclose(scores, expected.scores(embeddings), atol=1e-2)
    assert fitted.temperature == pytest.approx(expected.temperature, rel=1e-2)


def test_what_it_cannot_learn_from_is_refused():
    embeddings, targets = shots(3, 3)
    head = NetworkHead(network=Nearest(), centered=False)

    with pytest.raises(ValueError, match="each of the 3 classes needs a shot"):
        head.fit(embeddings, targets, 3)
    with pytest.raises(ValueError, match="a centred head needs the mean"):
        NetworkHead(network=Nearest()).fit(embeddings, targets, 2)


def test_the_prototype_without_a_shot_is_the_mean_of_the_others():
    embeddings, targets = shots(1, 3)

    without = prototypes_without(embeddings, targets, 2, torch.tensor([0, 2]))

    assert without[0].abs().max() < 1e-6
    assert torch.allclose(without[1], embeddings[[1, 3]].mean(dim=0), atol=1e-6)
