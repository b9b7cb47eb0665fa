"""The linear head of the proxy."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Generator
from torch.nn import functional as F

from models.augmentation_search.linear_head import PRIOR_VARIANCE, fit


def test_the_head_is_logistic_regression():
    generator = Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    rows = torch.randn(60, 5, generator=generator) + F.one_hot(targets, 5)

    head = fit(rows, targets, 3)

    # The bias has the prior of the weights, so it is one of these here.
    inputs = F.pad(rows, (0, 1), value=1.0).numpy()
    oracle = LogisticRegression(C=PRIOR_VARIANCE, fit_intercept=False, tol=1e-8, max_iter=1000)
    oracle.fit(inputs, targets.numpy())
    expected = torch.tensor(oracle.predict_proba(inputs), dtype=torch.float32)
    # Newton steps stop early; a hundredth is far below the differences that matter.
    assert torch.allclose(head(rows).softmax(dim=1), expected, atol=1e-2)
