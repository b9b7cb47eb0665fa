"""fastai's `fine_tune` on draws; runs in the peers' environment.

As its book does: random resized crops and flips, weights of ImageNet, one epoch with the body
frozen, the others with all layers at discriminative rates; rates as the library sets them.
"""

import time
from typing import Any

import torch

from bench.peers.exchange import serve

MEAN, STD = 127 / 255, 128 / 255  # of EfficientNet-Lite
BATCH = 32


def answer(question: dict[str, Any]) -> tuple[float, float]:
    """Accuracy in % and CPU-seconds of a draw."""
    started = time.process_time()
    learner = _learner(question)
    learner.fine_tune(max(1, question["epochs"] - 1))
    seconds = time.process_time() - started
    predicted = _predict(learner, question["test"])
    return 100 * float((predicted == question["test_targets"]).mean()), seconds


def _learner(question: dict[str, Any]) -> Any:
    from fastai.vision import all as fastai

    images, targets, weights = (question[key] for key in ("images", "targets", "weights"))
    fastai.set_seed(question["seed"])
    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock(vocab=sorted(set(targets.tolist())))),
        get_x=lambda n: images[n].transpose(1, 2, 0),
        get_y=lambda n: int(targets[n]),
        splitter=lambda items: (list(range(len(items))), [0]),  # all to learn from
        batch_tfms=[
            *fastai.aug_transforms(size=images.shape[-1], min_scale=0.75),
            fastai.Normalize.from_stats([MEAN] * 3, [STD] * 3, cuda=False),
        ],
    )
    loaders = block.dataloaders(
        list(range(len(images))),
        bs=min(BATCH, len(images)),
        num_workers=0,
        device=torch.device("cpu"),
    )
    learner = fastai.vision_learner(
        loaders, "tf_efficientnet_lite0", normalize=False, pretrained=False
    )
    body = learner.model[0].model
    body.load_state_dict({name: torch.from_numpy(weights[name]) for name in body.state_dict()})
    # The body looks ahead to how its architecture was made; it has to be frozen by hand.
    learner.freeze()
    learner.remove_cb(fastai.ProgressCallback)
    learner.logger = lambda *_: None
    return learner


@torch.no_grad()
def _predict(learner: Any, images: Any) -> Any:
    model = learner.model.eval()
    batches = torch.from_numpy(images).float().div(255).sub(MEAN).div(STD)
    return torch.cat([model(batch).argmax(1) for batch in torch.split(batches, 64)]).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
