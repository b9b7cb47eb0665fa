"""Commands that need the service's own parts, which are loaded when one runs."""

import json
import os
import socket
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.asking import Json, reachable

if TYPE_CHECKING:  # each command loads what it needs
    import uvicorn

    from app.settings import Settings

KEEP_ALIVE_S = 75  # longer than the pools of usual proxies and clients keep a connection

commands = typer.Typer()

Port = Annotated[
    int | None, typer.Option(help="Port to listen on instead of HANDFUL_PORT; 0: any free one.")
]


@commands.command()
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
    from app.jobs.worker import beside
    from app.settings import Settings

    options = {"host": host, "port": port, "workers": workers}
    settings = Settings(**{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    with _listen(settings) as listener:
        url = _url(settings, listener)
        server = _server(settings, url)
        # Printed even where logs are not: who starts a service wants to know where it is.
        typer.echo(f"Handful on {url}, data in {settings.data_dir.resolve()}", err=True)
        # Ctrl-C has stopped the server, in order.
        with beside(settings), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@commands.command("worker")
def worker_(
    until_idle: Annotated[bool, typer.Option(help="Stop when no job waits.")] = False,
) -> None:
    """Work on jobs, beside a service or on another machine with the same database and files."""
    from app.jobs.worker import work
    from app.settings import Settings

    work(Settings(), until_idle=until_idle)


@commands.command("migrate")
def migrate_(
    to: Annotated[str, typer.Option(help="Revision; `base` empties the database.")] = "head",
) -> None:
    """Bring the database to the schema of this version."""
    from app.settings import Settings
    from app.sql.database import migrate

    migrate(Settings().database, to)
    typer.echo(f"the database is at {to}")


@commands.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(help="Folder of class folders; scikit-learn's digits if none.")
    ] = None,
    once: Annotated[bool, typer.Option(help="Stop after printing.")] = False,
    port: Port = None,
) -> None:
    """Start the service and show the whole loop on real images."""
    from rich.console import Console

    from app.cli import demo as demonstration
    from app.settings import Settings
    from handful import Handful

    options = {} if port is None else {"port": port}
    quiet = {} if "HANDFUL_LOG_LEVEL" in os.environ else {"log_level": "WARNING"}
    settings = Settings(**options, **quiet)  # type: ignore[arg-type]
    console = Console()
    if images is not None:
        demonstration.choose(images)  # say what is wrong with them before anything starts
    listener = _listen(settings, or_any=port is None)
    url = _url(settings, listener)
    typer.echo(f"Starting the service on {url}, data in {settings.data_dir.resolve()}")
    key = settings.api_key.get_secret_value()
    with (
        listener,
        demonstration.serving(_server(settings), [listener]) as thread,
        Handful(reachable(url), key) as client,
    ):
        folder = images or demonstration.write_digits(settings.data_dir / "demo" / "digits")
        demonstration.run(client, folder, console)
        if not once:
            console.print("\nServing until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                thread.join()


@commands.command()
def bench(
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos; scikit-learn's if none.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 5.0,
) -> None:
    """Measure what this machine can do, and where the time of requests goes."""
    from rich.console import Console

    from app.cli import benchmark
    from app.settings import Settings

    benchmark.run(Settings(), images, seconds, Console())


@commands.command()
def settings(as_json: Json = False) -> None:
    """List every setting, its value now, and what it is for."""
    from pydantic import SecretStr

    from app.cli.terminal import print_table
    from app.settings import Settings

    def show(value: object) -> str:
        if isinstance(value, SecretStr):
            return "(set)" if value.get_secret_value() else "(not set)"
        return json.dumps(value) if isinstance(value, tuple) else str(value)

    current = Settings()
    rows = [
        (f"HANDFUL_{name.upper()}", show(getattr(current, name)), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        for variable, value, what in rows:
            typer.echo(json.dumps({"variable": variable, "value": value, "what": what}))
        return
    print_table(("variable", "value", "what"), rows)


@commands.command()
def check(as_json: Json = False) -> None:
    """Read every file of the service; list what is missing, damaged or of no use, and what to do.

    Ends with status 1 when a file is missing or damaged.
    """
    from dataclasses import asdict

    from app.cli.terminal import print_table
    from app.main import check
    from app.settings import Settings

    problems = list(check(Settings()))
    if as_json:
        for problem in problems:
            typer.echo(json.dumps(asdict(problem)))
    elif problems:
        rows = []
        for problem in problems:
            uses = [f"{u.kind} {u.id}" + f" of {u.project}" * bool(u.project) for u in problem.uses]
            rows.append((problem.problem, problem.sha256, ", ".join(uses), problem.advice))
        print_table(("problem", "file", "of", "advice"), rows)
    else:
        typer.echo("every file is there and as it was stored")
    if any(problem.is_loss for problem in problems):
        raise typer.Exit(1)


@commands.command("sweep")
def sweep_() -> None:
    """Remove the files of deleted images, an hour after they were first seen to be of no use.

    The service does so by itself.
    """
    from app.main import sweep
    from app.settings import Settings

    swept = sweep(Settings())
    typer.echo(f"{swept.removed} files removed, {swept.marked} marked, to go an hour from now")


def _server(settings: "Settings", announced: str = "") -> "uvicorn.Server":
    """The server of a service, which says in a plain line when it is ready.

    Args:
        announced: the address in that line; empty: it says nothing.
    """
    from app.inference.process import look_past_what_stays, uncollected

    with uncollected():
        import uvicorn

        from app.http.server import (
            BoundedProtocol,
            DrainingServer,
            max_connections,
            raise_descriptors,
        )
        from app.main import create_app

        service = create_app(settings)
    embedder = service.state.parts.embedder
    embedder.when_warm = look_past_what_stays
    server = DrainingServer(
        uvicorn.Config(
            service,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            http=partial(BoundedProtocol, refusal=service.state.door.refusal),  # type: ignore[arg-type]
            limit_concurrency=max_connections(raise_descriptors()),
        ),
        settings.drain_seconds,
    )
    service.state.parts.draining = lambda: server.draining
    service.state.parts.stopping = lambda: server.should_exit  # ends what would stream for ever
    if announced:
        threading.Thread(target=_announce, args=(embedder.warm, announced), daemon=True).start()
    return server


def _announce(warm: threading.Event, url: str) -> None:
    warm.wait()
    typer.echo(f"ready: {url}", err=True)


def _listen(settings: "Settings", *, or_any: bool = False) -> socket.socket:
    """A socket on the address of the settings; `or_any`: on any port when that one is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        if or_any and settings.port:
            return _listen(settings.model_copy(update={"port": 0}))
        from app.main import StartRefused

        raise StartRefused(
            f"cannot listen on {settings.host}:{settings.port} "
            f"({os.strerror(error.errno or 0)}): stop what is there, or choose another port "
            "with --port"
        ) from error


def _url(settings: "Settings", listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
