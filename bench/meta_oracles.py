"""Whether meta-learning computes what its papers say, told by independent implementations.

Meta-gradients of `maml`, in float64, beside those of torchopt and of finite differences; those of
first order, which have to differ; the logits of `prototypical`, `matching`, `feat` and `relation`
beside easyfsl's, of the last two with weights at random. Of its FEAT the norm of layers and the
dropout are off, which ours does not have, and its values are as wide as embeddings; of our
`relation` the distance to prototypes is off, which theirs does not add, and its network has our
layers on maps of one pixel.
Peers come from their own folders: `pip install --target /tmp/torchopt --no-deps torchopt optree`,
`pip install --target /tmp/easyfsl --no-deps easyfsl`, and
`PYTHONPATH=/tmp/torchopt:/tmp/easyfsl python -m bench.meta_oracles --check`. Without them their
rows are left out, and said to be.
"""

import importlib
import itertools
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.harness import Options, Result, run
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import Episodic
from models.metalearning.heads import HeadMethod, HeadObjective
from models.metalearning.learners.feat import Feat
from models.metalearning.learners.maml import MAML
from models.metalearning.learners.matching import SCALE, Matching
from models.metalearning.learners.prototypical import Prototypical
from models.metalearning.learners.relation import Relation

WAYS, SHOTS, SIDE, WIDTH, RATE = 5, 2, 16, 4, 0.05
STEPS = (1, 3, 5)
WARM_UP = 50  # batches that running statistics have seen
DIFFERENCE = 1e-8  # of weights, for slopes; so small that no maximum changes hands
TOLERANCES = {"torchopt": 1e-10, "finite differences": 1e-6, "easyfsl": 1e-5}


def measure(options: Options) -> Result:
    """Compare with every oracle that is there."""
    rows = {
        f"{name}, {case}": {"difference": float(f"{difference:.1e}")}
        for name, cases in (
            ("torchopt", _meta_gradients()),
            ("finite differences", _slopes()),
            ("easyfsl", _logits()),
        )
        for case, difference in cases.items()
    }
    cosines = _first_order()
    missing = [name for name in ("torchopt", "easyfsl") if not _peer(name)]
    for name in missing:
        print(f"{name}: skipped, it is not installed", flush=True)
    wrong = [
        row
        for row, figures in rows.items()
        if not figures["difference"] <= TOLERANCES[row.partition(",")[0]]
    ]
    same = [steps for steps, cosine in cosines.items() if cosine > 0.999]
    headline = (
        f"{len(rows) - len(wrong)} of {len(rows)} comparisons agree, first order differs "
        f"(cosines {min(cosines.values()):.3f} to {max(cosines.values()):.3f})"
        + (f", without {' and '.join(missing)}" if missing else "")
    )
    figures = {"largest differences": rows, "cosine of first to second order": cosines}
    return Result(figures, headline, not (wrong or same))


def _meta_gradients() -> dict[str, float]:
    """Of all that the learner begins with, by how many steps there are."""
    torchopt = _peer("torchopt")
    if torchopt is None:
        return {}
    differences = {}
    for steps in STEPS:
        objective, images = _learner(steps=steps)
        ours = _gradient(objective, images)
        theirs = _torchopt_gradient(torchopt, objective, images, steps)
        differences[f"maml, steps {steps}"] = _largest(ours, theirs)
    return differences


def _torchopt_gradient(
    torchopt: ModuleType, objective: Episodic, images: Tensor, steps: int
) -> Tensor:
    """The inner loop by `MetaSGD`, which replaces the parameters of a module as it steps."""
    layer = nn.Linear(WIDTH, WAYS).double()
    *_, layer.weight, layer.bias = _learned(objective)
    network = nn.Sequential(*objective.encoder.stages, nn.Flatten(), layer)
    start = list(network.parameters())
    optimizer = torchopt.MetaSGD(network, lr=RATE)
    maps = objective.encoder.normalised(images)
    support, query = maps[: WAYS * SHOTS], maps[WAYS * SHOTS :]
    for _ in range(steps):
        optimizer.step(F.cross_entropy(network(support), _labels(support)))
    loss = F.cross_entropy(network(query), _labels(query))
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, start)])


def _slopes() -> dict[str, float]:
    """Along random directions, relative to the slope."""
    differences = {}
    for inner, start in itertools.product(("all", "last_stage"), ("prototypes", "fixed")):
        for fresh in (True, False):
            objective, images = _learner(steps=3, inner=inner, start=start, fresh=fresh)
            learned = _learned(objective)
            gradient = _gradient(objective, images)
            direction = torch.randn(len(gradient), dtype=torch.float64)
            losses = []
            for shift in (DIFFERENCE, -2 * DIFFERENCE):
                _move(learned, shift * direction)
                losses.append(float(_outer_loss(objective, images).detach()))
            slope, expected = float(gradient @ direction), (losses[0] - losses[1]) / DIFFERENCE / 2
            norms = "norms of the support" if fresh else "running norms"
            differences[f"maml, {inner}, {start}, {norms}"] = abs(slope / expected - 1)
    return differences


def _first_order() -> dict[str, float]:
    """The cosine of its gradient to that of second order, by steps."""
    return {
        f"steps {steps}": round(
            float(
                F.cosine_similarity(
                    _gradient(*_learner(steps=steps)),
                    _gradient(*_learner(steps=steps, order="first")),
                    dim=0,
                )
            ),
            4,
        )
        for steps in STEPS
    }


def _logits() -> dict[str, float]:
    """Of vectors drawn at random: of one shot and of several."""
    methods = _peer("easyfsl.methods")
    if methods is None:
        return {}
    modules, differences = importlib.import_module("easyfsl.modules"), {}
    for shots in (1, SHOTS):
        support, query = torch.randn(WAYS, shots, 64), torch.randn(40, 64)
        labels = torch.arange(WAYS).repeat_interleave(shots)
        encoder = Conv4(width=WIDTH, image_side=SIDE).build()

        theirs = methods.PrototypicalNetworks()
        theirs.process_support_set(support.flatten(0, 1), labels)
        ours = Prototypical().build(encoder, fresh=True).logits(support, query)
        # Its score is minus the distance, which is not squared.
        differences[f"prototypical, {shots} shots"] = _largest(ours, -theirs(query).square())

        units = [F.normalize(vectors, dim=-1) for vectors in (support, query)]
        theirs = methods.MatchingNetworks(
            feature_dimension=64, support_encoder=_NoContext(), query_encoder=_NoState()
        )
        theirs.process_support_set(units[0].flatten(0, 1), labels)
        ours = Matching().build(encoder, fresh=True).logits(*units)
        # It normalises support only, and adds 1e-6 to probabilities before their logarithm.
        probabilities = theirs(SCALE * units[1]).exp() - 1e-6
        differences[f"matching, {shots} shots"] = _largest(ours.softmax(dim=1), probabilities)

        network = _random_network(Feat(width=64))
        theirs = methods.FEAT(attention_module=_attention(modules, network)).eval()
        theirs.process_support_set(units[0].flatten(0, 1), labels)
        ours = HeadObjective(network).logits(*units)
        expected = -network.log_scale.exp() * theirs(units[1]).square()
        # Ours leaves out |q|^2, which all classes share.
        differences[f"feat, {shots} shots"] = _largest(
            ours - ours.mean(dim=1, keepdim=True), expected - expected.mean(dim=1, keepdim=True)
        )

        network = _random_network(Relation(width=64))
        network.log_scale.data.fill_(-math.inf)
        theirs = methods.RelationNetworks(
            feature_dimension=64, relation_module=_relation_module(network)
        )
        theirs.process_support_set(units[0].flatten(0, 1)[..., None, None], labels)
        ours = HeadObjective(network).logits(*units)
        differences[f"relation, {shots} shots"] = _largest(ours, theirs(units[1][..., None, None]))
    return differences


def _random_network(method: HeadMethod) -> Any:
    """Of a head, whose weights have left the start."""
    network = method.network(64)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def _attention(modules: ModuleType, network: Any) -> nn.Module:
    """Theirs, with our weights."""
    attention: nn.Module = modules.MultiHeadAttention(1, 64, 64, 64)
    weights = {
        "w_qs.weight": network.query.weight,
        "w_ks.weight": network.key.weight,
        "w_vs.weight": network.value.weight,
        "fc.weight": network.out.weight,
        "fc.bias": torch.zeros(64),
    }
    attention.layer_norm = nn.Identity()
    attention.load_state_dict(weights)
    return attention


def _relation_module(network: Any) -> nn.Module:
    """Our layers on maps of one pixel, of a prototype and a query side by side."""
    first, last = nn.Linear(128, 64), nn.Linear(64, 1, bias=False)
    first.weight.data = torch.cat([network.of_prototype.weight, network.of_query.weight], dim=1)
    first.bias.data, last.weight.data = network.of_prototype.bias.data, network.out.weight.data
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), network.hidden, nn.ReLU(), last)


class _NoContext(nn.Module):
    """What support features are given by each other: nothing."""

    def forward(self, features: Tensor) -> tuple[Tensor]:
        return (torch.zeros(*features.shape[:2], 2 * features.shape[2]),)


class _NoState(nn.Module):
    """What query features are given by the support: nothing."""

    def forward(self, _: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(state[0]), state[1]


def _learner(*, fresh: bool = False, **options: object) -> tuple[Episodic, Tensor]:
    """In float64, and the images of an episode: support and queries, class by class."""
    torch.manual_seed(0)
    options = {"start": "fixed", "rate": RATE, "ways": WAYS} | options
    encoder = Conv4(width=WIDTH, image_side=SIDE).build().train()
    for _ in range(WARM_UP):
        encoder(torch.rand(WAYS * SHOTS, 3, SIDE, SIDE))
    objective = MAML(**options).build(encoder, fresh=fresh).double().train()  # type: ignore[arg-type]
    objective.get_parameter("log_rates").data.fill_(math.log(RATE))  # which was float32
    return objective, torch.rand(WAYS * SHOTS * 2, 3, SIDE, SIDE, dtype=torch.float64)


def _outer_loss(objective: Episodic, images: Tensor) -> Tensor:
    maps = objective.prepare(images)
    support, query = maps[: WAYS * SHOTS], maps[WAYS * SHOTS :]
    logits = objective.logits(support.view(WAYS, SHOTS, 3, SIDE, SIDE), query)
    return F.cross_entropy(logits, _labels(query))


def _learned(objective: Episodic) -> list[nn.Parameter]:
    """What an inner loop begins with, but for its rates, in the order of a network."""
    layer = [value for name, value in objective.named_parameters() if name in ("rows", "offsets")]
    return [*objective.encoder.parameters(), *layer]


def _gradient(objective: Episodic, images: Tensor) -> Tensor:
    gradients = torch.autograd.grad(_outer_loss(objective, images), _learned(objective))
    return torch.cat([gradient.flatten() for gradient in gradients])


@torch.no_grad()
def _move(parameters: list[nn.Parameter], direction: Tensor) -> None:
    parts = torch.split(direction, [value.numel() for value in parameters])
    for value, part in zip(parameters, parts, strict=True):
        value.add_(part.view_as(value))


def _labels(images: Tensor) -> Tensor:
    return torch.arange(WAYS).repeat_interleave(len(images) // WAYS)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def _peer(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    run(measure)
