"""The pool of unlabeled images, and what to label next."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from handful.contract.common import NAME_LENGTH, FailedRead, Schema, StoredRead, Text
from handful.contract.metadata import FilenamePart, MetadataFilter

AnnotatorName = Annotated[
    Text, Field(min_length=1, max_length=NAME_LENGTH, description="Who labels them.")
]


class PoolAdded(BaseModel):
    """What became of each file."""

    images: list[StoredRead]
    failed: list[FailedRead]


class PoolFilter(Schema):
    """Which images of the pool to choose from; all that is said must hold."""

    label: Text | None = Field(default=None, description="Name of the label that is likeliest.")
    min_confidence: float = Field(
        default=0, ge=0, le=1, description="Least probability of the likeliest label."
    )
    max_confidence: float = Field(
        default=1, ge=0, le=1, description="Greatest probability of the likeliest label."
    )
    uploaded_after: AwareDatetime | None = None
    uploaded_before: AwareDatetime | None = None
    metadata: MetadataFilter | None = None
    filename: FilenamePart | None = None
    images: list[UUID] | None = Field(
        default=None, max_length=10_000, description="Only these, as far as they are in the pool."
    )


class SkipRequest(Schema):
    """Images that an annotator will not label."""

    annotator: AnnotatorName
    images: list[UUID] = Field(min_length=1, max_length=1000)


class SkipRead(BaseModel):
    """How many images went back to the pool."""

    skipped: int = Field(description="Those that the annotator held.")


class SuggestionRead(BaseModel):
    """A label that the image may have."""

    label: str
    probability: float


class RankedRead(BaseModel):
    """An image worth labeling."""

    image: UUID
    label: str | None = Field(
        description="That it has; null but for `relabel`, which ranks labeled images."
    )
    score: float = Field(
        description="What made the strategy choose it; comparable within one answer at most."
    )
    propensity: float | None = Field(
        description="The probability with which it was drawn from the whole pool at random; "
        "null when the strategy chose it, and always with `where`, `max_cosine` or `balanced`."
    )
    suggestions: list[SuggestionRead] = Field(
        description="Up to three labels, likeliest first; empty before two labels have support. "
        "Of a labeled image, what the others say."
    )


class RankRead(BaseModel):
    """The images most worth labeling, best first."""

    encoder: UUID
    strategy: str
    images: list[RankedRead]


class NextRead(RankRead):
    """The images that the annotator holds now, the first to be labeled first."""

    lease_until: datetime
