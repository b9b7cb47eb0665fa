"""Low-rank adaptation: weights that learn a difference of low rank."""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """Adds the product of two thin matrices to a weight (Hu et al., 2022, section 4.1).

    https://arxiv.org/abs/2106.09685

    One matrix starts at zero, so that nothing changes before the first step.
    """

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        generator = Generator().manual_seed(0)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapt(module: nn.Module, rank: int) -> None:
    """Freeze a module and let each of its linear layers learn a difference of this rank."""
    module.requires_grad_(False)
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear):
            rows, columns = layer.weight.shape
            difference = LowRank(rows, columns, min(rank, rows, columns)).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", difference)


def merge(module: nn.Module) -> None:
    """Add what was learned to the weights, so that the module is again of its architecture."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
