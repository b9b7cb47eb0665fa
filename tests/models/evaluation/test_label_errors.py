"""Labels that are probably wrong."""

import torch
from torch.nn import functional as F

from models.evaluation.label_errors import confident_joint, label_errors, label_quality
from models.heads.kinds.cosine import Cosine

# Two classes; the thresholds are 0.7 (mean of 0.9, 0.8, 0.4) and 0.6 (0.9 and 0.3).
PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]])
TARGETS = torch.tensor([0, 0, 0, 1, 1])


def naive_joint(probabilities, targets):
    classes = probabilities.shape[1]
    thresholds = [float(probabilities[targets == j, j].double().mean()) for j in range(classes)]
    joint = torch.zeros(classes, classes, dtype=torch.int64)
    for p, label in zip(probabilities.tolist(), targets.tolist(), strict=True):
        confident = [j for j in range(classes) if p[j] >= thresholds[j] - 1e-6]
        if confident:
            joint[label, max(confident, key=lambda j: p[j])] += 1
    return joint


def test_a_case_worked_by_hand():
    assert confident_joint(PROBABILITIES, TARGETS).tolist() == [[2, 1], [1, 1]]

    errors = label_errors(PROBABILITIES, TARGETS)

    assert errors.rows.tolist() == [4, 2]  # the surest first
    assert errors.suggested.tolist() == [0, 1]
    assert torch.allclose(errors.probability, torch.tensor([0.7, 0.6]))


def test_the_joint_is_that_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(300, 6, generator=generator).mul(2).softmax(dim=1)
    targets = torch.randint(6, (300,), generator=generator)

    assert torch.equal(confident_joint(probabilities, targets), naive_joint(probabilities, targets))


def test_quality_is_the_margin_over_the_likeliest_other_class():
    quality = label_quality(torch.tensor([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]]), torch.tensor([0, 2]))

    assert torch.allclose(quality, torch.tensor([0.6, 0.0]))


def test_a_class_without_images_is_never_suggested():
    probabilities = torch.tensor([[0.2, 0.1, 0.7], [0.1, 0.3, 0.6]])

    assert not len(label_errors(probabilities, torch.tensor([0, 1])).rows)


def test_labels_that_were_swapped_are_found():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 4
    embeddings = F.normalize(
        5 * torch.eye(8)[truth] + torch.randn(200, 8, generator=generator), dim=1
    )
    targets = truth.clone()
    swapped = torch.randperm(200, generator=generator)[:16]
    targets[swapped] = (truth[swapped] + 1) % 4

    head = Cosine(temperature=0.1).fit(embeddings, targets, 4)
    errors = label_errors(head.leave_one_out(embeddings, targets).softmax(dim=1), targets)

    right = torch.isin(errors.rows, swapped)
    assert right.sum() >= 14
    assert right[:10].all()
    assert torch.equal(errors.suggested[right], truth[errors.rows[right]])
