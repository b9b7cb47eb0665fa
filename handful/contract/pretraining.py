"""Methods that learn for later labels, or by what was learned so; how each suits a project."""

from typing import Literal

from pydantic import BaseModel, Field


class RecipeRead(BaseModel):
    """A method, and how it suits the project as it is now."""

    name: str
    kind: Literal["pretrain", "metatrain", "finetune", "generate"] = Field(
        description="Of the job that has it."
    )
    family: Literal[
        "discriminative",
        "generative",
        "contrastive",
        "cluster-based",
        "meta-learning",
        "generation",
    ]
    summary: str
    images: int = Field(description="Images below which it learns little.")
    enough_images: bool = Field(description="Whether the project has as many.")
    labels: int = Field(description="Labels below which it learns little; 0: it needs none.")
    enough_labels: bool = Field(
        description="Whether the project has as many, with images enough for an episode; those of "
        "others may be named as well. For `finetune`, with two images each."
    )
    possible: bool = Field(description="Whether it can work with the project's encoder.")
    reason: str | None = Field(description="Why it cannot.")
    unsuited: str = Field(description="When not to use it.")
    minutes: float | None = Field(
        description="What a job with default options would take here; null: not measured."
    )
    memory_mib: float | None = Field(description="And how much memory, besides the images.")
