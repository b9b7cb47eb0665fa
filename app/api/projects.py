"""Projects: sets of labels with the encoder and the head that serve them."""

from typing import Annotated, Any

from fastapi import Response
from pydantic import Field

from app.api import resource_router
from app.api.answers import page
from app.api.choices import HeadChoice
from app.api.parts import ProjectService
from app.http.openapi import problem_responses
from app.http.parameters import Cursor, IfMatch, Limit, ProjectKey, after, etag
from app.labeling.projects import ProjectView
from app.sql.head_choices import document
from handful.contract.common import Page, Schema
from handful.contract.projects import Description, EncoderRead, Name, ProjectRead

router = resource_router("/v1/projects", tags=["projects"])
Head: Any = Annotated[HeadChoice, Field(description="How queries are compared with the centroids.")]


def show_project(view: ProjectView) -> ProjectRead:
    """A project with the encoder that serves it, and its counts."""
    project, encoder = view.project, view.encoder
    return ProjectRead(
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
    head: Head = Field(default={"name": "auto"}, validate_default=True)


class ProjectEdit(Schema):
    """What to change; what is left out stays."""

    name: Name | None = None
    description: Description | None = None
    head: Head | None = None


@router.post("", status_code=201, responses=problem_responses(409, 422))
def create_project(
    body: ProjectCreate, projects: ProjectService, response: Response
) -> ProjectRead:
    """Create a project; the service's default encoder serves it."""
    view = projects.create(body.name, body.description, _head(body.head))
    response.headers["Location"] = f"/v1/projects/{view.project.id}"
    response.headers["ETag"] = etag(view.project.edition)
    return show_project(view)


@router.get("", responses=problem_responses(422))
def list_projects(
    projects: ProjectService, limit: Limit = 100, cursor: Cursor = None
) -> Page[ProjectRead]:
    """List projects, oldest first."""
    rows = projects.page(after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.project.id, show_project)


@router.get("/{project}", responses=problem_responses(404))
def read_project(project: ProjectKey, projects: ProjectService, response: Response) -> ProjectRead:
    """Read a project; its `ETag` serves `If-Match`."""
    view = projects.read(project)
    response.headers["ETag"] = etag(view.project.edition)
    return show_project(view)


@router.patch("/{project}", responses=problem_responses(404, 409, 412, 422))
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
    return show_project(view)


@router.delete("/{project}", status_code=204, responses=problem_responses(404, 412))
def delete_project(project: ProjectKey, projects: ProjectService, edition: IfMatch) -> None:
    """Delete a project with its labels, images and history."""
    projects.delete(project, edition)


def _head(head: Any) -> dict[str, Any]:
    return document(head.name, head.options)
