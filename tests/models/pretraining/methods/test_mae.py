"""MAE."""

import pytest
import torch
from torch import Generator, nn

from models.encoders import Encoder
from models.pretraining import Unsuited
from models.pretraining.masking import PixelPainter, TokenPainter, patches
from models.pretraining.methods.mae import MAE, _Objective
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv, vit

ENCODERS = {"conv": conv, "vit": vit}


def objective(name: str) -> _Objective:
    torch.manual_seed(0)
    built = MAE(width=16).build(ENCODERS[name](), 40)
    assert isinstance(built, _Objective)
    return built


def batch(seed: int = 0) -> Batch:
    images = torch.rand(4, 3, 48, 48, generator=Generator().manual_seed(seed))
    return Batch([images], torch.arange(4), torch.zeros(4, 0))


def test_a_transformer_is_masked_by_tokens_and_others_by_pixels():
    assert isinstance(objective("vit").painter, TokenPainter)
    assert isinstance(objective("conv").painter, PixelPainter)


@pytest.mark.parametrize("name", ENCODERS)
def test_painting_nothing_has_the_loss_of_knowing_nothing(name):
    method = objective(name)
    leave = method.painter.leave
    for parameter in (leave[-1] if isinstance(leave, nn.Sequential) else leave).parameters():
        nn.init.zeros_(parameter)

    loss = float(method.loss(batch()).detach())

    # The deviation of a patch is that of a sample, so its mean square is below 1 by 1 in 100.
    assert loss == pytest.approx(1, abs=0.02)
    assert method.chance == 1


@pytest.mark.parametrize("name", ENCODERS)
def test_the_loss_is_that_of_normalised_pixels_of_hidden_patches_alone(name):
    method, sample = objective(name), batch()

    torch.manual_seed(1)
    loss = float(method.loss(sample).detach())

    torch.manual_seed(1)
    painted, hidden, _ = method.painter(method.encoder, sample.views[0])
    missed = (painted - patches(sample.views[0], hidden.shape[1])).square().mean(dim=2)
    assert loss == pytest.approx(float(missed[hidden].mean().detach()), rel=1e-5)
    assert loss != pytest.approx(float(missed.mean().detach()), rel=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_hidden_never_reaches_the_features(name):
    method, sample = objective(name), batch()
    torch.manual_seed(1)
    _, hidden, _ = method.painter(method.encoder, sample.views[0])
    grid = 6 if name == "vit" else 8
    mask = nn.functional.interpolate(hidden.view(4, 1, grid, grid).float(), (48, 48)).bool()
    different = batch(seed=1)
    changed = sample._replace(views=[torch.where(mask, different.views[0], sample.views[0])])

    outcomes = []
    for example in (sample, changed, different):
        torch.manual_seed(1)
        outcomes.append(method.pretext_loss(example))

    assert torch.equal(outcomes[0].features[0], outcomes[1].features[0])
    assert not torch.allclose(outcomes[0].features[0], outcomes[2].features[0], atol=1e-4)
    assert float(outcomes[0].loss.detach()) != float(
        outcomes[1].loss.detach()
    )  # it is to be painted


@pytest.mark.parametrize("name", ENCODERS)
def test_views_are_crops_that_keep_their_colours(name):
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1).expand(4, 3, 48, 48)

    ((view,), _) = objective(name).make_views(red, torch.zeros(4, 0), Generator().manual_seed(0))

    assert torch.allclose(view, red, atol=1e-5)


@pytest.mark.parametrize("options", [{"width": 20}, {"mask": 0.0}, {"mask": 1.0}, {"depth": 0}])
def test_options_that_are_impossible_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        MAE(**options)


def test_a_network_in_one_piece_is_refused():
    whole = Encoder([nn.Flatten()], embedding_dim=3 * 48**2, preprocessing=conv().preprocessing)

    with pytest.raises(Unsuited, match="stages"):
        MAE().build(whole, 40)
