"""Our losses and lightly's on the same features, and who resumes; in the peers' environment."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightly import loss as losses
from lightly.models import utils
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.peers.exchange import serve
from bench.peers.lightly_pretraining import METHODS
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.vit import ViT
from models.pretraining import start
from models.pretraining.masking import patches
from models.pretraining.methods import methods
from models.training.loop import Batch
from models.training.recipe import Recipe

SIDE, IMAGES, BATCH, STEPS = 32, 64, 16, 8


def answer(_: None) -> dict[str, Any]:
    """Losses, ours and lightly's, and how far resumed runs are off."""
    return {
        "losses": {name: _compare(name, loss) for name, loss in LOSSES.items()},
        "resumed_off_by": {
            "handful": _resume(),
            "lightly": _resume_lightly(bank_too=False),
            "lightly with its bank": _resume_lightly(bank_too=True),
        },
    }


@torch.no_grad()
def _compare(name: str, loss: Callable[[Any, Batch], Any]) -> tuple[float, float]:
    """Our loss and lightly's of a method's objective as it serves, and a batch of its views."""
    torch.manual_seed(0)
    encoder: Any = Conv4(width=16, image_side=SIDE).build()
    if name == "mae":
        encoder = ViT(width=24, image_side=SIDE, patch=4, depth=2, heads=2).build()
    objective = methods[name]().build(encoder, IMAGES).eval()
    views, shares = objective.make_views(_values()[:BATCH], torch.zeros(BATCH, 0), Generator())
    batch = Batch(views, torch.arange(BATCH), shares)
    torch.manual_seed(2)
    theirs = float(loss(objective, batch))
    torch.manual_seed(2)  # the same parts are hidden
    return float(objective.pretext_loss(batch).loss), theirs


def _values() -> Tensor:
    coarse = torch.rand(IMAGES, 3, 4, 4, generator=Generator().manual_seed(1))
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)


def _projected(objective: Any, batch: Batch) -> list[Tensor]:
    return [objective.head(objective.encoder.features(view)) for view in batch.views]


def _targets(objective: Any, batch: Batch) -> list[Tensor]:
    return [objective.slow_head(objective.slow_encoder.features(view)) for view in batch.views]


def _simclr(objective: Any, batch: Batch) -> Any:
    theirs = losses.NTXentLoss(temperature=objective.contrast.temperature)
    return theirs(*_projected(objective, batch))


def _moco(objective: Any, batch: Batch) -> Any:
    length, width = objective.queue.features.shape
    positions = torch.arange(length) % (IMAGES - BATCH) + BATCH  # none of the batch
    objective.queue.push(torch.randn(length, width), positions)
    theirs = losses.NTXentLoss(objective.options.contrast.temperature, (length, width))
    theirs.memory_bank.bank = F.normalize(objective.queue.inside(), dim=1)
    return theirs(_projected(objective, batch)[0], _targets(objective, batch)[1])


def _byol(objective: Any, batch: Batch) -> Any:
    predicted = [objective.predictor(p) for p in _projected(objective, batch)]
    targets = _targets(objective, batch)
    theirs = losses.NegativeCosineSimilarity()
    return 2 + theirs(predicted[0], targets[1]) + theirs(predicted[1], targets[0])


def _swav(objective: Any, batch: Batch) -> Any:
    prototypes = F.normalize(objective.prototypes, dim=1)
    logits = [F.normalize(p, dim=1) @ prototypes.T for p in _projected(objective, batch)]
    theirs = losses.SwaVLoss(objective.options.temperature, 3, objective.options.epsilon)
    return theirs(logits[:2], logits[2:])


def _mae(objective: Any, batch: Batch) -> Any:
    painted, hidden, _ = objective.painter(objective.encoder, batch.views[0])
    side = round(SIDE / painted.shape[1] ** 0.5)
    pixels = utils.normalize_mean_var(utils.patchify(batch.views[0], side))
    channels_last = painted.unflatten(2, (3, side * side)).mT.flatten(2)
    assert pixels.shape == patches(batch.views[0], painted.shape[1]).shape
    return F.mse_loss(channels_last[hidden], pixels[hidden])


LOSSES = {"simclr": _simclr, "moco": _moco, "byol": _byol, "swav": _swav, "mae": _mae}


def _difference(first: Any, second: Any) -> float:
    """The greatest difference of two encoders' weights."""
    weights = second.state_dict()
    return max(
        float((tensor.double() - weights[name].double()).abs().max())
        for name, tensor in first.state_dict().items()
    )


def _resume() -> float:
    """How far a resumed MoCo of ours is from one that was not interrupted."""

    def begin() -> Any:
        images = (_values() * 255).to(torch.uint8)
        recipe = Recipe(batch_size=BATCH, epochs=2 * STEPS * BATCH // IMAGES, schedule="cosine")
        encoder = Conv4(width=16, image_side=SIDE).build()
        return start(methods["moco"](), encoder, images, recipe, fresh=True)

    whole, first, second = begin(), begin(), begin()
    for _ in whole:
        pass
    for _ in range(STEPS * BATCH // IMAGES):
        next(first)
    second.load(copy.deepcopy(first.state()))
    for _ in second:
        pass
    return _difference(whole.objective.encoder, second.objective.encoder)


def _resume_lightly(*, bank_too: bool) -> float:
    """The same of lightly's: all chance, all that its state dict holds, and what it leaves out."""
    images = [Image.fromarray((v * 255).byte().permute(1, 2, 0).numpy()) for v in _values()]

    def begin() -> tuple[Any, Any]:
        torch.manual_seed(0)
        method = METHODS["moco"](Conv4(width=16, image_side=SIDE).build().train(), SIDE)
        return method, torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)

    def train(method: Any, optimizer: Any, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            positions = torch.randperm(IMAGES)[:BATCH].tolist()
            loss = method(method.views([images[n] for n in positions]), 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    whole, first, second = begin(), begin(), begin()
    train(*whole, range(2 * STEPS))
    train(*first, range(STEPS))
    for part, source in zip(second, first, strict=True):
        part.load_state_dict(copy.deepcopy(source.state_dict()))
    if bank_too:
        second[0].loss.memory_bank = copy.deepcopy(first[0].loss.memory_bank)
    train(*second, range(STEPS, 2 * STEPS))
    return _difference(whole[0].encoder, second[0].encoder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
