"""The one key of a service, compared in constant time."""

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import cached_property

from app.settings import Settings


@dataclass(frozen=True)
class ApiKey:
    """The key of a service; an empty one lets everybody in who reaches it."""

    secret: str = field(repr=False)

    @classmethod
    def of(cls, settings: Settings) -> "ApiKey":
        """The key that the settings name."""
        return cls(settings.api_key.get_secret_value())

    def __bool__(self) -> bool:
        return bool(self.secret)

    def matches(self, candidate: bytes) -> bool:
        """Whether that is the key; how long this takes tells nothing about it."""
        return hmac.compare_digest(hashlib.sha256(candidate).digest(), self._digest)

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.secret.encode()).digest()
