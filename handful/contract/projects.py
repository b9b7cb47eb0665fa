"""Projects: sets of labels with the encoder and the head that serve them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.common import Text

Name = Annotated[Text, Field(description="Unique; 1 to 200 characters, no slash.")]
Description = Annotated[Text, Field(max_length=10_000)]


class EncoderRead(BaseModel):
    """The encoder version that a project points at."""

    id: UUID
    name: str
    options: dict[str, Any]
    embedding_dim: int


class ProjectRead(BaseModel):
    """A project and how much it holds."""

    id: UUID
    name: str
    description: str
    encoder: EncoderRead
    head: dict[str, Any]
    labels: int
    support: int = Field(description="Images with a label.")
    pool: int = Field(description="Images without a label.")
    created_at: datetime
    updated_at: datetime
