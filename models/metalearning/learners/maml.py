"""Model-agnostic meta-learning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.encoders import Encoder
from models.metalearning import Episodic
from models.metalearning.inner_loop import (
    InnerLoopObjective,
    Solution,
    in_float32,
    parameters_of,
    run_stages,
    slopes,
    stages_of,
    support_labels,
)
from models.metalearning.learners import learners
from models.registry import require_within


class OtherWays(ValueError):
    """An episode has another number of labels than a last layer of a fixed number of rows."""


@learners.register
@dataclass(frozen=True, kw_only=True)
class MAML:
    """Learn weights from which a few gradient steps on the support solve an episode.

    Finn et al., 2017, algorithm 2. https://arxiv.org/abs/1703.03400 With w the weights of an
    episode, `w <- w - a grad L_support(w)` some times; the loss of the queries is lowered through
    these steps, or as if their gradients were constants (`first`). The rates a are learned, one for
    each tensor (Li et al., 2017, https://arxiv.org/abs/1707.09835, have one for each number).

    `inner` says what the steps change beside the last layer: the whole network, or its last stage
    that has weights. Of the last layer alone, on embeddings that stay, `anil` learns the steps.

    `start` says where the last layer begins. `prototypes`: row 2 c and offset -|c|^2, with c the
    mean of the shots of a label, which are the scores of a prototypical network (Triantafillou et
    al., 2020, https://arxiv.org/abs/1903.03096). `shared`: one row for all labels (Ye and Chao,
    2022, https://arxiv.org/abs/2106.16245); as softmax sees differences only, any such row is the
    same as zeros. Both take any number of labels, in any order. `fixed`, as printed: `ways` rows
    that are learned, whose order is arbitrary.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = (
        "large encoders: activations of all steps stay in memory; little time, in which "
        "`prototypical` learns more"
    )

    # Options by which it takes less memory.
    lighter: ClassVar[tuple[dict[str, str], ...]] = (
        {"order": "first"},
        {"inner": "last_stage"},
    )
    as_heads: ClassVar[tuple[str, ...]] = ("anil",)  # methods that do the same on embeddings

    order: Literal["second", "first"] = "second"  # of the derivatives that are taken
    inner: Literal["all", "last_stage"] = "all"
    start: Literal["prototypes", "shared", "fixed"] = "prototypes"
    steps: int = 2
    rate: float = 0.05  # a, at the start
    ways: int = 5  # of `fixed`
    tasks: int = 1  # episodes of a step of the outer loop

    def __post_init__(self) -> None:
        require_within(self, "steps", 1, 100)
        require_within(self, "rate", 0, 100, exclusive=True)
        require_within(self, "ways", 2, 1000)
        require_within(self, "tasks", 1, 100)

    @property
    def only_ways(self) -> int | None:
        """Labels of an episode, where it cannot have another number; None: it can."""
        return self.ways if self.start == "fixed" else None

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(InnerLoopObjective):
    def __init__(self, encoder: Encoder, options: MAML, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.options = options
        self.tasks, self.only_ways = options.tasks, options.only_ways
        stages = encoder.stages
        learning = [n for n, stage in enumerate(stages) if any(True for _ in stage.parameters())]
        self.first = learning[-1] if options.inner == "last_stage" else 0
        tensors = len(parameters_of(stages_of(encoder, self.first))) + 2
        self.log_rates = nn.Parameter(torch.full((tensors,), math.log(options.rate)))
        if options.start == "fixed":
            layer = nn.Linear(encoder.embedding_dim, options.ways)
            self.rows, self.offsets = layer.weight, layer.bias

    def solve(self, support: Tensor) -> Solution:
        """The inner loop: see `InnerLoopObjective`.

        Raises:
            InnerLoopDiverged: its loss is not a number.
            OtherWays: the start is fixed to another number of labels.
        """
        ways, shots = support.shape[:2]
        labels = support_labels(ways, shots, support.device)
        stages = stages_of(self.encoder, self.first)
        with in_float32(support.device) as learns:
            shown = self._before(support.flatten(0, 1), learns)
            weights = parameters_of(stages)
            solution: Solution | None = None
            for step in range(self.options.steps):
                maps = run_stages(
                    stages, weights, shown, support=self._support(shown), remember=step == 0
                )
                features = maps.flatten(1)
                if solution is None:
                    means = features.view(ways, shots, features.shape[1]).mean(dim=1)
                    solution = Solution(weights, *self._layer(means))
                gradients = slopes(
                    features,
                    solution[1:],
                    labels,
                    weights,
                    step=step + 1,
                    learns=learns,
                    second=learns and self.options.order == "second",
                )
                solution, _ = self.step(solution, gradients)
                if not learns:
                    values = [value.detach().requires_grad_() for value in solution.tensors]
                    solution = solution.replaced(values)
                weights = dict(solution.weights)
        assert solution is not None
        return solution

    def count_steps(self, shots: int) -> int:
        """The same, however many shots there are."""
        return self.options.steps

    def initial(self, means: Float[Tensor, "C D"]) -> Solution:
        """Where steps start.

        Args:
            means: of the features of each label.

        Raises:
            OtherWays: the start is fixed to another number of labels.
        """
        return Solution(parameters_of(stages_of(self.encoder, self.first)), *self._layer(means))

    def step(
        self,
        solution: Solution,
        gradients: Sequence[Tensor],
        loss: Tensor | None = None,
        memory: Sequence[Tensor] = (),
    ) -> tuple[Solution, Sequence[Tensor]]:
        """Gradient descent at the rates that were learned, which remembers nothing."""
        steps = zip(solution.tensors, self.log_rates.exp(), gradients, strict=True)
        return solution.replaced([value - rate * slope for value, rate, slope in steps]), ()

    def _before(self, shown: Tensor, learns: bool) -> Tensor:
        """What the stages that stay as they are make of the support."""
        with torch.set_grad_enabled(learns):
            stages = stages_of(self.encoder, 0, self.first)
            return run_stages(stages, {}, shown, support=self._support(shown), remember=True)

    def _support(self, shown: Tensor) -> int | None:
        """Whose statistics batch norms take: see `run_stages`."""
        return len(shown) if self.fresh else None

    def _layer(self, means: Float[Tensor, "C D"]) -> tuple[Tensor, Tensor]:
        """The rows and offsets of the last layer before the first step."""
        ways = len(means)
        if self.options.start == "fixed":
            if ways != self.options.ways:
                raise OtherWays(
                    f"the last layer has {self.options.ways} rows and the episode {ways} labels; "
                    "draw episodes of as many labels, or start from prototypes"
                )
            return self.rows, self.offsets
        if self.options.start == "shared":
            zeros = means.new_zeros(ways, means.shape[1] + 1, requires_grad=True)
            return zeros[:, 1:], zeros[:, 0]
        return 2 * means, -means.square().sum(dim=1)
