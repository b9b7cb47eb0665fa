"""DeepCluster."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models.pretraining import start
from models.pretraining.methods.deepcluster import DeepCluster
from models.training.loop import Batch, Training
from models.training.recipe import Recipe
from tests.models.pretraining.conftest import conv

RECIPE = Recipe(epochs=2, batch_size=16, rate=1e-3, schedule="cosine")


def pictures() -> Tensor:
    generator = Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 48, 48), dtype=torch.uint8, generator=generator)


def training(**options) -> Training:
    encoder = conv()
    return start(DeepCluster(projection=8, **options), encoder, pictures(), RECIPE, fresh=True)


def test_every_image_has_a_cluster_of_its_features_before_the_first_step():
    objective = training(clusters=4).objective
    images = pictures()
    assert bool((objective.assigned == -1).all())

    objective.before_epoch(images)

    features = objective.head(objective.encoder.features(images.float() / 255))
    assert torch.allclose(objective.bank.features, F.normalize(features, dim=1), atol=1e-5)
    for centres, assigned in zip(objective.centres, objective.assigned, strict=True):
        nearest = (objective.bank.features @ centres.T).argmax(dim=1)
        assert torch.equal(assigned, nearest)


def test_images_are_clustered_again_before_each_epoch_by_what_was_seen_of_them():
    run = training(clusters=4)
    next(run)
    objective = run.objective
    before, remembered = objective.centres.clone(), objective.bank.features.clone()

    objective.before_epoch(pictures())

    assert torch.equal(objective.bank.features, remembered)  # nothing is embedded once more
    assert not torch.equal(objective.centres, before)
    for centres, assigned in zip(objective.centres, objective.assigned, strict=True):
        assert torch.equal(assigned, (remembered @ centres.T).argmax(dim=1))


def test_both_views_predict_the_cluster_of_their_image_in_every_clustering():
    objective = training(clusters=4, heads=2).objective
    objective.before_epoch(pictures())
    positions, generator = torch.tensor([7, 30, 2, 19]), Generator().manual_seed(1)
    views = [torch.rand(4, 3, 48, 48, generator=generator) for _ in range(2)]

    loss = float(objective.loss(Batch(views, positions, torch.zeros(4, 0))))

    losses = []
    for view in views:
        features = F.normalize(objective.head(objective.encoder.features(view)), dim=1)
        for head in range(2):
            for row, position in enumerate(positions.tolist()):
                scores = objective.centres[head] @ features[row] / 0.1
                cluster = int(objective.assigned[head, position])
                losses.append(float(scores.logsumexp(dim=0) - scores[cluster]))
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert not torch.equal(objective.centres[0], objective.centres[1])


def test_a_step_remembers_the_first_view_of_its_images_only():
    objective = training().objective
    objective.before_epoch(pictures())
    before, positions = objective.bank.features.clone(), torch.tensor([7, 30, 2, 19])
    views = [torch.rand(4, 3, 48, 48, generator=Generator().manual_seed(n)) for n in range(2)]

    outcome = objective.pretext_loss(Batch(views, positions, torch.zeros(4, 0)))

    untouched = torch.ones(40, dtype=torch.bool)
    untouched[positions] = False
    assert torch.allclose(objective.bank.features[positions], outcome.features[0], atol=1e-6)
    assert torch.equal(objective.bank.features[untouched], before[untouched])


@pytest.mark.parametrize(
    ("setting", "images", "clusters"),
    [(0, 40, 2), (0, 10, 2), (0, 4000, 200), (0, 30_000, 1000), (7, 40, 7), (100, 40, 40)],
)
def test_there_is_a_cluster_for_twenty_images_and_never_more_than_images(setting, images, clusters):
    encoder = conv()

    objective = DeepCluster(clusters=setting, projection=8).build(encoder, images)

    assert objective.centres.shape == (2, clusters, 8)
    assert objective.chance == pytest.approx(math.log(clusters))
