"""The learning-rate range test."""

import pytest
import torch
from torch import Tensor, nn

from models.training.learning_rate_range import find_rate
from models.training.loop import Batch, Objective, ParameterGroup, Training
from models.training.recipe import Recipe


class Bowl(Objective):
    """A quadratic loss, on which gradient descent diverges at a rate above 2 / curvature."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(2))
        self.curvature = curvature

    def loss(self, batch: Batch) -> Tensor:
        return 1 + self.curvature / 2 * self.place.square().sum()

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("place", [self.place], 1.0)]


def rate_of(curvature: float) -> float:
    def begin(recipe: Recipe) -> Training:
        images = torch.zeros(8, 1)
        return Training(Bowl(curvature), images, torch.arange(8) % 2, recipe)

    recipe = Recipe(batch_size=4, optimizer="sgd", clip_norm=0.0, weight_decay=0.0)
    return find_rate(begin, 8, recipe)


@pytest.mark.parametrize("curvature", [10.0, 100.0, 1000.0, 10_000.0])
def test_the_rate_is_safely_below_where_descent_diverges(curvature):
    assert 1e-3 * 2 / curvature < rate_of(curvature) < 2 / curvature
