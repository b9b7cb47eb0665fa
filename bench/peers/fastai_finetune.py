"""fastai's `fine_tune` on given draws; runs in the peers' environment, prints JSON.

As its book does: random resized crops and flips, weights of ImageNet, one epoch with the body
frozen, the others with all layers at discriminative rates; rates as the library sets them.
"""

import json
import multiprocessing
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

MEAN, STD = 127 / 255, 128 / 255  # of EfficientNet-Lite
BATCH = 32


def main() -> None:
    """Accuracy in % and CPU-seconds of each draw."""
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    draws = json.loads((folder / "draws.json").read_text())
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(json.dumps(pool.starmap(run, [(folder, one) for one in draws])))


def run(folder: Path, one: dict[str, Any]) -> tuple[float, float]:
    """Train on one draw."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = np.load(folder / f"{one['data']}.npz")
    images, targets = data["train"][one["support"]], data["train_targets"][one["support"]]
    started = time.process_time()
    learner = _learner(folder, images, targets, one["seed"])
    learner.fine_tune(max(1, one["epochs"] - 1))
    seconds = time.process_time() - started
    predicted = _predict(learner, data["test"])
    return 100 * float((predicted == data["test_targets"]).mean()), seconds


def _learner(folder: Path, images: Any, targets: Any, seed: int) -> Any:
    from fastai.vision import all as fastai

    fastai.set_seed(seed)
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
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    body = learner.model[0].model
    body.load_state_dict({name: weights[name] for name in body.state_dict()})
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
    main()
