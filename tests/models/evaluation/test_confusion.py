"""Which classes are taken for which."""

import pytest
import torch
from sklearn.metrics import confusion_matrix as oracle
from sklearn.metrics import precision_score, recall_score

from models.evaluation.confusion import confused_pairs, confusion_matrix, precision, recall

TARGETS = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0))
PREDICTED = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))


def test_it_is_what_scikit_learn_counts():
    matrix = confusion_matrix(TARGETS, PREDICTED, 5)

    assert matrix.tolist() == oracle(TARGETS, PREDICTED).tolist()
    assert recall(matrix).tolist() == pytest.approx(
        recall_score(TARGETS, PREDICTED, average=None).tolist()
    )
    assert precision(matrix).tolist() == pytest.approx(
        precision_score(TARGETS, PREDICTED, average=None).tolist()
    )


def test_a_class_without_images_or_predictions_has_no_figure():
    matrix = confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), 3)

    assert recall(matrix).isnan().tolist() == [False, False, True]
    assert precision(matrix).isnan().tolist() == [False, True, True]


def test_pairs_come_most_frequent_first_and_without_the_diagonal():
    matrix = torch.tensor([[7, 3, 0], [1, 9, 0], [3, 0, 1]])

    pairs = confused_pairs(matrix, 9)

    assert [pair[:3] for pair in pairs] == [(0, 1, 3), (2, 0, 3), (1, 0, 1)]
    assert [pair.share for pair in pairs] == pytest.approx([0.3, 0.75, 0.1])
    assert confused_pairs(matrix, 1) == pairs[:1]
    assert not confused_pairs(torch.eye(3, dtype=torch.int64), 5)
