"""What every method promises."""

import copy
import inspect
import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.pretraining import (
    LOOK,
    STRIKES,
    Collapsed,
    Pretext,
    PretextLoss,
    Unsuited,
    resolve_recipe,
    start,
    views_of,
)
from models.pretraining.losses import Contrast
from models.pretraining.methods import methods
from models.pretraining.methods.simclr import SimCLR
from models.pretraining.views import Views
from models.training.checkpoint import pack, unpack
from models.training.loop import Batch, Training
from models.training.recipe import Recipe
from tests.models.pretraining.conftest import SIDE, conv, vit

LINES = 80  # of code that a method may take
RECIPE = Recipe(epochs=3, batch_size=16, rate=1e-3, schedule="cosine")
WHOLE_ONLY = {"context", "jigsaw", "pirl"}  # look at tiles, which a transformer does not take


def shallow() -> Encoder:
    """For tiles of which Conv-4, which halves them four times, would leave nothing."""
    stages = [conv().stages[0], torch.nn.AdaptiveAvgPool2d(1)]
    return Encoder(stages, embedding_dim=8, preprocessing=conv().preprocessing)


def pictures(count: int = 40) -> Tensor:
    """Blobs of their own colour, size and place, on a background of its own."""
    generator = Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    place = torch.rand(count, 2, 1, 1, generator=generator)
    size = 0.05 + 0.2 * torch.rand(count, 1, 1, generator=generator)
    blob = (-((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2) / size**2).exp().unsqueeze(1)
    front, back = torch.rand(2, count, 3, 1, 1, generator=generator)
    return ((blob * front + (1 - blob) * back) * 255).to(torch.uint8)


ENCODERS = {"conv": conv, "shallow": shallow, "vit": vit}
CASES = [
    pytest.param(name, encoder, id=f"{name}-{encoder}")
    for name in methods
    for encoder in (("shallow",) if name == "context" else ("conv", "vit"))
    if not (name in WHOLE_ONLY and encoder == "vit")
]


def training(name: str, encoder: str = "conv", recipe: Recipe = RECIPE) -> Training:
    options = {"grid": 2} if name in {"jigsaw", "pirl"} else {}
    return start(methods[name](**options), ENCODERS[encoder](), pictures(), recipe, fresh=True)


def batch_of(objective: Pretext, count: int = 16) -> Batch:
    positions = torch.arange(count)
    images = pictures()[positions].float() / 255
    views, shares = objective.make_views(images, torch.zeros(count, 0), Generator().manual_seed(1))
    return Batch(views, positions, shares)


def test_there_is_every_method_of_the_textbook():
    assert set(methods) >= {
        "rotation", "jigsaw", "context", "mae", "simclr", "moco", "byol", "pirl", "npid",
        "triplet", "deepcluster", "swav",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(name, encoder):
    whole = training(name, encoder)
    losses = [epoch.loss for epoch in whole]

    first = training(name, encoder)
    next(first)
    state = copy.deepcopy(first.state())
    torch.manual_seed(99)  # another process has other chance
    second = training(name, encoder)
    second.load(state)
    remaining = [epoch.loss for epoch in second]

    assert remaining == losses[1:]
    for a, b in zip(
        second.objective.state_dict().values(), whole.objective.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_it_learns_on_cuda_and_goes_on_there(name, encoder):
    whole, first, second = (
        start(
            methods[name](**({"grid": 2} if name in {"jigsaw", "pirl"} else {})),
            ENCODERS[encoder]().to("cuda"),
            pictures(),
            RECIPE,
            fresh=True,
        )
        for _ in range(3)
    )
    losses = [epoch.loss for epoch in whole]
    next(first)

    second.load(unpack(pack(first.state())))

    assert [epoch.loss for epoch in second] == pytest.approx(losses[1:], rel=0.05)


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_the_encoder_learns_and_nothing_that_only_follows_gets_gradients(name, encoder):
    objective = training(name, encoder).objective
    if name == "deepcluster":
        objective.before_epoch(pictures())
    before = {key: value.clone() for key, value in objective.named_parameters()}

    objective.loss(batch_of(objective)).backward()

    learned = [p for p in objective.encoder.stages.parameters() if p.grad is not None]
    assert sum(float(p.grad.abs().sum()) for p in learned) > 0
    learning = {id(p) for group in objective.groups() for p in group.parameters}
    for key, value in objective.named_parameters():
        assert key.startswith("slow") != value.requires_grad
        assert (id(value) in learning) == value.requires_grad
        assert torch.equal(value, before[key])
        if key.startswith("slow"):
            assert value.grad is None


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_another_seed_gives_another_run(name, encoder):
    first, second = (
        next(training(name, encoder, replace(RECIPE, seed=seed))).loss for seed in (0, 1)
    )

    assert math.isfinite(first)
    assert first != second


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_the_given_encoder_stays_as_it_is(name, encoder):
    network = ENCODERS[encoder]()
    before = copy.deepcopy(network.state_dict())
    options = {"grid": 2} if name in {"jigsaw", "pirl"} else {}

    next(start(methods[name](**options), network, pictures(), RECIPE, fresh=True))

    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "context"])
def test_the_loss_of_what_knows_nothing_is_that_of_a_guess(name):
    objective = training(name, "shallow").objective
    guesses = {"rotation": 4, "jigsaw": 24, "context": 8}
    with torch.no_grad():
        for parameter in objective.classifier.parameters():
            parameter.zero_()

    loss = float(objective.loss(batch_of(objective)).detach())

    assert loss == pytest.approx(math.log(guesses[name]), abs=1e-5)
    assert objective.chance == pytest.approx(math.log(guesses[name]))


@pytest.mark.parametrize("name", ["simclr", "moco", "npid", "pirl"])
def test_the_loss_of_embeddings_that_are_all_alike_is_that_of_a_guess(name):
    objective = training(name).objective
    with torch.no_grad():
        for key, parameter in objective.named_parameters():
            parameter.zero_()
            if key.endswith("bias"):  # of heads: every image becomes the same vector
                parameter.fill_(1.0)
        if hasattr(objective, "bank"):
            objective.bank.features[:] = objective.bank.features.shape[1] ** -0.5

    batch = batch_of(objective)
    loss = float(objective.loss(batch).detach())
    excluded = {"simclr": 0, "moco": 1, "npid": 1, "pirl": 1}[name]

    negatives = {"simclr": 30, "moco": 16, "npid": 40, "pirl": 40}[name]
    assert loss == pytest.approx(math.log(1 + negatives - excluded), rel=1e-4)


@pytest.mark.parametrize("name", methods)
def test_a_method_says_what_it_needs(name):
    method = methods[name]

    assert method.family in {"discriminative", "generative", "contrastive", "cluster-based"}
    assert method.fewest >= 1
    assert method.unsuited
    assert "arxiv.org" in (inspect.getdoc(method) or "")


@pytest.mark.parametrize("name", methods)
def test_a_method_is_short(name):
    source = Path(inspect.getfile(methods[name])).read_text().splitlines()
    code = [
        line
        for line in source
        if line.strip() and not line.strip().startswith(("#", "import", "from"))
    ]

    assert len(code) <= LINES, len(code)


@pytest.mark.parametrize("name", sorted(WHOLE_ONLY))
def test_a_method_of_tiles_refuses_a_transformer_and_names_those_that_can(name):
    with pytest.raises(Unsuited, match="use rotation, mae, simclr"):
        start(methods[name](), vit(), pictures(), RECIPE, fresh=True)


@pytest.mark.parametrize("name", sorted(WHOLE_ONLY))
def test_tiles_that_are_too_small_are_refused(name):
    encoder = Conv4(width=8, image_side=24).build()

    with pytest.raises(Unsuited, match="24 pixels into"):
        methods[name]().build(encoder, 40)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(Unsuited, match="40 images, fewer than a batch of 64"):
        start(SimCLR(), conv(), pictures(), replace(RECIPE, batch_size=64), fresh=True)


def test_continued_pretraining_keeps_the_statistics_of_batch_norms():
    continued, fresh = (
        start(SimCLR(), conv().eval(), pictures(), RECIPE, fresh=fresh) for fresh in (False, True)
    )
    before = conv().get_buffer("stages.0.1.running_mean").clone()
    next(continued), next(fresh)

    latest = [
        run.objective.encoder.get_buffer("stages.0.1.running_mean") for run in (continued, fresh)
    ]
    assert [torch.equal(mean, before) for mean in latest] == [True, False]


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_views_can_be_looked_at(name, encoder):
    options = {"grid": 2} if name in {"jigsaw", "pirl"} else {}
    images = pictures(3).float() / 255

    views = views_of(methods[name](**options), ENCODERS[encoder](), images, count=2, seed=0)

    assert len(views) == 2
    for view in views[0]:
        assert view.shape[0] % 3 == 0
        assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_epochs_and_rate_are_settled_by_the_images_and_the_encoder():
    assert resolve_recipe(Recipe(batch_size=64), conv(), 6400).epochs == 20
    assert resolve_recipe(Recipe(batch_size=64), conv(), 100).epochs == 200
    assert resolve_recipe(Recipe(batch_size=64, epochs=7), conv(), 100).epochs == 7
    assert resolve_recipe(Recipe(), vit(), 100).rate < resolve_recipe(Recipe(), conv(), 100).rate


class Forgetful(Pretext):
    """Makes the same of all images, from a step on."""

    chance = 1.0

    def __init__(self, collapses: bool, loss: float = 0.5, alike: bool = False) -> None:
        super().__init__(conv())
        self.collapses, self.value, self.alike = collapses, loss, alike

    def pretext_loss(self, batch):
        first = torch.randn(16, 8)
        first = torch.ones(16, 8) if self.collapses else first
        second = first if self.alike else torch.randn(16, 8)
        return PretextLoss(torch.tensor(self.value), [first, second])


def look_at(objective: Pretext) -> None:
    nothing = Batch([], torch.arange(0), torch.zeros(0, 0))
    for _ in range(200):
        objective.loss(nothing)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Forgetful(True), "all images look alike"),
        (Forgetful(False, alike=True), "two views of an image are one"),
        (Forgetful(False, loss=5.0), "knowing nothing"),
    ],
)
def test_a_run_that_learns_nothing_is_ended_with_the_reason(objective, reason):
    with pytest.raises(Collapsed, match=reason):
        look_at(objective)

    assert int(objective.steps) >= LOOK * STRIKES


def test_a_run_that_learns_goes_on():
    objective = Forgetful(False)

    look_at(objective)

    assert int(objective.strikes) == 0


CAUGHT_WITHIN = 140  # steps in which the alarm has to ring
STILL = Views(crop=1.0, flip=0.0, colour=0.0, grey=0.0, blur=0.0)
COLD = Contrast(temperature=1e-3)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    grey = torch.tensor(load_digits().images[:640]).float().unsqueeze(1) * 255 / 16
    grown = torch.nn.functional.interpolate(grey, (16, 16), mode="bilinear")
    return grown.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def on_digits(digits: Tensor, name: str, **options: object) -> Training:
    encoder = Conv4(width=16, image_side=16).build()
    recipe = Recipe(batch_size=32, epochs=CAUGHT_WITHIN * 32 // len(digits), rate=1e-3)
    return start(methods[name](**options), encoder, digits, recipe, fresh=True)


def no_stop_gradient(digits: Tensor) -> Training:
    """BYOL of which both networks are one, that learns from both sides."""
    run = on_digits(digits, "byol", hidden=64, projection=32)
    objective = run.objective
    objective._targets = lambda views: [
        objective.head(objective.encoder.features(view)) for view in views
    ]
    return run


@pytest.mark.parametrize(
    ("sabotaged", "reason"),
    [
        (no_stop_gradient, "all images look alike"),
        (lambda digits: on_digits(digits, "simclr", contrast=COLD), "higher temperature"),
        (lambda digits: on_digits(digits, "moco", views=STILL), "two views of an image are one"),
        (
            lambda digits: on_digits(digits, "byol", views=STILL, solarize=0.0),
            "two views of an image are one",
        ),
    ],
    ids=["byol, no stop-gradient", "simclr, cold", "moco, still", "byol, still"],
)
def test_a_sabotaged_run_ends_with_the_reason(digits, sabotaged, reason):
    run = sabotaged(digits)

    with pytest.raises(Collapsed, match=reason):
        for _ in itertools.islice(run.steps(), CAUGHT_WITHIN):
            pass


@pytest.mark.parametrize("name", ["simclr", "byol", "npid", "triplet"])
def test_a_healthy_run_goes_on(digits, name):
    steps = sum(1 for _ in itertools.islice(on_digits(digits, name).steps(), CAUGHT_WITHIN))

    assert steps == CAUGHT_WITHIN
