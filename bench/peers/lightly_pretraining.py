"""lightly's methods on our images; runs in the peers' environment.

Its transforms, heads and losses as its examples put them together, with widths, optimiser, rate and
schedule of ours, so that what differs is the library. Blur is off at 32 px, as its manual advises.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightly import loss as losses
from lightly import transforms
from lightly.models import modules, utils
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench.peers.exchange import serve

TRIAL_STEPS = 8
RATES = {"conv4": 1e-3, "vit": 5e-4}
BANK, PROTOTYPES, MASK = 4096, 500, 0.75


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Train within the seconds; the encoder, and what it took."""
    images = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in task["images"]]
    times = [when for when, _ in run(task, images, 1000, TRIAL_STEPS)]
    per_step = (times[-1] - times[1]) / (len(times) - 2)
    steps = max(5, round(task["seconds"] / per_step))  # OneCycleLR cannot divide four
    started = time.process_time()
    *_, (ended, encoder) = run(task, images, steps, steps)
    return {"seconds": ended - started, "steps": steps, "encoder": encoder}


def run(task: dict[str, Any], images: Any, total: int, steps: int) -> Iterator[tuple[float, Any]]:
    """The CPU time and the encoder after each step."""
    torch.manual_seed(task["seed"])
    encoder = copy.deepcopy(task["encoder"]).train()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    method = METHODS[task["method"]](encoder, images[0].size[0])
    learning = [p for p in method.parameters() if p.requires_grad]
    rate = RATES[task["network"]]
    optimizer = torch.optim.AdamW(learning, rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total, pct_start=0.25)
    loader = DataLoader(
        images, task["batch"], shuffle=True, drop_last=True, collate_fn=method.views
    )
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    for number, views in enumerate(itertools.islice(epochs, steps)):
        loss = method(views, number / total)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        yield time.process_time(), encoder


class _Method(nn.Module):
    transform: Callable[[Any], Any]
    head: Any
    slow: Any

    def __init__(self, encoder: Any, side: int) -> None:
        super().__init__()
        self.encoder, self.width = encoder, encoder.embedding_dim
        self.options = {"gaussian_blur": 0.0 if side <= 32 else 0.5, "normalize": None}
        self.build(side)

    def build(self, side: int) -> None:
        """Make what is learned beside the encoder."""
        raise NotImplementedError

    def views(self, images: Sequence[Any]) -> list[Tensor]:
        """A batch for each view."""
        return [torch.stack(view) for view in zip(*map(self.transform, images), strict=True)]

    def features(self, views: Sequence[Tensor]) -> list[Any]:
        """What the head makes of each view."""
        return [self.head(self.encoder.features(view)) for view in views]

    def follow(self, momentum: float) -> None:
        """Move the slow copies towards the encoder and its head."""
        utils.update_momentum(self.encoder, self.slow[0], momentum)
        utils.update_momentum(self.head, self.slow[1], momentum)


class _SimCLR(_Method):
    def build(self, side: int) -> None:
        self.transform = transforms.SimCLRTransform(input_size=side, **self.options)
        self.head = modules.SimCLRProjectionHead(self.width, self.width, 128)
        self.loss = losses.NTXentLoss()

    def forward(self, views: list[Tensor], progress: float) -> Any:
        return self.loss(*self.features(views[:2]))


class _MoCo(_Method):
    def build(self, side: int) -> None:
        self.transform = transforms.MoCoV2Transform(input_size=side, **self.options)
        self.head = modules.MoCoProjectionHead(self.width, self.width, 128)
        self.slow = copy.deepcopy(nn.ModuleList([self.encoder, self.head])).requires_grad_(False)
        self.loss = losses.NTXentLoss(temperature=0.1, memory_bank_size=(BANK, 128))

    def forward(self, views: list[Tensor], progress: float) -> Any:
        self.follow(0.99)
        queries = self.head(self.encoder.features(views[0]))
        with torch.no_grad():
            keys, order = utils.batch_shuffle(views[1])
            keys = utils.batch_unshuffle(self.slow[1](self.slow[0].features(keys)), order)
        return self.loss(queries, keys)


class _BYOL(_Method):
    def build(self, side: int) -> None:
        self.transform = transforms.BYOLTransform(
            BYOLView1Transform(input_size=side, **self.options),
            BYOLView2Transform(input_size=side, **self.options),
        )
        self.head = modules.BYOLProjectionHead(self.width, 1024, 256)
        self.predictor = modules.BYOLPredictionHead(256, 1024, 256)
        self.slow = copy.deepcopy(nn.ModuleList([self.encoder, self.head])).requires_grad_(False)
        self.loss = losses.NegativeCosineSimilarity()

    def forward(self, views: list[Tensor], progress: float) -> Any:
        self.follow(cosine_schedule(round(1e4 * progress), 10_000, 0.99, 1))
        predicted = [self.predictor(features) for features in self.features(views)]
        with torch.no_grad():
            targets = [self.slow[1](self.slow[0].features(view)) for view in views]
        return (self.loss(predicted[0], targets[1]) + self.loss(predicted[1], targets[0])) / 2


class _SwAV(_Method):
    def build(self, side: int) -> None:
        convolves = not hasattr(self.encoder.stages[0], "net")  # a transformer wants one size
        self.transform = transforms.SwaVTransform(
            crop_sizes=(side, side // 2 if convolves else side),
            crop_counts=(2, 2 if convolves else 0),
            **self.options,
        )
        self.head = modules.SwaVProjectionHead(self.width, self.width, 128)
        self.prototypes = modules.SwaVPrototypes(128, PROTOTYPES)
        self.loss = losses.SwaVLoss()

    def forward(self, views: list[Tensor], progress: float) -> Any:
        self.prototypes.normalize()
        projected = [nn.functional.normalize(features, dim=1) for features in self.features(views)]
        logits = [self.prototypes(unit) for unit in projected]
        return self.loss(logits[:2], logits[2:])


class _MAE(_Method):
    def build(self, side: int) -> None:
        net = _whole(self.encoder)
        self.transform = transforms.MAETransform(
            input_size=side, normalize={"mean": [0.5] * 3, "std": [0.5] * 3}
        )
        self.patch = net.patch_embed.patch_size[0]
        self.backbone = modules.MaskedVisionTransformerTIMM(net)
        self.length = self.backbone.sequence_length
        self.decoder = modules.MAEDecoderTIMM(
            num_patches=net.patch_embed.num_patches,
            patch_size=self.patch,
            embed_dim=self.width,
            decoder_embed_dim=96,
            decoder_depth=1,
            decoder_num_heads=3,
        )

    def forward(self, views: list[Tensor], progress: float) -> Any:
        images = views[0]
        size = len(images), self.length
        keep, hidden = utils.random_token_mask(size, mask_ratio=MASK, device=images.device)
        entered = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep, entered.type_as(tokens))
        painted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), hidden))
        pixels = utils.get_at_index(utils.patchify(images, self.patch), hidden - 1)
        return nn.functional.mse_loss(painted, pixels)


def _whole(encoder: Any) -> Any:
    """The transformer that an encoder was split from; it shares its parameters."""
    net = copy.copy(encoder.stages[0].net)
    last = encoder.stages[-1].net
    net._modules = dict(net._modules)
    net._modules["blocks"] = nn.Sequential(*encoder.stages[1:-1])
    for name in ("norm", "fc_norm", "head_drop", "head", "attn_pool"):
        if name in last._modules:
            net._modules[name] = last._modules[name]
    return net


METHODS: dict[str, Callable[[Any, int], _Method]] = {
    "simclr": _SimCLR,
    "moco": _MoCo,
    "byol": _BYOL,
    "swav": _SwAV,
    "mae": _MAE,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
