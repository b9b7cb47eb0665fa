"""What every way to fine-tune promises."""

import copy

import pytest
import torch

from models.augmentation.kinds.colour import Colour
from models.encoders import Encoder
from models.encoders.specs import parse
from models.finetuning import class_centroids, embed_all, interpolate, resolve_recipe, start
from models.finetuning.methods import methods
from models.training.checkpoint import pack, unpack
from models.training.recipe import Recipe

TARGETS = torch.arange(20) % 2


def encoder() -> Encoder:
    torch.manual_seed(0)
    return parse("conv4:8")[1].build(pretrained=False).eval()


def stripes(count: int, seed: int) -> torch.Tensor:
    """Noise with faint stripes, upright in class 1 and level in class 0."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 32, 32, generator=generator)
    wave = torch.sin(torch.arange(32) * 1.5) * 0.2
    for n in range(count):
        images[n] += wave.view(1, -1) if n % 2 else wave.view(-1, 1)
    return (images.clamp(0, 1) * 255).to(torch.uint8)


def accuracy(network: Encoder) -> float:
    centroids = class_centroids(embed_all(network, stripes(20, 1)), TARGETS)
    queries = embed_all(network, stripes(100, 2))
    right = (queries @ centroids.T).argmax(dim=1) == torch.arange(100) % 2
    return float(right.float().mean())


@pytest.fixture(params=sorted({*methods} - {"adapt"}))  # which trains by no recipe
def method(request):
    return methods[request.param]()


def tune(network: Encoder, method, **options) -> Encoder:
    recipe = Recipe(**({"epochs": 20, "rate": 3e-3, "batch_size": 10} | options))
    tuned, training = start(method, network, stripes(20, 1), TARGETS, recipe)
    list(training)
    return tuned


def test_nearest_centroids_get_better(method):
    before = encoder()

    tuned = tune(before, method)

    assert accuracy(tuned) > accuracy(before)
    assert method.frozen or accuracy(tuned) >= 0.95  # a frozen network saw no stripes in its youth


@pytest.mark.cuda
def test_nearest_centroids_get_better_on_cuda(method):
    before = encoder().to("cuda")

    tuned = tune(before, method)

    assert accuracy(tuned) > accuracy(before)
    assert method.frozen or accuracy(tuned) >= 0.95


@pytest.mark.cuda
def test_a_training_on_cuda_goes_on_from_a_state_that_went_through_a_file(method):
    recipe = Recipe(epochs=4, rate=3e-3, batch_size=10, ema_decay=0.9)
    whole, first, second = (
        start(method, encoder().to("cuda"), stripes(20, 1), TARGETS, recipe).training
        for _ in range(3)
    )
    losses = [epoch.loss for epoch in whole]
    next(first)

    second.load(unpack(pack(first.state())))

    assert [epoch.loss for epoch in second] == pytest.approx(losses[1:], rel=0.02)


def test_the_encoder_given_stays_as_it_is(method):
    before = encoder()
    weights = copy.deepcopy(before.state_dict())

    tune(before, method, epochs=2)

    assert all(torch.equal(weights[name], tensor) for name, tensor in before.state_dict().items())


def test_running_statistics_stay_and_what_learns_moves(method):
    before = encoder()

    tuned = tune(before, method, epochs=2)

    for name, tensor in before.state_dict().items():
        if "running" in name or method.frozen:
            assert torch.equal(tuned.state_dict()[name], tensor), name
    learning = {id(p) for group in method.groups(tuned, 10) for p in group.parameters}
    assert learning
    assert learning == {id(p) for p in tuned.parameters() if p.requires_grad}


def test_what_did_not_learn_yet_embeds_as_before(method):
    before = encoder()

    learner = method.prepare(before)

    images = stripes(4, 3)
    assert torch.allclose(embed_all(learner, images), embed_all(before, images), atol=1e-6)


def test_augmentations_are_for_what_sees_images(method):
    runs = [
        start(method, encoder(), stripes(20, 1), TARGETS, Recipe(epochs=1), policy=policy)
        for policy in ((), (Colour(brightness=0.9),))
    ]

    plain, coloured = (next(run.training).loss for run in runs)

    assert (plain == coloured) is method.frozen


def test_interpolation_goes_from_one_training_to_the_other():
    before = encoder()
    after = tune(before, methods["full"](), epochs=2)

    ends = interpolate(before, after, 0.0), interpolate(before, after, 1.0)
    middle = interpolate(before, after, 0.5).state_dict()

    for name, tensor in before.state_dict().items():
        assert torch.equal(ends[0].state_dict()[name], tensor)
        assert torch.equal(ends[1].state_dict()[name], after.state_dict()[name])
        if tensor.is_floating_point():
            assert torch.allclose(middle[name], (tensor + after.state_dict()[name]) / 2)


@pytest.mark.parametrize(("images", "epochs"), [(20, 30), (200, 12), (600, 5), (100_000, 3)])
def test_few_images_are_seen_often_and_many_seldom_unless_the_recipe_says(images, epochs):
    assert resolve_recipe(Recipe(), encoder(), images).epochs == epochs
    assert resolve_recipe(Recipe(epochs=7), encoder(), images).epochs == 7


def test_transformers_learn_at_a_tenth_of_the_rate_unless_the_recipe_says():
    transformer = parse("timm:vit_tiny_patch16_224")[1].build(pretrained=False)

    rates = [resolve_recipe(Recipe(), network, 20).rate for network in (encoder(), transformer)]

    assert rates == [1e-3, 1e-4]
    assert resolve_recipe(Recipe(rate=0.5), transformer, 20).rate == 0.5
