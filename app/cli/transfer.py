"""Commands that send folders and files to a running service, and get projects from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.cli.asking import Project, Url, client_of

FORMATS = ("coco", "csv_manifest", "folders", "jsonl", "label_studio", "parquet")

commands = typer.Typer()


@commands.command("import")
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
    _import_folder(source, project, support, _pairs(metadata or ()), url)


def _import_folder(
    folder: Path, project: str, support: int | None, metadata: dict[str, str], url: str
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from handful import folders

    images = folders.scan(folder, support)
    with client_of(url) as client, Progress(console=Console(stderr=True)) as progress:
        client.get_or_create_project(project)
        task = progress.add_task("Importing", total=len(images))
        outcome = folders.upload(
            client, project, images, lambda n: progress.advance(task, n), metadata
        )
    for path, reason in outcome.failed:
        typer.echo(f"{path}: {reason}", err=True)
    typer.echo(
        f"{outcome.added} images added, {outcome.known} were there already"
        + (f" ({outcome.other_label} with another label)" if outcome.other_label else "")
        + f", {len(outcome.failed)} failed"
    )
    if outcome.failed:
        raise typer.Exit(1)


def _import_file(path: Path, project: str, url: str) -> None:
    with client_of(url) as client:
        client.get_or_create_project(project)
        outcome = client.import_file(project, path.read_bytes(), existing="keep")
    for failed in outcome.failed:
        typer.echo(f"{failed.filename or failed.position}: {failed.problem.detail}", err=True)
    typer.echo(
        f"{outcome.images} images in {outcome.format}: {outcome.created} are new, "
        f"{outcome.labeled} got a label, {outcome.labels} labels are new, "
        f"{len(outcome.failed)} failed"
    )
    if outcome.failed:
        raise typer.Exit(1)


@commands.command("export")
def export_(
    output: Annotated[Path, typer.Argument(help="File to write.")],
    project: Project,
    format_: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
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
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from handful import files

    form = {"name": format_, "options": {"images": True} if images else {}}
    splits = files.shares(split or ())
    columns = TextColumn("Exporting"), DownloadColumn(), TransferSpeedColumn()
    with client_of(url) as client, files.replacing(output, force=force) as file:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("Exporting", total=None)
            for part in client.export(
                project, form, state=state, splits=splits, predictions=predictions
            ):
                file.write(part)
                progress.advance(task, len(part))
        size = file.tell()
    typer.echo(f"{output}: {size} bytes")


def _pairs(metadata: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for pair in metadata:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"--metadata {pair!r} has no '=': write KEY=VALUE")
        pairs[key] = value
    return pairs
