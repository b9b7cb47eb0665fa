"""ONNX Runtime, for CPUs: the network as one graph, also where OpenVINO has no wheel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.encoders import Encoder
from models.files import replace_file
from models.runtimes import Embed, FromPixels, Resources, RuntimeUnavailable
from models.runtimes.graph_cache import fingerprint, forget_oldest
from models.runtimes.kinds import runtimes


@runtimes.register
@dataclass(frozen=True)
class ONNXRuntime:
    """Converts the network by `torch.onnx`; computes in float32 (https://onnxruntime.ai)."""

    in_caller: ClassVar[bool] = True

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        if encoder.mean.device.type != "cpu":
            raise RuntimeUnavailable("ONNX Runtime computes here on the CPU only")
        library = _import()
        name = f"{fingerprint(encoder, library.__version__, torch.__version__)}.onnx"
        file = resources.cache / name if resources.cache else None
        session = _read(library, file, resources.threads) if file else None
        if session is None:
            model = _convert(encoder)
            if file:
                _write(model, file)
            session = _session(library, model, resources.threads)

        def embed(pixels: Tensor) -> Tensor:
            [embeddings] = session.run(None, {"pixels": pixels.contiguous().numpy()})
            return torch.from_numpy(embeddings)

        return embed


def _import() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, by which torch.onnx converts
    except ImportError as error:
        raise RuntimeUnavailable(
            f"ONNX Runtime is not installed here ({error}); handful[onnx] brings it"
        ) from error
    return onnxruntime


def _convert(encoder: Encoder) -> bytes:
    side = encoder.preprocessing.crop
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    try:
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(
                FromPixels(encoder).eval(),
                (example,),
                input_names=["pixels"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model: bytes = program.model_proto.SerializeToString()
    except Exception as error:
        # It raises whatever its many passes raise on a network that they do not know.
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeUnavailable(f"ONNX cannot hold this encoder ({reason})") from error
    return model


def _session(library: Any, model: bytes, threads: int) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return library.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _read(library: Any, file: Path, threads: int) -> Any:
    """The network as it was converted before; None: it was not, or its file is damaged."""
    try:
        return _session(library, file.read_bytes(), threads) if file.exists() else None
    except Exception:  # noqa: BLE001, of many kinds, all its own
        return None


def _write(model: bytes, file: Path) -> None:
    """Keep a converted network, where there is room."""
    try:
        replace_file(file, model)
        forget_oldest(file)
    except OSError:
        return  # it is converted anew next time
