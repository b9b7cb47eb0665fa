"""Images of a project, their labels, and who gave them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.common import NAME_LENGTH, FailedRead, Schema, Text
from handful.contract.metadata import Metadata

Annotator = Annotated[Text | None, Field(max_length=NAME_LENGTH, description="Who says so.")]
Source = Annotated[
    Text, Field(min_length=1, max_length=50, description="Where it comes from, such as a tool.")
]
Replace = Annotated[
    bool, Field(description="Overrule another annotator's label; without it that answers 409.")
]


class ImageRead(BaseModel):
    """An image of a project."""

    id: UUID
    sha256: str
    media_type: str
    width: int = Field(description="Pixels, of the upright image.")
    height: int
    bytes: int
    filename: str | None = Field(description="As the client called it.")
    label: str | None = Field(description="Null while the image is in the pool.")
    metadata: dict[str, str] = Field(description="What clients said of it: text by key.")
    created_at: datetime
    labeled_at: datetime | None


class LabelSet(Schema):
    """A label for one image."""

    label: Text = Field(description="Name or id of a label that exists.")
    annotator: Annotator = None
    source: Source = "annotation"
    replace: Replace = False


class AnnotationWrite(Schema):
    """A label for one image of many; null sends it back to the pool."""

    image: UUID
    label: Text | None
    annotator: Annotator = None
    source: Source = "annotation"
    replace: Replace = False


class AnnotationsWrite(Schema):
    """Many labels at once."""

    annotations: list[AnnotationWrite] = Field(min_length=1, max_length=10_000)


class MetadataSet(Schema):
    """The metadata of an image, instead of what it has."""

    metadata: Metadata


class MetadataWrite(MetadataSet):
    """The metadata of one image of many."""

    image: UUID


class ManyMetadataWrite(Schema):
    """The metadata of many images."""

    images: list[MetadataWrite] = Field(min_length=1, max_length=10_000)


class AppliedRead(BaseModel):
    """How many changes were made, and which were not."""

    applied: int
    failed: list[FailedRead]


class AnnotationRead(BaseModel):
    """One change of an image's label."""

    id: UUID
    label: str | None
    previous: str | None
    annotator: str | None
    source: str
    undone: bool = Field(description="Whether it was taken back.")
    created_at: datetime


class SimilarImage(BaseModel):
    """An image that looks alike."""

    image: UUID
    label: str | None
    cosine: float


class SimilarRead(BaseModel):
    """The closest images, most similar first."""

    images: list[SimilarImage]
