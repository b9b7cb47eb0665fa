"""The command `handful`."""

import importlib.metadata
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import typer
import uvicorn
from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from app import benchmark, exporting, importing, linking, watching
from app import demo as demonstration
from app.api.classify import PredictionRead
from app.client import Handful, RequestRefused, ServiceUnreachable
from app.db import SchemaOutOfDate, UnsafeSQLite, migrate
from app.draining import DrainingServer
from app.formats import formats
from app.inference import look_past_what_stays
from app.main import StartRefused, create_app, sweep
from app.metadata import parse
from app.problems import AddressRefused, AddressUnreachable
from app.schemas import FailedRead
from app.settings import Settings
from app.worker import beside, work
from models.encoders import EncoderUnavailable
from models.runtimes import RuntimeUnavailable

EXPECTED = (
    StartRefused,
    EncoderUnavailable,
    RuntimeUnavailable,
    SchemaOutOfDate,
    UnsafeSQLite,
    ServiceUnreachable,
    RequestRefused,
    importing.NothingToImport,
    exporting.CannotWrite,
    linking.CannotLink,
    AddressRefused,
    AddressUnreachable,
    demonstration.DemoRefused,
)
KEEP_ALIVE_S = 75  # longer than the pools of usual proxies and clients keep a connection


class Classified(NamedTuple):
    """What became of some files."""

    predictions: list[PredictionRead]
    failed: list[FailedRead]


app = typer.Typer(
    help="Few-shot and active labeling of images: a handful of labels is enough.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

jobs = typer.Typer(help="Jobs in the background.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")
label_studio = typer.Typer(help="Label Studio, to label in.", no_args_is_help=True)
app.add_typer(label_studio, name="label-studio")

Project = Annotated[str, typer.Option(help="Name or id of the project.")]
Url = Annotated[
    str,
    typer.Option(help="Address of the service; this machine when empty.", show_default=False),
]
Port = Annotated[
    int | None, typer.Option(help="Port to listen on instead of HANDFUL_PORT; 0: any free one.")
]


def main() -> None:
    """Run the command; what can be expected to go wrong ends with one sentence."""
    try:
        app()
    except EXPECTED as error:
        _fail(str(error))
    except ValidationError as error:
        _fail("\n".join(_setting_complaint(one) for one in error.errors()))
    except SQLAlchemyError as error:
        _fail(f"the database cannot be used: {getattr(error, 'orig', None) or error}")


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on instead of HANDFUL_HOST.")
    ] = None,
    port: Port = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Workers for jobs, instead of HANDFUL_WORKERS.")
    ] = None,
) -> None:
    """Start the service, and a worker beside it for its jobs."""
    given = {"host": host, "port": port, "workers": workers}
    settings = Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    listener = _listen(settings)
    server = _server(settings)
    # Printed even where logs are not: who starts a service wants to know where it is.
    Console(stderr=True).print(
        f"Handful on {_url(settings, listener)}, data in {settings.data_dir.resolve()}",
        highlight=False,
        soft_wrap=True,
    )
    # Ctrl-C has stopped the server, in order.
    with beside(settings), suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


@app.command("worker")
def worker_(
    until_idle: Annotated[bool, typer.Option(help="Stop when no job waits.")] = False,
) -> None:
    """Work on jobs, beside a service or on another machine with the same database and files."""
    work(Settings(), until_idle=until_idle)


@app.command("migrate")
def migrate_(
    to: Annotated[str, typer.Option(help="Revision; `base` empties the database.")] = "head",
) -> None:
    """Bring the database to the schema of this version."""
    settings = Settings()
    migrate(settings.database, to)
    typer.echo(f"the database is at {to}")


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder, whose class folders become labels, the rest pool; or a file that "
            "`export` or another tool has written."
        ),
    ],
    project: Project,
    support: Annotated[
        int | None,
        typer.Option(min=0, help="Images of each label to register; the rest become pool."),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of all these images; repeat for more.")
    ] = None,
    url: Url = "",
) -> None:
    """Send a folder of images, or an exported file, to a running service; safe to repeat.

    An image that has a label there keeps it.
    """
    if source.is_file():
        if support is not None or metadata:
            raise typer.BadParameter("--support and --metadata are for folders: a file has its own")
        _import_file(source, project, url)
        return
    sources = importing.scan(source, support)
    with _client(url) as client, Progress(console=Console(stderr=True)) as progress:
        client.ensure_project(project)
        task = progress.add_task("Importing", total=len(sources))
        report = importing.upload(
            client, project, sources, lambda n: progress.advance(task, n), parse(metadata or ())
        )
    for path, reason in report.failed:
        typer.echo(f"{path}: {reason}", err=True)
    typer.echo(
        f"{report.added} images added, {report.known} were there already"
        + (f" ({report.other_label} with another label)" if report.other_label else "")
        + f", {len(report.failed)} failed"
    )
    if report.failed:
        raise typer.Exit(1)


def _import_file(path: Path, project: str, url: str) -> None:
    with _client(url) as client:
        client.ensure_project(project)
        done = client.import_file(project, path.read_bytes(), existing="keep")
    for failed in done.failed:
        typer.echo(f"{failed.filename or failed.position}: {failed.problem.detail}", err=True)
    typer.echo(
        f"{done.images} images in {done.format}: {done.created} are new, {done.labeled} got a "
        f"label, {done.labels} labels are new, {len(done.failed)} failed"
    )
    if done.failed:
        raise typer.Exit(1)


@app.command("export")
def export_(
    output: Annotated[Path, typer.Argument(help="File to write.")],
    project: Project,
    format_: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(formats)}.")
    ] = "folders",
    images: Annotated[
        bool, typer.Option(help="Pack the images too, where the format can do without.")
    ] = False,
    state: Annotated[str, typer.Option(help="all, support or pool.")] = "all",
    split: Annotated[
        list[str] | None, typer.Option(help="A split and its share, such as train=0.8; repeat it.")
    ] = None,
    predictions: Annotated[
        bool, typer.Option(help="Suggest labels for the images without one.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Overwrite the file.")] = False,
    url: Url = "",
) -> None:
    """Write a project of a running service to one file."""
    form = {"name": format_, "options": {"images": True} if images else {}}
    splits = exporting.shares(split or ())
    with _client(url) as client, exporting.replacing(output, force=force) as file:
        with Progress(
            TextColumn("Exporting"), DownloadColumn(), TransferSpeedColumn(),
            console=Console(stderr=True),
        ) as progress:  # fmt: skip
            task = progress.add_task("Exporting", total=None)
            for part in client.export(
                project, form, state=state, splits=splits, predictions=predictions
            ):
                file.write(part)
                progress.advance(task, len(part))
        size = file.tell()
    typer.echo(f"{output}: {size} bytes")


@app.command()
def label(project: Project, url: Url = "") -> None:
    """Open the labeling page in a browser."""
    with _client(url) as client:
        client.project(project)  # says if there is none
        page = f"{client.url}/#/{quote(project, safe='')}/label"
    typer.echo(page)
    typer.launch(page)


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    project: Project,
    url: Url = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with all that came.")
    ] = False,
) -> None:
    """Classify image files with a running service."""
    failed = 0
    with _client(url) as client:
        for batch in _batches(files):
            answer = _classify(client, project, batch)
            for prediction in answer.predictions:
                path = batch[prediction.position]
                typer.echo(
                    json.dumps({"file": str(path), **prediction.model_dump(mode="json")})
                    if as_json
                    else f"{path}\t{prediction.label}\t{prediction.probability:.3f}"
                )
            for one in answer.failed:
                failed += 1
                typer.echo(f"{batch[one.position]}: {one.problem.detail}", err=True)
    if failed:
        raise typer.Exit(1)


@jobs.command("list")
def list_jobs(project: Project, url: Url = "") -> None:
    """List the newest jobs of a project."""
    with _client(url) as client:
        found = client.jobs(project).items
    Console().print(watching.listing(found))


@jobs.command("watch")
def watch_job(
    job: Annotated[UUID, typer.Argument(help="Id of the job.")],
    project: Project,
    url: Url = "",
) -> None:
    """Follow a job until it ends; fails if it does."""
    with _client(url) as client:
        ended = watching.watch(client, project, job, Console())
    if ended != "succeeded":
        raise typer.Exit(1)


@jobs.command("cancel")
def cancel_job(
    job: Annotated[UUID, typer.Argument(help="Id of the job.")],
    project: Project,
    url: Url = "",
) -> None:
    """Cancel a job."""
    with _client(url) as client:
        found = client.cancel_job(project, job)
    typer.echo(f"{found.state}, to be cancelled" if found.state != "cancelled" else "cancelled")


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
    key = Settings().api_key.get_secret_value()
    studio = linking.studio(studio_url, token)
    with _client(handful) as client, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Importing", total=None)
        linked = linking.connect(
            client,
            studio,
            project,
            studio_project=studio_project,
            address=backend or client.url,
            key=key,
            advance=lambda done, of: progress.update(task, completed=done, total=of),
        )
    typer.echo(f"{linked.imported} images imported, {linked.pushed} tasks in order")
    typer.echo(f"{studio_url.rstrip('/')}/projects/{linked.studio_project}/data")
    if linked.trouble:
        _fail(f"linked, but no suggestions were pushed: {linked.trouble}")


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
    with _client(handful) as client:
        done = client.post(path, {"project": studio_project})
    typer.echo(f"{done['tasks']} tasks, {done['annotations']} annotations")


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(help="Folder of class folders; scikit-learn's digits if none.")
    ] = None,
    once: Annotated[bool, typer.Option(help="Stop after printing.")] = False,
    port: Port = None,
) -> None:
    """Start the service and show the whole loop on real images."""
    given = {} if port is None else {"port": port}
    quiet = {} if "HANDFUL_LOG_LEVEL" in os.environ else {"log_level": "WARNING"}
    settings = Settings(**given, **quiet)  # type: ignore[arg-type]
    console = Console()
    if images is not None:
        demonstration.choose(images)  # say what is wrong with them before anything starts
    listener = _listen(settings, or_any=port is None)
    url = _url(settings, listener)
    console.print(
        f"Starting the service on {url}, data in {settings.data_dir.resolve()}",
        highlight=False,
        soft_wrap=True,
    )
    key = settings.api_key.get_secret_value()
    with (
        demonstration.serving(_server(settings), [listener]) as thread,
        Handful(_reachable(url), key) as client,
    ):
        folder = images or demonstration.write_digits(settings.data_dir / "demo" / "digits")
        demonstration.run(client, folder, console)
        if not once:
            console.print("\nServing until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                thread.join()


@app.command()
def bench(
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos; scikit-learn's if none.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 5.0,
) -> None:
    """Measure what this machine can do, and where the time of requests goes."""
    try:
        benchmark.run(Settings(), images, seconds, Console())
    except (benchmark.NoPhotos, benchmark.ServiceDidNotStart) as error:
        _fail(str(error))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"handful {importlib.metadata.version('handful')}")


@app.command()
def settings() -> None:
    """List every setting, its value now, and what it is for."""
    current = Settings()
    table = Table(box=None, pad_edge=False)
    for column in ("variable", "value", "what"):
        table.add_column(column, overflow="fold")
    for name, field in Settings.model_fields.items():
        value = getattr(current, name)
        if isinstance(value, SecretStr):
            shown = "(set)" if value.get_secret_value() else "(not set)"
        elif isinstance(value, tuple):
            shown = json.dumps(value)
        else:
            shown = str(value)
        table.add_row(f"HANDFUL_{name.upper()}", shown, field.description)
    Console().print(table)


@app.command("sweep")
def sweep_() -> None:
    """Remove the files of deleted images."""
    typer.echo(f"{sweep(Settings())} files removed")


def _fail(message: str) -> None:
    typer.echo(f"handful: {message}", err=True)
    sys.exit(1)


def _setting_complaint(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    return f"HANDFUL_{str(error['loc'][0]).upper()}={error['input']!r}: {message}"


def _server(settings: Settings) -> uvicorn.Server:
    service = create_app(settings)
    service.state.embedder.when_warm = look_past_what_stays
    server = DrainingServer(
        uvicorn.Config(
            service,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        ),
        settings.drain_seconds,
    )
    service.state.draining = lambda: server.draining
    service.state.stopping = lambda: server.should_exit  # ends what would stream for ever
    return server


def _listen(settings: Settings, *, or_any: bool = False) -> socket.socket:
    """A socket on the address of the settings; `or_any`: on any port when that one is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        if or_any and settings.port:
            return _listen(settings.model_copy(update={"port": 0}))
        raise StartRefused(
            f"cannot listen on {settings.host}:{settings.port} "
            f"({os.strerror(error.errno or 0)}): stop what is there, or choose another port "
            "with --port"
        ) from error


def _url(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _reachable(url: str) -> str:
    """The address by which this machine reaches what listens on every address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@contextmanager
def _client(url: str) -> Iterator[Handful]:
    settings = Settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    here = _reachable(f"http://{host}:{settings.port}")
    with Handful(url or here, settings.api_key.get_secret_value()) as client:
        yield client


def _batches(files: list[Path]) -> Iterator[list[Path]]:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise importing.NothingToImport(f"no such file: {', '.join(missing)}")
    rest = iter(files)
    while batch := list(islice(rest, importing.REQUEST_FILES)):
        yield batch


def _classify(client: Handful, project: str, batch: list[Path]) -> Classified:
    try:
        answer = client.classify(project, batch)
    except RequestRefused as problem:
        if not problem.failed:
            raise
        return Classified([], [FailedRead.model_validate(one) for one in problem.failed])
    return Classified(answer.predictions, answer.failed)


if __name__ == "__main__":
    main()
