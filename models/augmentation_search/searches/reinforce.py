"""AutoAugment's search: a controller learns which operations help."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from models.augmentation.kinds.autoaugment import MOST, STEPS, STRONGEST, AutoAugment, Name, Step
from models.augmentation_search import PolicyTrial, SearchResult, best
from models.augmentation_search.candidates import PolicyCandidate
from models.augmentation_search.proxy import Proxy
from models.augmentation_search.searches import searches
from models.registry import require_within

NAMES = get_args(Name)


TENTHS = 10  # probabilities are 0, 0.1 .. 1


SIZES = (len(NAMES), TENTHS + 1, STRONGEST + 1)  # of the three choices that make a step


HIDDEN = 100  # units of the controller, as in the paper


MEMORY = 0.9  # of the moving baseline


CLIP_NORM = 1.0


MOST_TRIALS = 20_000  # the paper takes 15,000


Choices = list[int]  # three for each step


@searches.register
@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """A recurrent network proposes policies and is rewarded by their scores (Cubuk et al., 2019).

    The paper trains a small network for each of 15,000 proposals and learns by proximal policy
    optimization. A proxy affords tens of trials, so here the rate is higher, the policy gradient is
    plain (Williams, 1992), and the one best proposal comes out instead of five joined.

    https://arxiv.org/abs/1805.09501 https://doi.org/10.1007/BF00992696
    """

    trials: int = 60
    sub_policies: int = 5  # of a proposal
    rate: float = 0.005  # of learning
    entropy: float = 0.03  # bonus for staying undecided
    seed: int = 0

    def __post_init__(self) -> None:
        require_within(self, "trials", 1, MOST_TRIALS)
        require_within(self, "sub_policies", 1, MOST)
        require_within(self, "rate", 0, 1, exclusive=True)
        if not 0 <= self.entropy < math.inf:
            raise ValueError(f"entropy must not be negative, got {self.entropy}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")

    def search(self, proxy: Proxy) -> Iterator[PolicyTrial]:
        controller = Controller(self)
        for number in range(1, self.trials + 1):
            proposal = controller.propose()
            candidate = PolicyCandidate((as_policy(proposal.choices),))
            judged = proxy.judge(candidate)
            yield PolicyTrial(number, self.trials, candidate, judged)
            controller.learn(proposal, judged.score)

    def choose(self, proxy: Proxy, trials: Sequence[PolicyTrial]) -> SearchResult:
        return best(proxy, trials)


class Proposal(NamedTuple):
    """What the controller decided, and how sure it was."""

    choices: Choices
    likelihood: Float[Tensor, ""]  # logarithm of its probability
    entropy: Float[Tensor, ""]  # nats, mean over the choices


class Controller(nn.Module):
    """An LSTM that makes one choice after the other, each from the one before."""

    def __init__(self, options: Reinforce) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.inputs = nn.Embedding(1 + sum(SIZES), HIDDEN)  # the start, and every choice
            self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
            self.outputs = nn.ModuleList(nn.Linear(HIDDEN, size) for size in SIZES)
        self._turns = options.sub_policies * STEPS * len(SIZES)
        self._bonus = options.entropy
        self._generator = Generator().manual_seed(options.seed)
        self._optimizer = torch.optim.Adam(self.parameters(), options.rate)
        self._mean: float | None = None  # of the rewards, moving
        self._spread = 0.0  # their variance

    def propose(self) -> Proposal:
        """Draw a policy."""
        choices, likelihoods, entropies = [], [], []
        token, state = torch.zeros(1, dtype=torch.long), None
        for turn in range(self._turns):
            kind = turn % len(SIZES)
            state = self.cell(self.inputs(token), state)
            chances = self.outputs[kind](state[0]).log_softmax(dim=1).squeeze(0)
            choice = torch.multinomial(chances.detach().exp(), 1, generator=self._generator)
            token = 1 + sum(SIZES[:kind]) + choice
            choices.append(int(choice))
            likelihoods.append(chances[choice].squeeze(0))
            entropies.append(torch.special.entr(chances.exp()).sum())
        return Proposal(choices, torch.stack(likelihoods).sum(), torch.stack(entropies).mean())

    def learn(self, proposal: Proposal, reward: float) -> None:
        """Make a proposal likelier that was better than the others, and a worse one less likely."""
        loss = -self._advantage(reward) * proposal.likelihood - self._bonus * proposal.entropy
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters(), CLIP_NORM)
        self._optimizer.step()

    def _advantage(self, reward: float) -> float:
        """How much better than the moving baseline, in standard deviations."""
        mean = reward if self._mean is None else self._mean
        ahead = reward - mean
        self._mean = mean + (1 - MEMORY) * ahead
        self._spread = MEMORY * self._spread + (1 - MEMORY) * ahead**2
        return ahead / math.sqrt(self._spread) if self._spread > 0 else 0.0


def as_policy(choices: Choices) -> AutoAugment:
    """The augmentation that a controller's choices mean."""
    threes = zip(*[iter(choices)] * len(SIZES), strict=True)
    steps = [Step(NAMES[name], tenths / TENTHS, level) for name, tenths, level in threes]
    return AutoAugment(policy=tuple(zip(*[iter(steps)] * STEPS, strict=True)))
