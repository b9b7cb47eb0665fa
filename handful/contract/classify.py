"""What a project makes of query images."""

from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.common import FailedRead


class CandidateRead(BaseModel):
    """A label that the image may have."""

    label: str
    probability: float
    cosine: float = Field(description="To the label's centroid, from -1 to 1.")


class NeighbourRead(BaseModel):
    """A support image that looks alike."""

    image: UUID
    label: str
    cosine: float


class PredictionRead(BaseModel):
    """What the project makes of one image."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    label: str = Field(description="The likeliest.")
    probability: float
    probabilities: list[CandidateRead] = Field(
        description="Likeliest first; over all labels of the project they sum to 1."
    )
    nearest: list[NeighbourRead]
    set: list[str] | None = Field(
        default=None, description="Labels, likeliest first, if `coverage` was asked for."
    )
    unknown: bool | None = Field(
        default=None,
        description="Whether it is of no label, if `false_rejection` was asked for: its score lies "
        "above the threshold.",
    )
    unknown_score: float | None = Field(
        default=None,
        description="How unlike all support images it is, in standard deviations of these.",
    )


class RejectionRead(BaseModel):
    """From where on an image is unknown."""

    threshold: float = Field(description="An `unknown_score` above it is unknown.")
    caught: float | None = Field(
        description="Share of images of other labels that would be called unknown, estimated by "
        "leaving out each label in turn; null with fewer than three labels or too few images."
    )


class BridgeRead(BaseModel):
    """How the queries got to the embeddings of the support images."""

    images: int = Field(description="That both encoder versions embedded; what it was fitted to.")
    cosine: float = Field(
        description="Of a mapped embedding to the image's own, on average over images left out."
    )


class ClassifyRead(BaseModel):
    """A prediction for each image that could be decoded."""

    encoder: UUID = Field(description="The encoder version that embedded the images.")
    bridge: BridgeRead | None = Field(
        default=None, description="If that is not the version of the project."
    )
    predictions: list[PredictionRead]
    rejection: RejectionRead | None = Field(
        default=None, description="If `false_rejection` was asked for."
    )
    failed: list[FailedRead]
