"""Commands that ask a running service: they need the client alone."""

import importlib.metadata
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote
from uuid import UUID

import typer

from app.cli.failures import fail

if TYPE_CHECKING:  # a command loads what it needs when it runs
    from pydantic import BaseModel

    from handful import Handful
    from handful.contract.classify import ClassifyRead

commands = typer.Typer()
jobs = typer.Typer(help="Jobs in the background.", no_args_is_help=True)
label_studio = typer.Typer(help="Label Studio, to label in.", no_args_is_help=True)

ProjectArgument = Annotated[str, typer.Argument(help="Name or id of the project.")]
Project = Annotated[str, typer.Option(help="Name or id of the project.")]
Url = Annotated[
    str,
    typer.Option(
        envvar="HANDFUL_URL",
        help="Address of the service; this machine when empty.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON, with all that came.")]


@contextmanager
def client_of(url: str) -> Iterator["Handful"]:
    """The service at an address, or else the one that this machine's environment describes."""
    from handful import Handful

    with Handful(url or local_address(), os.environ.get("HANDFUL_API_KEY", "")) as client:
        yield client


def local_address() -> str:
    """Where `handful serve` listens with the settings of this environment."""
    host = os.environ.get("HANDFUL_HOST") or "127.0.0.1"
    port = os.environ.get("HANDFUL_PORT") or "8000"
    return reachable(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def reachable(url: str) -> str:
    """The address by which this machine reaches what listens on every address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@commands.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"handful {importlib.metadata.version('handful')}")


@commands.command()
def projects(url: Url = "", as_json: Json = False) -> None:
    """List the projects of a service."""
    from app.cli.terminal import print_table

    with client_of(url) as client:
        rows = list(client.all(client.projects))
    if as_json:
        _print_json(rows)
        return
    print_table(
        ("project", "name", "labels", "support", "pool", "encoder", "created"),
        (
            (p.id, p.name, p.labels, p.support, p.pool, p.encoder.name, f"{p.created_at:%Y-%m-%d}")
            for p in rows
        ),
    )


@commands.command()
def report(
    project: ProjectArgument,
    target: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="The accuracy that is wanted, 0 to 1.")
    ] = None,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Tell how good a project is, which labels are weak, and whether there are enough."""
    from app.cli.terminal import print_report

    with client_of(url) as client:
        answer = client.report(project, target=target)
    if as_json:
        _print_json([answer])
        return
    print_report(answer)


@commands.command()
def evaluate(
    project: ProjectArgument,
    ways: Annotated[int, typer.Option(min=2, max=100, help="Labels of an episode.")] = 5,
    shots: Annotated[
        list[int], typer.Option(help="Support images of each label; may be repeated.")
    ] = [1, 5],  # noqa: B006
    queries: Annotated[int, typer.Option(min=1, max=100, help="Query images of each label.")] = 5,
    episodes: Annotated[int, typer.Option(min=2, max=100_000, help="How many.")] = 600,
    head: Annotated[
        list[str] | None, typer.Option(help="Name of a head; may be repeated. Else the project's.")
    ] = None,
    version: Annotated[
        list[UUID] | None,
        typer.Option(help="Id of an encoder version; may be repeated. Else the one that serves."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the episodes.")] = 0,
    seconds: Annotated[float, typer.Option(max=60, help="After which it ends.")] = 10.0,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Tell how well heads and encoder versions learn labels from a few images, by episodes."""
    from app.cli.terminal import print_evaluation

    with client_of(url) as client:
        answer = client.evaluate(
            project,
            ways=ways,
            shots=shots,
            queries=queries,
            episodes=episodes,
            heads=head,
            versions=version,
            seed=seed,
            seconds=seconds,
        )
    if as_json:
        _print_json([answer])
        return
    print_evaluation(answer)


@commands.command()
def rank(
    project: ProjectArgument,
    budget: Annotated[int, typer.Option(min=1, max=10_000, help="How many images.")] = 10,
    strategy: Annotated[str, typer.Option(help="Name of the strategy.")] = "adaptive",
    url: Url = "",
    as_json: Json = False,
) -> None:
    """List the images that are most worth labeling next, best first."""
    from app.cli.terminal import print_table

    with client_of(url) as client:
        ranked = client.rank(project, budget=budget, strategy=strategy).images
    if as_json:
        _print_json(ranked)
        return
    print_table(
        ("image", "score", "label", "suggestion", "probability"),
        (
            (
                r.image,
                f"{r.score:.4f}",
                r.label or "",
                r.suggestions[0].label if r.suggestions else "",
                f"{r.suggestions[0].probability:.3f}" if r.suggestions else "",
            )
            for r in ranked
        ),
    )


@commands.command()
def label(project: Project, url: Url = "") -> None:
    """Open the labeling page in a browser."""
    with client_of(url) as client:
        client.project(project)  # says if there is none
        page = f"{client.url}/#/{quote(project, safe='')}/label"
    typer.echo(page)
    typer.launch(page)


@commands.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    project: Project,
    url: Url = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with all that came.")
    ] = False,
) -> None:
    """Classify image files with a running service."""
    failures = 0
    with client_of(url) as client:
        for batch in _batches(files):
            answer = _classify(client, project, batch)
            for prediction in answer.predictions:
                path = batch[prediction.position]
                typer.echo(
                    json.dumps({"file": str(path), **prediction.model_dump(mode="json")})
                    if as_json
                    else f"{path}\t{prediction.label}\t{prediction.probability:.3f}"
                )
            for failed in answer.failed:
                failures += 1
                typer.echo(f"{batch[failed.position]}: {failed.problem.detail}", err=True)
    if failures:
        raise typer.Exit(1)


@jobs.command("list")
def list_jobs(project: Project, url: Url = "", as_json: Json = False) -> None:
    """List the newest jobs of a project."""
    from app.cli.terminal import print_jobs

    with client_of(url) as client:
        newest = client.jobs(project).items
    if as_json:
        _print_json(newest)
        return
    print_jobs(newest)


@jobs.command("watch")
def watch_job(
    job: Annotated[UUID, typer.Argument(help="Id of the job.")],
    project: Project,
    url: Url = "",
) -> None:
    """Follow a job until it ends; fails if it does."""
    from rich.console import Console

    from app.cli.terminal import watch

    with client_of(url) as client:
        state = watch(client, project, job, Console())
    if state != "succeeded":
        raise typer.Exit(1)


@jobs.command("cancel")
def cancel_job(
    job: Annotated[UUID, typer.Argument(help="Id of the job.")],
    project: Project,
    url: Url = "",
) -> None:
    """Cancel a job."""
    with client_of(url) as client:
        state = client.cancel_job(project, job).state
    typer.echo(f"{state}, to be cancelled" if state != "cancelled" else "cancelled")


@label_studio.command("connect")
def connect(
    project: Project,
    studio_url: Annotated[str, typer.Option("--url", help="Address of Label Studio.")],
    token: Annotated[
        str,
        typer.Option(envvar="HANDFUL_LABEL_STUDIO_TOKEN", help="A personal access token of it."),
    ],
    studio_project: Annotated[
        int | None,
        typer.Option(help="Id of its project; else the one of the same name, made if it is new."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Address of Handful as Label Studio sees it; as from here if empty.")
    ] = "",
    handful: Annotated[
        str, typer.Option(help="Address of Handful; this machine when empty.", show_default=False)
    ] = "",
) -> None:
    """Link a project to Label Studio: tasks, suggestions, labels; safe to repeat."""
    from rich.console import Console
    from rich.progress import Progress

    from app.cli import label_studio as linking

    studio = linking.studio(studio_url, token)
    with client_of(handful) as client, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Importing", total=None)
        linked = linking.connect(
            client,
            studio,
            project,
            studio_project=studio_project,
            address=backend or client.url,
            key=os.environ.get("HANDFUL_API_KEY", ""),
            advance=lambda done, of: progress.update(task, completed=done, total=of),
        )
    typer.echo(f"{linked.imported} images imported, {linked.pushed} tasks in order")
    typer.echo(f"{studio_url.rstrip('/')}/projects/{linked.studio_project}/data")
    if linked.trouble:
        fail(f"linked, but no suggestions were pushed: {linked.trouble}")


@label_studio.command("sync")
def sync(
    project: Project,
    studio_project: Annotated[int, typer.Option(help="Id of the project in Label Studio.")],
    handful: Annotated[
        str, typer.Option(help="Address of Handful; this machine when empty.", show_default=False)
    ] = "",
) -> None:
    """Take in what happened in Label Studio while the service was away, and push."""
    path = f"/label-studio/{quote(project, safe='')}/sync"
    with client_of(handful) as client:
        outcome = client.post(path, {"project": studio_project})
    typer.echo(f"{outcome['tasks']} tasks, {outcome['annotations']} annotations")


def _print_json(answers: Sequence["BaseModel"]) -> None:
    """One JSON object a line."""
    for answer in answers:
        typer.echo(answer.model_dump_json())


def _batches(files: list[Path]) -> Iterator[list[Path]]:
    from handful.folders import REQUEST_FILES, NothingToImport

    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise NothingToImport(f"no such file: {', '.join(missing)}")
    remaining = iter(files)
    while batch := list(islice(remaining, REQUEST_FILES)):
        yield batch


def _classify(client: "Handful", project: str, batch: list[Path]) -> "ClassifyRead":
    """The answer; that none of the files could be used is one as well."""
    from handful import RequestRefused
    from handful.contract.classify import ClassifyRead
    from handful.contract.common import FailedRead

    try:
        return client.classify(project, batch)
    except RequestRefused as problem:
        if not problem.failed:
            raise
        failed = [FailedRead.model_validate(file) for file in problem.failed]
        return ClassifyRead(encoder=UUID(int=0), predictions=[], failed=failed)
