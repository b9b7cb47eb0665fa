"""The encoders in memory, and the runtimes that compute them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from models.encoders import Encoder
from models.runtimes.selector import RuntimeSelector, Serving
from models.runtimes.streams import Streams


class LoadedEncoder:
    """An encoder in memory, and what computes it once that is prepared."""

    def __init__(self, encoder: Encoder, selector: RuntimeSelector) -> None:
        self.encoder = encoder
        self.serving: Serving | None = None
        self._selector = selector
        self._preparing = threading.Lock()

    @property
    def streams(self) -> Streams | None:
        """What computes several batches at once; None also where nothing is prepared."""
        return self.serving.streams if self.serving else None

    def prepare(self) -> Serving:
        """Find or try the runtime, once; who comes meanwhile waits for it."""
        with self._preparing:
            if self.serving is None:
                self.serving = self._selector.prepare(self.encoder)
            return self.serving

    def prepare_if_known(self) -> None:
        """Prepare the encoder unless runtimes would have to be tried for it."""
        if self.serving is None and self._selector.knows(self.encoder):
            self.prepare()


class EncoderCache:
    """Loads encoders on first use and keeps those used last, by version.

    Args:
        load: reads a version's encoder.
        selector: finds the runtime of each.
        size: encoders that are kept.
    """

    def __init__(
        self, load: Callable[[UUID], Encoder], selector: RuntimeSelector, size: int
    ) -> None:
        self._load = load
        self._selector = selector
        self._size = size
        self._encoders: OrderedDict[UUID, LoadedEncoder] = OrderedDict()
        self._loading = threading.Lock()

    def get(self, version: UUID) -> LoadedEncoder:
        """The encoder of a version, loaded if need be."""
        with self._loading:
            if version not in self._encoders:
                self._encoders[version] = LoadedEncoder(self._load(version).eval(), self._selector)
            self._encoders.move_to_end(version)
            while len(self._encoders) > self._size:
                self._encoders.popitem(last=False)
            return self._encoders[version]

    def find(self, version: UUID) -> LoadedEncoder | None:
        """The encoder of a version if it is in memory; never waits while another is loaded."""
        return self._encoders.get(version)
