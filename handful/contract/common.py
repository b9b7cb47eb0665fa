"""What several resources of the API send and receive."""

import re
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Item = TypeVar("Item")
NAME_LENGTH = 200  # characters
# Not all databases keep NUL, and half of a surrogate pair cannot be encoded; nobody means them.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"  # half of a pair is refused anyway
# Every text that a client may choose, also one that only names what is there.
Text = Annotated[str, StringConstraints(pattern=TEXT_PATTERN)]


class Schema(BaseModel):
    """Base of request bodies: a misspelt field is an error, not a silence."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[Item]):
    """A part of a list; `next_cursor` asks for the rest."""

    items: list[Item]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null: end.")


class ProblemRead(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/image-not-decodable"])
    title: str
    status: int
    detail: str


class FailedRead(BaseModel):
    """A file of the request that was refused; the others went through."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    problem: ProblemRead


class StoredRead(BaseModel):
    """An uploaded image that is in the project now."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    id: UUID
    sha256: str
    created: bool = Field(description="False when the project had this very file already.")
    label: str | None
