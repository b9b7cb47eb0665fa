"""`handful` with a network that only takes time: what is measured is all that surrounds it.

`python -m bench.null_network 1 serve` is `handful serve` whose network takes a millisecond a batch,
whatever its size, and no processor: the path that an image takes beside a fast GPU.
"""

import sys
import time
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.runtimes import Embed, Resources, RuntimeUnavailable, trial
from models.runtimes.kinds import runtimes

NAME = "null_network"  # of the runtime
milliseconds = 1.0  # of a batch


@runtimes.register
@dataclass(frozen=True)
class NullNetwork:
    """Sleeps, and embeds an image as its first pixels."""

    in_caller: ClassVar[bool] = False

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        if resources.streams > 1:
            raise RuntimeUnavailable("there is nothing that streams would compute")

        def embed(pixels: Tensor) -> Tensor:
            time.sleep(milliseconds / 1000)
            features = pixels.flatten(1)[:, : encoder.embedding_dim].float()
            return F.normalize(features + 1, dim=1)

        return embed


def use(network: str) -> str:
    """Make `null:MILLISECONDS` a runtime of this process; its name. `auto` stays as it is."""
    global milliseconds
    kind, _, amount = network.partition(":")
    if kind != "null":
        return network
    milliseconds = float(amount)
    trial.REFERENCE = NAME  # it agrees with no other, and need not
    return NAME


if __name__ == "__main__":
    from app.cli import main
    from bench import null_network  # the runtime's name is that of its module

    null_network.use(f"null:{sys.argv.pop(1)}")
    main()
