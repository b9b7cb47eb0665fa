"""Methods that learn for later labels: what they need and look at, before one is started."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Response
from pydantic import Field

from app.api import resource_router
from app.api.parts import AllParts
from app.http.openapi import file_responses, problem_responses
from app.http.parameters import ProjectKey
from app.jobs.generation.suitability import generation_suitability
from app.jobs.kinds.generate import Generate
from app.jobs.planning.adaptation import adaptation_suitability
from app.jobs.planning.previews import pretraining_sheet
from app.jobs.planning.suitability import Suitability, suitabilities
from app.plugin_fields import plugin_field
from handful.contract.common import Page, Schema
from handful.contract.pretraining import RecipeRead
from models.finetuning.methods.adapt import Adapt
from models.metalearning.learners import learners
from models.pretraining.methods import methods
from models.registry import plugin_name
from models.training.recipe import Recipe

router = resource_router("/v1/projects/{project}", tags=["pretraining"])
MEDIA_TYPE = "image/png"
PretextChoice: Any = plugin_field(methods)
MIB = 1 << 20
ADAPT = plugin_name(Adapt)
GENERATE = plugin_name(Generate)
BATCH = 64  # as in the job `pretrain`


def show_recipe(suitability: Suitability) -> RecipeRead:
    """A method with what it needs and, where that was measured, what it costs."""
    trial, method = suitability.trial, suitability.method
    images, labels = getattr(method, "fewest", 0), getattr(method, "fewest_labels", 0)
    return RecipeRead(
        name=suitability.name,
        kind=kind_of(suitability.name),
        family=getattr(method, "family", "meta-learning"),
        summary=(method.__doc__ or "").partition("\n")[0],
        images=images,
        enough_images=suitability.images >= images,
        labels=labels,
        enough_labels=suitability.labels >= labels,
        possible=suitability.refused is None,
        reason=suitability.refused,
        unsuited=method.unsuited,
        minutes=round(trial.seconds / 60, 2) if trial else None,
        memory_mib=round(trial.memory / MIB, 1) if trial else None,
    )


def kind_of(name: str) -> Literal["pretrain", "metatrain", "finetune", "generate"]:
    """The kind of job that has a method."""
    if name == GENERATE:
        return "generate"
    if name in methods:
        return "pretrain"
    return "metatrain" if name in learners else "finetune"


class PretrainingPreview(Schema):
    """What to look at; `method` is as in the job `pretrain`."""

    image: UUID = Field(description="Of the project.")
    method: PretextChoice = Field(default={"name": "simclr"}, validate_default=True)
    count: int = Field(default=6, ge=1, le=16, description="How often the views are drawn.")
    side: Annotated[int, Field(ge=16, le=512)] | None = Field(
        default=None, description="Pixels of each; null: as the encoder sees it, but at most 224."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 100, description="Another one, other views.")


@router.get("/recipes", responses=problem_responses(404, 422))
def list_recipes(
    project: ProjectKey,
    parts: AllParts,
    measure: Annotated[
        list[Literal[(*methods, *learners, ADAPT)]],  # type: ignore[valid-type]
        Query(max_length=3, description="Methods whose cost is measured by a few steps: seconds."),
    ] = [],  # noqa: B006
) -> Page[RecipeRead]:
    """List methods of `pretrain` and `metatrain`: what they need and cost, when not to use them.

    And `generate`, and `adapt` of `finetune`, which takes steps that `metatrain` has learned.
    """
    recipe = Recipe(batch_size=BATCH)
    rows = suitabilities(parts.db, parts.embedder, project, recipe, measured=measure)
    rows.append(generation_suitability(parts.db, project, GENERATE, Generate))
    rows.append(adaptation_suitability(parts.versions, project, measured=ADAPT in measure))
    return Page(items=[show_recipe(row) for row in rows], next_cursor=None)


@router.post(
    "/pretraining/preview",
    response_class=Response,
    responses=file_responses(MEDIA_TYPE, 404, 422),
)
def preview_pretraining(project: ProjectKey, body: PretrainingPreview, parts: AllParts) -> Response:
    """A picture of an image as the encoder sees it, first, and of what a method makes of it."""
    sheet = pretraining_sheet(
        parts.images,
        parts.embedder,
        project,
        body.image,
        body.method.options,
        count=body.count,
        side=body.side,
        seed=body.seed,
    )
    return Response(sheet, media_type=MEDIA_TYPE)
