"""Projects: sets of labels with the encoder and the head that serve them."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.api import (
    Cursor,
    IfMatch,
    Limit,
    ProjectKey,
    ProjectService,
    after,
    etag,
    page,
    problems,
)
from app.choices import choice
from app.projects import ProjectView
from app.schemas import Page, Schema
from models.heads.kinds import heads

router = APIRouter(prefix="/v1/projects", tags=["projects"])

Name = Annotated[str, Field(description="Unique; 1 to 200 characters, no slash.")]
Description = Annotated[str, Field(max_length=10_000)]
HEAD = Field(description="How queries are compared with the centroids.")


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

    @classmethod
    def of(cls, view: ProjectView) -> "ProjectRead":
        project, encoder = view.project, view.encoder
        return cls(
            id=project.id,
            name=project.name,
            description=project.description,
            encoder=EncoderRead(
                id=encoder.id,
                name=encoder.architecture,
                options=encoder.options,
                embedding_dim=encoder.embedding_dim,
            ),
            head=project.head,
            labels=view.labels,
            support=view.support,
            pool=view.pool,
            created_at=project.created_at,
            updated_at=project.updated_at,
        )


class ProjectCreate(Schema):
    """A new project."""

    name: Name
    description: Description = ""
    head: Annotated[choice(heads), HEAD] = Field(default={"name": "auto"}, validate_default=True)  # type: ignore[valid-type]


class ProjectEdit(Schema):
    """What to change; what is left out stays."""

    name: Name | None = None
    description: Description | None = None
    head: Annotated[choice(heads) | None, HEAD] = None  # type: ignore[valid-type]


@router.post("", status_code=201, responses=problems(409, 422))
def create_project(
    body: ProjectCreate, projects: ProjectService, response: Response
) -> ProjectRead:
    """Create a project; the service's default encoder serves it."""
    view = projects.create(body.name, body.description, _head(body.head))
    response.headers["Location"] = f"/v1/projects/{view.project.id}"
    response.headers["ETag"] = etag(view.project.edition)
    return ProjectRead.of(view)


@router.get("", responses=problems(422))
def list_projects(
    projects: ProjectService, limit: Limit = 100, cursor: Cursor = None
) -> Page[ProjectRead]:
    """List projects, oldest first."""
    rows = projects.page(after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.project.id, ProjectRead.of)


@router.get("/{project}", responses=problems(404))
def read_project(project: ProjectKey, projects: ProjectService, response: Response) -> ProjectRead:
    """Read a project; its `ETag` serves `If-Match`."""
    view = projects.read(project)
    response.headers["ETag"] = etag(view.project.edition)
    return ProjectRead.of(view)


@router.patch("/{project}", responses=problems(404, 409, 412, 422))
def edit_project(
    project: ProjectKey,
    body: ProjectEdit,
    projects: ProjectService,
    edition: IfMatch,
    response: Response,
) -> ProjectRead:
    """Change a project's name, description or head."""
    changes = {
        field: _head(body.head) if field == "head" else getattr(body, field)
        for field in body.model_fields_set
        if getattr(body, field) is not None
    }
    view = projects.edit(project, edition, changes)
    response.headers["ETag"] = etag(view.project.edition)
    return ProjectRead.of(view)


@router.delete("/{project}", status_code=204, responses=problems(404, 412))
def delete_project(project: ProjectKey, projects: ProjectService, edition: IfMatch) -> None:
    """Delete a project with its labels, images and history."""
    projects.delete(project, edition)


def _head(head: Any) -> dict[str, Any]:
    return {"name": head.name, "options": asdict(head.options)}
