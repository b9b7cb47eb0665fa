"""CUDA graphs in half precision: kernels recorded once, and launched together ever after."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.runtimes import Embed, Resources, RuntimeUnavailable
from models.runtimes.kinds import runtimes
from models.runtimes.trial import AGREEMENT, agree

WARM_UPS = 3  # runs before a recording, in which libraries choose their kernels


@runtimes.register
@dataclass(frozen=True)
class CUDAGraphs:
    """Records a graph for each power of two as the size of a batch; smaller batches are padded.

    Launching kernels one by one takes longer than they run while batches are small.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

    Deep stages compute in float16, whose ten bits suffice there. The activations of shallow stages
    can be large beside what tells images apart, so as many stages as it takes stay in float32.
    """

    in_caller: ClassVar[bool] = False  # but the GPU

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        if encoder.mean.device.type != "cuda":
            raise RuntimeUnavailable("CUDA graphs need an encoder on a CUDA device")
        return _Graphs(_halved(encoder), resources.batch)


class Halved(nn.Module):
    """An encoder in float32 up to a stage, and in float16 from there on."""

    def __init__(self, encoder: Encoder, exact: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.stages[exact:].half()
        self._exact = exact

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings in float32, on the device."""
        device = self.encoder.mean.device
        values = pixels.to(device, torch.float32, memory_format=torch.channels_last) / 255
        features = self.encoder.normalised(values)
        for number, stage in enumerate(self.encoder.stages):
            if number == self._exact:
                features = features.half()
            features = stage(features)
        return F.normalize(features.flatten(1).float(), dim=1)


def _halved(encoder: Encoder) -> Halved:
    """With as few stages in float32 as embed alike."""
    for exact in range(len(encoder.stages)):
        halved = Halved(encoder, exact)
        if agree(halved, encoder) >= AGREEMENT:
            return halved
    return Halved(encoder, len(encoder.stages))


class _Graphs:
    """Recorded forward passes, by the size of their batch."""

    def __init__(self, network: Halved, largest: int) -> None:
        self._network = network  # graphs read its weights where they lie, and do not keep them
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        for size in reversed(sizes(largest)):  # the largest first: the others fit into its memory
            self._recorded[size] = self._record(size)

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        network = self._network
        device = network.encoder.mean.device
        side = network.encoder.preprocessing.crop
        pixels = torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device)
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                network(pixels)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            embeddings = network(pixels)
        return graph, pixels, embeddings

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        largest = max(self._recorded)
        return torch.cat([self._replay(part) for part in torch.split(pixels, largest)])

    def _replay(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        count = len(pixels)
        size = min(size for size in self._recorded if size >= count)
        graph, inputs, outputs = self._recorded[size]
        inputs[:count].copy_(pixels)
        graph.replay()
        return outputs[:count].cpu()


def sizes(largest: int) -> list[int]:
    """Powers of two below the largest size, and that."""
    return [1 << n for n in range(largest.bit_length()) if 1 << n < largest] + [largest]
