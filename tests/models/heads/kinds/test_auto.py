"""The head that chooses among heads."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.evaluation.label_errors import label_errors
from models.heads.calibration import log_loss
from models.heads.kinds import heads
from models.heads.kinds.auto import CANDIDATES, Auto, FittedAuto
from models.heads.kinds.blend import Blend


def normal(rows, dim, seed):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def fit(embeddings: Tensor, targets: Tensor, mean: Tensor | None = None) -> FittedAuto:
    """Fitted to these classes, centred if there is a mean."""
    head = Auto(centered=mean is not None)
    fitted = head.fit(embeddings, targets, int(targets.max()) + 1, mean)
    assert isinstance(fitted, FittedAuto)
    return fitted


def loss_of(name: str, embeddings: Tensor, targets: Tensor) -> float:
    """Log loss of leave-one-out of another head."""
    head: Any = heads[name]
    fitted = head(centered=False).fit(embeddings, targets, 3)
    return log_loss(fitted.leave_one_out(embeddings, targets), targets)


def test_it_tells_the_leave_one_out_loss_of_all():
    targets = torch.arange(60) % 3
    embeddings = F.normalize(normal(3, 10, 0)[targets] + 1.5 * normal(60, 10, 1), dim=1)

    fitted = fit(embeddings, targets)

    names = (*CANDIDATES, "mahalanobis", "ridge")
    expected = {name: loss_of(name, embeddings, targets) for name in names}
    assert fitted.losses == pytest.approx(expected, rel=1e-9)
    assert expected["blend"] < expected["knn"]
    assert fitted.name == "blend"
    assert isinstance(fitted.options, heads["blend"])


def test_a_later_candidate_must_be_clearly_better(monkeypatch):
    targets = torch.arange(60) % 3
    embeddings = F.normalize(normal(3, 10, 0)[targets] + 1.5 * normal(60, 10, 1), dim=1)
    losses = fit(embeddings, targets).losses
    gap = losses["knn"] - losses["blend"]

    for lead, total, name in (
        (-1.01 * gap, -99.0, "knn"),
        (-0.99 * gap, -99.0, "blend"),
        (-99.0, -1.01 * gap * 60, "knn"),
        (-99.0, -0.99 * gap * 60, "blend"),
    ):
        monkeypatch.setattr("models.heads.kinds.auto.LEAD", lead)
        monkeypatch.setattr("models.heads.kinds.auto.TOTAL", total)
        assert fit(embeddings, targets).name == name


def test_a_wrong_label_among_few_clean_ones_is_found():
    """As the nearest neighbours would not: with so few shots they are not trusted."""
    right = torch.arange(12) % 2
    embeddings = F.normalize(normal(2, 64, 0)[right] / 8 + 0.02 * normal(12, 64, 1) / 8, dim=1)
    labels = right.clone()
    labels[-1] = 1 - labels[-1]

    fitted = fit(embeddings, labels, embeddings.mean(dim=0))
    errors = label_errors(fitted.leave_one_out(embeddings, labels).softmax(dim=1), labels)

    assert fitted.name == "blend"
    assert errors.rows.tolist() == [11]


def test_classes_in_one_place_get_a_plane_between_them_and_scattered_ones_neighbours():
    targets = torch.arange(90) % 3
    together = normal(3, 10, 0)[targets] + 2 * normal(90, 10, 1)
    places = F.normalize(normal(30, 10, 2), dim=1)  # ten for each class
    scattered = places[torch.arange(90) % 30] + 0.05 * normal(90, 10, 3)

    assert fit(F.normalize(together, dim=1), targets).name != "knn"
    assert fit(F.normalize(scattered, dim=1), targets).name == "knn"


def test_with_one_shot_each_there_is_nothing_to_choose_on():
    fitted = fit(torch.eye(4), torch.arange(4))

    assert isinstance(fitted.options, Blend)
    assert (fitted.name, fitted.options.share) == ("blend", 0.5)
    assert all(math.isnan(loss) for loss in fitted.losses.values())
