"""The alarm of a collapse, on runs that really were sabotaged and on healthy ones."""

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from models.encoders.conv4 import Conv4
from models.losses import Contrast
from models.pretraining import Collapsed, methods, start
from models.training import Recipe, Training
from models.views import Views

STEPS = 200  # in which the alarm has to ring
STILL = Views(crop=1.0, flip=0.0, colour=0.0, grey=0.0, blur=0.0)
COLD = Contrast(temperature=1e-3)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    grey = torch.tensor(load_digits().images[:640]).float().unsqueeze(1) * 255 / 16
    grown = torch.nn.functional.interpolate(grey, (16, 16), mode="bilinear")
    return grown.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def training(digits: Tensor, name: str, **options: object) -> Training:
    encoder = Conv4(width=16, image_side=16).build()
    recipe = Recipe(batch_size=32, epochs=STEPS * 32 // len(digits), rate=1e-3)
    return start(methods[name](**options), encoder, digits, recipe, fresh=True)


def no_stop_gradient(digits: Tensor) -> Training:
    """BYOL of which both networks are one, that learns from both sides."""
    run = training(digits, "byol", hidden=64, projection=32)
    objective = run.objective
    objective._wanted = lambda views: [
        objective.head(objective.encoder.features(view)) for view in views
    ]
    return run


@pytest.mark.parametrize(
    ("sabotaged", "reason"),
    [
        (no_stop_gradient, "all images look alike"),
        (lambda digits: training(digits, "simclr", contrast=COLD), "higher temperature"),
        (lambda digits: training(digits, "moco", views=STILL), "two views of an image are one"),
        (
            lambda digits: training(digits, "byol", views=STILL, solarize=0.0),
            "two views of an image are one",
        ),
    ],
    ids=["byol, no stop-gradient", "simclr, cold", "moco, still", "byol, still"],
)
def test_a_sabotaged_run_ends_with_the_reason(digits, sabotaged, reason):
    run = sabotaged(digits)

    with pytest.raises(Collapsed, match=reason):
        for _ in itertools.islice(run.steps(), STEPS):
            pass


@pytest.mark.parametrize("name", ["simclr", "byol", "npid", "triplet"])
def test_a_healthy_run_goes_on(digits, name):
    steps = sum(1 for _ in itertools.islice(training(digits, name).steps(), STEPS))

    assert steps == STEPS
