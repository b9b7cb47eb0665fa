"""Labels, and the support images that define them."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.common import FailedRead, Schema, StoredRead, Text


class LabelRead(BaseModel):
    """A label and how many support images it has."""

    id: UUID
    name: str
    shots: int = Field(description="Support images.")
    created_at: datetime


class LabelWrite(Schema):
    """A label's name."""

    name: Text = Field(description="Unique in the project; 1 to 200 characters, no slash.")


class SupportAdded(BaseModel):
    """The label after its support images came, and what became of each file."""

    label: LabelRead
    images: list[StoredRead]
    failed: list[FailedRead]
