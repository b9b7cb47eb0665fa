"""OpenVINO, for CPUs: the whole network as one graph, its layers fused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.encoders import Encoder
from models.files import staged
from models.runtimes import Embed, FromPixels, Resources, RuntimeUnavailable
from models.runtimes.graph_cache import fingerprint, forget_oldest
from models.runtimes.kinds import runtimes
from models.runtimes.streams import yield_to_others


@runtimes.register
@dataclass(frozen=True)
class OpenVINO:
    """Converts the network by `torch.export`; computes in float32 (https://docs.openvino.ai).

    Its own threads compute, which never hold the interpreter; they yield to those that do.
    """

    in_caller: ClassVar[bool] = False

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        if encoder.mean.device.type != "cpu":
            raise RuntimeUnavailable("OpenVINO computes here on the CPU only")
        openvino = _import()
        core = openvino.Core()
        name = f"{fingerprint(encoder, openvino.__version__, torch.__version__)}.xml"
        file = resources.cache / name if resources.cache else None
        model = _read(core, file) if file else None
        if model is None:
            model = _convert(openvino, encoder)
            if file:
                _write(openvino, model, file)
        with ThreadPoolExecutor(1, initializer=yield_to_others) as thread:
            requests = thread.submit(_requests, core, model, resources).result()
        free: SimpleQueue[Any] = SimpleQueue()
        for request in requests:
            free.put(request)

        def embed(pixels: Tensor) -> Tensor:
            request = free.get()
            try:
                request.infer([pixels.contiguous().numpy()])
                return torch.from_numpy(request.get_output_tensor(0).data.copy())
            finally:
                free.put(request)

        return embed


def _import() -> Any:
    # Without its telemetry, which would report every import to its makers.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailable(f"OpenVINO is not installed here ({error})") from error
    return openvino


def _convert(openvino: Any, encoder: Encoder) -> Any:
    side = encoder.preprocessing.crop
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.export.export(
                FromPixels(encoder).eval(), (example,), dynamic_shapes=(batch,)
            )
            model = openvino.convert_model(exported)
    except Exception as error:
        # Either raises whatever its many passes raise on a network that they do not know.
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeUnavailable(f"OpenVINO cannot convert this encoder ({reason})") from error
    model.reshape([-1, 3, side, side])
    return model


def _requests(core: Any, model: Any, resources: Resources) -> list[Any]:
    """One for each stream; its threads get the priority of the calling one."""
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": resources.threads * resources.streams,
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": resources.streams,
        },
    )
    return [compiled.create_infer_request() for _ in range(resources.streams)]


def _read(core: Any, file: Path) -> Any:
    """The network as it was converted before; None: it was not, or its file is damaged."""
    try:
        return core.read_model(file) if file.exists() else None
    except RuntimeError:
        return None


def _write(openvino: Any, model: Any, file: Path) -> None:
    """Keep a converted network, where there is room."""
    try:
        with staged(file.parent) as folder:  # the weights, `.bin`, come before what names them
            openvino.save_model(model, folder / file.name, compress_to_fp16=False)
        for gone in forget_oldest(file):
            gone.with_suffix(".bin").unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return  # it is converted anew next time
