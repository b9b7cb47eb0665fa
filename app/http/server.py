"""A server that says that it will stop before it does."""

import signal
import time
from types import FrameType

import uvicorn


class DrainingServer(uvicorn.Server):
    """Stops in three steps at SIGTERM.

    It is not ready any more, and still answers for some seconds, in which who distributes requests
    notices. Then it takes no new connections and finishes what it has begun. Then it ends. A second
    SIGTERM spares the seconds; SIGINT, which a person sends, always does.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._since: float | None = None  # time.monotonic() of the first SIGTERM

    @property
    def draining(self) -> bool:
        """Whether it will stop soon."""
        return self._since is not None or self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; no more is done inside of a signal handler."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._since is None:
            self._since = time.monotonic()
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to stop now."""
        if self._since is not None and time.monotonic() - self._since >= self._drain_s:
            self.should_exit = True
        return await super().on_tick(counter)
