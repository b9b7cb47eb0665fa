"""What runs at an address."""

from pydantic import BaseModel


class ServiceRead(BaseModel):
    """What runs here."""

    version: str
    encoder: str
    device: str
    runtime: str | None
