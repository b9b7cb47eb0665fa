"""What became of a file that was imported, and what to export."""

from typing import Literal

from pydantic import BaseModel, Field

from handful.contract.common import FailedRead

State = Literal["all", "support", "pool"]


class ImportRead(BaseModel):
    """What became of the file; `failed` counts its images from 0."""

    format: str
    images: int = Field(description="That the file names.")
    created: int = Field(description="That the project did not have.")
    labeled: int = Field(description="Whose label was set or changed.")
    labels: int = Field(description="That the project did not have.")
    failed: list[FailedRead]
