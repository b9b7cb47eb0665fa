"""Methods of pretraining, and how each suits a project."""

from typing import Literal

from pydantic import BaseModel, Field


class RecipeRead(BaseModel):
    """A method of pretraining, and how it suits the project as it is now."""

    name: str
    family: Literal["discriminative", "generative", "contrastive", "cluster-based"]
    summary: str
    images: int = Field(description="Images below which it learns little.")
    enough_images: bool = Field(description="Whether the project has as many.")
    possible: bool = Field(description="Whether it can work with the project's encoder.")
    reason: str | None = Field(description="Why it cannot.")
    unsuited: str = Field(description="When not to use it.")
    minutes: float | None = Field(
        description="What a job with default options would take here; null: not measured."
    )
    memory_mib: float | None = Field(description="And how much memory, besides the images.")
