"""Label Studio: a project as a machine learning backend that it can be pointed at."""

from typing import Annotated, Any

from fastapi import BackgroundTasks
from pydantic import BaseModel, Field

from app.api import resource_router
from app.api.parts import JobService, LabelStudioService
from app.http.openapi import problem_responses
from app.http.parameters import ProjectKey
from app.integrations.label_studio.backend import SuggestedChoice
from app.integrations.label_studio.messages import Control, Number, StudioEvent, StudioTask
from app.jobs.kinds import kinds, submit
from handful.contract.common import Schema

router = resource_router("/label-studio/{project}", tags=["label studio"])
StudioProjectKey = Annotated[
    str,
    Field(
        pattern=r"^\d{1,18}(\.\d+)?$",
        description="Id of Label Studio's project, a dot and when it was made.",
        examples=["1.1795454673"],
    ),
]


class HealthRead(BaseModel):
    """That somebody is here."""

    status: str = "UP"
    model_class: str = "Handful"


class SetUp(BaseModel):
    """What Label Studio says of its project, before each call of `predict`."""

    project: StudioProjectKey
    schema_: str = Field(alias="schema", description="The labeling interface, as XML.")
    extra_params: dict[str, Any] | None = Field(
        default=None,
        description="`choices`: the name of the Choices to use, if there are several; `token`: "
        "a personal access token, where `HANDFUL_LABEL_STUDIO_TOKEN` is not set.",
    )


class SetUpRead(BaseModel):
    """What its suggestions are known by."""

    model_version: str


class VersionsRead(BaseModel):
    """The versions there are: the present one."""

    versions: list[str]


class PredictRequest(BaseModel):
    """Tasks to suggest labels for."""

    project: StudioProjectKey
    label_config: str = Field(description="The labeling interface, as XML.")
    tasks: list[StudioTask] = Field(max_length=10_000)


class PredictedRead(BaseModel):
    """A suggestion in Label Studio's words."""

    model_version: str
    score: float | None = Field(
        description="The probability of the label: low scores are the most worth labeling."
    )
    result: list[dict[str, Any]] = Field(description="Empty when no label can be suggested yet.")


def show_predicted(suggested: SuggestedChoice, control: Control) -> PredictedRead:
    """A suggestion in the terms of the labeling interface."""
    return PredictedRead(
        model_version=suggested.version,
        score=suggested.confidence,
        result=control.result(suggested.label),
    )


class PredictRead(BaseModel):
    """A suggestion for each task, in the same order."""

    results: list[PredictedRead]


class ReceivedRead(BaseModel):
    """That an event has come; the job that it started, if any."""

    job: str | None = None


class StudioProjectWrite(Schema):
    """Which project of Label Studio."""

    project: Number = Field(description="Its id there.")


class PushedRead(BaseModel):
    """What Label Studio has now."""

    version: str = Field(description="That its suggestions are known by.")
    tasks: int = Field(description="With a suggestion: those without a label.")


class SyncedRead(PushedRead):
    """What Label Studio has, and is known here."""

    tasks: int = Field(description="All there are.")
    annotations: int


@router.get("/health", responses=problem_responses(404))
def read_health(project: ProjectKey, service: LabelStudioService) -> HealthRead:
    """Whether the project is here."""
    service.projects.read(project)
    return HealthRead()


@router.post("/setup", responses=problem_responses(404, 422))
def set_up(project: ProjectKey, body: SetUp, service: LabelStudioService) -> SetUpRead:
    """Make the labels of the labeling interface."""
    version = service.set_up(project, _number(body.project), body.schema_, body.extra_params or {})
    return SetUpRead(model_version=version)


@router.get("/versions", responses=problem_responses(404))
def read_versions(project: ProjectKey, service: LabelStudioService) -> VersionsRead:
    """The version of the suggestions."""
    return VersionsRead(versions=[service.version(project)])


@router.post("/predict", responses=problem_responses(404, 422, 429))
def predict(project: ProjectKey, body: PredictRequest, service: LabelStudioService) -> PredictRead:
    """Suggest a label for each task; images that are new are put into the pool."""
    control, suggested = service.predict(
        project, _number(body.project), body.label_config, body.tasks
    )
    return PredictRead(results=[show_predicted(choice, control) for choice in suggested])


@router.post("/webhook", responses=problem_responses(404, 409, 422))
def receive_event(
    project: ProjectKey,
    body: StudioEvent,
    service: LabelStudioService,
    queue: JobService,
    later: BackgroundTasks,
) -> ReceivedRead:
    """Take in annotations and tasks, after the answer; `START_TRAINING` starts fine-tuning."""
    service.projects.read(project)
    if body.action == "START_TRAINING":
        job = submit(queue, project, kinds["finetune"]())
        return ReceivedRead(job=str(job.id))
    later.add_task(service.handle, project, body)
    return ReceivedRead()


@router.post("/push", responses=problem_responses(404, 422, 502))
def push(project: ProjectKey, body: StudioProjectWrite, service: LabelStudioService) -> PushedRead:
    """Put suggestions and their order into Label Studio, now and after every ten labels."""
    return PushedRead(**service.push(project, body.project)._asdict())


@router.post("/sync", responses=problem_responses(404, 422, 502))
def sync(project: ProjectKey, body: StudioProjectWrite, service: LabelStudioService) -> SyncedRead:
    """Take in tasks and annotations that were missed, and push."""
    return SyncedRead(**service.sync(project, body.project)._asdict())


def _number(project: str) -> int:
    return int(project.partition(".")[0])
