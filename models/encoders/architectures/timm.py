"""Any image model of timm, with weights from the hub or from a local safetensors file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from models.encoders import Encoder, EncoderUnavailable
from models.encoders.architectures import architectures
from models.encoders.stages import split
from models.images import Preprocessing


@architectures.register
@dataclass(frozen=True, kw_only=True)
class Timm:
    """A model of timm by its name, such as `resnet18.a1_in1k`.

    Wightman, 2019. https://github.com/huggingface/pytorch-image-models
    """

    model: str = "resnet18.a1_in1k"
    weights: str | None = None  # a local safetensors file instead of the hub

    def __post_init__(self) -> None:
        import timm

        if not timm.is_model(self.model.partition(".")[0]):
            raise ValueError(f"timm has no model {self.model!r}")

    def build(self, *, pretrained: bool = True) -> Encoder:
        from timm.data.config import resolve_model_data_config

        net = self._network(pretrained)
        config: dict[str, Any] = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
        side = int(config["input_size"][-1])
        preprocessing = Preprocessing(
            resize=round(side / float(config["crop_pct"])),
            crop=side,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        )
        stages, dim = split(net, side)
        return Encoder(stages, embedding_dim=dim, preprocessing=preprocessing).eval()

    def _network(self, pretrained: bool) -> nn.Module:
        import timm

        from_hub = pretrained and self.weights is None
        try:
            net: nn.Module = timm.create_model(self.model, pretrained=from_hub, num_classes=0)
        except Exception as error:
            # The hub's client raises whatever its network layer raised.
            reason = str(error).strip().partition("\n")[0]
            raise EncoderUnavailable(
                f"timm could not build {self.model!r} with weights from the hub ({reason}); "
                f"give a local file as timm:{self.model}@weights.safetensors"
            ) from error
        if pretrained and self.weights is not None:
            self._load(net, Path(self.weights))
        return net.eval()

    def _load(self, net: nn.Module, file: Path) -> None:
        try:
            weights = safetensors.torch.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise EncoderUnavailable(
                f"the weights file {file} cannot be read as safetensors: {error}"
            ) from error
        expected = net.state_dict()
        missing = [name for name in expected if name not in weights]
        misfit = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
        if missing or misfit:
            raise EncoderUnavailable(
                f"the weights file {file} does not fit {self.model!r}: {len(missing)} tensors "
                f"missing, {len(misfit)} of another shape, first {(missing + misfit)[0]!r}"
            )
        net.load_state_dict({name: weights[name] for name in expected})
